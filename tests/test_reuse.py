"""A teacher that was trained already is not trained again, and that changes no number."""

import contextlib
import json
import shutil
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from processes import SMALL, Attempt, StopAfter, checkpoint, configured, metrics, record, run, run_on_two_ranks, step, steps

from distillctl.config import TrainerConfig, value
from distillctl.errors import Interrupted
from distillctl.runs import registry, reuse
from distillctl.runs.session import session
from distillctl.runs.sources import Given

WORDS = (*SMALL, "student=resnet8", "pretrain.epochs=2", "distill.epochs=1", "finetune.epochs=0", "baseline=false")
AGAIN = "the same teacher was trained before"
WAITING = "waiting for the job that trains this teacher"
FILES = ("teacher.safetensors", "load_teacher.py", "metrics.jsonl")


pytestmark = pytest.mark.usefixtures("logs")


@pytest.fixture(scope="module")
def before(tmp_path_factory) -> Path:
    """A place with a finished run and the cache folder that it registered its teacher in. Tests copy the cache."""
    place = tmp_path_factory.mktemp("before")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTILLCTL_TEST_LOGS", str(place))
        attempt = run("train", *WORDS, f"hydra.run.dir={place / 'run'}")
    assert attempt.code == 0, attempt.output
    return place


@pytest.fixture
def after(before, tmp_path):
    """`after("seed=1")`: another run with the same registry; its folder and what it printed."""
    shutil.copytree(before / "cache", tmp_path / "cache")

    def again(*words: str) -> tuple[Path, str]:
        folder = tmp_path / f"run-{len(list(tmp_path.glob('run-*')))}"
        attempt = run("train", *WORDS, *words, f"hydra.run.dir={folder}", environment={"DISTILLCTL_CACHE": str(tmp_path / "cache")})
        assert attempt.code == 0, attempt.output
        return folder, attempt.output

    return again


def weights(folder: Path, stage: str = "pretrain/teacher") -> bytes:
    return (folder / f"{stage}.safetensors").read_bytes()


def table(folder: Path) -> list[dict]:
    """The rows of the final table, without times."""
    rows = json.loads((folder / "summary.json").read_text())["rows"]
    return [{name: value for name, value in row.items() if "latency" not in name} for row in rows]


def entry(cache: Path) -> Path:
    [file] = (cache / "teachers").glob("*.json")
    return file


def test_a_second_run_reuses_the_teacher_and_ends_the_same(before, after):
    folder, printed = after()
    assert AGAIN in printed
    assert "pretrain.reuse=false" in printed
    assert not (folder / "pretrain" / "last.pt").exists(), "it was trained"
    for name in FILES:
        assert (folder / "pretrain" / name).read_bytes() == (before / "run" / "pretrain" / name).read_bytes()
    stage = record(folder)["stages"]["pretrain"]
    assert stage.pop("reused") == str(before / "run")
    assert stage == record(before / "run")["stages"]["pretrain"]
    assert weights(folder, "distill/student") == weights(before / "run", "distill/student")
    assert table(folder) == table(before / "run")


def test_to_reuse_is_to_train_again(before, after):
    folder, printed = after("pretrain.reuse=false")
    assert AGAIN not in printed
    assert (folder / "pretrain" / "last.pt").exists()
    assert weights(folder) == weights(before / "run")
    assert table(folder) == table(before / "run")


def test_a_run_that_reused_is_whole_without_the_other(before, after):
    folder, _ = after()
    told = json.loads((folder / "pretrain" / "teacher.json").read_text())
    assert told == json.loads((before / "run" / "pretrain" / "teacher.json").read_text())
    attempt = run("evaluate", f"checkpoint={folder / 'pretrain'}", "trainer.device=cpu", f"hydra.run.dir={folder.parent / 'evaluation'}")
    assert attempt.code == 0, attempt.output


def key(tmp_path: Path, *words: str, trainer: TrainerConfig | None = None) -> str:
    folder = tmp_path / "key"
    config = configured("train", folder, *WORDS, *words)
    config.trainer = trainer or config.trainer
    with session(config, folder, lambda: False) as running:
        found = reuse.key_of(running, step(config))
    shutil.rmtree(folder)
    return found


DECIDING = """optimizer.lr=0.02 optimizer.weight_decay=0.1 schedule=constant seed=1 teacher=resnet14 teacher=wrn_16_1
pretrain.epochs=3 pretrain.lr_scale=0.5 loss.ce.label_smoothing=0.1 dataset.subset=301 dataset.split_seed=1
dataset.augment.flip=0.1 dataset.views=1 dataset.view_seed=3 trainer.batch_size=31 trainer.precision=bf16 trainer.ema_decay=0.9
trainer.clip_norm=1 trainer.accumulate=2 trainer.select=last trainer.select_by=val_nll trainer.early_stopping_epochs=1 trainer.threads=2"""


def test_whatever_decides_the_weights_makes_another_key(tmp_path):
    words = [["trainer.precision=fp32", word] for word in ("seed=0", *DECIDING.split())]
    keys = [*(key(tmp_path, *each) for each in words), key(tmp_path, *words[0], "teacher=wrn_16_1", "+teacher.args.drop_rate=0.1")]
    assert len(set(keys)) == len(keys)


def test_a_new_key_of_the_trainer_makes_another_key_by_itself(tmp_path):
    @dataclass
    class Tomorrow(TrainerConfig):
        warmup_epochs: int = value(0, decides="weights")
        patience_s: int = value(0, decides="cost")

    usual = {"device": "cpu", "threads": 1}
    plain = key(tmp_path, trainer=Tomorrow(**usual))
    assert key(tmp_path, trainer=Tomorrow(**usual, warmup_epochs=2)) != plain
    assert key(tmp_path, trainer=Tomorrow(**usual, patience_s=2)) == plain


def test_with_classes_of_ones_own_nothing_is_reused(tmp_path):
    config = configured("train", tmp_path, *WORDS)
    ours = step(config)
    assert not reuse.has_own_code(ours, config)
    assert reuse.has_own_code(replace(ours, model=Given(replace(config.teacher, source="own", _target_="mine.Net"), "teacher")), config)
    for name in ("optimizer", "schedule"):
        assert reuse.has_own_code(ours, replace(config, **{name: {"_target_": "mine.Own"}}))


def test_what_decides_nothing_leaves_the_key(tmp_path):
    words = (
        "loss.kd.temperature=2",
        "loss.ce.weight=0.3",
        "student=resnet14",
        "distill.epochs=9",
        "dataset.workers=2",
        "teacher.cache.mode=fill",
    )
    assert {key(tmp_path, word) for word in words} == {key(tmp_path)}


def test_another_learning_rate_trains_another_teacher(before, after):
    folder, printed = after("optimizer.lr=0.02")
    assert AGAIN not in printed
    assert weights(folder) != weights(before / "run")


@pytest.mark.parametrize("name", ["teacher.safetensors", "teacher.json", "load_teacher.py", "gone"])
def test_files_that_were_changed_or_are_gone_are_never_trusted(name, before, after, tmp_path):
    moved = shutil.copytree(before / "run", tmp_path / "moved")
    place = entry(tmp_path / "cache")
    content = json.loads(place.read_text())
    place.write_text(json.dumps(content | {"file": str(moved / "pretrain" / "teacher.safetensors")}))
    if name == "gone":
        shutil.rmtree(moved)
    else:
        file = moved / "pretrain" / name
        file.write_bytes(file.read_bytes()[:-1] + b"!")
    folder, printed = after()
    assert AGAIN not in printed
    assert weights(folder) == weights(before / "run")
    assert json.loads(place.read_text())["run"] == str(folder), "it is not registered anew"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"file": 3, "files": {}}', "{" * 9])
def test_an_entry_that_cannot_be_read_is_none(content, tmp_path):
    (tmp_path / "entry.json").write_text(content)
    assert registry.look_up(tmp_path / "entry.json", "teacher") is None


def test_a_run_that_is_killed_registers_nothing_until_it_is_done(tmp_path):
    folder, cache = tmp_path / "run", tmp_path / "logs" / "cache" / "teachers"
    attempt = Attempt("train", *WORDS, "pretrain.epochs=8", "trainer.save_every_s=0.001", f"hydra.run.dir={folder}")
    attempt.until(lambda: steps(folder / "pretrain") > 12)
    attempt.send_to_group(signal.SIGKILL)
    assert attempt.wait() == -signal.SIGKILL
    assert not list(cache.glob("*.json"))
    assert run("train", f"resume={folder}").code == 0
    assert json.loads(entry(cache.parent).read_text())["run"] == str(folder)


def test_what_was_trained_on_other_threads_in_part_is_not_offered(tmp_path, monkeypatch):
    def pretrain(folder: Path, asked: int) -> None:
        config = configured("train", folder, *WORDS, "pretrain.reuse=true")
        with session(config, folder, StopAfter(asked)) as running, contextlib.suppress(Interrupted):
            reuse.train_once(running, step(config))

    monkeypatch.setenv("DISTILLCTL_CACHE", str(tmp_path / "cache"))
    pretrain(tmp_path / "run", asked=10)
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    pretrain(tmp_path / "run", asked=10**9)
    assert weights(tmp_path / "run")
    assert not registry.entries(tmp_path / "cache")
    pretrain(tmp_path / "whole", asked=10**9)
    assert len(registry.entries(tmp_path / "cache")) == 1


def test_two_side_by_side_train_once(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    first = Attempt("train", *WORDS, "pretrain.epochs=9", f"hydra.run.dir={one}")
    first.until(lambda: (one / "pretrain" / "metrics.jsonl").exists())
    first.send(signal.SIGSTOP)  # it must not be done before the other looks
    second = Attempt("train", *WORDS, "pretrain.epochs=9", f"hydra.run.dir={two}")
    second.until(lambda: WAITING in second.output)
    first.send(signal.SIGCONT)
    assert (first.wait(), second.wait()) == (0, 0), first.output + second.output
    assert second.output.count(WAITING) == 1
    assert AGAIN in second.output
    assert not (two / "pretrain" / "last.pt").exists()
    assert weights(one) == weights(two)
    assert metrics(one / "pretrain") == metrics(two / "pretrain")
    assert checkpoint(one / "distill")["step"] == checkpoint(two / "distill")["step"]


def test_who_waits_can_be_stopped_and_takes_over_from_who_dies(tmp_path):
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    first = Attempt("train", *WORDS, "pretrain.epochs=80", f"hydra.run.dir={one}")
    first.until(lambda: (one / "pretrain" / "metrics.jsonl").exists())
    first.send(signal.SIGSTOP)
    waiting = [Attempt("train", *WORDS, "pretrain.epochs=80", f"hydra.run.dir={folder}") for folder in (two, three)]
    for attempt in waiting:
        attempt.until(lambda: WAITING in attempt.output)  # noqa: B023
    waiting[0].send(signal.SIGTERM)
    assert waiting[0].wait() == 128 + signal.SIGTERM
    assert "interrupted; go on with: distillctl train resume=" in waiting[0].output
    first.send_to_group(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    waiting[1].until(lambda: (three / "pretrain" / "metrics.jsonl").exists())
    assert (three / "pretrain" / "metrics.jsonl").exists()
    waiting[1].send(signal.SIGTERM)
    assert waiting[1].wait() == 128 + signal.SIGTERM


def test_a_cache_folder_that_cannot_be_made_costs_a_warning(tmp_path):
    (tmp_path / "file").write_text("")
    attempt = run("train", *WORDS, f"hydra.run.dir={tmp_path / 'run'}", environment={"DISTILLCTL_CACHE": str(tmp_path / "file")})
    assert attempt.code == 0, attempt.output
    assert "other runs will not find this teacher" in attempt.output


def test_the_cache_command_counts_and_forgets(before, distillctl, tmp_path):
    cache = shutil.copytree(before / "cache", tmp_path / "cache")
    place = {"DISTILLCTL_CACHE": str(cache)}
    assert "trained teachers that runs may share: 1" in distillctl("cache", cwd=tmp_path, env=place).out
    distillctl("cache", "action=prune", "older_than_days=9", cwd=tmp_path, env=place)
    content = json.loads(entry(cache).read_text())
    entry(cache).write_text(json.dumps(content | {"file": str(tmp_path / "gone" / "teacher.safetensors")}))
    pruned = distillctl("cache", "action=prune", "older_than_days=9", cwd=tmp_path, env=place)
    assert "trained teachers forgotten: 1" in pruned.out
    assert not registry.entries(cache)


def test_two_ranks_reuse_together(tmp_path):
    """Rank 0 looks and copies, the other follows."""
    folders = [tmp_path / name for name in ("one", "two")]
    attempts = [run_on_two_ranks("train", *WORDS, f"hydra.run.dir={folder}") for folder in folders]
    assert [attempt.code for both in attempts for attempt in both] == [0] * 4, [attempt.output for both in attempts for attempt in both]
    assert AGAIN in attempts[1][0].output
    assert weights(folders[0], "distill/student") == weights(folders[1], "distill/student")
