"""The memory: who gets a slot, what is stored in it, how it is drawn, and that all of it is state and none of it chance."""

import math
import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import torch
from processes import CEILING_S
from torch import Tensor

from distillctl import draws
from distillctl.loop import cut
from distillctl.strategies.memory import EMPTY, REPLAYED, Memory
from distillctl.types import Batch, rows

WIDE, CLASSES = 3, 4


def as_stored(inputs, index, view):
    return inputs


def memory(
    size: int = 10, once: int = 4, select: str = "reservoir", seed: int = 0, logits: bool = False, like=None, views=as_stored
) -> Memory:
    like = torch.zeros(1, WIDE, dtype=torch.uint8) if like is None else like
    return Memory(size, once, like, CLASSES, seed, views, select, logits)


def batch(first: int, count: int, targets: Tensor | None = None) -> Batch:
    """Samples that say which they are."""
    index = torch.arange(first, first + count)
    plain = torch.stack([index % 251, index // 251 % 251, index % 7], 1).to(torch.uint8)
    return Batch(plain + 1, index % CLASSES if targets is None else targets, index, 0, plain=plain)


def answers(of: Batch) -> Tensor:
    """What a student may have said to them."""
    return torch.sin(of.index[:, None] * torch.arange(1.0, CLASSES + 1))


def stream(kept: Memory, count: int, once: int = 8, labels=None) -> Memory:
    for first in range(0, count, once):
        size = min(once, count - first)
        came = batch(first, size, None if labels is None else torch.tensor(labels[first : first + size]))
        kept.observe(came, answers(came))
        kept.keep()
    return kept


def state_of(kept: Memory) -> dict:
    return {**{name: value.clone() for name, value in kept.named_buffers()}, "counters": kept.get_extra_state()}


def differ(one: Memory, other: Memory) -> list[str]:
    ours, theirs = state_of(one), state_of(other)
    return [
        name
        for name, value in ours.items()
        if not (torch.equal(value, theirs[name]) if isinstance(value, Tensor) else value == theirs[name])
    ]


# ------------------------------------------------------------------------------------------------- the reservoir


def plain_reservoir(size: int, count: int, seed: int) -> list[int]:
    """Vitter's rule, one sample after the other: number n, from 0, takes the slot that is drawn of 0 to n, if there is one."""
    slots: list[int] = []
    for number in range(count):
        if number < size:
            slots.append(number)
            continue
        slot = int(draws.integers(number + 1, seed, "reservoir", torch.tensor([number])))
        if slot < size:
            slots[slot] = number
    return slots


@pytest.mark.parametrize("once", [1, 7, 8, 50, 300])
@pytest.mark.parametrize("size", [1, 10, 60])
def test_the_nth_sample_takes_a_slot_drawn_of_n(size, once):
    """A batch may bring more than there are slots, and several of it may want the same: the last has it."""
    kept = stream(memory(size, seed=3), 300, once)
    assert kept.index[: kept.filled].tolist() == plain_reservoir(size, 300, 3)


def test_every_sample_of_a_stream_is_kept_equally_often():
    """Chi-square of 600 streams of 40 samples into 10 slots, of which each keeps a quarter: 39 degrees of freedom, 83.0 once in 20,000 times."""
    streams, count, size = 600, 40, 10
    held = torch.zeros(count)
    for seed in range(streams):
        held[stream(memory(size, seed=seed), count).index] += 1
    expected = streams * size / count
    assert held.sum() == streams * size
    # without replacement counts vary less than independent ones: by 1 - size / count
    assert float(((held - expected) ** 2 / (expected * (1 - size / count))).sum()) < 83.0


def test_slots_are_drawn_equally_often():
    """Chi-square over slots of the samples that came after the memory was full: 9 degrees of freedom, 33.7 once in ten thousand times."""
    taken = [0] * 10
    for seed in range(300):
        for number in range(10, 40):
            slot = int(draws.integers(number + 1, seed, "reservoir", torch.tensor([number])))
            if slot < 10:
                taken[slot] += 1
    expected = sum(taken) / 10
    assert sum((count - expected) ** 2 / expected for count in taken) < 33.7


def test_while_there_is_room_all_are_kept_in_order():
    kept = stream(memory(10), 9)
    assert kept.index[:9].tolist() == list(range(9))
    assert (kept.filled, kept.seen) == (9, 9)
    assert kept.targets[9] == EMPTY


# ------------------------------------------------------------------------------------------------- class balance


def plain_balance(size: int, labels: list[int], seed: int) -> list[int]:
    """Algorithm 1 of Chrysakis & Moens 2020, one sample after the other. Only what is drawn is shared with what is tested: slots in their order."""
    slots: list[int] = []  # the number of the sample in each slot
    came = dict.fromkeys(range(CLASSES), 0)
    full: set[int] = set()
    for number, label in enumerate(labels):
        came[label] += 1
        if len(slots) < size:
            slots.append(number)
            continue
        stored = {c: [slot for slot, held in enumerate(slots) if labels[held] == c] for c in range(CLASSES)}
        most = max(map(len, stored.values()))
        largest = {c for c, members in stored.items() if len(members) == most}
        full |= largest  # "currently is, or has been in one of the previous time steps, the largest class"
        place = draws.uniform(seed, "balanced slot", torch.tensor([number])).item()
        if label not in full:
            candidates = sorted(slot for c in largest for slot in stored[c])
        elif draws.uniform(seed, "balanced", torch.tensor([number])).item() <= len(stored[label]) / came[label]:
            candidates = stored[label]
        else:
            continue
        slots[candidates[math.floor(place * len(candidates))]] = number
    return slots


def skewed(count: int, seed: int = 0) -> list[int]:
    """Class 0 is 80 % of the stream, the last 2 %."""
    luck = torch.rand(count, generator=torch.Generator().manual_seed(seed))
    return [0 if value < 0.8 else 1 if value < 0.92 else 2 if value < 0.98 else 3 for value in luck.tolist()]


@pytest.mark.parametrize("once", [1, 8, 33])
@pytest.mark.parametrize("seed", range(3))
def test_balanced_slots_are_those_of_the_published_algorithm(seed, once):
    labels = skewed(400, seed)
    kept = stream(memory(20, select="balanced", seed=seed), 400, once, labels)
    assert kept.index.tolist() == plain_balance(20, labels, seed)
    assert kept.targets.tolist() == [labels[number] for number in kept.index.tolist()]


def test_a_skewed_stream_is_kept_in_balance():
    labels = skewed(2000)
    counts = torch.bincount(stream(memory(40, select="balanced"), 2000, labels=labels).targets, minlength=CLASSES).tolist()
    assert counts == [10, 10, 10, 10]
    counts = torch.bincount(stream(memory(40), 2000, labels=labels).targets, minlength=CLASSES).tolist()
    assert max(counts) > 25  # a reservoir has what the stream has


def test_tasks_one_after_another_end_in_balance():
    labels = [0] * 200 + [1] * 200 + [2] * 60 + [3] * 30
    counts = torch.bincount(stream(memory(40, select="balanced"), len(labels), labels=labels).targets).tolist()
    assert counts == [10, 10, 10, 10]


def test_a_class_smaller_than_its_share_is_kept_whole():
    labels = skewed(500)
    labels = [label if label != 3 else 2 for label in labels[:-5]] + [3] * 5
    kept = stream(memory(40, select="balanced"), 500, labels=labels)
    assert sorted(kept.index[kept.targets == 3].tolist()) == list(range(495, 500))


# ------------------------------------------------------------------------------------------------- what is stored


@pytest.mark.parametrize("select", ["reservoir", "balanced"])
def test_what_is_stored_is_the_sample_as_it_is_with_label_and_the_logits_of_that_moment(select):
    kept = stream(memory(select=select, logits=True), 500)
    original = batch(0, 500)
    at = kept.index
    assert at.max() > 100
    assert kept.samples.dtype == torch.uint8
    assert torch.equal(kept.samples, original.plain[at])
    assert torch.equal(kept.targets, original.targets[at])
    assert torch.equal(kept.logits, answers(original)[at])


def test_kept_logits_stay_as_they_were_whatever_the_student_becomes():
    kept, came = memory(logits=True), batch(0, 8)
    said = answers(came).requires_grad_()
    kept.observe(came, said * 1)
    assert not kept.pending[0][1].requires_grad  # until the step is done it holds no graph
    with torch.no_grad():
        said.mul_(100)
    kept.keep()
    assert torch.equal(kept.logits[:8], answers(came))
    assert not kept.logits.requires_grad
    before = kept.logits[:8].clone()
    kept.draw(came).logits.add_(1)
    assert torch.equal(kept.logits[:8], before)


def test_of_a_head_that_grows_the_width_of_that_moment_is_kept():
    kept = memory(12, logits=True)
    for first, width in ((0, 2), (6, 4)):
        came = batch(first, 6)
        kept.observe(came, answers(came)[:, :width])
        kept.keep()
    assert kept.widths.tolist() == [2] * 6 + [4] * 6
    assert not kept.logits[:6, 2:].any()
    assert kept.logits[6:, 2:].any()


def test_bytes_are_those_of_samples_labels_indices_and_logits():
    each = WIDE + 8 + 8 + 8  # uint8 pixels; label, index and width as int64
    assert memory(10).bytes == 10 * each
    assert memory(10, logits=True).bytes == 10 * (each + 4 * CLASSES)


def test_inputs_of_several_tensors_are_kept_together():
    like = {"words": torch.zeros(1, 2, dtype=torch.int64), "mask": torch.zeros(1, 2, dtype=torch.bool)}
    kept = memory(6, like=like)
    for first in range(0, 40, 8):
        index = torch.arange(first, first + 8)
        inputs = {"words": torch.stack([index, index * 3], 1), "mask": torch.stack([index % 2 == 0, index % 3 == 0], 1)}
        kept.observe(Batch(inputs, index % CLASSES, index, 0, plain=inputs))
        kept.keep()
    drawn = kept.draw(batch(40, 8)).batch
    assert drawn.inputs.keys() == like.keys()
    assert torch.equal(drawn.inputs["words"], torch.stack([drawn.index, drawn.index * 3], 1))
    assert torch.equal(drawn.inputs["mask"], torch.stack([drawn.index % 2 == 0, drawn.index % 3 == 0], 1))
    assert torch.equal(kept.samples["words"][:, 0], kept.index)


# ------------------------------------------------------------------------------------------------- draws


def test_nothing_is_drawn_of_an_empty_memory():
    assert memory().draw(batch(0, 8)) is None


def test_a_draw_repeats_no_sample_and_the_next_step_has_others():
    kept = stream(memory(30, once=12), 100)
    first = kept.draw(batch(100, 8)).batch.index.tolist()
    assert len(set(first)) == 12
    assert first == kept.draw(batch(100, 8)).batch.index.tolist()
    assert first != kept.draw(batch(100, 8), 1).batch.index.tolist()
    kept.steps += 1
    assert first != kept.draw(batch(100, 8)).batch.index.tolist()


def test_fewer_samples_than_a_draw_asks_for_are_drawn_all():
    kept = stream(memory(30, once=12), 8)
    assert sorted(kept.draw(batch(100, 8)).batch.index.tolist()) == list(range(8))


def test_every_slot_is_drawn_equally_often():
    """Chi-square of 500 steps that draw 4 of 10: 9 degrees of freedom, 33.7 once in ten thousand times."""
    kept, counts = stream(memory(10, once=4), 10), torch.zeros(10)
    for step in range(500):
        kept.steps = step
        counts[kept.draw(batch(100, 8)).batch.index] += 1
    assert float(((counts - 200) ** 2 / (200 * 0.6)).sum()) < 33.7


def test_the_view_of_a_replayed_sample_is_none_of_an_epochs_and_no_two_draws_share_one():
    shown = []

    def views(inputs, index, view):
        shown.append(view)
        return inputs

    kept = stream(memory(30, views=views), 40)
    for step in range(3):
        kept.steps = step
        for number in (0, 1):
            assert kept.draw(batch(100, 8), number).batch.view == shown[-1]
    assert len(set(shown)) == 6
    assert min(shown) >= REPLAYED


@pytest.mark.parametrize("pieces", [1, 2, 3, 5])
def test_pieces_of_a_batch_share_one_draw_and_weigh_what_they_have_of_it(pieces):
    kept = stream(memory(30, once=11), 100)
    came = batch(100, 13)
    whole, parts = kept.draw(came), cut(came, pieces)
    drawn = [kept.draw(part) for part in parts]
    assert torch.cat([part.batch.index for part in drawn]).tolist() == whole.batch.index.tolist()
    for part, replay in zip(parts, drawn, strict=True):  # the loop gives a piece its share of the batch
        weight = len(part.index) / 13 * replay.share
        assert weight == pytest.approx(len(replay.batch.index) / 11, rel=1e-12)


# ------------------------------------------------------------------------------------------------- it is state


@pytest.mark.parametrize("select", ["reservoir", "balanced"])
@pytest.mark.parametrize("way", ["state_dict", "carried"])
def test_a_memory_that_goes_on_elsewhere_is_the_one_that_stayed(select, way):
    labels = skewed(600)
    whole = stream(memory(select=select, logits=True), 600, labels=labels)
    first = stream(memory(select=select, logits=True), 304, labels=labels)
    other = memory(select=select, logits=True)
    if way == "state_dict":
        other.load_state_dict(first.state_dict())
    else:
        other.take({name: value.clone() for name, value in first.carried().items()})
    assert differ(first, other) == []
    for start in range(304, 600, 8):
        came = batch(start, 8, torch.tensor(labels[start : start + 8]))
        other.observe(came, answers(came))
        other.keep()
    assert differ(other, whole) == []
    assert other.draw(batch(0, 8)).batch.index.tolist() == whole.draw(batch(0, 8)).batch.index.tolist()


def test_steps_that_observe_nothing_are_counted():
    kept = stream(memory(), 16)
    before = kept.steps
    kept.keep()
    assert (kept.steps, kept.seen) == (before + 1, 16)


def test_filling_replaces_all_that_was_held():
    kept = stream(memory(), 10)
    came = batch(500, 4)
    kept.fill(came.plain, came.targets, came.index)
    held = kept.held()
    assert torch.equal(held[0], came.plain)
    assert held[2].tolist() == [500, 501, 502, 503]
    assert kept.targets[4:].tolist() == [EMPTY] * 6
    assert set(kept.draw(batch(0, 8)).batch.index.tolist()) == {500, 501, 502, 503}


# ------------------------------------------------------------------------------------------------- two ranks


def half(rank: int, port: int, folder: str, select: str) -> None:
    """One rank's part of every batch."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    kept, drawn = memory(select=select, logits=True), []
    for first in range(0, 132, 11):
        mine = part_of(batch(first, 11), rank)
        for piece in cut(mine, 2):
            if (replay := kept.draw(piece)) is not None:
                drawn.append(replay.batch.index)
            kept.observe(piece, answers(piece))
        kept.keep()
    torch.save((dict(kept.named_buffers()), kept.get_extra_state(), torch.cat(drawn)), Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def part_of(whole: Batch, rank: int) -> Batch:
    """As a loader cuts it."""
    at = torch.arange(len(whole.index)).tensor_split(2)[rank]
    place = (int(at[0]), len(whole.index))
    return Batch(rows(whole.inputs, at), whole.targets[at], whole.index[at], 0, plain=rows(whole.plain, at), place=place)


@pytest.mark.slow  # it starts processes
@pytest.mark.parametrize("select", ["reservoir", "balanced"])
def test_two_ranks_hold_the_memory_of_one_and_share_its_draws(select, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=half, args=(rank, port, str(tmp_path), select)) for rank in range(2)]
    for process in processes:
        process.start()
    alone, drawn = memory(select=select, logits=True), []
    for first in range(0, 132, 11):
        whole = batch(first, 11)
        if (replay := alone.draw(whole)) is not None:
            drawn += replay.batch.index.tolist()
        alone.observe(whole, answers(whole))
        alone.keep()
    for process in processes:
        process.join(CEILING_S)
        assert process.exitcode == 0
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for buffers, counters, _ in found:
        assert counters == alone.get_extra_state()
        for name, value in alone.named_buffers():
            assert torch.equal(buffers[name], value), name
    assert sorted(torch.cat([found[0][2], found[1][2]]).tolist()) == sorted(drawn)
