"""Runs of tasks one after another: what each task leaves, what the table says, what can be done with it later."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import call
from PIL import Image
from processes import checkpoint, metrics, record
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from distillctl.config import ImageSetConfig
from distillctl.data.loader import Place
from distillctl.metrics import continual
from distillctl.runs import bundle

SMALL = (
    *("student=resnet8", "dataset.subset=300", "lifelong.epochs=2", "memory.size=40", "optimizer.lr=0.05"),
    *("trainer.batch_size=16", "trainer.device=cpu", "trainer.precision=fp32", "trainer.threads=1"),
)
TASKS = [f"task-{number}" for number in range(1, 6)]


def lifelong(place: Path, name: str, *words: str) -> Path:
    finished = call("lifelong", *SMALL, *words, f"hydra.run.dir={name}", cwd=place)
    assert finished.code == 0, finished.err
    return place / name


def sequences(run: Path) -> dict[str, dict]:
    return {row["model"]: row for row in json.loads((run / "tasks.json").read_text())["sequences"]}


@pytest.fixture(scope="module")
def derpp(tmp_path_factory) -> Path:
    """Beside fine-tuning and all tasks at once."""
    return lifelong(tmp_path_factory.mktemp("derpp"), "run", "lifelong.beside=[sgd,joint]")


@pytest.fixture(scope="module")
def icarl(tmp_path_factory) -> Path:
    return lifelong(tmp_path_factory.mktemp("icarl"), "run", "strategy=icarl", "lifelong.beside=[]")


@pytest.fixture(scope="module")
def lucir(tmp_path_factory) -> Path:
    return lifelong(tmp_path_factory.mktemp("lucir"), "run", "strategy=lucir", "lifelong.beside=[]")


@pytest.fixture(scope="module")
def podnet(tmp_path_factory) -> Path:
    return lifelong(tmp_path_factory.mktemp("podnet"), "run", "strategy=podnet", "strategy.proxies=3", "lifelong.beside=[]")


@pytest.fixture(scope="module")
def taught(tmp_path_factory) -> Path:
    """With a larger net that learns each task first."""
    return lifelong(tmp_path_factory.mktemp("taught"), "run", "teacher=resnet14", "lifelong.update=both", "lifelong.beside=[alone]")


@pytest.fixture(scope="module")
def growing(tmp_path_factory) -> Path:
    return lifelong(tmp_path_factory.mktemp("growing"), "run", "lifelong.head=growing", "lifelong.beside=[]")


# ------------------------------------------------------------------------------------------------- what a run leaves


def test_the_matrix_is_of_all_tasks_and_the_figures_are_read_off_it(derpp):
    found = sequences(derpp)
    assert list(found) == ["derpp", "sgd", "joint"]
    for name in ("derpp", "sgd"):
        row = found[name]
        matrix = row["matrix"]
        assert [len(line) for line in matrix] == [5] * 5
        assert all(matrix[i][j] == 0 for i in range(5) for j in range(i + 1, 5))  # no answer is a class that has not come
        assert all(row["matrix_task_il"][i][j] >= matrix[i][j] for i in range(5) for j in range(5))
        assert row["final_accuracy"] == pytest.approx(sum(matrix[4]) / 5)
        assert row["backward_transfer"] == pytest.approx(sum(matrix[4][j] - matrix[j][j] for j in range(4)) / 4)
        assert row["intransigence"] == pytest.approx(sum(found["joint"]["matrix"][0][j] - matrix[j][j] for j in range(5)) / 5)
        assert row["task_il"] == pytest.approx(sum(row["matrix_task_il"][4]) / 5)
        assert row["mammoth_forgetting"] == pytest.approx(continual.mammoth_forgetting(matrix))
    assert [len(line) for line in found["joint"]["matrix"]] == [5]


@pytest.mark.parametrize("made", ["icarl", "lucir", "podnet"])
def test_exemplars_bring_back_what_fine_tuning_forgets(made, derpp, request):
    floor, found = sequences(derpp)["sgd"], sequences(request.getfixturevalue(made))[made]
    assert floor["forgetting"] > 0.5
    assert found["forgetting"] < floor["forgetting"] - 0.3
    assert found["final_accuracy"] > floor["final_accuracy"] + 0.2


def test_all_tasks_at_once_see_as_many_samples_as_a_sequence(derpp):
    seen = {name: checkpoint(derpp / name)["samples"] for name in (*TASKS, "joint", *(f"sgd-{number}" for number in range(1, 6)))}
    assert sum(seen[name] for name in TASKS) == sum(seen[f"sgd-{number}"] for number in range(1, 6))
    assert seen["joint"] == pytest.approx(sum(seen[name] for name in TASKS), rel=0.05)  # but for what a last batch has not


def test_the_table_says_of_all_test_samples_what_the_matrix_says_of_tasks(derpp):
    rows = {row["model"]: row for row in json.loads((derpp / "summary.json").read_text())["rows"]}
    for name, found in sequences(derpp).items():
        [*sizes] = record(derpp)["stages"]["task-5"]["tasks"]["samples"]
        weighed = sum(right * size for right, size in zip(found["matrix"][-1], sizes, strict=True)) / sum(sizes)
        assert rows[name]["top1"] == pytest.approx(weighed, abs=1e-9)
    assert json.loads((derpp / "summary.json").read_text())["final"] == "derpp"


def test_the_first_task_of_a_strategy_that_replays_begins_as_fine_tuning_does(derpp):
    ours, floor = (metrics(derpp / name)[0] for name in ("task-1", "sgd-1"))
    assert ours["step"] == floor["step"] == 1
    assert ours["loss"] == floor["loss"]


def test_what_is_kept_are_training_samples_as_they_are_stored_of_all_tasks(derpp):
    kept = load_file(derpp / "task-5" / "carried.safetensors")
    digits = bundle.load(ImageSetConfig(name="digits", subset=300), 16, Place(torch.device("cpu"))).data.train
    groups = json.loads((derpp / "tasks.json").read_text())["tasks"]
    order = [int(name) for group in groups for name in group]
    place = {index: position for position, index in enumerate(digits.index.tolist())}
    assert kept["memory.inputs"].dtype == torch.uint8
    for image, label, index in zip(kept["memory.inputs"], kept["memory.targets"].tolist(), kept["memory.index"].tolist(), strict=True):
        assert torch.equal(image, digits.inputs[place[index]])
        assert order[label] == digits.targets[place[index]].item()
    assert {label // 2 for label in kept["memory.targets"].tolist()} == set(range(5))


def test_each_task_goes_on_with_the_memory_and_the_weights_of_the_one_before(derpp):
    came = 0
    for name in TASKS:
        seen = load_file(derpp / name / "carried.safetensors")["memory.counters"][0].item()
        assert seen > came
        came = seen
        assert torch.equal(
            load_file(derpp / name / "carried.safetensors")["memory.inputs"], checkpoint(derpp / name)["method"]["memory.inputs"]
        )


def test_the_bytes_that_are_told_are_those_of_the_memory(derpp):
    kept = load_file(derpp / "task-5" / "carried.safetensors")
    buffers = sum(value.nbytes for name, value in kept.items() if name != "memory.counters")
    assert sequences(derpp)["derpp"]["memory_mb"] == pytest.approx(buffers / 2**20)
    assert sequences(derpp)["sgd"]["memory_mb"] is None


def test_the_order_of_classes_is_that_of_its_seed_and_no_other_seed(tmp_path, derpp):
    short = ["strategy=sgd", "lifelong.beside=[]", "lifelong.epochs=1"]
    one = lifelong(tmp_path, "one", *short, "seed=1")
    other = lifelong(tmp_path, "other", *short, "lifelong.order_seed=1")
    plain = lifelong(tmp_path, "plain", *short, "lifelong.order_seed=null")
    tasks = {
        name: json.loads((run / "tasks.json").read_text())["tasks"] for name, run in locals().items() if name in ("one", "other", "plain")
    }
    assert tasks["one"] == json.loads((derpp / "tasks.json").read_text())["tasks"]
    assert tasks["other"] != tasks["one"]
    assert tasks["plain"] == [["0", "1"], ["2", "3"], ["4", "5"], ["6", "7"], ["8", "9"]]


def test_tasks_may_be_named_and_of_other_sizes(tmp_path):
    run = lifelong(
        tmp_path,
        "run",
        "strategy=er",
        "memory.select=balanced",
        "lifelong.beside=[]",
        "lifelong.epochs=1",
        "tasks=[[3,1,4],[5,9],[2,6,0,7,8]]",
    )
    assert json.loads((run / "tasks.json").read_text())["tasks"] == [["3", "1", "4"], ["5", "9"], ["2", "6", "0", "7", "8"]]
    assert [len(line) for line in sequences(run)["er"]["matrix"]] == [3] * 3
    counts = torch.bincount(load_file(run / "task-3" / "carried.safetensors")["memory.targets"], minlength=10)
    assert counts.tolist() == [4] * 10


@pytest.mark.parametrize("head", ["full", "growing"])
def test_a_folder_may_bring_a_single_class(head, tmp_path):
    """The first and the last have one, which no classifier alone could be of."""
    folders = {0: "monday", 1: "tuesday", 2: "tuesday", 3: "wednesday"}
    for number, (image, label) in enumerate(zip(*load_digits(return_X_y=True), strict=True)):
        if number < 400 and label in folders:
            place = tmp_path / folders[label] / ("test" if number % 4 == 0 else "train") / str(label)
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image.reshape(8, 8) * 15).astype(np.uint8)).save(place / f"{number}.png")
    words = ("lifelong.folders=[monday,tuesday,wednesday]", "strategy=er", "lifelong.beside=[joint]", f"lifelong.head={head}")
    finished = call("lifelong", *SMALL[:1], *SMALL[2:], *words, "hydra.run.dir=run", cwd=tmp_path)
    assert finished.code == 0, finished.err
    assert json.loads((tmp_path / "run" / "tasks.json").read_text())["tasks"] == [["0"], ["1", "2"], ["3"]]
    found = sequences(tmp_path / "run")["er"]
    assert found["matrix"][0][0] == 1.0  # what else could it answer
    assert found["matrix_task_il"][2][0] == found["matrix_task_il"][2][2] == 1.0
    assert len(json.loads((tmp_path / "run" / "task-1" / "student.json").read_text())["classes"]) == (4 if head == "full" else 1)


# ------------------------------------------------------------------------------------------------- what ships


@pytest.mark.parametrize("made", ["derpp", "icarl", "lucir", "podnet"])
def test_what_ships_is_worth_what_the_table_says(made, request, distillctl, tmp_path):
    run = request.getfixturevalue(made)
    table = json.loads((run / "summary.json").read_text())
    finished = distillctl(
        "evaluate", f"checkpoint={run}", "trainer.device=cpu", "trainer.precision=fp32", "hydra.run.dir=out", cwd=tmp_path
    )
    assert finished.code == 0, finished.err
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())["measured"]
    assert found["n"] == table["rows"][0]["n"] == 359
    assert found["top1"] == table["top1"]


def test_icarls_table_is_that_of_its_class_means(icarl):
    found = sequences(icarl)["icarl"]
    sizes = record(icarl)["stages"]["task-5"]["tasks"]["samples"]
    weighed = sum(right * size for right, size in zip(found["matrix"][-1], sizes, strict=True)) / sum(sizes)
    assert json.loads((icarl / "summary.json").read_text())["top1"] == pytest.approx(weighed, abs=1e-9)
    for number, name in enumerate(TASKS, start=1):
        head = load_file(icarl / name / "student.safetensors")["classifier.weight"]
        assert head[: 2 * number].norm(dim=1).tolist() == pytest.approx([1.0] * (2 * number), abs=1e-4)
        assert not head[2 * number :].any()
        kept = load_file(icarl / name / "carried.safetensors")["memory.targets"]
        assert torch.bincount(kept[kept >= 0], minlength=10).tolist() == [40 // (2 * number)] * (2 * number) + [0] * (10 - 2 * number)


@pytest.mark.parametrize("made", ["lucir", "podnet"])
def test_a_cosine_classifier_ships_with_the_script_that_loads_it_and_predicts(made, request, distillctl, tmp_path):
    run = request.getfixturevalue(made)
    place = tmp_path / "elsewhere"
    shutil.copytree(run / "task-5", place)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(tmp_path / "image.png")
    words = [sys.executable, "-I", str(place / "load_student.py"), "image.png"]
    [_, name, probability] = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()
    exact = ("format=csv", "trainer.device=cpu", "trainer.precision=fp32")
    finished = distillctl("predict", f"checkpoint={place}", "inputs=[image.png]", *exact, cwd=tmp_path)
    assert finished.code == 0, finished.err
    [_, best, chance, *_] = finished.out.splitlines()[1].split(",")
    assert best == name
    assert float(chance) == pytest.approx(float(probability), abs=1e-4)
    edits = json.loads((place / "student.json").read_text())["architecture"]["edits"]
    assert edits == [["classifier", f"cosine {1 if made == 'lucir' else 3}"]]


def test_a_cosine_student_goes_on_where_another_run_left_it(lucir, tmp_path):
    run = lifelong(tmp_path, "run", "strategy=lucir", "lifelong.beside=[]", "lifelong.epochs=1", f"student.checkpoint={lucir}", "tasks=2")
    assert json.loads((run / "task-2" / "student.json").read_text())["architecture"]["edits"] == [["classifier", "cosine 1"]]


@pytest.mark.parametrize("which", ["task-1", "task-1/student.safetensors", "."])
def test_a_tasks_student_is_a_model_for_every_command(which, derpp, distillctl, tmp_path):
    words = (f"checkpoint={derpp / which}", "trainer.device=cpu", "trainer.precision=fp32", "hydra.run.dir=out")
    finished = distillctl("evaluate", *words, cwd=tmp_path)
    assert finished.code == 0, finished.err
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())["measured"]["top1"]
    if which == ".":
        assert found == json.loads((derpp / "summary.json").read_text())["top1"]
    else:
        assert found < 0.4  # it knows two classes of ten


@pytest.fixture(scope="module")
def natural(tmp_path_factory) -> Path:
    """Classes in the data set's own order."""
    words = ("tasks=2", "lifelong.order_seed=null", "strategy=er", "lifelong.beside=[joint]")
    return lifelong(tmp_path_factory.mktemp("natural"), "run", *words)


@pytest.mark.parametrize("which", ["task-1", "task-2/student.safetensors", "."])
def test_a_tasks_student_teaches_another(which, natural, distillctl, tmp_path):
    given = ["student=resnet8", "dataset=digits", "dataset.subset=200", "distill.epochs=1", *SMALL[5:]]
    finished = distillctl("distill", f"teacher.checkpoint={natural / which}", *given, "hydra.run.dir=out", cwd=tmp_path)
    assert finished.code == 0, finished.err
    assert "kd" in metrics(tmp_path / "out" / "distill")[0]
    rows = {row["model"]: row for row in json.loads((tmp_path / "out" / "summary.json").read_text())["rows"]}
    assert {"teacher", "distilled"} <= rows.keys()
    if which != "task-1":
        assert rows["teacher"]["top1"] == json.loads((natural / "summary.json").read_text())["top1"]


def test_students_of_two_moments_teach_together_in_the_order_of_their_classes(derpp, distillctl, tmp_path):
    members = [
        f"teacher.members.{name}.{word}"
        for name, task in (("a", 2), ("b", 5))
        for word in ("name=recorded", f"checkpoint={derpp}/task-{task}")
    ]
    given = ["dataset=digits", "dataset.subset=200", "distill.epochs=1", "student=resnet8", *SMALL[5:]]
    finished = distillctl("distill", "teacher=ensemble", *members, *given, "hydra.run.dir=out", cwd=tmp_path)
    assert finished.code == 0, finished.err
    rows = {row["model"]: row for row in json.loads((tmp_path / "out" / "summary.json").read_text())["rows"]}
    assert rows["teacher b"]["top1"] == json.loads((derpp / "summary.json").read_text())["top1"]


def test_a_teacher_that_knows_all_tasks_teaches_each(natural, tmp_path):
    """It has the classes in the order of another run, and is asked in that of this one."""
    words = ("dataset=digits", f"teacher.checkpoint={natural / 'joint'}", "strategy=er", "lifelong.order_seed=5", "lifelong.epochs=1")
    run = lifelong(tmp_path, "run", *words, "lifelong.beside=[]")
    rows = {row["model"]: row for row in json.loads((run / "summary.json").read_text())["rows"]}
    joint = next(row for row in json.loads((natural / "summary.json").read_text())["rows"] if row["model"] == "joint")
    assert rows["teacher"]["top1"] == joint["top1"]
    assert "kd" in metrics(run / "task-1")[0]


# ------------------------------------------------------------------------------------------------- a teacher that moves


def test_both_move_and_the_student_learns_each_task_from_the_teacher_that_has_just_learnt_it(taught):
    found = sequences(taught)
    assert set(found) == {"teacher", "derpp", "alone"}
    for number in range(1, 6):
        assert json.loads((taught / f"teacher-{number}" / "teacher.json").read_text())["architecture"]["name"] == "resnet14"
        assert "kd" in metrics(taught / f"task-{number}")[0]
        assert "kd" not in metrics(taught / f"alone-{number}")[0]
    for before, after in zip(range(1, 5), range(2, 6), strict=True):
        for role, name in (("teacher", "teacher"), ("task", "student")):
            weights = [load_file(taught / f"{role}-{number}" / f"{name}.safetensors") for number in (before, after)]
            assert not torch.equal(weights[0]["classifier.weight"], weights[1]["classifier.weight"])
    assert len(found["teacher"]["matrix"]) == 5
    assert found["teacher"]["matrix"] != found["derpp"]["matrix"]


def test_without_a_teacher_the_row_alone_is_the_strategy_itself(taught, tmp_path):
    run = lifelong(tmp_path, "run", "lifelong.beside=[]")
    for number in range(1, 6):
        ours, alone = (load_file(folder / "student.safetensors") for folder in (run / f"task-{number}", taught / f"alone-{number}"))
        assert all(torch.equal(ours[name], alone[name]) for name in ours)


# ------------------------------------------------------------------------------------------------- a head that grows


def test_a_head_that_grows_has_an_output_for_each_class_that_has_come(growing):
    order = [name for group in json.loads((growing / "tasks.json").read_text())["tasks"] for name in group]
    for number, name in enumerate(TASKS, start=1):
        weights = load_file(growing / name / "student.safetensors")
        assert weights["classifier.weight"].shape[0] == weights["classifier.bias"].shape[0] == 2 * number
        assert json.loads((growing / name / "student.json").read_text())["classes"] == order[: 2 * number]
    widths = load_file(growing / "task-5" / "carried.safetensors")["memory.widths"]
    targets = load_file(growing / "task-5" / "carried.safetensors")["memory.targets"]
    assert torch.equal(widths, 2 * (targets // 2 + 1))  # of the task in which each was kept
    matrix = sequences(growing)["derpp"]
    assert all(matrix["matrix_task_il"][i][j] == 0 for i in range(5) for j in range(i + 1, 5))
    assert matrix["matrix_task_il"][4][4] > 0


def test_teacher_and_student_grow_together(tmp_path):
    words = ("teacher=resnet8", "lifelong.update=both", "strategy=lwf", "lifelong.head=growing", "lifelong.epochs=1", "tasks=2")
    run = lifelong(tmp_path, "run", *words, "lifelong.beside=[]")
    shapes = [
        load_file(run / folder / f"{name}.safetensors")["classifier.weight"].shape[0]
        for folder, name in (("teacher-1", "teacher"), ("task-1", "student"), ("teacher-2", "teacher"), ("task-2", "student"))
    ]
    assert shapes == [5, 5, 10, 10]
    assert {"lwf", "old lwf"} <= metrics(run / "task-2")[0].keys()


@pytest.mark.parametrize("strategy", ["icarl", "lucir", "podnet", "ewc", "lwf", "lwf_mc", "er"])
def test_every_strategy_learns_under_a_head_that_grows(strategy, tmp_path):
    run = lifelong(tmp_path, "run", f"strategy={strategy}", "lifelong.head=growing", "lifelong.beside=[]", "lifelong.epochs=1", "tasks=2")
    assert load_file(run / "task-2" / "student.safetensors")["classifier.weight"].shape[0] == 10
    assert record(run)["status"] == "done"
