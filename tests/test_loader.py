"""Batches are a function of seed, epoch and first batch, whoever reads the files; and what happens when one cannot be read."""

import os
import signal
import time
from itertools import islice
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from distillctl.config import AugmentConfig
from distillctl.data.image import reading
from distillctl.data.image.augment import Augment
from distillctl.data.image.loader import ImageLoader, PlainImages, ReadOptions, decoded
from distillctl.data.loader import Place, batch_sizes
from distillctl.data.split import Split
from distillctl.errors import DataError, MachineError
from distillctl.runtime import explain

CPU = torch.device("cpu")
COUNT, CLASSES, SIZE = 37, 3, 16
MIXED = AugmentConfig(mixup=0.4, cutmix=1.0, policy="trivialaugment")
FILES = AugmentConfig(crop="resized", erasing=0.5)
MIXED_FILES = AugmentConfig(crop="resized", mixup=0.4)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Split:
    folder = tmp_path_factory.mktemp("images")
    paths = []
    for number in range(COUNT):
        pixels = torch.randint(0, 256, (20 + number % 3, 24, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))
        paths.append(folder / f"{number}.png")
        Image.fromarray(pixels.numpy()).save(paths[-1])
    return Split(paths, torch.arange(COUNT) % CLASSES, torch.arange(COUNT) * 7)


@pytest.fixture(scope="module")
def memory() -> Split:
    images = torch.randint(0, 256, (COUNT, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return Split(images, torch.arange(COUNT) % CLASSES, torch.arange(COUNT) * 7)


def loader(split: Split, config: AugmentConfig = FILES, seed=5, rank=0, world=1, workers=0, batch_size=8, views=None) -> ImageLoader:
    augment = Augment(config, SIZE, CLASSES, seed)
    return ImageLoader(split, augment, batch_size, seed, Place(CPU, rank, world), ReadOptions(SIZE, workers), views)


def same(one, other) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a.inputs, b.inputs) and torch.equal(a.targets, b.targets) and torch.equal(a.index, b.index) and a.view == b.view
        for a, b in zip(one, other, strict=True)
    )


KINDS = [("memory", AugmentConfig()), ("memory", MIXED), ("files", FILES), ("files", MIXED_FILES)]


@pytest.mark.parametrize(("kind", "config"), KINDS)
def test_an_epoch_is_a_function_of_seed_and_number_and_of_nothing_else(kind, config, request):
    split = request.getfixturevalue(kind)
    once = list(loader(split, config)(3))
    torch.manual_seed(time.time_ns())
    assert same(once, list(loader(split, config)(3)))
    assert not same(once, list(loader(split, config)(4)))
    assert not same(once, list(loader(split, config, seed=6)(3)))


def by_sample(batches) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    rows = ((batch, row) for batch in batches for row in range(len(batch.index)))
    return {int(batch.index[row]): (batch.inputs[row], batch.targets[row]) for batch, row in rows}


@pytest.mark.parametrize(("kind", "config"), KINDS)
def test_a_bank_brings_its_views_again_in_another_order(kind, config, request):
    split = request.getfixturevalue(kind)
    bank = loader(split, config, views=2)
    for epoch in range(2):
        assert same(list(bank(epoch)), list(loader(split, config)(epoch)))
    first, again, other = (list(bank(epoch)) for epoch in (1, 3, 2))
    assert [{batch.view for batch in batches} for batches in (first, again, other)] == [{1}, {1}, {0}]
    assert [batch.index.tolist() for batch in first] != [batch.index.tolist() for batch in again]
    one, two = by_sample(first), by_sample(again)
    shared = one.keys() & two.keys()
    assert len(shared) >= COUNT - 2 * (COUNT % 8)
    assert all(torch.equal(one[index][0], two[index][0]) and torch.equal(one[index][1], two[index][1]) for index in shared)


@pytest.mark.parametrize(("kind", "config"), KINDS)
def test_an_epoch_can_be_taken_up_at_any_batch(kind, config, request):
    train = loader(request.getfixturevalue(kind), config)
    whole = list(train(1))
    for first in range(train.batches_per_epoch + 1):
        assert same(whole[first:], list(train(1, first)))


@pytest.mark.parametrize("config", [FILES, MIXED_FILES])
def test_workers_change_nothing(config, files):
    alone = list(loader(files, config)(2, 1))
    state = torch.get_rng_state()
    assert same(alone, list(loader(files, config, workers=2)(2, 1)))
    assert torch.equal(torch.get_rng_state(), state)  # the stream that dropout draws from


@pytest.mark.parametrize(("kind", "config"), KINDS)
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_out_the_very_batches_of_one_process(kind, config, world, request):
    split = request.getfixturevalue(kind)
    alone = list(loader(split, config)(2))
    shares = zip(*(loader(split, config, rank=rank, world=world)(2) for rank in range(world)), strict=True)
    for whole, parts in zip(alone, shares, strict=True):
        for name in ("inputs", "targets", "index"):
            assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts])), name
        assert max(len(part.index) for part in parts) - min(len(part.index) for part in parts) <= 1


def test_batches_are_whole_and_hold_no_sample_twice(memory):
    train = loader(memory, batch_size=9)
    assert train.batches_per_epoch == 4
    seen = torch.cat([batch.index for batch in train(0)])
    assert len(seen) == len(seen.unique()) == 36
    assert {len(batch.index) for batch in train(0)} == {9}
    everything = {int(index) for epoch in range(20) for batch in train(epoch) for index in batch.index}
    assert everything == set(memory.index.tolist())  # what one epoch leaves over comes in another


def test_samples_keep_their_targets(memory):
    for batch in loader(memory)(0):
        assert torch.equal(batch.targets, batch.index // 7 % CLASSES)


@pytest.mark.parametrize("crop", ["pad", "none"])
@pytest.mark.parametrize("edge", [SIZE, 20, (31, 24)])
def test_files_and_memory_give_the_same_views_of_the_same_images(crop, edge, tmp_path):
    tall, wide = edge if isinstance(edge, tuple) else (edge, edge)
    paths = [tmp_path / f"{number}.png" for number in range(COUNT)]
    for number, path in enumerate(paths):
        pixels = torch.randint(0, 256, (tall, wide, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))
        Image.fromarray(pixels.numpy()).save(path)
    on_disk = Split(paths, torch.arange(COUNT) % CLASSES, torch.arange(COUNT) * 7)
    read = Split(reading.in_memory(paths, SIZE, 10**6)[0], on_disk.targets, on_disk.index)
    config = AugmentConfig(crop=crop, policy="trivialaugment", erasing=0.5, mixup=0.4)
    assert same(list(loader(on_disk, config)(2)), list(loader(read, config)(2)))


@pytest.mark.parametrize("count", [36, 37])
def test_partners_are_neighbours_and_no_sample_is_lost(count, memory):
    train = loader(memory.take(range(count)), MIXED)
    order, partners = train.order(1), train.augment.partners(count, 1)
    assert sorted(order.tolist()) == list(range(count))
    place = order.argsort()
    assert (place - place[partners]).abs().max() <= 1
    assert int((partners == torch.arange(count)).sum()) == count % 2


def test_mixed_targets_name_the_sample_and_its_partner(memory):
    train = loader(memory, MIXED)
    partners = train.augment.partners(COUNT, 2)
    for batch in train(2):
        assert batch.targets.dtype == torch.float32
        torch.testing.assert_close(batch.targets.sum(1), torch.ones(len(batch.index)))
        own = batch.index // 7
        involved = batch.targets.gather(1, torch.stack([own % CLASSES, partners[own] % CLASSES], 1))
        twice = own % CLASSES == partners[own] % CLASSES
        torch.testing.assert_close(torch.where(twice, involved[:, 0], involved.sum(1)), torch.ones(len(batch.index)))


@pytest.mark.parametrize("kind", ["memory", "files"])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_plain_batches_of_the_ranks_interleave_to_the_split(kind, world, request):
    split = request.getfixturevalue(kind)
    index = torch.empty(COUNT, dtype=torch.int64)
    for rank in range(world):
        batches = list(PlainImages(split, 8, Place(CPU, rank, world), ReadOptions(SIZE)))
        assert all(batch.view == -1 for batch in batches)
        index[rank::world] = torch.cat([batch.index for batch in batches])
    assert torch.equal(index, split.index)


# what cannot be read


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["train", "plain"])
def test_a_bad_image_is_one_line_that_names_it_whoever_found_it(workers, kind, files, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(Path(files.inputs[0]).read_bytes()[:200])
    split = Split([*files.inputs[:10], bad, *files.inputs[11:]], files.targets, files.index)
    whole_split = loader(split, workers=workers, batch_size=COUNT)(0)
    with pytest.raises(DataError) as error:
        list(whole_split if kind == "train" else PlainImages(split, 8, Place(CPU), ReadOptions(SIZE, workers)))
    assert str(error.value).startswith(f"{bad}: ")
    assert "mend or remove it" in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 3


class Odd(Dataset):
    """Zeros, and one position that does something else."""

    def __init__(self, deed):
        self.deed = deed

    def __getitem__(self, position):
        if position == 5:
            self.deed()
        return torch.zeros(3, 4, 4, dtype=torch.uint8)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def leave():
    os._exit(3)


HANGS_S = 900


def hang():
    time.sleep(HANGS_S)


def fail():
    raise KeyError("a fault of ours")


def odd(deed, timeout_s=60):
    return decoded(Odd(deed), list(torch.arange(12).split(2)), ReadOptions(4, workers=2, timeout_s=timeout_s), CPU)


@pytest.mark.parametrize("deed", [die, leave])
def test_a_worker_that_dies_is_the_machines_fault(deed):
    with pytest.raises((MachineError, RuntimeError)) as error:  # the second where it was noticed by its signal
        list(odd(deed))
    explained = error.value if isinstance(error.value, MachineError) else explain(error.value)
    assert str(explained).startswith("a data worker died")
    assert "\n" not in str(explained)
    assert explained.exit_code == 5


def test_a_worker_that_hangs_is_not_waited_for():
    began = time.monotonic()
    with pytest.raises(MachineError, match="^a data worker hangs; raise dataset.timeout_s"):
        list(odd(hang, timeout_s=1))
    assert time.monotonic() - began < HANGS_S


def test_a_fault_of_ours_in_a_worker_stays_a_fault():
    with pytest.raises(KeyError) as error:
        list(odd(fail))
    assert explain(error.value) is None


def test_workers_outlive_the_signals_that_ask_to_stop():
    batches = odd(lambda: None)
    next(batches)
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    if not children.exists():
        pytest.skip("this system does not list children")
    for child in children.read_text().split():
        if "multiprocessing" not in Path(f"/proc/{child}/cmdline").read_text():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
                os.kill(int(child), number)
    assert len(list(islice(batches, 10))) == 5


# ------------------------------------------------------------------------------------------------ the sizes of batches
@pytest.mark.parametrize(
    ("samples", "batch_size", "pieces", "sizes"),
    [
        (1294, 128, 1, (128,) * 10),  # 14 are left over, too few to matter
        (60, 16, 1, (15,) * 4),
        (100, 64, 1, (50, 50)),
        (65, 64, 1, (64,)),  # never a batch of one
        (9, 4, 1, (3, 3, 3)),
        (3, 2, 1, (2,)),  # 2 and 1 would leave batch norm with one
        (5, 4, 2, (4,)),  # as would 3 and 2 in two pieces each
        (7, 4, 1, (4, 3)),
        (3, 4, 1, ()),
        (40, 16, 1, (14, 13, 13)),
    ],
)
def test_a_small_set_is_used_whole_and_no_piece_is_left_with_one_sample(samples, batch_size, pieces, sizes):
    assert batch_sizes(samples, batch_size, pieces) == sizes


@hypothesis.given(st.integers(2, 400), st.integers(2, 128), st.integers(1, 4))
def test_batches_are_at_most_as_large_as_asked_for_and_lose_little(samples, batch_size, pieces):
    sizes = batch_sizes(samples, batch_size, pieces)
    assert all(size <= batch_size for size in sizes)
    if batch_size >= 4 * pieces and samples >= batch_size:
        assert min(sizes) >= max(2 * pieces, batch_size // 2)
        assert sum(sizes) >= 0.95 * samples


@pytest.mark.parametrize(("kind", "config"), KINDS)
def test_batches_of_an_epoch_that_is_used_whole(kind, config, request):
    train = loader(request.getfixturevalue(kind), config, batch_size=16)
    assert train.sizes == (13, 12, 12)
    found = [batch.index for batch in train(3)]
    assert [len(index) for index in found] == [13, 12, 12]
    assert len(torch.cat(found).unique()) == COUNT
    assert torch.equal(torch.cat(train.covering(3)), train.order(3))
