"""Runs with several teachers: trained in the run or given, stopped and gone on with, and all that can be got wrong."""

import contextlib
import hashlib
import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from processes import StopAfter, configured, same_stage
from safetensors.torch import load_file, save_file

from distillctl.config import MemberConfig, TeacherConfig
from distillctl.errors import Interrupted
from distillctl.inputs.image import Images
from distillctl.models.committee import gather
from distillctl.runs.execute import execute
from distillctl.runs.session import session
from distillctl.teachers.frozen import fingerprint

QUICK = ("dataset.subset=300", "trainer.batch_size=32", "trainer.device=cpu", "trainer.precision=fp32", "trainer.threads=1")
# two of one architecture: what tells them apart is their seeds
TWO = ("teacher=ensemble", "teacher.members.a=resnet8", "teacher.members.b=resnet8", "student=resnet8", *QUICK)
SHORT = ("pretrain.epochs=2", "distill.epochs=2", "finetune.epochs=0", "baseline=false")


@pytest.fixture(scope="module")
def finished(distillctl, tmp_path_factory):
    """The folder of a run that trained both of its teachers, and what it printed."""
    place = tmp_path_factory.mktemp("ensemble")
    done = distillctl("train", *TWO, *SHORT, "teacher.combine=entropy", "hydra.run.dir=run", cwd=place)
    assert done.code == 0, done.err
    return place / "run", done.out


def read(file: Path):
    return json.loads(file.read_text())


def given(run: Path) -> tuple[str, ...]:
    return (
        "teacher=ensemble",
        *(f"teacher.members.{name}.{key}" for name in "ab" for key in ("name=recorded", f"checkpoint={run}/pretrain-{name}")),
    )


def test_members_without_weights_are_trained_in_turn_each_with_a_seed_of_its_own(finished):
    run, printed = finished
    assert list(read(run / "run.json")["stages"]) == ["pretrain-a", "pretrain-b", "distill"]
    a, b = (load_file(run / f"pretrain-{name}/teacher.safetensors") for name in "ab")
    assert a.keys() == b.keys()
    assert not any(torch.equal(a[name], b[name]) for name in a if name.endswith("conv1.weight"))
    assert printed.index("pretrain-a:") < printed.index("pretrain-b:") < printed.index("distill:")


def test_the_table_has_the_ensemble_and_its_members(finished):
    run, printed = finished
    rows = {row["model"]: row for row in read(run / "summary.json")["rows"]}
    assert list(rows) == ["teacher", "teacher a", "teacher b", "distilled"]
    assert rows["teacher"]["architecture"] == "resnet8 + resnet8"
    for cost in ("parameters", "macs", "size_mb"):
        assert rows["teacher"][cost] == pytest.approx(rows["teacher a"][cost] + rows["teacher b"][cost])
    assert rows["distilled"]["agreement"] is not None
    assert "resnet8 + resnet8 → resnet8" in printed


def images(run: Path) -> Images:
    record = read(run / "pretrain-a/teacher.json")
    return Images(tuple(record["classes"]), 8, record["preprocessing"]["mean"], record["preprocessing"]["std"])


def config(**checkpoints: Path) -> TeacherConfig:
    return TeacherConfig(name="ensemble", members={name: MemberConfig(checkpoint=str(path)) for name, path in checkpoints.items()})


def test_the_student_s_record_names_the_ensemble_as_it_shipped(finished):
    run, _ = finished
    members, _ = gather(config(a=run / "pretrain-a", b=run / "pretrain-b"), images(run), "teacher", 0)
    assert read(run / "distill/student.json")["parents"]["teacher"] == fingerprint(members)


def test_a_run_folder_gives_each_member_its_own_weights(finished):
    run, _ = finished
    by_run, _ = gather(config(a=run, b=run), images(run), "teacher", 0)
    by_stage, _ = gather(config(a=run / "pretrain-a", b=run / "pretrain-b"), images(run), "teacher", 0)
    assert fingerprint(by_run) == fingerprint(by_stage)


def reordered(run: Path, place: Path, order: list[int]) -> Path:
    """The member b as if it had been trained with its classes in another order."""
    folder = Path(shutil.copytree(run / "pretrain-b", place / "moved"))
    weights, record = load_file(folder / "teacher.safetensors"), read(folder / "teacher.json")
    weights |= {name: value[order].clone() for name, value in weights.items() if value.shape[:1] == (10,)}
    save_file(weights, folder / "teacher.safetensors")
    record |= {
        "classes": [record["classes"][number] for number in order],
        "sha256": hashlib.sha256((folder / "teacher.safetensors").read_bytes()).hexdigest(),
    }
    (folder / "teacher.json").write_text(json.dumps(record))
    return folder


def test_a_member_s_other_order_of_classes_changes_nothing_and_is_said(finished, distillctl, tmp_path):
    run, _ = finished
    moved = reordered(run, tmp_path, [3, 1, 2, 0, 9, 8, 7, 6, 5, 4])
    inputs = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    plain, other = (gather(config(a=run, b=b), images(run), "teacher", 0)[0].eval() for b in (run, moved))
    assert not torch.equal(other.members[1](inputs).logits, plain.members[1](inputs).logits)
    torch.testing.assert_close(other(inputs).logits, plain(inputs).logits)

    words = (*given(run), f"teacher.members.b.checkpoint={moved}", "student=resnet8", *QUICK)
    done = distillctl("distill", *words, "distill.epochs=1", "hydra.run.dir=out", cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.out.count("teacher.members.b: it knows the classes in another order") == 1
    rows, before = ({row["model"]: row for row in read(folder / "summary.json")["rows"]} for folder in (tmp_path / "out", run))
    for name in ("teacher", "teacher b"):
        assert rows[name]["top1"] == before[name]["top1"]


def test_features_of_members_are_taps(finished, distillctl, tmp_path):
    run, _ = finished
    words = (*given(run), "loss=[kd,at]", "loss.at.teacher=[a.stage1,b.stage2,a.stage3]", "teacher.combine=mean_loss", *QUICK)
    done = distillctl("distill", *words, "distill.epochs=1", "hydra.run.dir=out", cwd=tmp_path)
    assert done.code == 0, done.err
    parts = json.loads((tmp_path / "out/distill/metrics.jsonl").read_text().splitlines()[0])
    assert parts["at"] > 0
    assert parts["kd"] > 0


def test_evaluate_compares_with_an_ensemble(finished, distillctl, tmp_path):
    run, _ = finished
    done = distillctl("evaluate", f"checkpoint={run}", *given(run), *QUICK[2:], "hydra.run.dir=out", cwd=tmp_path)
    assert done.code == 0, done.err
    rows = {row["model"]: row for row in read(run / "summary.json")["rows"]}
    assert read(tmp_path / "out/evaluation.json")["measured"]["agreement"] == pytest.approx(rows["distilled"]["agreement"])


def test_pretrain_trains_all_members(distillctl, tmp_path):
    done = distillctl("pretrain", *(word for word in TWO if "student" not in word), "pretrain.epochs=1", "hydra.run.dir=run", cwd=tmp_path)
    assert done.code == 0, done.err
    assert list(read(tmp_path / "run/run.json")["stages"]) == ["pretrain-a", "pretrain-b"]
    assert read(tmp_path / "run/summary.json")["final"] == "teacher"


STAGES = ("pretrain-a", "pretrain-b", "distill")


@pytest.mark.parametrize("asked", [12, 34, 52])  # in the first member, in the second, in the student
def test_a_run_that_was_stopped_goes_on_bit_for_bit(asked, finished, tmp_path):
    words = (*(word for word in TWO if not word.startswith("teacher.")), "teacher.combine=entropy", *SHORT)
    members = ("++teacher.members.a.name=resnet8", "++teacher.members.b.name=resnet8")
    with contextlib.suppress(Interrupted), session(configured("train", tmp_path, *words, *members), tmp_path, StopAfter(asked)) as running:
        execute(running)
    done = [name for name in STAGES if name in read(tmp_path / "run.json")["stages"]]
    assert done == list(STAGES[: [12, 34, 52].index(asked)])
    with session(configured("train", tmp_path, *words, *members), tmp_path, StopAfter(10**9)) as running:
        execute(running)
    for name in STAGES:
        assert same_stage(finished[0] / name, tmp_path / name) == []


def test_generations_together_have_a_row(distillctl, tmp_path):
    words = ("teacher=resnet8", "student=resnet8", *QUICK, "pretrain.epochs=1", "distill.epochs=1", "finetune.epochs=0", "baseline=false")
    done = distillctl("train", *words, "generations=2", "ensemble_generations=true", "hydra.run.dir=run", cwd=tmp_path)
    assert done.code == 0, done.err
    rows = {row["model"]: row for row in read(tmp_path / "run/summary.json")["rows"]}
    assert list(rows) == ["teacher", "generation 1", "together", "distilled"]
    assert rows["together"]["parameters"] == 2 * rows["distilled"]["parameters"]
    assert read(tmp_path / "run/summary.json")["final"] == "distilled"


# --------------------------------------------------------------------------------------------------- what can be wrong
WRONG = {
    "no weights": ("distill teacher=ensemble", ("teacher.members.a=resnet20", "teacher.members.b=resnet14", "neither trained"), 2),
    "no budget": ("train teacher=ensemble pretrain.epochs=0", ("teacher.members.b=resnet14 is neither", "pretrain.epochs=N"), 2),
    "file missing": ("train teacher=ensemble teacher.members.b.checkpoint=nowhere", ("teacher.members.b.checkpoint=nowhere: no such",), 4),
    "another net": ("train teacher=ensemble teacher.members.a.checkpoint=RUN", ("holds resnet8", "pass teacher.members.a=resnet8"), 4),
    "other classes": (
        "train teacher=ensemble teacher.members.a=resnet8 teacher.members.a.checkpoint=other",
        ("teacher.members.a.checkpoint=other: its class 0 is 'cat'", "teacher.members.a.new_head=true"),
        4,
    ),
    "nobody": ("train teacher=ensemble ~teacher.members.a ~teacher.members.b", ("no members", "teacher.members.a=resnet20"), 2),
    "unknown net": ("train teacher=ensemble teacher.members.c=resnet_20", ("teacher.members.c=resnet_20", "mean resnet20?"), 2),
    "nothing said": ("train teacher=ensemble teacher.members.c.pretrained=true", ("teacher.members.c.checkpoint is not set",), 2),
    "unknown key": (
        "train teacher=ensemble teacher.members.a.checkpiont=x",
        ("teacher.members.a.checkpiont=x", "mean teacher.members.a.ch"),
        2,
    ),
    "wrong kind": (
        "train teacher=ensemble teacher.members.a.image_size=x",
        ("teacher.members.a.image_size=x: expected a whole number",),
        2,
    ),
    "out of range": ("train teacher=ensemble teacher.members.a.image_size=0", ("teacher.members.a.image_size=0 must be >= 1",), 2),
    "no name": ("train teacher=ensemble '+teacher.members={x y: vgg8}'", ("teacher.members.x y", "letters, digits"), 2),
    "combine": ("train teacher=ensemble teacher.combine=mean", ("teacher.combine=mean: must be one of mean_probability,",), 2),
    "temperature": ("train teacher=ensemble teacher.temperature=0", ("teacher.temperature=0.0 must be > 0",), 2),
    "weight of nobody": ("train teacher=ensemble teacher.combine=fixed teacher.weights.c=2", ("teacher.weights.c=2.0", "members: a, b"), 2),
    "negative weight": ("train teacher=ensemble teacher.combine=fixed teacher.weights.a=-1", ("teacher.weights.a=-1.0 must be >= 0",), 2),
    "weight a word": ("train teacher=ensemble teacher.combine=fixed teacher.weights.a=x", ("teacher.weights.a=x: expected a number",), 2),
    "no weight at all": (
        "train teacher=ensemble teacher.combine=fixed teacher.weights.a=0 teacher.weights.b=0",
        ("teacher.weights: all weights are zero",),
        2,
    ),
    "weights unasked for": ("train teacher=ensemble teacher.weights.a=1", ("teacher.weights", "teacher.combine=fixed"), 2),
    "weights of its own": ("train teacher=ensemble teacher.checkpoint=RUN", ("teacher.checkpoint=", "set teacher.members.a.checkpoint"), 2),
    "members of one": ("train teacher=resnet8 teacher.members.a=vgg8", ("teacher.members belongs to teacher=ensemble",), 2),
    "tap of nobody": ("train teacher=ensemble loss=[ce,at]", ("no tap 'stage1'", "a.stage1", "members: a, b"), 2),
    "tap of a stranger": ("train teacher=ensemble loss=fitnet loss.fitnet.teacher=c.stage2", ("no tap 'c.stage2'", "members: a, b"), 2),
    "tap that is not there": ("train teacher=ensemble loss=fitnet loss.fitnet.teacher=b.stag2", ("teacher.members.b", "mean stage2"), 2),
    "labels": ("train teacher=ensemble teacher.combine=confidence dataset.labels=false", ("teacher.combine=entropy",), 2),
    "misspelt": ("train teacher=ensembel", ("teacher=ensembel", "did you mean ensemble?"), 2),
    "evaluate": ("evaluate checkpoint=RUN teacher=ensemble", ("teacher.members.a=resnet20 is neither trained nor pretrained",), 2),
    "generations": ("train ensemble_generations=true", ("ensemble_generations=true", "generations=2"), 2),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_one_line_before_any_training(name, finished, distillctl, tmp_path):
    command, texts, code = WRONG[name]
    other = shutil.copytree(finished[0] / "pretrain-a", tmp_path / "other")
    record = read(other / "teacher.json")
    (other / "teacher.json").write_text(json.dumps(record | {"classes": ["cat", *record["classes"][1:]]}))
    run = finished[0] / "pretrain-a"
    done = distillctl(*(word.replace("RUN", str(run)) for word in shlex.split(command)), "hydra.run.dir=out", cwd=tmp_path)
    assert done.code == code, done.out + done.err
    lines = done.err.splitlines()
    assert lines
    assert all(line.startswith("error: ") for line in lines)
    assert len(lines) == (2 if name in ("no weights", "no budget") else 1), lines
    for text in texts:
        assert text in done.err
    assert "Traceback" not in done.err
    assert not list(tmp_path.glob("out/*/metrics.jsonl"))


def test_members_may_be_given_short_in_a_file_and_on_the_command_line(distillctl, tmp_path):
    (tmp_path / "mine/teacher").mkdir(parents=True)
    (tmp_path / "mine/teacher/trio.yaml").write_text("name: ensemble\nmembers: {x: resnet8, y: {name: vgg8}}\n")
    shown = distillctl("train", "--config-dir", "mine", "teacher=trio", "teacher.members.z=wrn_16_1", "--cfg", "job", cwd=tmp_path)
    assert shown.code == 0, shown.err
    assert all(text in shown.out for text in ("x: resnet8", "name: vgg8", "name: wrn_16_1"))
    made = configured("train", tmp_path, "teacher=ensemble", "++teacher.members.c.checkpoint=run")
    assert [type(member) for member in made.teacher.members.values()] == [MemberConfig] * 3
    assert made.teacher.members["c"] == MemberConfig(name="recorded", checkpoint="run")
