"""Sentences under the table and while a run runs: they neither flatter nor puzzle."""

import pytest

from distillctl.compose import weighed_otherwise
from distillctl.invocation import over_seeds
from distillctl.metrics.chance import is_near_chance
from distillctl.report.table import Results
from distillctl.report.terms import say_sizes
from distillctl.runs.measure import doubt


def remarks(teacher: dict, student: dict, **more) -> str:
    shared = {"architecture": "net", "n": 1000, "classes": 10}
    rows = [{"model": "teacher", **shared, **teacher}, {"model": "distilled", **shared, **student}]
    return "\n".join(Results(rows, "distilled", ("distilled",), **more).remarks())


@pytest.mark.parametrize(
    ("teacher", "student", "said"),
    [
        ((0.8, 400), (0.6, 100), "the student keeps 75.0% of its teacher's accuracy with 1/4.0 of the parameters"),
        ((0.8, 100), (0.6, 400), "keeps 75.0% of its teacher's accuracy and is the larger net, of 4.0 times the parameters"),
        ((0.8, 1), (0.6, 1000), "and is the larger net, of 1000.0 times the parameters"),
        ((0.8, 100), (0.6, 102), "with as many parameters"),
        ((0.7, 400), (0.714, 100), "the student (71.40) is no worse than its teacher (70.00) with 1/4.0"),
        ((0.1, 400), (0.09, 100), "the teacher is near chance (10.00), so little was taught: the student has 9.00"),
        ((0.0, 400), (0.0, 100), "the teacher is near chance (0.00)"),
    ],
)
def test_a_student_beside_its_teacher(teacher, student, said):
    found = remarks(*({"top1": top1, "parameters": size} for top1, size in (teacher, student)))
    assert said in found
    assert "1/0." not in found


def test_why_the_final_one_is_final_is_the_first_line():
    assert remarks({"top1": 0.8, "parameters": 2}, {"top1": 0.6, "parameters": 1}, why="* final: distilled").startswith(
        "* final: distilled"
    )


@pytest.mark.parametrize(
    ("accuracy", "classes", "n", "near"),
    [
        (0.9, 2, 500, False),  # twice the chance of two classes is all there is
        (0.53, 2, 500, True),
        (0.7, 2, 500, False),
        (0.12, 10, 10_000, True),
        (0.25, 10, 10_000, False),
        (0.3, 10, 20, False),
        (0.2, 10, 20, True),  # four of twenty
        (0.05, 100, 10_000, False),
        (0.015, 100, 10_000, True),
    ],
)
def test_what_guessing_would_give(accuracy, classes, n, near):
    assert is_near_chance(accuracy, classes, n) is near


def test_a_teacher_that_was_trained_a_moment_ago_is_not_asked_for_its_classes():
    assert "pretrain has taught it little; train it longer (pretrain.epochs=N)" in doubt("pretrain")
    assert "pretrain.epochs" in doubt("pretrain-big")
    assert "distill.epochs" in doubt("assistant-1")
    assert "are its classes and its preprocessing" in doubt("")


class Said:
    def __init__(self):
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def warn(self, line: str) -> None:
        self.lines.append(f"warning: {line}")


@pytest.mark.parametrize(("weight", "asked"), [(0.1, False), (1.0, False), (0.003, True)])
def test_only_a_weight_of_the_users_own_is_asked_about(weight, asked):
    loss = {"ce": {"weight": weight}, "kd": {"weight": 0.9}}
    console = Said()
    say_sizes({"ce": 0.001, "kd": 5.0}, loss, console, weighed_otherwise(loss))
    assert any("is loss.ce.weight meant so?" in line for line in console.lines) is asked
    assert any("loss.ce is under 1%" in line for line in console.lines)


def test_a_line_over_seeds_says_all_that_was_said_of_the_run():
    words = ["student=vgg8", "dataset.root='/a b'", "seed=3", "hydra.run.dir=out", "resume='/x'", "+note=1"]
    line = over_seeds("train", words, ["--config-dir", "/my conf"])
    assert line == """distillctl train -m student=vgg8 'dataset.root='"'"'/a b'"'"'' +note=1 --config-dir '/my conf' seed=0,1,2,3,4"""
