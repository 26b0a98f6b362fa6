"""A second kind of input runs through all of it, though nothing above `inputs` knows it: train, kill, resume, kept answers, ship, predict, evaluate."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pair_kind
import pytest
import torch
from commands import Finished, call
from processes import CEILING_S, same_stage, steps
from safetensors.torch import load_file

from distillctl import config, inputs

HERE = Path(pair_kind.__file__).parent
OWN = ("source=own", "_target_=pair_kind.PairNet")
WORDS = (
    *("dataset=pairs", "teacher=own", "teacher._target_=pair_kind.PairNet", "+teacher.args.width=16"),
    *("student=own", "student._target_=pair_kind.PairNet", "loss=kd", "optimizer.lr=0.1", "schedule=constant"),
    *("pretrain.epochs=30", "distill.epochs=3", "finetune.epochs=1", "trainer.batch_size=16", "trainer.threads=1", "trainer.device=cpu"),
    *("trainer.precision=fp32", "pretrain.reuse=false"),
)


@pytest.fixture(scope="module", autouse=True)
def registered(tmp_path_factory):
    """The kind is known, and its group file lies in a folder of one's own."""
    place = tmp_path_factory.mktemp("conf")
    (place / "dataset").mkdir()
    (place / "dataset" / "pairs.yaml").write_text("defaults:\n  - override kind@_here_: pairs\nname: pairs\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(config.DATA_KINDS, "pairs", pair_kind.PairsConfig)
        patch.setitem(inputs.KINDS, "pairs", pair_kind.Pairs)
        patch.syspath_prepend(str(HERE))
        yield place


@pytest.fixture(scope="module")
def command(registered):
    """`command("train", ..., cwd=folder)` with the kind's group and its net's package."""

    def run(name: str, *words: str, cwd: Path) -> Finished:
        more = ("--trust", "pair_kind") + (("--config-dir", str(registered)) if name != "predict" else ())
        return call(name, *words, *more, cwd=cwd)

    return run


@pytest.fixture(scope="module")
def run(command, tmp_path_factory) -> tuple[Path, str]:
    """A whole run, and what it printed."""
    place = tmp_path_factory.mktemp("pairs")
    finished = command("train", *WORDS, "hydra.run.dir=run", cwd=place)
    assert finished.code == 0, finished.err + finished.out
    return place / "run", finished.out


def rows(folder: Path) -> dict[str, dict]:
    return {row["model"]: row for row in json.loads((folder / "summary.json").read_text())["rows"]}


def test_it_trains_and_the_table_speaks_of_pairs(run):
    folder, printed = run
    assert rows(folder)["teacher"]["top1"] > 0.6
    assert list(rows(folder)) == ["teacher", "distilled", "fine-tuned", "alone"]
    assert "pairs test, 60 pairs:" in printed
    assert "pairs/s" in printed
    assert "images" not in printed
    assert rows(folder)["distilled"]["macs"] > 0


def test_its_plan_is_printed(command, tmp_path):
    printed = command("train", *WORDS, "--plan", cwd=tmp_path)
    assert printed.code == 0, printed.err
    assert "PairNet" in printed.out or "pretrain" in printed.out
    assert list(tmp_path.iterdir()) == []


def child(words: tuple[str, ...], cwd: str, log: str) -> None:
    os.setsid()
    finished = call(*words, cwd=Path(cwd))
    Path(log).write_text(finished.out + finished.err)
    os._exit(finished.code)


def test_a_run_that_is_killed_goes_on_to_the_same_bits(run, registered, command, tmp_path):
    whole, _ = run
    words = ("train", *WORDS, "trainer.save_every_s=0.001", "hydra.run.dir=killed", "--trust", "pair_kind", "--config-dir", str(registered))
    killed = tmp_path / "killed"
    process = multiprocessing.get_context("fork").Process(target=child, args=(words, str(tmp_path), str(tmp_path / "log")))
    process.start()
    deadline = time.monotonic() + CEILING_S
    while steps(killed / "distill") < 5 and process.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)  # it may have been faster
    resumed = command("train", f"resume={killed}", cwd=tmp_path)
    assert resumed.code == 0, resumed.err
    for stage in ("pretrain", "distill", "finetune", "alone"):
        assert same_stage(whole / stage, killed / stage) == []


def test_kept_answers_give_the_weights_of_a_live_teacher(run, command, tmp_path):
    whole, _ = run
    words = [word for word in WORDS if not word.startswith(("teacher", "+teacher", "pretrain", "finetune"))]
    words += [f"teacher.checkpoint={whole / 'pretrain'}", "dataset.views=1", "teacher.cache.dtype=fp32", "teacher.cache.dir=cache"]
    live = command("distill", *words, "teacher.cache.mode=off", "hydra.run.dir=live", cwd=tmp_path)
    kept = command("distill", *words, "teacher.cache.mode=fill", "hydra.run.dir=kept", cwd=tmp_path)
    assert (live.code, kept.code) == (0, 0), live.err + kept.err
    assert "answers were read" in kept.out
    filled = command("cache", "action=fill", *words, cwd=tmp_path)
    assert filled.code == 0, filled.err
    assert "img/s" not in filled.out
    required = command("distill", *words, "teacher.cache.mode=require", "hydra.run.dir=required", cwd=tmp_path)
    assert required.code == 0, required.err
    assert " 0 asked for" in required.out
    for folder in ("kept", "required"):
        assert same_stage(tmp_path / "live/distill", tmp_path / folder / "distill") == []


def test_somebody_s_answers_teach_it_by_row_and_exported_ones_as_the_kept(run, command, tmp_path):
    whole, _ = run
    words = [word for word in WORDS if not word.startswith(("teacher", "+teacher", "pretrain", "finetune"))]
    asked = [f"teacher.checkpoint={whole / 'pretrain'}", "dataset.views=1", "teacher.cache.dtype=fp32", "teacher.cache.dir=cache"]
    for name, more in (
        ("distill", ["teacher.cache.mode=fill", "hydra.run.dir=kept"]),
        ("cache", ["action=fill"]),
        ("cache", ["action=export", "to=answers.csv"]),
    ):
        finished = command(name, *words, *asked, *more, cwd=tmp_path)
        assert finished.code == 0, finished.err
    lines = (tmp_path / "answers.csv").read_text().splitlines()
    assert lines[0] == "row,none,one,both"
    told = ["teacher=answers", "teacher.file=answers.csv", "dataset.views=1", "hydra.run.dir=told"]
    finished = command("distill", *words, *told, cwd=tmp_path)
    assert finished.code == 0, finished.err
    assert f"answers all {len(lines) - 1} training pairs" in finished.out
    one, other = (load_file(tmp_path / name / "distill/student.safetensors") for name in ("kept", "told"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    (tmp_path / "answers.csv").write_text("\n".join([lines[0], lines[1], lines[1]]))
    refused = command("distill", *words, *told[:2], cwd=tmp_path)
    assert (refused.code, refused.err.count("\n")) == (3, 1)
    assert "answers.csv, line 3: row=" in refused.err


def pair(place: Path, name: str = "pair.json") -> Path:
    file = place / name
    file.write_text(json.dumps({"numbers": [2.0, 0.0, 0.0, 0.0], "words": [5, 1, 1]}))
    return file


def test_it_ships_with_a_script_that_needs_none_of_us(run, tmp_path):
    folder, _ = run
    stage = folder / "finetune"
    record = json.loads((stage / "student.json").read_text())
    assert record["preprocessing"] == {"kind": "pairs"}
    assert record["architecture"]["image_size"] is None
    printed = subprocess.run(
        [sys.executable, str(stage / "load_student.py"), str(pair(tmp_path))],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": f"{HERE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
    ).stdout  # fmt: skip
    net = pair_kind.PairNet(3)
    net.load_state_dict(load_file(stage / "student.safetensors"))
    told = pair_kind.Pairs(("none", "one", "both")).read([pair(tmp_path)], None)
    probabilities = net.eval()(told).softmax(-1)[0].detach()
    assert printed.split()[1:] == [record["classes"][int(probabilities.argmax())], str(round(float(probabilities.max()), 4))]


def test_predict_answers_for_files_and_folders(run, command, tmp_path):
    folder, _ = run
    (tmp_path / "pairs").mkdir()
    pair(tmp_path / "pairs"), pair(tmp_path / "pairs", "other.json")
    finished = command("predict", f"checkpoint={folder}", "inputs=[pairs]", "format=jsonl", "trainer.precision=fp32", cwd=tmp_path)
    assert finished.code == 0, finished.err
    answers = [json.loads(line) for line in finished.out.splitlines()]
    assert [answer["pair"] for answer in answers] == ["pairs/other.json", "pairs/pair.json"]
    assert {name["class"] for name in answers[0]["answers"]} == {"none", "one", "both"}


def test_evaluate_finds_the_recorded_pairs_again(run, command, tmp_path):
    folder, _ = run
    finished = command(
        "evaluate", f"checkpoint={folder}", f"teacher.checkpoint={folder}", "trainer.precision=fp32", "hydra.run.dir=out", cwd=tmp_path
    )
    assert finished.code == 0, finished.err
    told = json.loads((tmp_path / "out/evaluation.json").read_text())
    final = rows(folder)[json.loads((folder / "summary.json").read_text())["final"]]
    assert told["measured"]["top1"] == pytest.approx(final["top1"])
    assert told["measured"]["agreement"] == pytest.approx(final["agreement"])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["student=resnet8"], "student=resnet8: no nets by name for pairs; give a class of your own"),
        (["method=data_free", "loss=funmatch"], "method: DataFree is about images, and the data set has pairs"),
        (["attack=pgd"], "attack=pgd changes images a little, and the data set has pairs"),
        (["dataset.count=3"], "dataset.count=3 must be >= 30"),
        (["dataset.augment.flip=1"], "dataset.augment.flip=1: unknown key"),
    ],
)
def test_what_is_for_images_alone_is_one_line(words, line, command, tmp_path):
    kept = [word for word in WORDS if not (words[0].startswith("student=") and "student" in word)]
    refused = command("train", *kept, *words, cwd=tmp_path)
    assert refused.code == 2, refused.out
    assert line in refused.err


def test_corruptions_are_for_images_alone(run, command, tmp_path):
    folder, _ = run
    for words, line in (("corruptions=true", "corruptions=true"), ("corruptions=[fog,contrast]", "corruptions=[fog,contrast]")):
        refused = command("evaluate", f"checkpoint={folder}", words, "trainer.precision=fp32", "hydra.run.dir=corrupted", cwd=tmp_path)
        assert refused.code == 2, refused.out
        assert f"{line} changes images, and the data set has pairs; leave corruptions out" in refused.err


def test_a_teacher_of_images_is_refused_in_one_line(tiny_run, command, tmp_path):
    words = [word for word in WORDS if not word.startswith(("teacher", "+teacher", "pretrain", "finetune"))]
    refused = command("distill", *words, f"teacher.checkpoint={tiny_run / 'pretrain'}", "teacher.ignore_class_names=true", cwd=tmp_path)
    assert refused.code == 4
    assert "classes" in refused.err or "takes images, and the data set has pairs" in refused.err
    assert len(refused.err.splitlines()) == 1


def test_what_any_data_set_has_works_for_pairs():
    words = {"name": "pairs", "subset": 60, "val_fraction": 0.5, "labels": False}
    data, _ = pair_kind.Pairs.load(pair_kind.PairsConfig(**words), None)
    assert (len(data.train), len(data.val), len(data.test)) == (30, 30, 60)
    assert not data.train.labelled
    assert data.test.labelled


def test_inputs_of_several_tensors_are_cut_and_marked_together():
    from distillctl import types
    from distillctl.teachers.records import input_marks

    batch = pair_kind.Pairs(("a", "b")).example(5, torch.device("cpu"))
    batch["words"][3, 1] = 2
    assert types.count(batch) == 5
    assert [types.count(piece) for piece in types.pieces(batch, 2)] == [3, 2]
    assert types.rows(batch, torch.tensor([3]))["words"].tolist() == [[0, 2, 0]]
    marks = input_marks(batch)
    assert len(set(marks.tolist())) == 2
    batch["numbers"][3] += 1
    assert input_marks(batch)[3] != marks[3]


def test_it_streams(command, tmp_path: Path):
    """Predicted, learnt once, held out and deployed, as images are."""
    words = ("dataset=pairs", *WORDS[4:6], "trainer.threads=1", "trainer.device=cpu", "trainer.precision=fp32", "stream.release_every=40")
    finished = command("stream", *words, "stream.samples=100", "hydra.run.dir=run", cwd=tmp_path)
    assert (finished.code, finished.err) == (0, ""), finished.err
    told = json.loads((tmp_path / "run" / "summary.json").read_text())["stream"]
    assert told["samples"] == told["learnt"] + told["held_out"] == 100
    weights = load_file(tmp_path / "run" / "deployed" / "student.safetensors")
    assert weights
    measured = command("evaluate", "checkpoint=run/deployed", "dataset=pairs", "trainer.device=cpu", cwd=tmp_path)
    assert measured.code == 0, measured.err
