"""A stream that is killed at any moment, again and again, ends with the bytes of one that never was."""

import contextlib
import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from processes import Attempt, checkpoint, differences, metrics, record, run
from streams import FAST, folder, history, lines, summary

from distillctl.runs.stream.releases import Releases, versions

KILLS = int(os.environ.get("DISTILLCTL_SOAK", "6"))
SAMPLES, FILES = min(1280, max(400, 26 * KILLS)), min(500, max(150, 10 * KILLS))  # as many as so many kills need
SAVING_ALL_THE_TIME = "stream.save_every=1"
STREAM = [
    *FAST,
    "trainer.batch_size=5",
    f"stream.samples={SAMPLES}",
    "stream.release_every=40",
    "stream.teacher=student",
    "stream.refresh=drift",
    "memory.size=50",
]
PRUNING = [*STREAM, "stream.keep_versions=2", "stream.gate=significant"]
WATCH = [
    *FAST,
    "trainer.batch_size=5",
    "dataset=image_folder",
    "dataset.image_size=8",
    "stream.source=watch",
    "stream.poll_s=0.001",
    "stream.patience_s=0",
    "stream.idle_s=0.5",
    "stream.release_every=40",
]

pytestmark = pytest.mark.usefixtures("logs")


def position(run: Path) -> int:
    """How many samples are behind the newest checkpoint; 0 where there is none."""
    with contextlib.suppress(Exception):
        return checkpoint(run / "stream")["progress"]["position"]
    return 0


def files(run: Path) -> dict[str, bytes]:
    """Every file that was released, by its name."""
    found = [file for place in ("deployed", "versions") for file in (run / place).rglob("*.*") if file.name != ".lock"]
    return {str(file.relative_to(run)): file.read_bytes() for file in found if file.is_file()}


def kill_again_and_again(killed: Path, words: list[str], seed: int) -> tuple[int, list[int]]:
    """Returns the kills and behind how many saved samples each was."""
    draw, kills, places = random.Random(seed), 0, []
    while True:
        again = [f"resume={killed}"] if (killed / "run.json").exists() else [*words, f"hydra.run.dir={killed}"]
        attempt = Attempt("stream", *again, SAVING_ALL_THE_TIME)
        if kills < KILLS:
            began_with, wanted = position(killed), draw.randint(0, 3)
            attempt.until(lambda: position(killed) > began_with + 5 * wanted)  # noqa: B023
            time.sleep(draw.uniform(0, 0.02))
            kind = draw.random()
            if kind < 0.3:  # aim at a save
                attempt.until(lambda: list(killed.glob("stream/.last.pt.*.tmp")), pause_s=0.0005)
            elif kind < 0.6:  # and at a release
                before = len(files(killed))
                attempt.until(lambda: len(files(killed)) != before or list(killed.glob("deployed/.*.tmp")), pause_s=0.0005)  # noqa: B023
            with contextlib.suppress(ProcessLookupError):  # it was faster
                attempt.send_to_group(signal.SIGKILL)
        code = attempt.wait()
        if code == 0:
            return kills, places
        assert code == -signal.SIGKILL, attempt.output
        kills += 1
        places.append(position(killed))


def same(whole: Path, killed: Path, seed: int) -> None:
    found = [place for place in differences(checkpoint(whole / "stream"), checkpoint(killed / "stream")) if "log_size" not in place]
    assert found == [], f"DISTILLCTL_SOAK_SEED={seed}"
    assert metrics(whole / "stream") == metrics(killed / "stream")
    assert summary(whole) == summary(killed)
    one, other = files(whole), files(killed)
    assert [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)] == []
    assert record(killed)["status"] == "done"


def learnt_once(run: Path, samples: int) -> None:
    """The lines cover the stream without gap or overlap, and each sample of it was learnt or held out."""
    found = lines(run)
    assert [line["first"] for line in found] == [0, *(line["position"] for line in found[:-1])]
    assert found[-1]["position"] == samples == found[-1]["learnt"] + found[-1]["held_out"]


def test_a_stream_that_is_killed_again_and_again_ends_as_if_it_never_was(tmp_path: Path, capsys):
    seed = int(os.environ.get("DISTILLCTL_SOAK_SEED", "0"))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run("stream", *PRUNING, f"hydra.run.dir={whole}").code == 0
    kills, places = kill_again_and_again(killed, PRUNING, seed)
    with capsys.disabled():
        print(f"\n  seed {seed}: {kills} kills, behind {', '.join(map(str, places))} samples")
    assert kills >= KILLS // 2
    same(whole, killed, seed)
    learnt_once(killed, SAMPLES)
    assert len(history(killed)) == -(-SAMPLES // 40)  # the last at the end
    assert any(line.get("pruned") for line in history(killed))
    assert [int(folder.name) for folder in sorted((killed / "versions").iterdir())] == versions(history(killed))


def test_a_watched_folder_is_learnt_once_whatever_is_killed(tmp_path: Path, capsys):
    """The order is that of the journal, which is on the disk before anything is learnt."""
    seed = int(os.environ.get("DISTILLCTL_SOAK_SEED", "0"))
    place = folder(tmp_path / "in", FILES)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    words = [*WATCH, f"stream.path={place}"]
    assert run("stream", *words, f"hydra.run.dir={whole}").code == 0
    kills, places = kill_again_and_again(killed, words, seed)
    with capsys.disabled():
        print(f"\n  seed {seed}: {kills} kills, behind {', '.join(map(str, places))} samples")
    same(whole, killed, seed)
    learnt_once(killed, FILES)
    names = [sample[0] for line in (killed / "stream" / "journal.jsonl").read_text().splitlines() for sample in json.loads(line)["samples"]]
    assert len(names) == len(set(names)) == FILES
    assert (killed / "stream" / "journal.jsonl").read_bytes() == (whole / "stream" / "journal.jsonl").read_bytes()


def test_a_rollback_while_it_runs_is_kept_and_is_what_the_next_model_is_held_against(tmp_path: Path):
    place = tmp_path / "run"
    attempt = Attempt("stream", *STREAM, "stream.tolerance=1", f"hydra.run.dir={place}")
    attempt.until(lambda: (Releases(place).current or 0) >= 2)
    Releases(place).roll_back(1)
    assert attempt.wait() == 0, attempt.output
    found = history(place)
    rolled = next(number for number, line in enumerate(found) if line["what"] == "rolled back")
    assert found[rolled + 1]["deployed"] == 1
    assert [line["version"] for line in found if line["what"] == "released"] == list(range(1, SAMPLES // 40 + 1))
    assert (place / "deployed" / "student.safetensors").read_bytes() == files(place)[
        f"versions/{found[-1]['version']:04d}/student.safetensors"
    ]


def test_who_reads_the_deployed_file_while_it_is_replaced_has_one_version_whole(tmp_path: Path):
    place, seen = tmp_path / "run", set()
    file = place / "deployed" / "student.safetensors"

    def read() -> bool:
        with contextlib.suppress(FileNotFoundError):
            seen.add(file.read_bytes())
        return False

    attempt = Attempt("stream", *STREAM, "stream.tolerance=1", "stream.release_every=5", "stream.samples=200", f"hydra.run.dir={place}")
    attempt.until(read, pause_s=0)
    assert attempt.wait() == 0, attempt.output
    assert len(seen) > 3
    assert seen <= {found.read_bytes() for found in place.glob("versions/*/student.safetensors")}


def test_files_that_come_while_it_runs_are_learnt_once_each(tmp_path: Path):
    place = folder(tmp_path / "in", 30)
    attempt = Attempt(
        "stream", *WATCH, f"stream.path={place}", "stream.idle_s=null", f"hydra.run.dir={tmp_path / 'run'}", SAVING_ALL_THE_TIME
    )
    attempt.until(lambda: position(tmp_path / "run") == 30)
    folder(place, 75)  # the first thirty are written anew, and known already
    attempt.until(lambda: position(tmp_path / "run") == 75)
    attempt.send(signal.SIGTERM)
    assert attempt.wait() == 128 + signal.SIGTERM
    assert "go on with: distillctl stream resume=" in attempt.output
    learnt_once(tmp_path / "run", 75)


def test_a_watched_folder_that_vanishes_costs_nothing_that_was_learnt(tmp_path: Path):
    place = folder(tmp_path / "in", 30)
    words = [*WATCH, f"stream.path={place}"]
    attempt = Attempt("stream", *words, "stream.idle_s=null", f"hydra.run.dir={tmp_path / 'run'}", SAVING_ALL_THE_TIME)
    attempt.until(lambda: position(tmp_path / "run") == 30)
    place.rename(tmp_path / "elsewhere")
    assert attempt.wait() == 3
    assert attempt.problems == [
        f"error: stream.path={place}: the watched folder is gone; what came is saved, put the folder back and resume"
    ]
    (tmp_path / "elsewhere").rename(place)
    folder(place, 50)
    again = run("stream", f"resume={tmp_path / 'run'}", "stream.idle_s=0.1")
    assert again.code == 0, again.output
    learnt_once(tmp_path / "run", 50)
