"""What every option of the group `loss` must do, whoever wrote it."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from distillctl.losses.weighted import WeightedSum, build_loss
from distillctl.runs.batches import has_batch_norm
from distillctl.types import Batch, Output

FILES = sorted((Path(__file__).parents[2] / "conf" / "loss").glob("*.yaml"))
CLASSES, SAMPLES = 5, 40
STUDENT = {"stage1": (4, 8, 8), "stage2": (6, 4, 4), "stage3": (8, 2, 2), "stage4": (8, 2, 2), "last": (8, 2, 2), "pooled": (8,)}
TEACHER = {"stage1": (6, 8, 8), "stage2": (6, 8, 8), "stage3": (10, 4, 4), "stage4": (10, 4, 4), "last": (10, 4, 4), "pooled": (10,)}
TOKENS = {"stage1": (17, 12), "stage2": (17, 12), "stage3": (17, 12), "stage4": (17, 12), "last": (17, 12), "pooled": (12,)}


def layers(depth: int, width: int) -> dict[str, tuple[int, ...]]:
    """What a text transformer of two heads gives besides, of seven tokens."""
    return {
        "hidden_states": (depth + 1, 7, width),
        "cls_states": (depth + 1, width),
        **dict.fromkeys(("score_queries", "score_keys"), (depth, 7, 2, width // 2)),
        **dict.fromkeys(("queries.last", "keys.last", "values.last"), (7, 48 * width)),
    }


STUDENT, TEACHER, TOKENS = STUDENT | layers(2, 2), TEACHER | layers(4, 4), TOKENS | layers(2, 2)


def answer(seed: int, taps: dict[str, tuple[int, ...]], count: int = 6, dtype: torch.dtype = torch.float32) -> Output:
    source = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=source).to(dtype).requires_grad_()

    return Output(draw(CLASSES), {name: draw(*shape) for name, shape in taps.items()})


def batch(count: int = 6, soft: bool = False) -> Batch:
    targets = torch.arange(count) % CLASSES
    if soft:
        targets = 0.7 * torch.eye(CLASSES)[targets] + 0.3 * torch.eye(CLASSES)[(targets + 2) % CLASSES]
    return Batch(torch.zeros(count, 3, 2, 2), targets, torch.arange(count) * 3, 0)


def content(path: Path) -> dict[str, Any]:
    """The file as a run with seed 0 reads it."""
    run = OmegaConf.to_container(OmegaConf.create({"seed": 0, "loss": OmegaConf.load(path)}), resolve=True)
    return run["loss"]


def made(path: Path, student: dict[str, tuple[int, ...]] = STUDENT, teacher: dict[str, tuple[int, ...]] = TEACHER) -> WeightedSum:
    """As a run makes it: built from the file, told its sizes, and where in training it is."""
    loss = build_loss(content(path))
    torch.manual_seed(1)
    for term in loss.terms.values():
        if hasattr(term, "prepare"):
            term.prepare(answer(1, student), answer(2, teacher), SAMPLES)
        if hasattr(term, "at"):
            term.at(5.0, 10)
    return loss.train()


def gradients(loss: WeightedSum, student: Output, teacher: Output, data: Batch) -> dict[str, Tensor | None]:
    loss(student, teacher, data).loss.backward()
    return {"logits": student.logits.grad, **{name: feature.grad for name, feature in student.features.items()}}


each = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


@each
def test_the_file_says_what_it_is_and_names_its_own_term(path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    terms = content(path)
    assert path.stem in terms
    assert set(terms) <= {"ce", path.stem} | ({"natural"} if path.stem == "rslad" else set())
    assert all(next(iter(node)) == "_target_" and "weight" in node for node in terms.values())


@each
def test_the_file_shows_the_defaults_of_its_class(path):
    """What the config says and what the class does without it is one thing, so a call from Python means the same."""
    node = content(path)[path.stem]
    written = build_loss({path.stem: node}).terms[path.stem]
    if path.stem in (
        "funmatch",
        "lskd",
        "lsdkd",
        "ard",
        "rslad",
        "consistency",
        "guided",
        "lwf",
    ):  # the class's own defaults belong to the file that is named after it
        return
    short = build_loss({path.stem: {"_target_": node["_target_"]}}).terms[path.stem]
    assert {name: value for name, value in vars(written).items() if name[0] != "_"} == {
        name: value for name, value in vars(short).items() if name[0] != "_"
    }


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_step_is_finite_and_the_gradient_goes_where_it_should(path, dtype):
    loss = made(path)
    student, teacher = answer(3, STUDENT, dtype=dtype), answer(4, TEACHER, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(loss, student, teacher, batch())
    terms = list(loss.terms.values())
    taps = {tap for term in terms for tap in getattr(term, "student_taps", ("logits",))}
    assert {name for name, gradient in found.items() if gradient is not None} == taps
    for name in taps:
        assert found[name].isfinite().all()
        assert found[name].abs().sum() > 0
    for name, parameter in loss.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.dtype == torch.float32
    assert teacher.logits.grad is None
    assert all(feature.grad is None for feature in teacher.features.values())


@each
def test_every_term_is_a_scalar_and_names_no_tap_beyond_its_taps(path):
    loss = made(path)
    for term in loss.terms.values():
        student, teacher = answer(3, STUDENT), answer(4, TEACHER)
        if not hasattr(term, "student_taps"):
            student, teacher = Output(student.logits, {}), Output(teacher.logits, {})
        else:
            assert isinstance(term.student_taps, tuple)
            assert isinstance(term.teacher_taps, tuple)
            student = Output(student.logits, {name: student.features[name] for name in term.student_taps if name != "logits"})
            teacher = Output(teacher.logits, {name: teacher.features[name] for name in term.teacher_taps if name != "logits"})
        assert term(student, teacher if term.needs_teacher else None, batch()).shape == ()


@each
def test_mixed_targets_are_understood(path):
    loss = made(path)
    assert loss(answer(3, STUDENT), answer(4, TEACHER), batch(soft=True)).loss.isfinite()


@each
def test_training_goes_on_from_a_saved_state_as_if_nothing_had_happened(path):
    one, other = made(path), made(path)
    for seed in (5, 6):
        gradients(one, answer(seed, STUDENT), answer(seed + 10, TEACHER), batch())
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(0.01)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    results = []
    for loss in (one, other):
        student, teacher = answer(7, STUDENT), answer(17, TEACHER)
        terms = loss(student, teacher, batch())
        terms.loss.backward()
        results.append(
            (terms.loss, [value.grad for value in (student.logits, *student.features.values())], list(loss.state_dict().values()))
        )
    assert torch.equal(results[0][0], results[1][0])
    for first, second in zip(results[0][1] + results[0][2], results[1][1] + results[1][2], strict=True):
        assert (first is None and second is None) or torch.equal(first, second)


@each
@pytest.mark.parametrize(("ours", "theirs"), [(TOKENS, TEACHER), (STUDENT, TOKENS)], ids=["transformer-to-cnn", "cnn-to-transformer"])
def test_tokens_are_features_too(path, ours, theirs):
    loss = made(path, ours, theirs)
    found = loss(answer(3, ours), answer(4, theirs), batch()).loss
    found.backward()
    assert found.isfinite()


@each
def test_extreme_answers_stay_finite(path):
    loss = made(path)
    student, teacher = answer(3, STUDENT), answer(4, TEACHER)
    for size in (0.0, 1e4):
        loud = Output(
            (student.logits * size).detach().requires_grad_(),
            {n: (f * size).detach().requires_grad_() for n, f in student.features.items()},
        )
        loss.zero_grad()
        for name, gradient in gradients(loss, loud, Output(-teacher.logits * 1e4, teacher.features), batch()).items():
            assert gradient is None or gradient.isfinite().all(), name
        assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in loss.parameters())


@each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_extreme_logits_stay_finite_in_half_the_precision(path, dtype):
    loss = made(path)
    student, teacher = answer(3, STUDENT, dtype=dtype), answer(4, TEACHER, dtype=dtype)
    for ours, theirs in ((1e4, -1e4), (1e4, 1.0), (1.0, 1e4), (0.0, 1e4), (1e-2, 0.0)):
        loud = Output((student.logits * ours).detach().requires_grad_(), student.features)
        with torch.autocast("cpu", dtype):
            terms = loss(loud, Output(teacher.logits * theirs, teacher.features), batch())
        terms.loss.backward()
        assert terms.loss.dtype == torch.float32
        assert terms.loss.isfinite()
        assert loud.logits.grad is None or loud.logits.grad.isfinite().all()


@each
def test_steps_on_its_own_objective_lower_it(path):
    """A student that can give any answer, taught one small batch again and again by the term alone."""
    loss = made(path)
    student, teacher, data = answer(3, STUDENT), answer(4, TEACHER), batch()
    loss(student, teacher, data)  # what a term remembers of a batch is there now, and what its batch norms saw
    loss.eval()
    loss.weights["ce"] = 0.0 if path.stem != "ce" else 1.0
    free = [student.logits, *student.features.values(), *(value for value in loss.parameters() if value.requires_grad)]
    optimizer = torch.optim.Adam(free, lr=0.02)
    seen = []
    for _ in range(12):
        value = loss(student, teacher, data).loss
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        seen.append(value.item())
    assert seen[-1] < seen[0] - 1e-6 * abs(seen[0])
    assert max(seen) == seen[0]


@pytest.mark.parametrize("path", [path for path in FILES if path.stem not in ("ce", "hard")], ids=lambda path: path.stem)
def test_a_student_that_answers_as_its_teacher_has_nothing_to_learn(path):
    """Of terms without parameters of their own; those of the others are not where the two agree."""
    loss = made(path, STUDENT, STUDENT)
    for name, term in loss.terms.items():
        if name == "ce" or any(value.requires_grad for value in term.parameters() if name != "ctkd"):
            continue
        student, teacher = answer(3, STUDENT, dtype=torch.float64), answer(3, STUDENT, dtype=torch.float64)
        term(student, Output(teacher.logits.detach(), {n: f.detach() for n, f in teacher.features.items()}), batch()).backward()
        found = [value.grad for value in (student.logits, *student.features.values()) if value.grad is not None]
        assert found
        assert all(gradient.abs().max() < 1e-9 for gradient in found)


def test_a_loss_with_parameters_must_be_prepared():
    for path in FILES:
        loss = build_loss(content(path))
        for term in loss.terms.values():
            if hasattr(term, "prepare"):
                with pytest.raises(AssertionError, match="prepare comes first"):
                    term(answer(3, STUDENT), answer(4, TEACHER), batch())


@each
def test_a_term_says_where_it_has_batch_norm(path):
    for name, term in made(path).terms.items():
        assert has_batch_norm(term) == getattr(term, "norms_batches", False), name
