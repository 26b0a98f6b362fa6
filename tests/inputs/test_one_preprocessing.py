"""Whatever an image file is like: predict, evaluate and the loading script of a shipped model give its net the same pixels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from distillctl.config import PredictConfig
from distillctl.data.image.loader import PlainImages, ReadOptions
from distillctl.data.loader import Place
from distillctl.data.split import whole
from distillctl.inputs.image import Images
from distillctl.models.adapter import Classifier
from distillctl.models.net import Net
from distillctl.models.record import Architecture, Record
from distillctl.models.script import load_script

SIZE, CROP = 24, 0.875
INPUTS = Images(("a", "b"), SIZE, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), CROP)


def photo(height: int = 40, width: int = 60) -> Image.Image:
    """No part of it is like another, so that each turn and crop shows."""
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([255 * x / width, 255 * y / height, (7 * x + 3 * y) % 256], axis=-1).astype(np.uint8))


def sixteen_bits() -> Image.Image:
    return Image.fromarray((np.arange(40 * 60).reshape(40, 60) * 27).astype(np.uint16))


def with_alpha(mode: str) -> Image.Image:
    image = photo().convert("RGBA")
    image.putalpha(Image.fromarray(np.linspace(0, 255, 2400).reshape(40, 60).astype(np.uint8)))
    return image.convert(mode)


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def palette() -> Image.Image:
    return photo().quantize(16)


ODD = {
    **{f"turned{n}.jpg": (photo, {"exif": exif(n), "quality": 95}) for n in range(1, 9)},
    **{f"turned{n}.png": (photo, {"exif": exif(n)}) for n in (3, 6)},
    "turned-gray.jpg": (lambda: photo().convert("L"), {"exif": exif(8)}),
    "sixteen.png": (sixteen_bits, {}),
    "sixteen.tif": (sixteen_bits, {}),
    "rgba.png": (lambda: with_alpha("RGBA"), {}),
    "rgba-turned.png": (lambda: with_alpha("RGBA"), {"exif": exif(5)}),
    "la.png": (lambda: with_alpha("LA"), {}),
    "palette.png": (palette, {}),
    "palette-clear.png": (palette, {"transparency": 3}),
    "rgb-clear.png": (photo, {"transparency": (0, 0, 0)}),
    "clear.gif": (palette, {"transparency": 3}),
    "cmyk.jpg": (lambda: photo().convert("CMYK"), {}),
    "cmyk.tif": (lambda: photo().convert("CMYK"), {}),
    "one-bit.png": (lambda: photo().convert("1"), {}),
    "animated.gif": (palette, {"save_all": True, "append_images": [Image.new("P", (60, 40), 1)]}),
    "animated.webp": (photo, {"save_all": True, "append_images": [Image.new("RGB", (60, 40))], "lossless": True}),
    "small.png": (lambda: photo(9, 13), {}),
    "as-seen.png": (lambda: photo(SIZE, SIZE), {}),
    "tall.png": (lambda: photo(201, 27), {}),
}


@pytest.fixture(scope="module")
def script():
    """What is defined in a loading script; it is run without looking into the package for anything."""
    net = Net(nn.Identity(), "own", "torch.nn.Identity", "large", (), {}, None, None, SIZE)
    record = Record(Architecture(net.source, net.name), INPUTS.classes, INPUTS.record())
    source = load_script(net, "student", record, INPUTS.script())
    assert "distillctl" not in source
    namespace = {"__name__": "load_student", "__file__": "load_student.py"}
    exec(compile(source, "load_student.py", "exec"), namespace)
    return namespace


@pytest.mark.parametrize("name", ODD)
def test_predict_evaluate_and_the_script_see_the_same(name: str, script, tmp_path: Path):
    make, options = ODD[name]
    make().save(tmp_path / name, **options)
    seen = Classifier(nn.Identity(), INPUTS.mean, INPUTS.std).prepare

    predicted = INPUTS.read([tmp_path / name], PredictConfig())
    place = Place(torch.device("cpu"))
    [evaluated] = PlainImages(whole([tmp_path / name], torch.tensor([0])), 1, place, ReadOptions(SIZE))
    assert torch.equal(predicted, evaluated.inputs)
    with Image.open(tmp_path / name) as image:
        torch.testing.assert_close(script["preprocess"](image), seen(predicted), rtol=0, atol=1e-5)


def test_a_turned_image_is_seen_as_the_upright_one(script, tmp_path: Path):
    """A file that lies on its side, and the same one turned by hand."""
    photo().save(tmp_path / "upright.png")
    photo().transpose(Image.Transpose.ROTATE_90).save(tmp_path / "lying.png", exif=exif(6))
    with Image.open(tmp_path / "upright.png") as one, Image.open(tmp_path / "lying.png") as other:
        assert torch.equal(script["preprocess"](one), script["preprocess"](other))
