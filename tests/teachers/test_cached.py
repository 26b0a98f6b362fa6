"""A teacher whose answers are kept teaches what the teacher itself would; a cache of anything else is never used."""

import importlib
import itertools
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import StopAfter, checkpoint, configured, same_stage
from safetensors.torch import load_file
from torch import nn

from distillctl.config import AugmentConfig
from distillctl.data.image.augment import Augment
from distillctl.data.image.loader import ImageLoader, ReadOptions
from distillctl.data.loader import Place
from distillctl.data.split import Split
from distillctl.errors import DataError, Interrupted
from distillctl.losses.logits import CrossEntropy, SoftTargets
from distillctl.losses.weighted import WeightedSum
from distillctl.models.adapter import Classifier
from distillctl.models.committee import Committee
from distillctl.models.taps import tap
from distillctl.models.trace import pixels
from distillctl.runs import keeping
from distillctl.runs.execute import execute
from distillctl.runs.session import session
from distillctl.teachers.cached import FEWEST, Cached, features_of
from distillctl.teachers.ensemble import Ensemble
from distillctl.teachers.frozen import Frozen
from distillctl.teachers.records import Layout, layout_for
from distillctl.teachers.store import Store
from distillctl.types import Batch, Output

CPU = torch.device("cpu")
COUNT, CLASSES, SIZE, BATCH = 50, 5, 8, 16
PLAIN, MIXED = AugmentConfig(), AugmentConfig(mixup=0.4, cutmix=1.0)
STATISTICS = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def net(seed: int) -> Classifier:
    torch.manual_seed(seed)
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, CLASSES))
    return Classifier(nn.Sequential(*layers), *STATISTICS)


def split(seed: int = 0) -> Split:
    images = torch.randint(0, 256, (COUNT, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Split(images, torch.arange(COUNT) % CLASSES, torch.arange(COUNT) * 3 + 1)


def loader(views: int | None = 2, config: AugmentConfig = PLAIN, data: int = 0, rank: int = 0, world: int = 1) -> ImageLoader:
    augment = Augment(config, SIZE, CLASSES, seed=4)
    return ImageLoader(split(data), augment, BATCH, 9, Place(CPU, rank, world), ReadOptions(SIZE), views)


class Counting(Frozen):
    """How many images it was asked about, batch by batch."""

    def __init__(self, seed: int = 1):
        super().__init__(net(seed), torch.float32, CPU)
        self.sizes: list[int] = []

    def __call__(self, batch: Batch) -> Output:
        self.sizes.append(len(batch.inputs))
        return super().__call__(batch)


def store(folder: Path, layout: Layout, said: list[str] | None = None) -> Store:
    folder.mkdir(exist_ok=True)
    return Store(folder, "secret", layout, COUNT, (said if said is not None else []).append)


def cached(folder: Path, dtype: str = "fp32", teacher: Frozen | None = None, strict: bool = False, said: list[str] | None = None) -> Cached:
    layout = Layout(1, CLASSES, dtype)
    return Cached(teacher or Counting(), layout, store(folder, layout, said), split().index, strict)


# ------------------------------------------------------------------------------------------------ the teacher
@pytest.mark.parametrize("config", [PLAIN, MIXED], ids=["plain", "mixed"])
@pytest.mark.parametrize("views", [1, 3])
def test_kept_in_fp32_its_answers_are_the_teachers_own_bit_for_bit(config, views, tmp_path):
    teacher, batches = Counting(), loader(views, config)
    guide = cached(tmp_path, teacher=teacher)
    live = Frozen(net(1), torch.float32, CPU)
    for epoch in range(2 * views):
        for batch in batches(epoch):
            assert torch.equal(guide(batch).logits, live(batch).logits)
    again = cached(tmp_path, teacher=Counting(2), strict=True)  # whoever asks it would notice
    for epoch in range(2 * views):
        for batch in batches(epoch):
            assert torch.equal(again(batch).logits, live(batch).logits)
    assert again.teacher.sizes == []
    assert guide.read + COUNT * views >= 2 * views * 3 * BATCH > guide.read


def test_kept_in_fp16_the_first_ten_losses_of_a_training_stay_within_a_hundredth(tmp_path):
    curves = []
    for guide in (cached(tmp_path, "fp16"), Frozen(net(1), torch.float32, CPU)):
        student, loss = net(3).train(), WeightedSum({"ce": CrossEntropy(), "kd": SoftTargets(4.0)}, {"ce": 0.1, "kd": 0.9})
        optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
        curves.append([])
        for batch in itertools.islice(itertools.chain.from_iterable(loader()(epoch) for epoch in itertools.count()), 10):
            total = loss(student(batch.inputs), guide(batch), batch).loss
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            curves[-1].append(total.item())
    one, other = curves
    assert len(one) == 10
    assert max(abs(mine - yours) for mine, yours in zip(one, other, strict=True)) < 1e-2
    assert one != other  # the records were read
    assert one[-1] < one[0]


def test_who_asks_and_who_reads_get_the_same(tmp_path):
    first = [cached(tmp_path, "fp16")(batch).logits for batch in loader()(0)]
    second = [cached(tmp_path, "fp16", strict=True)(batch).logits for batch in loader()(0)]
    layout = Layout(1, CLASSES, "fp16")
    without = [Cached(Counting(), layout, None, split().index)(batch).logits for batch in loader()(0)]
    for one, two, three in zip(first, second, without, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)


def test_only_what_is_missing_is_asked_for(tmp_path):
    guide = cached(tmp_path, "fp16")
    for epoch in (0, 1, 2, 3):
        list(map(guide, loader()(epoch)))
    first, later = guide.teacher.sizes[:6], guide.teacher.sizes[6:]
    assert first == [BATCH] * 6
    assert all(size == FEWEST for size in later)
    assert [int(store(tmp_path, guide.layout).inspected(view)[0].sum()) >= 48 for view in (0, 1)] == [True, True]
    for epoch in (0, 1, 2, 3):
        list(map(cached(tmp_path, "fp16", strict=True), loader()(epoch)))


def test_an_interrupted_filling_goes_on(tmp_path):
    batches = list(loader()(0))
    list(map(cached(tmp_path), batches[:2]))
    later = cached(tmp_path)
    answers = [later(batch).logits for batch in batches]
    assert later.teacher.sizes == [BATCH]
    live = Frozen(net(1), torch.float32, CPU)
    assert all(torch.equal(answer, live(batch).logits) for answer, batch in zip(answers, batches, strict=True))


def test_ranks_fill_one_cache_together(tmp_path):
    for rank in (0, 1):
        list(map(cached(tmp_path), loader(rank=rank, world=2)(0)))
    whole = cached(tmp_path, strict=True)
    live = Frozen(net(1), torch.float32, CPU)
    for batch in loader()(0):
        torch.testing.assert_close(whole(batch).logits, live(batch).logits)


def test_other_images_are_asked_about_and_never_kept(tmp_path):
    guide, batch = cached(tmp_path), next(loader()(0))
    plain = batch._replace(view=-1)
    assert torch.equal(guide(plain).logits, guide.teacher(plain).logits)
    generated = batch._replace(inputs=batch.inputs.float() / 255)
    assert torch.equal(guide(generated).logits, guide.teacher(generated).logits)
    assert not list(tmp_path.iterdir())


def test_answers_to_other_data_are_noticed_by_the_images_themselves(tmp_path):
    """Files of equal names and sizes have one fingerprint; what they show is in each record."""
    said: list[str] = []
    list(map(cached(tmp_path), loader(data=0)(0)))
    guide, live = cached(tmp_path, said=said), Frozen(net(1), torch.float32, CPU)
    for batch in loader(data=1)(0):
        assert torch.equal(guide(batch).logits, live(batch).logits)
    assert len(said) == 1
    with pytest.raises(DataError, match="teacher.cache.mode=require"):
        list(map(cached(tmp_path, strict=True), loader(data=0)(0)))


def test_a_damaged_record_is_asked_for_again(tmp_path):
    batches, said = list(loader()(0)), []
    list(map(cached(tmp_path), batches))
    file = tmp_path / "view-00000.bin"
    content = np.fromfile(file, np.uint32)
    content[5::70] ^= 4
    content.tofile(file)
    guide, live = cached(tmp_path, said=said), Frozen(net(1), torch.float32, CPU)
    for batch in batches:
        assert torch.equal(guide(batch).logits, live(batch).logits)
    assert 0 < len(guide.teacher.sizes) <= 3
    assert ["damaged" in line for line in said] == [True]
    list(map(cached(tmp_path, strict=True), batches))


def test_an_answer_that_is_not_finite_is_not_kept(tmp_path):
    teacher = Counting()
    with torch.no_grad():
        teacher.model.net[-1].bias[0] = torch.nan
    guide, batch = cached(tmp_path, teacher=teacher), next(loader()(0))
    assert guide(batch).logits[:, 0].isnan().all()
    assert guide.store.begun(0).sum() == 0


@pytest.mark.parametrize("combine", ["mean_probability", "mean_logit", "mean_loss", "confidence", "entropy"])
def test_of_several_teachers_each_answer_is_kept(combine, tmp_path):
    def ensemble() -> Ensemble:
        return Ensemble(Committee({"a": net(1), "b": net(2)}), torch.float32, CPU, combine=combine, temperature=lambda: 3.0)

    layout = Layout(2, CLASSES, "fp32")
    for strict in (False, True):
        guide = Cached(ensemble(), layout, store(tmp_path, layout), split().index, strict)
        for batch in loader()(0):
            kept, live = guide(batch), ensemble()(batch)
            assert torch.equal(kept.logits, live.logits)
            assert len(kept.members) == len(live.members)
            for one, other in zip(kept.members, live.members, strict=True):
                assert torch.equal(one.logits, other.logits)
    assert (guide.asked, guide.read) == (0, 48)


# ------------------------------------------------------------------------------------------------ features
MAP, VECTOR = "2", "pooled"
SHAPES = {MAP: (8, 6, 6), VECTOR: (32,)}


def looked_into(seed: int = 1, precision: torch.dtype = torch.float32) -> Frozen:
    """A teacher with a map and a vector tapped, whose maps have their channels last in memory."""
    whole = net(seed)
    whole.taps = tap(whole.net, (VECTOR, MAP), pixels(SIZE), "teacher")
    return Frozen(whole, precision, CPU)


def kept_with_features(
    folder: Path | None, teacher: Frozen, dtype: str = "fp32", strict: bool = False, said: list[str] | None = None
) -> Cached:
    like = features_of(teacher, teacher(next(loader()(0))._replace(view=-1)))
    members = len(teacher.model.names) if isinstance(teacher, Ensemble) else 1
    layout = layout_for(members, CLASSES, dtype, None, {name: feature.shape[1:] for name, feature in like.items()})
    return Cached(teacher, layout, None if folder is None else store(folder, layout, said), split().index, strict, like)


def alike(one: Output, other: Output) -> bool:
    """In every bit, in order and in how they lie in memory."""
    pairs = [(one.logits, other.logits), *zip(one.features.values(), other.features.values(), strict=True)]
    return (
        list(one.features) == list(other.features)
        and all(torch.equal(*pair) and pair[0].stride() == pair[1].stride() and pair[0].dtype == pair[1].dtype for pair in pairs)
        and len(one.members) == len(other.members)
        and all(alike(*pair) for pair in zip(one.members, other.members, strict=True))
    )


def test_features_kept_in_fp32_are_the_teachers_own(tmp_path):
    live = looked_into()
    assert not next(iter(live(next(loader()(0))).features.values())).is_contiguous()
    for strict in (False, True):
        guide = kept_with_features(tmp_path, looked_into(), strict=strict)
        assert dict(guide.layout.features) == SHAPES
        assert all(alike(guide(batch), live(batch)) for epoch in range(4) for batch in loader()(epoch))
    assert (guide.asked, guide.read) == (0, 4 * 48)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_features_are_the_same_to_who_asks_and_who_reads(precision, tmp_path):
    teacher = looked_into(precision=precision)
    first, second, without = (
        kept_with_features(*which, teacher, "fp16", strict)
        for which, strict in (((tmp_path,), False), ((tmp_path,), True), ((None,), False))
    )
    for batch in loader()(0):
        asked, read, live = first(batch), second(batch), teacher(batch)
        assert alike(asked, read)
        assert alike(asked, without(batch))
        for name, feature in live.features.items():
            assert torch.equal(read.features[name], feature.half().float())


@pytest.mark.parametrize("combine", ["mean_probability", "mean_loss"])
def test_of_several_teachers_each_ones_features_are_kept(combine, tmp_path):
    def ensemble() -> Ensemble:
        return Ensemble(Committee({"b": looked_into(1).model, "a": looked_into(2).model}), torch.float32, CPU, combine=combine)

    for strict in (False, True):
        guide, live = kept_with_features(tmp_path, ensemble(), strict=strict), ensemble()
        assert list(live(next(loader()(0))).features) == ["b.logits", "b.2", "b.pooled", "a.logits", "a.2", "a.pooled"]
        assert all(alike(guide(batch), live(batch)) for batch in loader()(0))


def test_a_feature_too_large_for_fp16_is_not_kept_and_that_is_said(tmp_path):
    said: list[str] = []
    teacher, batch = looked_into(), next(loader()(0))
    with torch.no_grad():
        teacher.model.net[1].weight.mul_(1e6)
        teacher.model.net[-1].weight.mul_(1e-6)
    guide = kept_with_features(tmp_path, teacher, "fp16", said=said)
    assert all(guide(batch).logits.isfinite().all() for _ in range(2))
    assert guide.store.begun(0).sum() == 0
    assert len(said) == 1
    assert "set teacher.cache.dtype=fp32" in said[0]


# ------------------------------------------------------------------------------------------------ runs
BANK = ("dataset.views=2", "distill.epochs=3", "dataset.subset=200", "student=resnet8", "trainer.batch_size=64")
ONE = ("trainer.device=cpu", "trainer.precision=fp32", "trainer.threads=1")
FP32 = "teacher.cache.dtype=fp32"


@pytest.fixture
def distil(distillctl, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`distil("folder", "key=value")`: what the shell saw, and the student's weights. The table at the end is not what is tested here."""
    monkeypatch.setattr("distillctl.runs.execute.conclude", lambda session, plan, made: 0.0)

    def run(name: str, *words: str):
        teacher = f"teacher.checkpoint={tiny_run / 'pretrain'}"
        finished = distillctl("distill", teacher, *BANK, *ONE, f"hydra.run.dir={name}", *words, cwd=tmp_path)
        weights = tmp_path / name / "distill/student.safetensors"
        return finished, load_file(weights) if finished.code == 0 else {}

    return run


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return bool(one) and one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def folders(tmp_path: Path, root: str = "outputs/.cache") -> list[Path]:
    return sorted(path.parent for path in (tmp_path / root).glob("*/cache.json"))


@pytest.mark.parametrize("mixup", ["0.0", "0.4"])
def test_a_run_by_kept_answers_ends_at_the_weights_of_a_run_without(mixup, distil, tmp_path):
    words = (f"dataset.augment.mixup={mixup}", FP32)
    _, live = distil("live", "teacher.cache.mode=off", *words)
    first, filling = distil("filling", *words)
    second, reading = distil("reading", "teacher.cache.mode=require", *words)
    assert (first.code, second.code) == (0, 0)
    assert equal(live, filling)
    assert equal(live, reading)
    assert "2 views x 180 images" in first.out
    assert "540 answers were read, 0 asked for" in second.out
    assert len(folders(tmp_path)) == 1


def run_until(folder: Path, cache: Path, teacher: Path, asked: int = 10**9) -> None:
    """Distil by fp16 records, in this process, or go on with it; `asked` is when it is asked to stop."""
    words = [f"teacher.checkpoint={teacher}", *BANK, *ONE, "teacher.cache.mode=fill", f"teacher.cache.dir={cache}"]
    config = configured("distill", folder, *words)
    with session(config, folder, StopAfter(asked)) as running:
        try:
            execute(running)
        except Interrupted:
            assert asked < 10**9


def test_a_killed_run_that_is_resumed_reads_what_it_had_asked(tiny_run, tmp_path, monkeypatch):
    """It lost two steps: the answers to them are there, rounded, and the run that was never killed computed them."""
    monkeypatch.setattr("distillctl.runs.execute.conclude", lambda session, plan, made: 0.0)
    teacher, whole, killed = tiny_run / "pretrain", tmp_path / "whole", tmp_path / "killed"
    run_until(whole, tmp_path / "one", teacher)
    run_until(killed, tmp_path / "other", teacher, asked=1)
    early = checkpoint(killed / "distill")
    shutil.copytree(killed, tmp_path / "early")
    run_until(killed, tmp_path / "other", teacher, asked=2)
    assert checkpoint(killed / "distill")["step"] > early["step"] > 0
    shutil.rmtree(killed)
    shutil.copytree(tmp_path / "early", killed)
    run_until(killed, tmp_path / "other", teacher)
    assert same_stage(whole / "distill", killed / "distill") == []


def test_fresh_views_pay_for_no_cache(distil, tmp_path):
    finished, _ = distil("one", "dataset.views=null", "distill.epochs=1")
    assert finished.code == 0
    assert not (tmp_path / "outputs").exists()


def test_a_sweep_over_seeds_shares_what_one_view_seed_names(distil, tmp_path):
    there = []
    for seed in (0, 1):
        finished, _ = distil(f"seed{seed}", f"seed={seed}", "dataset.view_seed=7", "dataset.views=null", "distill.epochs=2")
        found = re.search(r"; (\d+) are there and (\d+) to be asked for", finished.out)
        assert found, finished.err
        there.append((int(found[1]), int(found[2])))
    assert there == [(0, 360), (360, 0)]  # an epoch takes all 180, in whatever order
    assert len(folders(tmp_path)) == 1


@pytest.mark.parametrize("words", [("loss=[kd,rkd]",), ("loss=[kd,at]", "teacher.cache.features=all")])
def test_a_run_by_kept_features_ends_at_the_weights_of_a_run_without(words, distil):
    _, live = distil("live", "teacher.cache.mode=off", *words)
    first, filling = distil("filling", FP32, *words)
    second, reading = distil("reading", FP32, "teacher.cache.mode=require", *words)
    assert (first.code, second.code) == (0, 0)
    assert equal(live, filling)
    assert equal(live, reading)
    assert "of them features (" in first.out
    assert "answers were read, 0 asked for" in second.out


def test_the_size_of_maps_is_said_before_they_are_kept(distil, tmp_path):
    """4 bytes for each of 8 x 8 x 16, 4 x 4 x 32 and 2 x 2 x 64 numbers and 10 logits, and 8; resnet8 on 180 images."""
    finished, _ = distil("maps", "loss=at", "teacher.cache.features=all", FP32)
    [folder] = folders(tmp_path)
    assert (
        "a record has 7,216 bytes, 7,168 of them features (stage1 [16, 8, 8], stage2 [32, 4, 4], stage3 [64, 2, 2]); 1.2 MiB a view, 2.5 MiB in all"
        in finished.out
    )
    assert {file.stat().st_size for file in folder.glob("view-*.bin")} == {7216 * 180}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("loss=at",),
            "maps are read (stage1, stage2, stage3), and teacher.cache.features=vectors keeps none of them; teacher.cache.features=all would, in 634.9 KiB",
        ),
        (
            ("loss=rkd", "teacher.cache.features=none"),
            "(pooled), and teacher.cache.features=none keeps none of them; teacher.cache.features=vectors would, in 27.4 KiB",
        ),
    ],
)
def test_what_is_not_kept_is_said_with_the_key_that_would_and_its_price(words, said, distil, tmp_path):
    finished, _ = distil("live", *words)
    assert finished.code == 0
    assert f"{said} a view" in finished.out
    assert not folders(tmp_path)


def test_a_required_map_behind_a_name_of_its_own_is_one_line(distil):
    """Of a path in the net nothing tells beforehand that a map comes out there."""
    finished, _ = distil("required", "loss=fitnet", "loss.fitnet.teacher=stage2.0", "teacher.cache.mode=require")
    assert finished.code == 2
    assert finished.err.startswith("error: teacher.cache.mode=require: its feature maps are read (stage2.0), and")
    assert finished.err.endswith("set teacher.cache.features=all, or teacher.cache.mode=off\n")


def test_a_loss_of_labels_alone_keeps_nothing(distil, tmp_path):
    finished, _ = distil("labels", "loss=ce", "teacher.cache.mode=fill")
    assert finished.code == 0
    assert not folders(tmp_path)


@pytest.mark.parametrize("word", ["loss=[kd,at]", "method=simkd"])
def test_who_looks_inside_the_teacher_asks_it_itself(word, distil, tmp_path):
    finished, _ = distil("filling", word, "distill.epochs=1", "teacher.cache.mode=fill")
    assert (finished.code, finished.err) == (0, "")
    assert "teacher: asked at every step, as " in finished.out
    refused, _ = distil("required", word, "distill.epochs=1", "teacher.cache.mode=require")
    assert refused.code == 2
    assert refused.err.startswith("error: teacher.cache.mode=require: ")
    assert not folders(tmp_path)


def test_a_required_cache_that_is_missing_or_short_is_one_line_before_training(distil, tmp_path):
    nothing, _ = distil("nothing", "teacher.cache.mode=require")
    assert nothing.code == 3
    assert "has no answers of this teacher to these views: there is none yet; fill it with distillctl cache action=fill" in nothing.err
    assert distil("filling")[0].code == 0
    other, _ = distil("other", "teacher.cache.mode=require", "dataset.view_seed=5")
    assert other.code == 3
    assert "differs in view_seed (0, here 5)" in other.err
    inside, _ = distil("inside", "teacher.cache.mode=require", "loss=rkd")
    assert inside.code == 3
    assert "differs in features ({}, here {'pooled': [64]})" in inside.err
    longer, _ = distil("longer", "teacher.cache.mode=require", "dataset.views=3")
    assert longer.code == 3
    assert "lacks 180 of the " in longer.err
    assert all(finished.err.count("\n") == 1 for finished in (nothing, other, inside, longer))
    assert all("  epoch " not in finished.out for finished in (nothing, other, inside, longer))


DECIDING = (
    "",
    "dataset.subset=190",
    "dataset.split_seed=3",
    "dataset.image_size=12",
    "dataset.augment.pad=2",
    "dataset.augment.mixup=0.1",
    "dataset.view_seed=9",
    "seed=1",
    "trainer.channels_last=false",
    "teacher.cache.dtype=fp32",
    "teacher.cache.top_k=3",
    "teacher.fold_batchnorm=false",
    "loss=rkd",
)


def test_whatever_decides_an_answer_has_a_cache_of_its_own(distil, tmp_path, monkeypatch):
    monkeypatch.setattr("distillctl.runs.train.Stage.run", lambda stage: (_ for _ in ()).throw(DataError("far enough")))
    for number, word in enumerate(DECIDING, start=1):
        finished, _ = distil(f"run{number}", *word.split())
        assert finished.err == "error: far enough\n"
        assert "0 are there" in finished.out
        assert len(folders(tmp_path)) == number, word


def test_other_weights_and_other_versions_have_a_cache_of_their_own(distil, tiny_run, tmp_path, monkeypatch):
    from distillctl import outputs
    from distillctl.data.image import loader
    from distillctl.runs import keys
    from distillctl.teachers import store as files

    monkeypatch.setattr("distillctl.runs.train.Stage.run", lambda stage: (_ for _ in ()).throw(DataError("far enough")))
    distil("one")
    distil("two", f"teacher.checkpoint={tiny_run / 'distill'}")
    assert len(folders(tmp_path)) == 2
    for number, (place, name, value) in enumerate(
        [
            (outputs, "versions", lambda whole=outputs.versions: {**whole(), "torch": "99"}),
            (keys, "FORMAT_VERSION", files.FORMAT_VERSION + 1),
            (loader, "VIEW_SCHEME", 99),
        ]
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, value)
            distil(f"version{number}")
        assert len(folders(tmp_path)) == 3 + number


def test_the_code_of_a_net_of_ones_own_decides(tmp_path, monkeypatch):
    from distillctl import outputs
    from distillctl.runs.keys import code_of

    file = tmp_path / "ownnet.py"
    file.write_text("from torch import nn\n\nclass Net(nn.Sequential):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    net = importlib.import_module("ownnet").Net()
    before = code_of(net)
    assert before.keys() == {"ownnet"}
    file.write_text(file.read_text() + "    slope = 2\n")
    outputs.sources.cache_clear()  # another process has none
    assert code_of(net) != before
    assert code_of(nn.Linear(1, 1)) == {}


def test_a_shard_of_another_cache_is_not_believed(distil, tmp_path):
    _, live = distil("live", "teacher.cache.mode=off", "seed=1")
    distil("one", FP32)
    [wrong] = folders(tmp_path)
    distil("two", FP32, "seed=1")
    [right] = [folder for folder in folders(tmp_path) if folder != wrong]
    for file in right.glob("view-*.bin"):
        shutil.copy(wrong / file.name, file)
    finished, weights = distil("three", FP32, "seed=1")
    assert finished.code == 0
    assert "damaged records (checksum mismatch) are not used" in finished.out
    assert equal(live, weights)


def test_a_full_disk_costs_one_warning_and_not_the_run(distil, tmp_path, monkeypatch):
    from distillctl.teachers import store as files

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    _, live = distil("live", "teacher.cache.mode=off")
    monkeypatch.setattr(files.os, "pwrite", full)
    finished, weights = distil("full", FP32)
    assert (finished.code, finished.err) == (0, "")
    assert finished.out.count("No space left on device") == 1
    assert equal(live, weights)


def test_too_little_room_is_noticed_before_training(distil, tmp_path, monkeypatch):

    monkeypatch.setattr(keeping, "SPARE", 2**60)
    finished, _ = distil("filling", "teacher.cache.mode=fill")
    assert finished.code == 5
    assert finished.err.count("\n") == 1
    assert "set teacher.cache.dir" in finished.err
    assert "  epoch " not in finished.out


def test_a_folder_that_cannot_be_made_stops_who_demands_it_and_nobody_else(distil, tmp_path):
    (tmp_path / "file").write_text("")
    words = ("teacher.cache.dir=file", "distill.epochs=3", FP32)
    refused, _ = distil("refused", *words, "teacher.cache.mode=fill")
    assert refused.code == 5
    assert refused.err.count("\n") == 1
    finished, weights = distil("going-on", *words)
    assert finished.code == 0
    assert "warning: file/" in finished.out
    assert equal(weights, distil("live", "teacher.cache.mode=off")[1])


# ------------------------------------------------------------------------------------------------ the command
def test_caches_are_listed_verified_and_removed(distil, distillctl, tmp_path):
    empty = distillctl("cache", cwd=tmp_path)
    assert (empty.code, empty.err) == (0, "")
    assert "no answers are kept" in empty.out
    distil("one", "teacher.cache.dir=kept")
    [folder] = folders(tmp_path, "kept")
    listed = distillctl("cache", cwd=tmp_path, env={"DISTILLCTL_CACHE": "kept"})
    assert (listed.code, listed.err) == (0, "")
    for word in (folder.name[:8], "resnet8", "digits", "fp16"):
        assert word in listed.out
    good = distillctl("cache", "action=verify", "dir=kept", cwd=tmp_path)
    assert (good.code, good.err) == (0, "")
    assert "0 are damaged" in good.out
    content = np.fromfile(folder / "view-00001.bin", np.uint32).reshape(180, -1)
    content[np.flatnonzero(content[:, -1])[3], 2] ^= 1
    content.tofile(folder / "view-00001.bin")
    bad = distillctl("cache", "action=verify", "dir=kept", cwd=tmp_path)
    assert bad.code == 3
    assert bad.err.startswith("error: 1 damaged records")
    young = distillctl("cache", "action=prune", "older_than_days=1", "dir=kept", cwd=tmp_path)
    assert "0 of 1 removed" in young.out
    gone = distillctl("cache", "action=prune", "all=true", "dir=kept", cwd=tmp_path)
    assert (gone.code, gone.err) == (0, "")
    assert "1 of 1 removed" in gone.out
    assert not folder.exists()


@pytest.mark.parametrize(
    "words",
    [
        ("action=prune",),
        ("all=true",),
        ("action=verify", "older_than_days=3"),
        ("action=clear",),
        ("action=prune", "all=true", "teacher.checkpoint=run"),
        ("dataset=mnist",),
    ],
)
def test_what_the_command_cannot_do_is_one_line(words, distillctl, tmp_path):
    finished = distillctl("cache", *words, cwd=tmp_path)
    assert finished.code == 2
    assert finished.err.count("\n") == 1


def test_a_description_says_in_plain_words_what_decides(distil, tmp_path):
    distil("one", "distill.epochs=3")
    [folder] = folders(tmp_path)
    parts = json.loads((folder / "cache.json").read_text())["parts"]
    assert parts["teacher"] == "resnet8"
    assert (parts["precision"], parts["device"], parts["view_seed"], parts["classes"], parts["samples"]) == ("fp32", "cpu", 0, 10, 180)
    assert replace(AugmentConfig(), **parts["augment"]).pad == 1
