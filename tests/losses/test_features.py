"""Losses on feature maps against their formulas, written out one number at a time in float64."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from distillctl.errors import ConfigError
from distillctl.losses.features import (
    AttentionTransfer,
    FitNet,
    Flow,
    NeuronSelectivity,
    Overhaul,
    VariationalInformation,
    attention,
    attention_gap,
    flow,
    flow_gap,
    hint,
    information_gap,
    margins,
    overhaul_gap,
    selectivity_gap,
    squared_kernels,
    summed_directions,
)
from distillctl.losses.inputs import as_map, as_vector, matched, pooled, unit
from distillctl.losses.review import Review, hierarchical_gap
from distillctl.types import Batch, Output

BATCH = Batch(torch.zeros(3), torch.tensor([0, 1, 2]), torch.arange(3), 0)
SIZES = {
    "seed": st.integers(0, 10**6),
    "count": st.integers(1, 3),
    "ours": st.integers(1, 4),
    "theirs": st.integers(1, 4),
    "side": st.integers(1, 4),
}


def maps(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def outputs(seed: int, **taps: tuple[int, ...]) -> Output:
    return Output(maps(seed, 3, 5), {name: maps(seed + number + 1, *shape) for number, (name, shape) in enumerate(taps.items())})


def length(row: list[float]) -> float:
    return math.sqrt(sum(value * value for value in row))


# ---------------------------------------------------------------- forms


def test_tokens_of_a_square_become_a_map_in_reading_order():
    tokens = torch.arange(2 * 6 * 3).view(2, 6, 3)[:, :4]
    found = as_map(tokens)
    assert found.shape == (2, 3, 2, 2)
    for b, c, row, column in product(range(2), range(3), range(2), range(2)):
        assert found[b, c, row, column] == tokens[b, 2 * row + column, c]


def test_a_class_token_has_no_place_on_the_map():
    tokens = maps(1, 2, 10, 3)
    assert torch.equal(as_map(tokens), as_map(tokens[:, 1:]))
    assert torch.equal(as_vector(tokens), tokens[:, 1:].mean(1))


def test_a_vector_is_a_map_of_one_position_and_back():
    vector = maps(2, 4, 3)
    assert as_map(vector).shape == (4, 3, 1, 1)
    assert as_vector(vector) is vector


def test_tokens_that_are_no_square_are_refused_by_their_shape():
    with pytest.raises(ConfigError, match=r"\(2, 7, 3\) is neither a map"):
        as_map(maps(3, 2, 7, 3))


@pytest.mark.parametrize(("size", "wanted"), [((6, 6), (3, 3)), ((6, 6), (4, 4)), ((5, 8), (5, 2)), ((7, 7), (1, 1)), ((4, 4), (4, 4))])
def test_pooling_takes_the_mean_of_what_falls_into_each_cell(size, wanted):
    values = maps(4, 2, 3, *size)
    found = pooled(values, wanted)
    for row, column in product(range(wanted[0]), range(wanted[1])):
        top, bottom = row * size[0] // wanted[0], -(-(row + 1) * size[0] // wanted[0])
        left, right = column * size[1] // wanted[1], -(-(column + 1) * size[1] // wanted[1])
        torch.testing.assert_close(found[:, :, row, column], values[:, :, top:bottom, left:right].mean((2, 3)))


def test_both_maps_are_pooled_to_the_smaller_sides():
    ours, theirs = matched(maps(5, 2, 3, 8, 2), maps(6, 2, 4, 4, 4))
    assert (ours.shape, theirs.shape) == ((2, 3, 4, 2), (2, 4, 4, 2))


def test_what_has_no_direction_gets_neither_one_nor_a_gradient():
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    found = unit(vectors)
    assert found.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0, 0]]
    found.sum().backward()
    assert vectors.grad[1].tolist() == [0, 0]


# ---------------------------------------------------------------- formulas


@settings(max_examples=10, deadline=None)
@given(**SIZES)
def test_hint_by_hand(seed, count, ours, theirs, side):
    student, teacher = maps(seed, count, ours, side, side), maps(seed + 1, count, ours, side, side)
    gaps = [(a - b) ** 2 for a, b in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True)]
    assert hint(student, teacher).item() == pytest.approx(sum(gaps) / len(gaps), abs=1e-9)


@settings(max_examples=10, deadline=None)
@given(**SIZES)
def test_attention_by_hand(seed, count, ours, theirs, side):
    student, teacher = maps(seed, count, ours, side, side), maps(seed + 1, count, theirs, side, side)
    total = 0.0
    for b in range(count):
        seen = []
        for values in (student[b], teacher[b]):
            row = [sum(v * v for v in values[:, y, x].tolist()) / len(values) for y in range(side) for x in range(side)]
            seen.append([value / length(row) for value in row])
        total += sum((a - b) ** 2 for a, b in zip(*seen, strict=True))
    assert attention_gap(student, teacher).item() == pytest.approx(total / (count * side**2), abs=1e-9)


def test_attention_of_a_small_map():
    assert attention(torch.tensor([[[[3.0, 0.0]], [[0.0, 2.0]]]])).tolist() == [pytest.approx([9 / math.sqrt(97), 4 / math.sqrt(97)])]


@settings(max_examples=15, deadline=None)
@given(**SIZES)
def test_selectivity_by_hand(seed, count, ours, theirs, side):
    student, teacher = maps(seed, count, ours, side, side), maps(seed + 1, count, theirs, side, side)

    def mean_kernel(one: Tensor, other: Tensor) -> float:
        total = 0.0
        for b, c, d in product(range(count), range(one.shape[1]), range(other.shape[1])):
            first, second = one[b, c].flatten().tolist(), other[b, d].flatten().tolist()
            total += (sum(x * y for x, y in zip(first, second, strict=True)) / (length(first) * length(second))) ** 2
        return total / (count * one.shape[1] * other.shape[1])

    by_hand = mean_kernel(teacher, teacher) + mean_kernel(student, student) - 2 * mean_kernel(student, teacher)
    assert selectivity_gap(student, teacher).item() == pytest.approx(by_hand, abs=1e-9)


@pytest.mark.parametrize("shape", [(2, 9, 2, 2), (2, 2, 3, 3)])
def test_both_ways_to_compare_channels_give_one_number(shape):
    ours, theirs = maps(7, *shape), maps(8, *shape)
    one, other = ours.flatten(2), theirs.flatten(2)
    by_kernels = squared_kernels(one, other)
    by_positions = (summed_directions(one) - summed_directions(other)).square().sum((1, 2)).mean()
    torch.testing.assert_close(by_kernels, by_positions)
    torch.testing.assert_close(selectivity_gap(ours, theirs), by_kernels)


def test_selectivity_of_wide_maps_makes_no_product_of_channels_and_positions(monkeypatch):
    """The largest tensor is C x C or N x N a sample, never C x C x N."""
    largest = 0

    class Watching(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            answer = func(*args, **(kwargs or {}))
            if isinstance(answer, Tensor):
                largest = max(largest, answer.numel())
            return answer

    with Watching():
        selectivity_gap(maps(9, 2, 32, 6, 6), maps(10, 2, 64, 6, 6))
        flow_gap((maps(9, 2, 32, 6, 6), maps(9, 2, 64, 6, 6)), (maps(10, 2, 32, 6, 6), maps(10, 2, 64, 6, 6)))
    assert largest <= 2 * 64 * 36


@settings(max_examples=10, deadline=None)
@given(**SIZES)
def test_flow_by_hand(seed, count, ours, theirs, side):
    first, second = maps(seed, count, ours, side, side), maps(seed + 1, count, theirs, side, side)
    other_first, other_second = maps(seed + 2, count, ours, side, side), maps(seed + 3, count, theirs, side, side)
    total = 0.0
    for b, c, d in product(range(count), range(ours), range(theirs)):
        found = (first[b, c] * second[b, d]).mean().item(), (other_first[b, c] * other_second[b, d]).mean().item()
        total += (found[0] - found[1]) ** 2
    found = flow_gap((first, second), (other_first, other_second)).item()
    assert found == pytest.approx(total / (count * ours * theirs), abs=1e-9)


def test_flow_between_stages_of_different_size_pools_the_larger():
    first, second = maps(11, 2, 3, 8, 8), maps(12, 2, 5, 4, 4)
    torch.testing.assert_close(flow(first, second), flow(pooled(first, (4, 4)), second))


@settings(max_examples=10, deadline=None)
@given(**SIZES)
def test_information_by_hand(seed, count, ours, theirs, side):
    mean, teacher = maps(seed, count, ours, side, side), maps(seed + 1, count, ours, side, side)
    variance = maps(seed + 2, ours).exp()
    total = 0.0
    for b, c, y, x in product(range(count), range(ours), range(side), range(side)):
        density = math.exp(-((mean[b, c, y, x] - teacher[b, c, y, x]).item() ** 2) / (2 * variance[c].item()))
        total -= math.log(density / math.sqrt(variance[c].item()))
    assert information_gap(mean, teacher, variance).item() == pytest.approx(total / mean.numel(), abs=1e-9)


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (-1.0, 2.0), (0.7, 0.5), (2.0, 1.0)])
def test_a_margin_is_the_mean_of_what_is_negative(mean, deviation):
    grid = torch.linspace(-12, 0, 400_001, dtype=torch.float64)
    density = torch.exp(-(((grid - mean) / deviation) ** 2) / 2)
    by_sum = (grid * density).sum() / density.sum()
    found = margins(torch.tensor([mean]).double(), torch.tensor([deviation]).double())
    assert found.item() == pytest.approx(by_sum.item(), abs=1e-4)


def test_a_channel_that_is_never_negative_has_a_far_margin():
    found = margins(torch.tensor([10.0, 1.0, 0.0]), torch.tensor([2.0, 0.0, 0.0]))
    assert found.tolist() == pytest.approx([-6, 0, 0], abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(**SIZES)
def test_overhaul_by_hand(seed, count, ours, theirs, side):
    student, teacher = maps(seed, count, ours, side, side), maps(seed + 1, count, ours, side, side)
    margin = -maps(seed + 2, ours).abs()
    total = 0.0
    for b, c, y, x in product(range(count), range(ours), range(side), range(side)):
        s, t, m = student[b, c, y, x].item(), teacher[b, c, y, x].item(), margin[c].item()
        if t > 0 or (t > m and s > t):
            total += (s - t) ** 2
        elif t <= m and s > m:
            total += (s - m) ** 2
    assert overhaul_gap(student, teacher, margin).item() == pytest.approx(total / count, abs=1e-9)


def chequered(side: int) -> Tensor:
    """1 and -1 in turn: every pool of 2 x 2 cells or more is 0."""
    cells = torch.arange(side)
    return (1.0 - 2.0 * ((cells[:, None] + cells) % 2)).view(1, 1, side, side)


def quarters(*values: float) -> Tensor:
    """A map of 4 x 4 whose quarters have these values."""
    return torch.tensor(values).view(2, 2).repeat_interleave(2, 0).repeat_interleave(2, 1).view(1, 1, 4, 4)


@pytest.mark.parametrize(
    ("gap", "expected"),
    [
        (torch.full((1, 1, 1, 1), 3.0), 9.0),  # no pool is smaller
        (chequered(2), 1 / (1 + 1 / 2)),
        (F.pad(torch.full((1, 1, 1, 1), 9.0), (1, 1, 1, 1)), (9 + 1 / 2 * (9 / 4) ** 2 + 1 / 4) / (1 + 1 / 2 + 1 / 4)),
        (chequered(4), 1 / (1 + 1 / 2 + 1 / 4)),
        (quarters(1, -1, -1, 1), (1 + 1 / 2) / (1 + 1 / 2 + 1 / 4)),
        (quarters(1, 0, 1, 0), (1 / 2 + 1 / 2 * 1 / 2 + 1 / 4 * 1 / 4) / (1 + 1 / 2 + 1 / 4)),
        (chequered(8), 1 / (1 + 1 / 2 + 1 / 4 + 1 / 8)),
        (chequered(16).expand(2, 3, 16, 16), 1 / (1 + 1 / 2 + 1 / 4 + 1 / 8)),
    ],
    ids=["1", "2", "3", "4", "4, quarters", "4, halves", "8", "16"],
)
def test_each_pool_that_is_used_counts_half_of_what_came_before(gap, expected):
    teacher = maps(14, *gap.shape)
    assert hierarchical_gap(teacher + gap, teacher).item() == pytest.approx(expected, rel=1e-9)


PAIRED = {
    "hint": hint,
    "attention": attention_gap,
    "selectivity": selectivity_gap,
    "hierarchy": hierarchical_gap,
    "flow": lambda s, t: flow_gap((s, s.flip(1)), (t, t.flip(1))),
    "overhaul": lambda s, t: overhaul_gap(s, t, -torch.ones(s.shape[1])),
    "information": lambda s, t: information_gap(s, t, torch.ones(s.shape[1])),
}


@pytest.mark.parametrize("name", PAIRED)
def test_each_is_least_where_the_maps_agree(name):
    teacher = maps(15, 2, 4, 4, 4)
    same = teacher.clone().requires_grad_()
    value = PAIRED[name](same, teacher)
    (gradient,) = torch.autograd.grad(value, same)
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert gradient.abs().max() < 1e-9
    assert PAIRED[name](teacher + 0.1 * maps(16, 2, 4, 4, 4), teacher) > 0


@pytest.mark.parametrize("name", PAIRED)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_each_is_finite_for_dead_and_for_large_maps(name, dtype):
    largest = 1e2 if dtype == torch.float16 else 1e4  # flow's own gradient, a cube, would not fit into fp16
    loud, dead = maps(17, 2, 4, 4, 4) * largest, torch.zeros(2, 4, 4, 4)
    faint = loud / largest * 1e-11
    for ours, theirs in ((dead, loud), (loud, dead), (dead, dead), (loud, -loud), (faint, loud), (faint, -faint)):
        student = ours.to(dtype).requires_grad_()
        value = PAIRED[name](student, theirs.to(dtype))
        (gradient,) = torch.autograd.grad(value, student)
        assert value.dtype == torch.float32
        assert value.isfinite()
        assert gradient.isfinite().all()


# ---------------------------------------------------------------- classes


STUDENT = {"stage1": (3, 4, 8, 8), "stage2": (3, 6, 4, 4), "stage3": (3, 8, 2, 2), "last": (3, 8, 2, 2), "pooled": (3, 8)}
TEACHER = {"stage1": (3, 6, 8, 8), "stage2": (3, 6, 8, 8), "stage3": (3, 10, 4, 4), "last": (3, 10, 4, 4), "pooled": (3, 10)}


def prepared(loss: nn.Module) -> tuple[nn.Module, Output, Output]:
    student, teacher = outputs(20, **STUDENT), outputs(40, **TEACHER)
    torch.manual_seed(0)
    loss.prepare(student, teacher, 3)
    return loss.double(), student, teacher


def test_taps_must_come_in_pairs():
    with pytest.raises(ValueError, match=r"teacher=\['b', 'c'\] must name as many taps as student=\['a'\]"):
        AttentionTransfer("a", ["b", "c"])
    with pytest.raises(ValueError, match=r"student=\[\] names no tap"):
        AttentionTransfer([], [])
    assert AttentionTransfer("a", ["b"]).student_taps == ("a",)
    with pytest.raises(ValueError, match="two taps or more"):
        Flow("a", "a")


@pytest.mark.parametrize("kind", [AttentionTransfer, NeuronSelectivity])
def test_pairs_of_taps_add_up(kind):
    student, teacher = outputs(20, **STUDENT), outputs(40, **TEACHER)
    single = [kind(tap, tap)(student, teacher, BATCH) for tap in ("stage1", "stage2", "stage3")]
    torch.testing.assert_close(kind()(student, teacher, BATCH), sum(single))


def test_fitnet_projects_only_where_channels_differ():
    loss, student, teacher = prepared(FitNet(["stage2", "stage3"], ["stage2", "stage3"]))
    assert [type(layer) for layer in loss.projections] == [nn.Identity, nn.Conv2d]
    shallow = hint(student.features["stage2"], pooled(teacher.features["stage2"], (4, 4)))
    deep = hint(loss.projections[1](student.features["stage3"]), pooled(teacher.features["stage3"], (2, 2)))
    torch.testing.assert_close(loss(student, teacher, BATCH), shallow + deep)


def test_flow_takes_each_stage_with_the_next():
    loss, student, teacher = prepared(Flow())
    own = [project(student.features[tap]) for project, tap in zip(loss.projections, loss.student_taps, strict=True)]
    theirs = [teacher.features[tap] for tap in loss.teacher_taps]
    by_hand = flow_gap((own[0], own[1]), (theirs[0], theirs[1])) + flow_gap((own[1], own[2]), (theirs[1], theirs[2]))
    torch.testing.assert_close(loss(student, teacher, BATCH), by_hand)


def test_variances_begin_at_five_and_learn():
    loss, student, teacher = prepared(VariationalInformation("stage1", "stage1"))
    variance = loss.spreads[0].exp().log1p() + 1e-5
    assert variance.tolist() == pytest.approx([5.0] * 6, rel=1e-6)
    mean = loss.means[0](student.features["stage1"])
    torch.testing.assert_close(loss(student, teacher, BATCH), information_gap(mean, teacher.features["stage1"], variance))
    loss(student, teacher, BATCH).backward()
    assert loss.spreads[0].grad.abs().min() > 0


def test_deeper_pairs_count_twice_as_much_in_overhaul():
    loss, student, teacher = prepared(Overhaul())
    loss.eval()
    by_hand = 0.0
    for number, tap in enumerate(loss.student_taps):
        ours, theirs = matched(student.features[tap], teacher.features[tap])
        by_hand += overhaul_gap(loss.connectors[number](ours), theirs, loss.margins[number]) * (0.25, 0.5, 1.0)[number]
    torch.testing.assert_close(loss(student, teacher, BATCH), by_hand)
    assert not any(margin.requires_grad for margin in loss.margins)


def test_a_margin_is_that_of_the_teachers_channel_in_the_prepared_batch():
    loss, _, teacher = prepared(Overhaul("stage1", "stage1"))
    channel = teacher.features["stage1"][:, 2].flatten()
    by_hand = margins(channel.mean()[None], channel.std(correction=0)[None])
    torch.testing.assert_close(loss.margins[0][2:3], by_hand)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [FitNet, Flow, Overhaul, VariationalInformation, Review])
def test_layers_compute_as_the_student_does_and_distances_in_full(kind, dtype):
    student, teacher = outputs(20, **STUDENT), outputs(40, **TEACHER)
    student, teacher = (Output(given.logits, {n: f.to(dtype) for n, f in given.features.items()}) for given in (student, teacher))
    taps = ("stage1", "stage3")
    loss = kind(taps, taps)
    loss.prepare(student, teacher, 3)
    seen = []
    layers = [layer for layer in loss.modules() if isinstance(layer, nn.Conv2d)]
    for layer in layers:
        layer.register_forward_hook(lambda layer, given, answer: seen.append(answer.dtype))
    assert loss(student, teacher, BATCH).dtype == torch.float32
    assert seen == [dtype] * len(layers)
    assert layers


def test_review_fuses_from_the_deepest_tap_up():
    loss, student, teacher = prepared(Review(["stage2", "stage3"], ["stage2", "stage3"]))
    loss.eval()
    low, top = loss.fusions
    assert top.attention is None
    assert low.attention is not None
    own = top.narrow(student.features["stage3"]).repeat_interleave(2, 2).repeat_interleave(2, 3)  # to the teacher's 4 x 4
    deep = top.widen(own)
    narrow = low.narrow(student.features["stage2"])
    shares = low.attention(torch.cat([narrow, own], 1))
    fused = (narrow * shares[:, 0, None] + own * shares[:, 1, None]).repeat_interleave(2, 2).repeat_interleave(2, 3)
    by_hand = hierarchical_gap(deep, teacher.features["stage3"]) + hierarchical_gap(low.widen(fused), teacher.features["stage2"])
    torch.testing.assert_close(loss(student, teacher, BATCH), by_hand)
