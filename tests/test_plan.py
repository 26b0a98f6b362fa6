"""What a run will do is a value: pure, the same for all who ask, and printed by --plan."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from processes import configured

from distillctl.config import DatasetConfig
from distillctl.errors import ConfigError
from distillctl.runs.execute import execute
from distillctl.runs.plan import plan
from distillctl.runs.session import session
from distillctl.runs.sources import Given, MadeBy, Several

HERE = Path()


def planned(command: str, *words: str):
    return plan(configured(command, HERE, *words))


def names(todo) -> list[str]:
    return [step.name for step in todo.todo]


def rows(todo) -> list[str]:
    return [row.name for row in todo.rows]


def test_the_plan_of_train_is_four_steps_and_four_rows_about_the_fine_tuned_student():
    todo = planned("train")
    assert names(todo) == ["pretrain", "distill", "finetune", "alone"]
    assert rows(todo) == ["teacher", "distilled", "fine-tuned", "alone"]
    assert todo.final == "fine-tuned"
    assert [row.name for row in todo.rows if row.own] == ["distilled", "fine-tuned"]
    assert todo.step("distill").teacher == MadeBy("pretrain")
    assert todo.step("finetune").model == MadeBy("distill")
    assert todo.step("alone").budget.epochs == "auto"  # until the data are known
    assert planned("train", "distill.epochs=6", "finetune.epochs=2").step("alone").budget.epochs == 8
    assert list(todo.step("alone").loss) == ["ce"]


@pytest.mark.parametrize(
    ("command", "words", "steps", "final"),
    [
        ("train", ["finetune.epochs=0", "baseline=false"], ["pretrain", "distill"], "distilled"),
        ("train", ["distill.epochs=0"], ["pretrain", "finetune", "alone"], "fine-tuned"),
        ("train", ["distill.epochs=0", "finetune.epochs=0"], ["pretrain"], "teacher"),
        ("train", ["teacher.checkpoint=run", "baseline=false"], ["distill", "finetune"], "fine-tuned"),
        ("train", ["method=self"], ["distill", "finetune", "alone"], "fine-tuned"),
        ("train", ["teacher.checkpoint=run", "dataset.labels=false"], ["distill"], "distilled"),
        ("train", ["assistants=[resnet14]", "generations=2"], ["pretrain", "assistant-1", "distill", "distill-2", "finetune", "alone"], "fine-tuned"),
        ("pretrain", ["teacher.checkpoint=run"], ["pretrain"], "teacher"),
        ("distill", ["teacher.checkpoint=run"], ["distill"], "distilled"),
        ("finetune", ["student.checkpoint=run"], ["finetune"], "fine-tuned"),
    ],
)  # fmt: skip
def test_what_the_words_say_is_planned(command, words, steps, final):
    todo = planned(command, *words)
    assert names(todo) == steps
    assert todo.final == final


@pytest.mark.parametrize(
    ("words", "step"),
    [
        ([], "train-again"),
        (["teacher.checkpoint=run"], "distill-again"),
        (["teacher.file=net.onnx"], "distill-again"),
        (["teacher=onnx", "teacher.file=net.onnx"], "distill-again"),
        (["teacher=resnet20"], "distill-again"),
        (["teacher.pretrained=true"], "train-again"),  # of which net, nobody says
    ],
)
def test_a_student_that_is_cut_is_taught_again_by_the_teacher_that_is_named(words, step):
    assert names(planned("compress", "checkpoint=run", "prune=magnitude", *words)) == [step]


def test_tasks_that_a_teacher_learns_too_need_one_that_is_named():
    words = ["student=resnet8", "lifelong.update=both"]
    with pytest.raises(ConfigError, match="lifelong.update=both: name the teacher"):
        planned("lifelong", *words)
    assert "teacher-1" in names(planned("lifelong", *words, "teacher=resnet20"))


def test_what_cannot_be_is_skipped_and_says_why():
    todo = planned("train", "teacher.checkpoint=run", "dataset.labels=false")
    assert [step.skipped for step in todo.steps if step.skipped] == [
        f"{name}: skipped, it learns from labels (dataset.labels=false)" for name in ("finetune", "alone")
    ]
    assert list(todo.step("distill").loss) == ["kd"]
    assert planned("train", "method=self").notes == ("no loss reads a teacher here, so none is trained",)


def test_members_without_weights_are_trained_each_by_a_seed_of_its_own():
    todo = planned(
        "train", "teacher=ensemble", "++teacher.members.a=resnet8", "++teacher.members.b.checkpoint=run", "++teacher.members.c=resnet8"
    )
    assert names(todo)[:2] == ["pretrain-a", "pretrain-c"]
    assert len({step.seed for step in todo.steps if step.role == "teacher"}) == 2
    teacher = todo.step("distill").teacher
    assert isinstance(teacher, Several)
    assert [type(member) for member in teacher.members.values()] == [MadeBy, Given, MadeBy]
    assert rows(todo)[:4] == ["teacher", "teacher a", "teacher b", "teacher c"]


def test_generations_are_taught_by_the_one_before_and_peers_have_rows():
    todo = planned("train", "generations=2", "method=students", "method.peers=[resnet14]", "ensemble_generations=true")
    assert todo.step("distill-2").teacher == MadeBy("distill")
    assert todo.step("distill").seed != todo.step("distill-2").seed
    assert rows(todo) == ["teacher", "peer1 of 1", "generation 1", "peer1", "together", "distilled", "fine-tuned", "alone"]
    assert todo.file(MadeBy("distill", "peer1")) == "distill/peer1/student.safetensors"
    peer = todo.resolved(MadeBy("distill", "peer1"), {"distill": Path("run/distill/student.safetensors")})
    assert (peer.name, peer.checkpoint) == ("recorded", "run/distill/peer1/student.safetensors")


def test_a_step_takes_up_what_earlier_ones_have_made():
    todo = planned("train")
    ready = todo.ready(todo.step("distill"), {"pretrain": Path("run/pretrain/teacher.safetensors")})
    assert isinstance(ready.teacher, Given)
    assert ready.teacher.model.checkpoint == "run/pretrain/teacher.safetensors"
    assert ready.teacher.model.name == "recorded"
    assert ready.model == Given(configured("train", HERE).student, "student")


def test_planning_is_pure_and_builds_no_net(monkeypatch):
    config = configured("train", HERE, "teacher=resnet152", "student=resnet50", "dataset=cifar10", "dataset.root=nowhere")
    before = dataclasses.asdict(config)
    monkeypatch.setattr(torch.nn.Conv2d, "__init__", None)  # whoever builds one fails
    assert plan(config) == plan(config)
    assert dataclasses.asdict(config) == before


def test_a_loss_that_cannot_be_is_an_error_of_the_plan():
    with pytest.raises(ConfigError, match="learns from labels alone"):
        planned("train", "loss=ce", "dataset.labels=false", "teacher.checkpoint=run", "method=distill")


def test_run_json_holds_the_plan_and_which_step_is_final(tiny_run):
    told = json.loads((tiny_run / "run.json").read_text())["plan"]
    assert [step["name"] for step in told["steps"]] == ["pretrain", "distill"]
    assert told["final"] == "distilled"
    assert told["rows"] == [
        {"name": "teacher", "role": "teacher", "own": False, "file": "pretrain/teacher.safetensors"},
        {"name": "distilled", "role": "student", "own": True, "file": "distill/student.safetensors"},
    ]


def test_the_plan_is_printed_and_nothing_is_left_behind(distillctl, tiny, tmp_path):
    printed = distillctl("train", *tiny, "pretrain.reuse=false", "--plan", cwd=tmp_path)
    assert printed.code == 0, printed.err
    for name in ("pretrain", "distill", "alone"):
        assert any(line.split()[:1] == [name] for line in printed.out.splitlines()), printed.out
    epochs, steps = 1, (1797 - 359) * 9 // 10 // 64
    assert f"{epochs}      {steps}" in printed.out
    assert "of training" in printed.out
    assert list(tmp_path.iterdir()) == []


def test_the_plan_of_a_run_that_was_begun_says_what_is_done(distillctl, tiny_run, tmp_path):
    import shutil

    run = shutil.copytree(tiny_run, tmp_path / "run")
    told = json.loads((run / "run.json").read_text())
    del told["stages"]["distill"]
    (run / "run.json").write_text(json.dumps(told | {"status": "interrupted"}))
    before = sorted(path.relative_to(run) for path in run.rglob("*"))
    printed = distillctl("train", f"resume={run}", "--plan", cwd=tmp_path)
    assert printed.code == 0, printed.err
    assert "done before" in printed.out
    assert sorted(path.relative_to(run) for path in run.rglob("*")) == before


def test_a_plan_changes_nothing_of_a_damaged_run(distillctl, tiny, tmp_path):
    words = [word for word in tiny if not word.startswith(("student", "distill", "finetune"))]
    assert distillctl("pretrain", *words, "pretrain.epochs=2", "hydra.run.dir=run", cwd=tmp_path).code == 0
    told = json.loads((tmp_path / "run/run.json").read_text())
    told["stages"].clear()
    (tmp_path / "run/run.json").write_text(json.dumps(told | {"status": "interrupted"}))
    newest = tmp_path / "run/pretrain/last.pt"
    newest.write_bytes(newest.read_bytes()[:-40])
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    printed = distillctl("pretrain", "resume=run", "--plan", cwd=tmp_path)
    assert printed.code == 0, printed.err
    assert "goes on at step 20" in " ".join(printed.out.split()), printed.out  # of the checkpoint before it
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_the_plan_knows_what_would_be_reused(distillctl, tiny, tmp_path):
    place = {"DISTILLCTL_CACHE": str(tmp_path / "cache")}
    words = [*tiny, "baseline=false"]
    assert distillctl("train", *words, "hydra.run.dir=first", cwd=tmp_path, env=place).code == 0
    printed = distillctl("train", *words, "loss.kd.temperature=2", "--plan", cwd=tmp_path, env=place)
    assert "reused" in printed.out, printed.out
    other = distillctl("train", *words, "pretrain.lr_scale=0.5", "--plan", cwd=tmp_path, env=place)
    assert "reused" not in other.out


def test_no_file_gives_trust_to_a_plan_either(distillctl, tmp_path):
    refused = distillctl("train", "--plan", "+hydra.job.env_set.DISTILLCTL_TRUST=json", cwd=tmp_path)
    assert refused.code == 2
    assert "trust is given by --trust" in refused.err


def test_a_rank_of_torchrun_does_not_plan(distillctl, tmp_path):
    refused = distillctl(
        "train", "--plan", cwd=tmp_path, env={"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    )
    assert (refused.code, "leave out torchrun" in refused.err) == (2, True)


def test_a_run_that_would_do_nothing_is_refused(distillctl, tmp_path):
    words = ["method=self", "loss=ce", "distill.epochs=0", "finetune.epochs=0", "pretrain.epochs=1"]
    refused = distillctl("train", *words, cwd=tmp_path)
    assert (refused.code, "nothing to do" in refused.err) == (2, True)


@pytest.mark.parametrize(("words", "why"), [(["models"], "trains nothing"), (["train", "-m"], "one run at a time")])
def test_a_plan_of_what_has_none_is_refused(words, why, distillctl, tmp_path):
    refused = distillctl(*words, "--plan", cwd=tmp_path)
    assert (refused.code, why in refused.err) == (2, True)


def test_a_run_with_two_data_sets(tmp_path):
    """The teacher learns from one, the student from another, as in transfer; what is measured is the second."""
    words = ("teacher=resnet8", "student=resnet8", "pretrain.epochs=1", "distill.epochs=1", "finetune.epochs=0", "baseline=false")
    config = configured(
        "train", tmp_path / "run", *words, "trainer.batch_size=32", "trainer.threads=1", "trainer.device=cpu", "dataset.subset=200"
    )
    first: DatasetConfig = dataclasses.replace(config.dataset, subset=300, split_seed=3)
    todo = plan(config)
    steps = tuple(dataclasses.replace(step, data=first) if step.role == "teacher" else step for step in todo.steps)
    todo = dataclasses.replace(todo, steps=steps)
    assert todo.data == (config.dataset, first)
    with session(config, tmp_path / "run", lambda: False) as running:
        execute(running, todo)
        sizes = {name: len(running.bundle(data).data.train) for name, data in (("pretrain", first), ("distill", config.dataset))}
    told = json.loads((tmp_path / "run/run.json").read_text())
    assert sizes == {"pretrain": 270, "distill": 180}
    assert {name: told["stages"][name]["steps"] for name in sizes} == {name: -(-size // 32) for name, size in sizes.items()}
    assert len(told["other_data"]) == 1
    shipped = {name: json.loads((tmp_path / f"run/{name}.json").read_text())["dataset"] for name in ("pretrain/teacher", "distill/student")}
    assert [each["subset"] for each in shipped.values()] == [300, 200]
    assert told["data"] == shipped["distill/student"]["fingerprint"] != shipped["pretrain/teacher"]["fingerprint"]
