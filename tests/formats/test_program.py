"""What is inside of an exported file sees an image as training did: Pillow's middle of it, normalised."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import CLASSES, MEAN, SIZE, STD, convolutional, program, samples
from PIL import Image
from torch import Tensor, nn

from distillctl.data.image.upright import middle
from distillctl.formats.program import Middle, Preprocess, Program
from distillctl.models.adapter import Classifier


def pillow(images: Tensor, size: int, resize: int) -> Tensor:
    """[N, H, W, 3] to [N, 3, size, size]."""
    seen = [np.asarray(middle(Image.fromarray(image.numpy()), size, resize)) for image in images]
    return torch.from_numpy(np.stack(seen)).permute(0, 3, 1, 2)


@settings(max_examples=150)
@given(
    height=st.integers(2, 90),
    width=st.integers(2, 90),
    size=st.integers(1, 40),
    more=st.integers(0, 20),
    seed=st.integers(0, 99),
)
def test_the_middle_is_pillows_up_to_rounding(height: int, width: int, size: int, more: int, seed: int):
    images = samples(2, size=(height, width), seed=seed)
    found, wanted = Middle(size, size + more)(images), pillow(images, size, size + more)
    difference = (found - wanted).abs()
    assert found.shape == (2, 3, size, size)
    assert torch.equal(found, found.round())
    assert difference.max() <= 2  # two passes, rounded twice, in either order
    if size >= 8:  # enough pixels for a share of them
        assert (difference > 1).float().mean() < 0.02
        assert (difference > 0).float().mean() < (
            0.2 if height < width else 0.4
        )  # where it is wide all versions of Pillow scale across first


@settings(max_examples=30)
@given(size=st.integers(1, 64), more=st.integers(0, 20))
def test_an_image_that_has_the_size_passes_unchanged(size: int, more: int):
    images = samples(2, size=(size, size))
    wanted = images.permute(0, 3, 1, 2).float()
    assert torch.equal(Preprocess(size, size + more, (0, 0, 0), (1 / 255,) * 3).seen(images), wanted)
    assert more or torch.equal(Middle(size, size)(images), wanted)


@pytest.mark.parametrize(("height", "width"), [(SIZE, SIZE), (SIZE + 7, SIZE + 1), (SIZE - 6, 60)])
def test_inside_is_what_lies_beside(height: int, width: int):
    """Within what a gray level of a pixel makes."""
    images = samples(3, size=(height, width))
    model = Classifier(convolutional(), MEAN, STD)
    inside, seen = program(convolutional()), pillow(images, SIZE, SIZE + 2)
    pixels = model.prepare(seen)
    assert (inside.before(images) - pixels).abs().max() < 2.01 / 255 / min(STD)
    with torch.no_grad():
        assert torch.allclose(program(convolutional(), "beside")(pixels)[1], model(seen).logits, atol=1e-6)
        if (height, width) == (SIZE, SIZE):
            assert torch.allclose(inside(images)[1], model(seen).logits, atol=1e-6)


@pytest.mark.parametrize("resolution", [SIZE, SIZE * 2, SIZE - 5])
def test_what_a_net_of_another_resolution_is_given(resolution: int):
    images = samples(2, size=(SIZE, SIZE))
    model = Classifier(nn.Identity(), MEAN, STD, resolution)
    wanted = model.prepare(images.permute(0, 3, 1, 2))
    for fixed in (False, True):
        found = Preprocess(SIZE, SIZE, MEAN, STD, resolution, fixed)(images)
        assert found.shape == (2, 3, resolution, resolution)
        assert torch.allclose(found, wanted, atol=1e-5)


class Named(nn.Module):
    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        return {"features": pixels.mean((2, 3)), "logits": pixels.flatten(1)[:, :CLASSES]}


def test_logits_are_found_in_what_a_net_returns():
    pixels = samples(2, "beside")
    probabilities, logits = Program(Named(), None, 2.0)(pixels)
    assert torch.equal(logits, pixels.flatten(1)[:, :CLASSES])
    assert torch.allclose(probabilities, (logits / 2).softmax(-1))
