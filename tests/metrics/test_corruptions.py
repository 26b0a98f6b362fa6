"""Corruptions: the same for the same image wherever it comes, worse with every severity, and as far as it goes what the formulas say."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor, nn

from distillctl.errors import ConfigError
from distillctl.metrics import corrupted, corruptions
from distillctl.metrics.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from distillctl.runtime import Runtime
from distillctl.types import Batch, Output

PLACE = Runtime(torch.device("cpu"), torch.float32)
NAMES = sorted(CORRUPTIONS)


def pictures(count: int = 6, size: int = 32) -> Tensor:
    """Pieces of the two photos that scikit-learn brings along: edges, textures and sky."""
    photos = [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    places = [(100, 60), (200, 150), (300, 60), (150, 200), (260, 100), (60, 120)]
    pieces = [
        photos[place % 2].resize((size, size), Image.Resampling.BILINEAR, (x, y, x + 200, y + 200)) for place, (x, y) in enumerate(places)
    ]
    return torch.stack([torch.from_numpy(np.array(piece)).permute(2, 0, 1) for piece in pieces[:count]])


def test_there_are_ten():
    assert len(CORRUPTIONS) == 10
    assert all(len(small) == len(large) == len(SEVERITIES) for _, small, large in CORRUPTIONS.values())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [32, 224])
def test_bytes_go_in_and_come_out_and_severities_grow(name, size):
    images = pictures(size=size)
    kept, index = images.clone(), torch.arange(len(images)) + 40
    errors = []
    for severity in SEVERITIES:
        found = corrupt(images, index, name, severity)
        assert (found.dtype, found.shape) == (torch.uint8, images.shape)
        errors.append((found.double() - images.double()).square().mean().item())
    assert torch.equal(images, kept)
    # of ImageNet-C's fog severities 3 and 4 have one weight, and differ in roughness alone
    least = 0.95 if (name, size) == ("fog", 224) else 1
    assert all(after >= least * before for before, after in pairwise(errors))
    assert errors[-1] > 1.1 * errors[0]


@pytest.mark.parametrize("name", NAMES)
def test_tiny_images_and_those_that_are_not_square_are_taken(name):
    for shape in ((8, 8), (5, 7), (1, 1), (100, 90)):
        images = pictures(2, 128)[:, :, : shape[0], : shape[1]].contiguous()
        for severity in SEVERITIES:
            assert corrupt(images, torch.arange(2), name, severity).shape == images.shape


@pytest.mark.parametrize("name", NAMES)
def test_the_batch_does_not_matter(name):
    images, index = pictures(), torch.tensor([5, 0, 77, 3, 2**31, 9])
    whole = corrupt(images, index, name, 3)
    for place in (0, 4):
        assert torch.equal(corrupt(images[place : place + 1], index[place : place + 1], name, 3)[0], whole[place])
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    assert torch.equal(corrupt(images[order], index[order], name, 3), whole[order])


@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise", "impulse_noise", "fog"])
def test_each_sample_and_each_seed_has_its_own_draws(name):
    twins = pictures(1).expand(2, -1, -1, -1)
    one, other = corrupt(twins, torch.tensor([1, 2]), name, 4)
    assert not torch.equal(one, other)
    assert not torch.equal(corrupt(twins[:1], torch.tensor([1]), name, 4, seed=1)[0], one)
    assert torch.equal(corrupt(twins[:1], torch.tensor([1]), name, 4)[0], one)


def grays(value: int, size: int = 64) -> Tensor:
    return torch.full((1, 3, size, size), value, dtype=torch.uint8)


def test_gaussian_noise_has_the_deviation():
    found = corrupt(grays(128), torch.tensor([0]), "gaussian_noise", 5).double() / 255
    assert found.mean().item() == pytest.approx(128 / 255, abs=0.004)
    assert found.std().item() == pytest.approx(0.10, rel=0.03)


@pytest.mark.parametrize("value", [0, 20, 128])
def test_shot_noise_has_the_law_of_poisson(value):
    photons = 50
    counts = corrupt(grays(value), torch.tensor([0]), "shot_noise", 5).double() / 255 * photons
    mean = value / 255 * photons
    assert counts.mean().item() == pytest.approx(mean, abs=4 * math.sqrt(mean / counts.numel()) + 0.01)
    assert counts.var().item() == pytest.approx(mean, rel=0.06, abs=1e-9)


def test_the_table_of_poisson_is_its_distribution():
    levels, first = corruptions.poisson_levels(50)
    mean, count = 128 / 255 * 50, 30
    expected = sum(math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(count + 1))
    assert levels[first[128] + count].item() - 2 * 128 == pytest.approx(expected, abs=1e-12)
    assert (levels.diff() >= 0).all()


def test_impulse_noise_is_half_salt_and_half_pepper():
    found = corrupt(grays(128), torch.tensor([0]), "impulse_noise", 5)
    salt, pepper = ((found == value).double().mean().item() for value in (255, 0))
    assert salt == pytest.approx(0.035, abs=0.006)
    assert pepper == pytest.approx(0.035, abs=0.006)
    assert ((found == 128) | (found == 255) | (found == 0)).all()


def test_contrast_and_brightness_by_hand():
    image = torch.tensor([[[0, 100], [200, 100]], [[0, 50], [100, 50]], [[0, 0], [40, 0]]], dtype=torch.uint8)[None]
    found = corrupt(image, torch.tensor([0]), "contrast", 2)[0]  # half way to the means 100, 50 and 10
    assert found.tolist() == [[[50, 100], [150, 100]], [[25, 50], [75, 50]], [[5, 5], [25, 5]]]
    found = corrupt(image, torch.tensor([0]), "brightness", 4)[0]  # 51 of 255 more of the largest channel, the others in proportion
    assert found[:, 0, 0].tolist() == [51, 51, 51]
    assert found[:, 1, 0].tolist() == [251, 126, 50]


def test_pixelate_is_pillows_box_twice():
    image = pictures(1)
    picture = Image.fromarray(image[0].permute(1, 2, 0).numpy())
    expected = picture.resize((20, 20), Image.Resampling.BOX).resize((32, 32), Image.Resampling.BOX)  # int(32 * 0.65)
    assert np.array_equal(corrupt(image, torch.tensor([0]), "pixelate", 5)[0].permute(1, 2, 0).numpy(), np.array(expected))


@pytest.mark.parametrize("name", ["defocus_blur", "zoom_blur"])
@pytest.mark.parametrize("size", [32, 96])
def test_blurs_leave_an_even_image_as_it_is(name, size):
    assert torch.equal(corrupt(grays(77, size), torch.tensor([0]), name, 5), grays(77, size))


@pytest.mark.parametrize("disk", [(0.3, 0.4), (1.5, 0.1), (3, 0.1), (8, 0.5), (10, 0.5)])
def test_a_disk_weighs_one_and_is_round(disk):
    kernel = corruptions.disk_kernel(*disk)[0, 0]
    assert kernel.sum().item() == pytest.approx(1, abs=1e-12)
    assert torch.allclose(kernel, kernel.T)
    assert torch.allclose(kernel, kernel.flip(0))
    assert len(kernel) <= 2 * (disk[0] + 3) + 1


def test_wide_kernels_filter_as_narrow_ones_do():
    values, kernel = torch.rand(3, 1, 60, 60, dtype=torch.float64), corruptions.disk_kernel(6, 0.5)
    assert torch.allclose(corruptions.filtered(values, kernel), nn.functional.conv2d(values, kernel), atol=1e-12)


def test_fog_lies_in_its_range():
    heights = corruptions.plasma(np.random.default_rng(0).uniform(-1, 1, 32 * 32), 32, 2)
    assert (heights.min(), heights.max()) == (0, 1)
    assert 0.05 < heights.std() < 0.5
    assert corrupt(grays(0), torch.tensor([0]), "fog", 3).max() == 0  # nothing is brighter than the image was


def test_the_strengths_go_by_the_size():
    assert (corruptions.source(32), corruptions.source(224)) == ("CIFAR-10-C", "ImageNet-C")
    small, large = (corrupt(grays(128, size), torch.tensor([0]), "gaussian_noise", 1).double().std() for size in (84, 86))
    assert large / small == pytest.approx(2, rel=0.1)


# what models make of them


class Bright(nn.Module):
    """Class 1 where an image is bright."""

    def __init__(self, threshold: float = 128):
        super().__init__()
        self.threshold = threshold

    def forward(self, images: Tensor) -> Output:
        score = images.float().mean((1, 2, 3)) - self.threshold
        return Output(torch.stack([-score, score], 1), {})


def batches(size: int) -> list[Batch]:
    images = torch.cat([grays(40 + 20 * number, 8) for number in range(9)])
    targets = (torch.arange(9) >= 5).long()
    return [Batch(images[rows], targets[rows], rows, -1) for rows in torch.arange(9).split(size)]


@pytest.mark.parametrize("size", [2, 9])
def test_accuracies_by_corruption_and_severity(size):
    models = {"model": Bright().train(), "teacher": Bright(121)}
    found = corrupted.accuracies(models, batches(size), ["brightness", "contrast"], [1, 5], PLACE)
    # brightness 5 adds 76.5: of 40, 60, ... 120 the last four cross 128, and with 121 too
    assert found["model"]["brightness"] == {1: pytest.approx(8 / 9), 5: pytest.approx(5 / 9)}
    assert found["model"]["contrast"] == {1: 1.0, 5: 1.0}
    assert models["model"].training


def test_the_summary_is_the_means_of_the_paper():
    student, teacher = {"fog": {1: 0.8, 5: 0.4}, "contrast": {1: 0.9, 5: 0.9}}, {"fog": {1: 0.9, 5: 0.7}, "contrast": {1: 1.0, 5: 1.0}}
    alone = corrupted.summary(student, None, 32)
    assert alone["error"] == {"fog": pytest.approx(0.4), "contrast": pytest.approx(0.1)}
    assert alone["mean_error"] == pytest.approx(0.25)
    assert "normalised" not in alone
    beside = corrupted.summary(student, teacher, 224)
    assert beside["normalised"] == {"fog": pytest.approx((0.2 + 0.6) / (0.1 + 0.3)), "contrast": None}
    assert beside["normalised_error"] == pytest.approx(2)
    assert (beside["normalised_by"], beside["strengths"]) == ("teacher", "ImageNet-C")
    assert beside["accuracy"]["fog"] == {"1": 0.8, "5": 0.4}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["fogg"], "corruptions=fogg: no such corruption; did you mean fog?"),
        ("snow", "corruptions=snow: no such corruption; known: brightness"),
        ([], "expected true, or a list"),
        (3, "expected true, or a list"),
        ([["fog"]], "no such corruption"),
    ],
)
def test_what_is_no_corruption_is_one_line(given, said):
    with pytest.raises(ConfigError) as problem:
        corrupted.asked_names(given)
    assert said in str(problem.value)
    assert len(problem.value.problems) == 1


def test_what_is_asked_for():
    assert corrupted.asked_names(False) == corrupted.asked_names(None) == ()
    assert corrupted.asked_names(True) == tuple(CORRUPTIONS)
    assert corrupted.asked_names("fog") == ("fog",)
    assert corrupted.asked_names(["fog", "contrast", "fog"]) == ("fog", "contrast")
    assert corrupted.asked_severities(None) == SEVERITIES
    assert corrupted.asked_severities([5, 1, 5]) == (1, 5)
    for severity in (0, 6, -1):
        with pytest.raises(ConfigError, match=rf"corruption_severities={severity}: severities go from 1 to 5"):
            corrupted.asked_severities([severity])
