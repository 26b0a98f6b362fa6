"""A view is a pure function of (seed, view, index), and holds what torchvision's transform of the same name would make."""

import hashlib
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from distillctl.config import AugmentConfig
from distillctl.data.image import crops, policies
from distillctl.data.image.augment import Augment
from distillctl.data.image.policies import OPERATIONS, RANDAUGMENT, TRIVIALAUGMENT

PLAIN: dict[str, Any] = {"crop": "none", "flip": 0.0}
EVERYTHING: list[dict[str, Any]] = [
    {"crop": "pad", "policy": "randaugment", "num_ops": 3, "magnitude": 11, "erasing": 0.6, "mixup": 0.4, "cutmix": 1.0},
    {"crop": "resized", "policy": "trivialaugment", "erasing": 0.6, "mixup": 0.4},
    {"crop": "none", "policy": "trivialaugment", "flip": 0.3, "cutmix": 1.0},
]


def pictures(count: int, side: int = 32, width: int | None = None) -> Tensor:
    """uint8 [B, 3, H, W]: smooth, noisy, dull and two-coloured images in turn."""
    generator = torch.Generator().manual_seed(count)
    width = width or side
    noisy = torch.randint(0, 256, (count, 3, side, width), generator=generator, dtype=torch.uint8)
    smooth = F.interpolate(torch.rand(count, 3, 4, 4, generator=generator) * 255, (side, width), mode="bilinear").byte()
    kinds = torch.stack([smooth, noisy, smooth // 4 + 60, ((smooth > 128) * 200 + 20).byte()])
    return kinds[torch.arange(count) % 4, torch.arange(count)]


def augment(image_size: int = 32, seed: int = 5, **options: Any) -> Augment:
    return Augment(AugmentConfig(**options), image_size, num_classes=10, seed=seed)


def whole_view(made: Augment, images: Tensor, targets: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Views of the first half mixed with views of the second."""
    views, half = made.views(images, index, 3), len(images) // 2
    return made.mix(views[:half], views[half:], targets[:half], targets[half:], index[:half], 3)


# Purity


@pytest.mark.parametrize("options", EVERYTHING, ids=lambda options: options["crop"])
@pytest.mark.parametrize("size", [1, 7, 128])
def test_a_view_does_not_depend_on_its_batch(options, size):
    made, images, index = augment(**options), pictures(128), torch.randperm(128, generator=torch.Generator().manual_seed(0)) + 49_000
    whole = made.views(images, index, 3)
    order = torch.arange(128).flip(0)[: 4 * size]
    for rows in order.split(size):
        assert torch.equal(augment(**options).views(images[rows], index[rows], 3), whole[rows])


@pytest.mark.parametrize("options", EVERYTHING, ids=lambda options: options["crop"])
def test_a_mixture_does_not_depend_on_its_batch_or_the_threads(options):
    images, index = pictures(64), torch.arange(64) + 100
    targets = index % 10
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        mixed, shares = whole_view(augment(**options), images, targets, index)
        torch.set_num_threads(2)
        again, same = whole_view(augment(**options), images, targets, index)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(mixed, again)
    assert torch.equal(shares, same)
    for row in (0, 9, 31):
        pair = torch.tensor([row, row + 32])
        alone, share = whole_view(augment(**options), images[pair], targets[pair], index[pair])
        assert torch.equal(alone[0], mixed[row])
        assert torch.equal(share[0], shares[row])


@pytest.mark.parametrize("crop", ["pad", "resized"])
def test_large_images_in_pieces_are_the_same_as_one_by_one(crop):
    made, images, index = augment(image_size=160, crop=crop, policy="randaugment"), pictures(16, side=192), torch.arange(16)
    assert images.numel() > 2**20
    whole = made.views(images, index, 0)
    assert whole.shape == (16, 3, 160, 160)
    assert torch.equal(whole[11:12], made.views(images[11:12], index[11:12], 0))


@pytest.mark.parametrize("options", EVERYTHING, ids=lambda options: options["crop"])
def test_inputs_are_not_changed_and_memory_layout_does_not_matter(options):
    made, images, index = augment(**options), pictures(16), torch.arange(16)
    kept = images.clone()
    mixed, _ = whole_view(made, images, index % 10, index)
    assert torch.equal(images, kept)
    channels_last = images.to(memory_format=torch.channels_last)
    assert torch.equal(whole_view(made, channels_last, index % 10, index)[0], mixed)


def test_views_seeds_and_samples_differ():
    images, index = pictures(1).expand(64, -1, -1, -1), torch.arange(64)
    views = augment(seed=5).views(images, index, 0)
    assert len(views.flatten(1).unique(dim=0)) > 45  # of 9 x 9 corners x 2
    assert not torch.equal(views, augment(seed=5).views(images, index, 1))
    assert not torch.equal(views, augment(seed=6).views(images, index, 0))


def test_the_views_are_the_ones_that_caches_were_written_for():
    """If this fails, a view changed its bytes: every cached answer is now for other views. Raise VIEW_SCHEME."""
    images = (torch.arange(8 * 3 * 16 * 16) * 7919 % 256).byte().view(8, 3, 16, 16)
    digest = hashlib.sha256()
    for options in EVERYTHING:
        mixed, shares = whole_view(augment(image_size=16, **options), images, torch.arange(8), torch.arange(8) + 1000)
        digest.update(mixed.numpy().tobytes())
        digest.update(shares.numpy().tobytes())
    assert digest.hexdigest()[:16] == "e11c810d80e85a1b"


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    for options in EVERYTHING:
        whole_view(augment(**options), pictures(8), torch.arange(8), torch.arange(8))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("options", EVERYTHING, ids=lambda options: options["crop"])
def test_cuda_makes_the_same_bytes(options):
    images, index = pictures(64), torch.arange(64)
    mixed, shares = whole_view(augment(**options), images, index % 10, index)
    on_device = whole_view(augment(**options), images.cuda(), (index % 10).cuda(), index.cuda())
    assert torch.equal(on_device[0].cpu(), mixed)
    assert torch.equal(on_device[1].cpu(), shares)


# Crop and flip


def test_everything_off_is_the_image_as_it_is():
    images = pictures(4)
    assert torch.equal(augment(**PLAIN).views(images, torch.arange(4), 0), images)


def test_a_padded_crop_is_a_window_of_the_padded_image():
    images = pictures(120)
    views = augment(crop="pad", flip=0.5).views(images, torch.arange(120), 0)
    padded, found = F.pad(images, (4, 4, 4, 4)), set()  # 4 = 32 / 8
    for image, view in zip(padded, views, strict=True):
        windows = image.unfold(1, 32, 1).unfold(2, 32, 1).permute(1, 2, 0, 3, 4)
        plain, mirrored = ((windows == seen).flatten(2).all(2).nonzero().tolist() for seen in (view, view.flip(-1)))
        assert plain or mirrored
        found |= {tuple(place) for place in plain + mirrored}
    assert {top for top, _ in found} == {left for _, left in found} == set(range(9))


def test_a_flip_is_as_frequent_as_asked():
    images = pictures(1, side=8).expand(4000, -1, -1, -1)
    for probability in (0.0, 0.25, 1.0):
        views = augment(image_size=8, crop="none", flip=probability).views(images, torch.arange(4000), 0)
        flipped = (views == images.flip(-1)).flatten(1).all(1)
        assert ((views == images).flatten(1).all(1) | flipped).all()
        assert abs(flipped.double().mean() - probability) < 0.03


@pytest.mark.parametrize(("side", "size"), [(32, 32), (40, 24), (64, 16), (16, 32)])
def test_a_resized_crop_is_an_antialiased_bilinear_resize_of_the_box(side, size):
    """Within 2 levels: weights are multiples of 1/256, and both passes round."""
    images, index = pictures(12, side=side), torch.arange(12)
    made = augment(image_size=size, crop="resized", flip=0.0)
    views = made.views(images, index, 1)
    for image, view, name in zip(images, views, index.tolist(), strict=True):
        top, left, height, width = made.crop_box(side, side, name, 1)
        cut = image[None, :, top : top + height, left : left + width].float()
        expected = F.interpolate(cut, (size, size), mode="bilinear", antialias=True)[0]
        assert (view - expected).abs().max() <= 2


def test_a_resized_crop_of_the_whole_image_to_its_own_size_is_exact():
    images = pictures(4)
    boxes = torch.tensor([0, 0, 32, 32])[:, None].expand(4, 4)
    assert torch.equal(crops.resampled(images, boxes, torch.zeros(4, dtype=torch.bool), 32), images)
    assert torch.equal(crops.resampled(images, boxes, torch.ones(4, dtype=torch.bool), 32), images.flip(-1))


def test_crop_boxes_have_the_area_and_ratio_asked_for():
    boxes, found = crops.drawn_boxes(300, 400, (0.08, 1.0), (3 / 4, 4 / 3), 0, "crop", 0, torch.arange(5000))
    top, left, height, width = boxes
    area, ratio = height * width / (300 * 400), width / height
    assert found.float().mean() > 0.99
    assert ((top >= 0) & (left >= 0) & (top + height <= 300) & (left + width <= 400)).all()
    assert 0.078 < area[found].min() < 0.09
    assert ratio[found].min() > 0.74
    assert ratio[found].max() < 1.35
    assert abs(ratio[found & (area < 0.3)].log().mean()) < 0.02


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 200), (375, 500), (5000, 10)])
def test_a_crop_box_lies_inside_an_image_of_any_shape(height, width):
    made = augment(crop="resized")
    for index in range(20):
        top, left, tall, wide = made.crop_box(height, width, index, 0)
        assert all(type(number) is int for number in (top, left, tall, wide))
        assert 0 <= top < top + tall <= height
        assert 0 <= left < left + wide <= width


def test_a_strip_gets_the_central_box_of_the_most_extreme_ratio():
    assert augment(crop="resized").crop_box(30, 3000, 0, 0) == (0, 1480, 30, 40)


@pytest.mark.parametrize("options", EVERYTHING, ids=lambda options: options["crop"])
def test_a_view_is_its_crop_and_what_comes_after_decoding(options):
    images, index = pictures(24), torch.arange(24)
    crop_only = augment(crop=options["crop"], flip=0.0).views(images, index, 2)
    made = augment(**options)
    assert torch.equal(made.after_decoding(crop_only, index, 2), made.views(images, index, 2))


# Policies, against torchvision


def affine(images: Tensor, translate: tuple[int, int] = (0, 0), shear: tuple[float, float] = (0.0, 0.0)) -> Tensor:
    degrees = [math.degrees(math.atan(tangent)) for tangent in shear]
    # shears leave the upper left corner where it is
    return reference.affine(images, 0.0, list(translate), 1.0, degrees, InterpolationMode.NEAREST, center=[0, 0] if any(shear) else None)


def expected(operation: str, images: Tensor, strength: int, wide: bool) -> Tensor:
    """What torchvision does in RandAugment and, if wide, in TrivialAugmentWide, with exact magnitudes."""
    share = strength / 30
    height, width = images.shape[2:]
    shear, factor = share * (0.99 if wide else 0.3), 1 + share * (0.99 if wide else 0.9)
    across, down = (int(strength * 32 / 30) if wide else int(strength / 30 * 150 / 331 * side) for side in (width, height))
    changes: dict[str, Callable[[], Tensor]] = {
        "identity": lambda: images,
        "shear_x": lambda: affine(images, shear=(shear, 0.0)),
        "shear_y": lambda: affine(images, shear=(0.0, shear)),
        "translate_x": lambda: affine(images, translate=(across, 0)),
        "translate_y": lambda: affine(images, translate=(0, down)),
        "rotate": lambda: reference.rotate(images, share * (135 if wide else 30), InterpolationMode.NEAREST),
        "brightness": lambda: reference.adjust_brightness(images, factor),
        "color": lambda: reference.adjust_saturation(images, factor),
        "contrast": lambda: reference.adjust_contrast(images, factor),
        "sharpness": lambda: reference.adjust_sharpness(images, factor),
        "posterize": lambda: reference.posterize(images, 8 - round(abs(strength) * (6 if wide else 4) / 30)),
        "solarize": lambda: reference.solarize(images, 255 * (30 - abs(strength)) / 30),
        "autocontrast": lambda: reference.autocontrast(images),
        "equalize": lambda: reference.equalize(images),
    }
    return changes[operation]()


def undecided(operation: str, height: int, width: int, strength: int, wide: bool) -> Tensor:
    """bool [H, W]: the pixels that a shear takes from exactly between two, where torchvision's float32 noise decides."""
    shear_per_mille = abs(strength) * (33 if wide else 10)
    if operation == "shear_x":
        tie = (2 * torch.arange(height) + 1)[:, None] * shear_per_mille % 2000 == 1000
    elif operation == "shear_y":
        tie = (2 * torch.arange(width) + 1)[None, :] * shear_per_mille % 2000 == 1000
    else:
        tie = torch.zeros(1, 1, dtype=torch.bool)
    return tie.expand(height, width)


@pytest.mark.parametrize("wide", [False, True], ids=["randaugment", "trivialaugment"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_is_torchvisions(operation, wide):
    """Exact where pixels move or bits do; within one level where torchvision rounds float32 products."""
    tolerance = 1 if operation in ("brightness", "color", "contrast", "sharpness", "autocontrast") else 0
    for height, width in ((32, 32), (20, 27)):
        images = pictures(8, side=height, width=width)
        images[7] = 77
        for strength in range(-30, 31, 5 if operation in ("posterize", "autocontrast", "equalize") else 3):
            ours = policies.changed(
                images,
                torch.full((8,), OPERATIONS.index(operation)),
                torch.full((8,), strength),
                TRIVIALAUGMENT if wide else RANDAUGMENT,
            )
            gap = (ours.int() - expected(operation, images, strength, wide).int()).abs()
            decided = ~undecided(operation, height, width, strength, wide)
            assert gap[..., decided].max() <= tolerance, (height, width, strength)
            assert (gap > 0).double().mean() < 0.1


def test_each_image_of_a_batch_gets_its_own_operation():
    images = pictures(14)
    operation, strength = torch.arange(14), torch.arange(14) * 2 - 13
    together = policies.changed(images, operation, strength, RANDAUGMENT)
    for row in range(14):
        alone = policies.changed(images[row : row + 1], operation[row : row + 1], strength[row : row + 1], RANDAUGMENT)
        assert torch.equal(alone[0], together[row])


def test_an_image_by_hand():
    image = torch.tensor([[10, 20], [30, 250]], dtype=torch.uint8).expand(1, 3, 2, 2)

    def by(name: str, strength: int) -> list[list[int]]:
        return policies.changed(image, torch.tensor([OPERATIONS.index(name)]), torch.tensor([strength]), RANDAUGMENT)[0, 0].tolist()

    assert by("brightness", 10) == [[13, 26], [39, 255]]  # x 1.3
    assert by("brightness", -30) == [[1, 2], [3, 25]]  # x 0.1
    assert by("posterize", 30) == [[0, 16], [16, 240]]  # 4 bits
    assert by("solarize", 30) == [[245, 235], [225, 5]]  # threshold 0
    assert by("solarize", 15) == [[10, 20], [30, 5]]
    assert by("autocontrast", 0) == [[0, 10], [21, 255]]  # (v - 10) x 255 / 240
    assert by("translate_x", 30) == [[10, 20], [30, 250]]  # 0.9 of a pixel: none


def test_policies_draw_every_operation_and_both_signs():
    images = pictures(1, side=8).expand(3000, -1, -1, -1)
    views = augment(image_size=8, **PLAIN, policy="trivialaugment").views(images, torch.arange(3000), 0)
    assert len(views.flatten(1).unique(dim=0)) > 200
    unchanged = (views == images).flatten(1).all(1).double().mean()
    assert unchanged > 1 / 14 - 0.02


# Erasing


def test_erasing_blackens_one_box_as_often_as_asked():
    images = torch.full((1000, 3, 32, 32), 255, dtype=torch.uint8)
    views = augment(**PLAIN, erasing=0.5).views(images, torch.arange(1000), 0)
    black = views == 0
    assert (black | (views == 255)).all()
    assert torch.equal(black.any(1), black.all(1))
    area = black[:, 0].sum((1, 2))
    assert abs((area > 0).double().mean() - 0.5) < 0.06
    rows, columns = black[:, 0].any(2).sum(1), black[:, 0].any(1).sum(1)
    assert torch.equal(area, rows * columns)
    assert area.max() <= 0.36 * 32 * 32
    assert area[area > 0].min() >= 0.01 * 32 * 32


# Mixing


@pytest.mark.parametrize("n", [0, 1, 2, 7, 1000])
def test_partners_are_each_others(n):
    partner = augment(mixup=1.0).partners(n, 4)
    assert torch.equal(partner[partner], torch.arange(n))
    assert int((partner == torch.arange(n)).sum()) == n % 2


def test_partners_change_with_the_view_and_come_back():
    made = augment(mixup=1.0)
    first, second = made.partners(100, 0), made.partners(100, 1)
    assert not torch.equal(first, second)
    second.zero_()  # what callers do with theirs is their business
    assert torch.equal(made.partners(100, 1), augment(cutmix=1.0).partners(100, 1))
    assert torch.equal(made.partners(100, 0), first)


def test_mixing_is_off_by_default():
    assert not augment().mixes
    assert augment(mixup=0.1).mixes
    assert augment(cutmix=0.1).mixes


def black_and_white(count: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """White images of class 1, their black partners of class 2."""
    white = torch.full((count, 3, 16, 16), 255, dtype=torch.uint8)
    return white, torch.zeros_like(white), torch.full((count,), 1), torch.full((count,), 2), torch.arange(count)


def test_mixup_mixes_images_and_targets_by_the_same_share():
    mixed, targets = augment(mixup=1.0).mix(*black_and_white(500), 0)
    share = targets[:, 1]
    assert targets.dtype == torch.float32
    assert torch.equal(targets[:, 1] + targets[:, 2], torch.ones(500))
    assert torch.equal(targets.sum(1), torch.ones(500))
    assert (mixed[:, :, 0, 0] == (share * 255).round()[:, None]).all()
    assert torch.equal(mixed, mixed[:, :, :1, :1].expand_as(mixed))
    assert abs(share.mean() - 0.5) < 0.06
    assert abs(share.var() - 1 / 12) < 0.02


def test_cutmix_counts_the_pixels_that_are_left():
    mixed, targets = augment(cutmix=1.0).mix(*black_and_white(500), 0)
    left = (mixed[:, 0] == 255).double().mean((1, 2))
    assert torch.equal(targets[:, 1], left.float())
    assert torch.equal(targets.sum(1), torch.ones(500))
    black = mixed[:, 0] == 0
    assert torch.equal(black.sum((1, 2)), black.any(1).sum(1) * black.any(2).sum(1))  # one box
    assert 0.5 < left.mean() < 0.75  # boxes are cut off at the edges


def test_with_both_on_each_sample_gets_one_of_the_two():
    white, black, own, other, index = black_and_white(500)
    both, _ = augment(mixup=1.0, cutmix=1.0).mix(white, black, own, other, index, 0)
    mixup, _ = augment(mixup=1.0).mix(white, black, own, other, index, 0)
    cutmix, _ = augment(cutmix=1.0).mix(white, black, own, other, index, 0)
    is_mixup, is_cutmix = ((both == made).flatten(1).all(1) for made in (mixup, cutmix))
    assert (is_mixup | is_cutmix).all()
    assert 0.4 < is_mixup.double().mean() < 0.6


@pytest.mark.parametrize("options", [{"mixup": 0.3}, {"cutmix": 1.0}], ids=str)
def test_a_sample_that_is_its_own_partner_stays_as_it_is(options):
    images, index = pictures(20), torch.arange(20)
    mixed, targets = augment(**options).mix(images, images, index % 10, index % 10, index, 0)
    assert torch.equal(mixed, images)
    assert torch.equal(targets, F.one_hot(index % 10, 10).float())
