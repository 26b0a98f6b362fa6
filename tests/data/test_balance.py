"""Classes of very different size: how it is told, oversampling by counters, and labels that weigh by class."""

import json
from collections import Counter

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from distillctl.data.balance import balanced_order, class_weights, is_uneven, remark, shape_of
from distillctl.data.loader import Place, TrainLoader
from distillctl.data.split import whole
from distillctl.losses.logits import binary_cross_entropy, cross_entropy
from distillctl.losses.weighted import build_loss
from distillctl.metrics.metric import METRICS, OF_STREAMS, OF_TASKS
from distillctl.metrics.quality import all_measures
from distillctl.report.table import Results
from distillctl.types import Batch, Output

TARGETS = torch.tensor([0] * 7 + [2] * 2 + [5] * 2)  # classes 1, 3 and 4 have no samples
LOGITS = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LABELS, WEIGHTS = torch.tensor([0, 2, 1, 0]), torch.tensor([0.5, 1.0, 3.0])


# ------------------------------------------------------------------------------------------------ oversampling
def test_every_class_comes_as_often_as_another_and_so_does_every_sample_of_it():
    seen, of_class = Counter(), Counter()
    for epoch in range(9):
        order = balanced_order(TARGETS, 3, epoch)
        assert len(order) == len(TARGETS)
        sizes = torch.bincount(TARGETS[order])[[0, 2, 5]]
        assert sorted(sizes.tolist()) == [3, 4, 4]
        seen.update(order.tolist())
        of_class.update(TARGETS[order].tolist())
    assert set(of_class.values()) == {9 * 11 // 3}
    for label in (0, 2, 5):
        times = [seen[position] for position in range(11) if TARGETS[position] == label]
        assert max(times) - min(times) <= 1


def test_the_order_is_a_function_of_seed_and_epoch():
    assert torch.equal(balanced_order(TARGETS, 3, 4), balanced_order(TARGETS, 3, 4))
    assert not torch.equal(balanced_order(TARGETS, 3, 4), balanced_order(TARGETS, 3, 5))
    assert not torch.equal(balanced_order(TARGETS, 3, 4), balanced_order(TARGETS, 4, 4))


def loader(rank: int = 0, world: int = 1) -> TrainLoader:
    found = TrainLoader(whole(torch.arange(11.0)[:, None], TARGETS), 4, 3, Place(torch.device("cpu"), rank, world))
    found.balanced = True
    return found


def test_a_resumed_epoch_goes_on_with_the_same_samples():
    everything = [batch.index.tolist() for batch in loader()(6)]
    assert len(everything) == 3
    assert [batch.index.tolist() for batch in loader()(6, first=1)] == everything[1:]


def test_ranks_share_the_batches_of_one_process():
    pieces = zip(*([batch.index.tolist() for batch in loader(rank, 2)(6)] for rank in range(2)), strict=True)
    assert [[*first, *second] for first, second in pieces] == [batch.index.tolist() for batch in loader()(6)]


def test_answers_are_filled_for_every_sample_whatever_an_epoch_draws():
    assert set(torch.cat(loader().covering(2)).tolist()) == set(range(11))


# ------------------------------------------------------------------------------------------------ class weights
def test_weights_are_the_inverse_of_sizes_with_a_mean_of_one():
    assert class_weights(TARGETS, 6).tolist() == pytest.approx([11 / 21, 0, 11 / 6, 0, 0, 11 / 6])
    assert class_weights(TARGETS, 6)[TARGETS].mean().item() == pytest.approx(1)
    assert class_weights(torch.arange(4), 4).tolist() == [1.0] * 4


def test_each_sample_counts_by_its_class():
    each = -LOGITS.log_softmax(1)[torch.arange(4), LABELS]
    by_hand = (0.5 * each[0] + 3 * each[1] + 1 * each[2] + 0.5 * each[3]) / 4
    assert cross_entropy(LOGITS, LABELS, weights=WEIGHTS).item() == pytest.approx(by_hand.item(), rel=1e-9)
    each = F.binary_cross_entropy_with_logits(LOGITS, F.one_hot(LABELS, 3).double(), reduction="none").sum(1)
    by_hand = (0.5 * each[0] + 3 * each[1] + 1 * each[2] + 0.5 * each[3]) / 4
    assert binary_cross_entropy(LOGITS, LABELS, weights=WEIGHTS).item() == pytest.approx(by_hand.item(), rel=1e-9)


@pytest.mark.parametrize("term", [cross_entropy, binary_cross_entropy])
def test_pieces_of_a_batch_add_up_and_weights_of_one_change_nothing(term):
    total = term(LOGITS, LABELS, 0.1, WEIGHTS)
    pieces = [term(LOGITS[rows], LABELS[rows], 0.1, WEIGHTS) for rows in (slice(0, 1), slice(1, 4))]
    assert (pieces[0] / 4 + pieces[1] * 3 / 4).item() == pytest.approx(total.item(), rel=1e-9)
    assert term(LOGITS, LABELS, 0.1, torch.ones(3)).item() == pytest.approx(term(LOGITS, LABELS, 0.1).item(), rel=1e-9)


def test_mixed_labels_weigh_as_their_shares_do():
    shares = 0.25 * F.one_hot(LABELS, 3).double() + 0.75 * F.one_hot((LABELS + 1) % 3, 3).double()
    first, second = (cross_entropy(LOGITS, targets, weights=WEIGHTS) for targets in (LABELS, (LABELS + 1) % 3))
    assert cross_entropy(LOGITS, shares, weights=WEIGHTS).item() == pytest.approx((0.25 * first + 0.75 * second).item(), rel=1e-9)


def test_terms_about_labels_alone_weigh_and_no_checkpoint_holds_it():
    loss = build_loss({
        "ce": {"_target_": "distillctl.losses.logits.CrossEntropy"},
        "kd": {"_target_": "distillctl.losses.logits.SoftTargets"},
    })  # fmt: skip
    student, teacher = Output(LOGITS, {}), Output(LOGITS.flip(1), {})
    batch = Batch(torch.zeros(4), LABELS, torch.arange(4), 0)
    before, state = loss(student, teacher, batch).parts, list(loss.state_dict())
    loss.weigh_classes(WEIGHTS)
    after = loss(student, teacher, batch).parts
    assert after["kd"] == before["kd"]
    assert after["ce"].item() == pytest.approx(cross_entropy(LOGITS, LABELS, weights=WEIGHTS).item())
    assert list(loss.state_dict()) == state


# ------------------------------------------------------------------------------------------------ what is said
@pytest.mark.parametrize(("sizes", "uneven"), [([5, 5, 9], False), ([5, 5, 10], True), ([4, 0, 7], False), ([3], False)])
def test_twice_the_smallest_is_uneven(sizes, uneven):
    targets = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    assert is_uneven(targets) == uneven
    found = remark(whole(targets, targets), [f"class {number}" for number in range(len(sizes))], "images", "none")
    assert (found is not None) == uneven


def test_the_figures_are_said_and_the_ways_out():
    split, names = whole(TARGETS, TARGETS), ("ant", "-", "bee", "-", "-", "cat")
    found = remark(split, names, "images", "none")
    assert found.startswith("the classes are uneven: from 2 (bee) to 7 (ant) training images, so top-1 is mostly about the large ones")
    assert "dataset.balance=oversample or class_weights" in found
    assert "trainer.select_by=val_macro_f1" in found
    assert remark(split, names, "images", "class_weights").endswith("labels weigh from 0.52 to 1.83 (dataset.balance=class_weights)")
    assert remark(split.without_labels(), names, "images", "none") is None


# ------------------------------------------------------------------------------------------------ the table
def headings(targets: torch.Tensor, logits: torch.Tensor) -> list[str]:
    row = {
        "model": "model",
        "architecture": "resnet8",
        "n": len(targets),
        **all_measures(logits, targets),
        **shape_of(targets, logits.shape[1]),
    }
    return [column.header for column in Results([row], "model").table("a set").columns]


@pytest.mark.parametrize(("classes", "wrong", "there"), [(9, 90, False), (10, 90, True), (10, 0, False), (20, 90, True)])
def test_top_5_is_shown_of_many_classes_where_it_tells_nets_apart(classes, wrong, there):
    targets = torch.arange(classes * 10) % classes
    logits = F.one_hot(targets, classes).float()
    logits[:wrong] = -logits[:wrong]
    assert ("top-5 %" in headings(targets, logits)) == there


def test_f1_is_shown_where_classes_are_uneven():
    even, uneven = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 0, 1])
    assert "macro-F1" not in headings(even, torch.eye(2)[even])
    assert "macro-F1" in headings(uneven, torch.eye(2)[uneven])


def test_the_fullest_table_fits_a_terminal():
    row = {metric.key: 0.5 for metric in METRICS if metric.key not in (*OF_TASKS, *OF_STREAMS)} | {
        "architecture": "resnet20",
        "n": 1000,
        "classes": 100,
        "uneven": True,
    }
    row |= {"parameters": 27.2e6, "macs": 41.2e6, "size_mb": 123.09, "latency_p50_ms": 123.45, "latency_spread": 0.12}
    rows = [row | {"model": name} for name in ("teacher", "distilled", "fine-tuned", "alone")]
    table = Results(rows, "fine-tuned", ("distilled", "fine-tuned")).table("digits test, 359 images")
    shown = [column.header for column in table.columns]
    assert shown[:6] == ["model", "top-1 %", "vs alone", "top-5 %", "macro-F1", "robust %"]
    assert "params" in shown
    assert 1 + sum(max(len(str(cell)) for cell in [column.header, *column.cells]) + 1 for column in table.columns) <= 80


# ------------------------------------------------------------------------------------------------ in a run
@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """40 dark images and 8 light ones, in folders."""
    root = tmp_path_factory.mktemp("photos")
    for name, count, shade in (("dark", 40, 40), ("light", 8, 200)):
        (root / name).mkdir()
        for number in range(count):
            Image.new("RGB", (8, 8), (shade, shade, number)).save(root / name / f"{number}.png")
    return root


WORDS = "teacher=resnet8 pretrain.epochs=2 dataset=image_folder trainer.batch_size=8 trainer.device=cpu trainer.threads=1"


def test_a_run_warns_and_shows_f1_and_may_ship_by_it(distillctl, photos, tmp_path):
    words = [*WORDS.split(), f"dataset.root={photos}", "trainer.select_by=val_macro_f1", "hydra.run.dir=run"]
    finished = distillctl("pretrain", *words, cwd=tmp_path)
    assert finished.code == 0, finished.err
    assert "warning: the classes are uneven: from " in " ".join(finished.out.split())
    assert "macro-F1" in finished.out
    lines = [json.loads(line) for line in (tmp_path / "run/pretrain/metrics.jsonl").read_text().splitlines()]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert all({"val_macro_f1", "val_top1"} <= line.keys() for line in epochs)


@pytest.mark.parametrize("balance", ["oversample", "class_weights"])
def test_a_run_evens_them_out(distillctl, photos, tmp_path, balance):
    losses = {}
    for chosen in ("none", balance):
        words = [*WORDS.split(), f"dataset.root={photos}", f"dataset.balance={chosen}", "trainer.log_every=1", f"hydra.run.dir={chosen}"]
        finished = distillctl("pretrain", *words, cwd=tmp_path)
        assert finished.code == 0, finished.err
        assert ("warning: the classes are uneven" in " ".join(finished.out.split())) == (chosen == "none")
        lines = [json.loads(line) for line in (tmp_path / chosen / "pretrain/metrics.jsonl").read_text().splitlines()]
        losses[chosen] = [line["loss"] for line in lines if line["kind"] == "step"]
    assert len(losses["none"]) == len(losses[balance])
    assert losses["none"] != losses[balance]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("dataset.balance=oversample dataset.labels=false", "dataset.balance=oversample goes by labels, and dataset.labels=false"),
        ("dataset.balance=oversample dataset.augment.mixup=0.2", "dataset.balance=oversample: samples that are mixed have partners"),
        ("dataset.balance=class_weights loss=funmatch", "dataset.balance=class_weights weighs labels, and loss=funmatch reads none"),
        ("dataset.balance=both", "dataset.balance=both: must be one of none, oversample, class_weights"),
    ],
)
def test_what_does_not_go_together_is_one_line(distillctl, tiny_run, tmp_path, words, line):
    finished = distillctl("distill", f"teacher.checkpoint={tiny_run}/pretrain", *words.split(), cwd=tmp_path)
    assert finished.code == 2
    assert f"error: {line}" in finished.err
