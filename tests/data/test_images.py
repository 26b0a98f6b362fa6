"""Every kind of image file a user may have: read right, or refused in one line."""

import os
import pickle
import random
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from distillctl.data.image import files as images
from distillctl.data.image.files import BadImage, crop_and_resize, decode, open_image, open_with_remarks, resize_and_center_crop
from distillctl.errors import DataError

PIXELS = 50_000_000


def saved(path, values, mode=None, **options):
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height, width):
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([255 * x / width, 255 * y / height, 128 + 100 * np.sin(x / 40)], axis=-1).astype(np.uint8)


def one_line(problem, path):
    assert isinstance(problem, DataError)
    assert problem.exit_code == 3
    assert "\n" not in str(problem)
    assert os.fspath(path) in str(problem)
    return str(problem)


def refused(path, max_pixels=PIXELS):
    with pytest.raises(BadImage) as caught:
        decode(path, max_pixels)
    return one_line(caught.value, path)


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "tiff", "ppm"])
def test_lossless_formats_come_back_as_they_were(tmp_path, suffix):
    values = noise(9, 7)
    options = {"lossless": True} if suffix == "webp" else {}
    tensor = decode(saved(tmp_path / f"x.{suffix}", values, **options), PIXELS)
    assert tensor.dtype == torch.uint8
    assert tensor.is_contiguous()
    assert torch.equal(tensor, torch.from_numpy(values).permute(2, 0, 1))


def test_a_single_pixel_is_an_image(tmp_path):
    assert decode(saved(tmp_path / "x.png", noise(1, 1)), PIXELS).shape == (3, 1, 1)


@pytest.mark.parametrize(
    ("mode", "kind", "suffix"),
    [(mode, kind, suffix) for mode, kind in [("L", "gray"), ("RGB", "")] for suffix in ("jpg", "png", "tif")]
    + [(mode, kind, suffix) for mode, kind in [("1", "1-bit"), ("P", "palette")] for suffix in ("png", "tif")]
    + [("CMYK", "CMYK", suffix) for suffix in ("jpg", "tif")],
)
def test_other_modes_become_rgb_and_are_told(tmp_path, mode, kind, suffix):
    image, remarks = open_with_remarks(saved(tmp_path / f"x.{suffix}", smooth(16, 16), mode), PIXELS)
    assert image.mode == "RGB"
    assert remarks == ((kind,) if kind else ())
    assert 60 < decode(tmp_path / f"x.{suffix}", PIXELS).float().mean() < 200


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_what_is_transparent_is_white(tmp_path, mode):
    clear_red = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    if mode == "PA":  # a palette with one transparent entry, as GIF and PNG have it
        palette = Image.new("P", (4, 4), 0)
        palette.putpalette([255, 0, 0])
        palette.save(tmp_path / "x.png", transparency=0)
    else:
        clear_red.convert(mode).save(tmp_path / "x.png")
    assert decode(tmp_path / "x.png", PIXELS).min() == 255
    assert open_with_remarks(tmp_path / "x.png", PIXELS)[1] == ("transparent",)


def test_half_transparent_black_is_gray(tmp_path):
    saved(tmp_path / "x.png", Image.new("RGBA", (4, 4), (0, 0, 0, 128)))
    assert decode(tmp_path / "x.png", PIXELS).unique().tolist() == [127]


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bit_gray_is_scaled_by_257(tmp_path, suffix):
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    path = tmp_path / f"x.{suffix}"
    if suffix == "pgm":
        path.write_bytes(b"P5 4 1 65535\n" + values.astype(">u2").tobytes())
    else:
        saved(path, values)
    assert decode(path, PIXELS)[0].tolist() == [[0, 1, 128, 255]]


def test_whole_numbers_beyond_sixteen_bits_are_refused(tmp_path):
    assert "outside 0..65535" in refused(saved(tmp_path / "x.tif", np.array([[0, 70000]], dtype=np.int32)))


def test_floating_point_pixels_are_refused(tmp_path):
    assert "floating-point" in refused(saved(tmp_path / "x.tif", np.full((4, 4), 0.5, dtype=np.float32)))


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_the_first_frame_stands_for_an_animation(tmp_path, suffix):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("blue", "red", "lime")]
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"x.{suffix}", save_all=True, append_images=frames[1:], **options)
    image, remarks = open_with_remarks(tmp_path / f"x.{suffix}", PIXELS)
    assert image.getpixel((0, 0)) == (0, 0, 255)
    assert remarks[-1] == "first frame of many"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "tif", "png"])
def test_exif_rotation_is_applied_once(tmp_path, orientation, suffix):
    upright = np.zeros((16, 32, 3), dtype=np.uint8)
    upright[:8, :8] = 255  # a mark in the top left corner
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose numbers that an orientation takes back
    stored = Image.fromarray(upright)
    if orientation > 1:
        stored = stored.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / f"x.{suffix}", exif=exif)
    image = open_image(tmp_path / f"x.{suffix}", PIXELS)
    assert image.size == (32, 16)
    assert (decode(tmp_path / f"x.{suffix}", PIXELS).float() - torch.from_numpy(upright).permute(2, 0, 1)).abs().max() < 30


def test_a_damaged_exif_block_does_no_harm(tmp_path):
    path = saved(tmp_path / "x.jpg", smooth(16, 16), exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", module=r"PIL\.")
        assert decode(path, PIXELS).shape == (3, 16, 16)


def test_a_missing_file_is_named(tmp_path):
    assert "no such file" in refused(tmp_path / "x.jpg")


def test_an_empty_file_is_told_so(tmp_path):
    (tmp_path / "x.jpg").touch()
    assert refused(tmp_path / "x.jpg").endswith("0 bytes")


def test_html_in_place_of_an_image_is_recognised(tmp_path):
    (tmp_path / "x.jpg").write_text("\n<!DOCTYPE html><html>404</html>")
    assert "HTML" in refused(tmp_path / "x.jpg")


def test_other_formats_are_not_even_tried(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    assert "not an image in a format" in refused(tmp_path / "x.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "tif", "ppm"])
def test_a_truncated_file_is_an_error(tmp_path, suffix):
    path = saved(tmp_path / f"x.{suffix}", noise(40, 40))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(path)
    with pytest.raises(BadImage) as caught:
        crop_and_resize(open_image(path, PIXELS), (0, 0, 20, 20), 4)
    one_line(caught.value, path)


@pytest.mark.filterwarnings("ignore::UserWarning")  # as images.py itself sets it, which pytest undoes
def test_random_damage_raises_nothing_but_bad_image(tmp_path):
    draw = random.Random(0)
    for suffix in ("jpg", "png", "webp", "gif", "bmp", "tif", "ppm"):
        whole = saved(tmp_path / f"whole.{suffix}", smooth(24, 24)).read_bytes()
        for _ in range(60):
            damaged = bytearray(whole)
            for _ in range(draw.randint(1, 8)):
                damaged[draw.randrange(min(len(damaged), 200))] = draw.randrange(256)
            path = tmp_path / f"damaged.{suffix}"
            path.write_bytes(damaged)
            try:
                decode(path, 1_000_000)
            except BadImage as problem:
                one_line(problem, path)


def bomb(path, edge):
    """A PNG that says it is large and holds nothing."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", edge, edge, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("edge", [8_000, 10_000, 14_000, 60_000])
def test_a_decompression_bomb_is_refused_by_its_header_without_a_warning(tmp_path, edge):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        message = refused(bomb(tmp_path / "x.png", edge))
    assert "dataset.max_pixels=50000000" in message
    assert f"{edge} x {edge}" in message


def test_a_higher_limit_is_really_higher(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "max_pixels" not in refused(bomb(tmp_path / "x.png", 14_000), max_pixels=400_000_000)


def test_exactly_max_pixels_are_allowed(tmp_path):
    path = saved(tmp_path / "x.png", noise(4, 5))
    decode(path, 20)
    refused(path, 19)


def test_permission_denied_names_the_file(tmp_path, monkeypatch):
    path = saved(tmp_path / "x.png", noise(4, 4))

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied", os.fspath(path))

    monkeypatch.setattr(images.Image, "open", denied)
    assert refused(path).endswith("permission denied")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "x.jpg")
    assert "not a regular file" in refused(tmp_path / "x.jpg")


def test_a_name_of_any_bytes_gives_a_message_that_can_be_printed(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe\nnext.jpg")
    with open(path, "wb"):
        pass
    with pytest.raises(BadImage) as caught:
        decode(path, PIXELS)
    str(caught.value).encode("utf-8")
    assert "\n" not in str(caught.value)


def test_bad_image_travels_between_processes():
    assert str(pickle.loads(pickle.dumps(BadImage("x.jpg: 0 bytes")))) == "x.jpg: 0 bytes"


def test_no_file_stays_open(tmp_path):
    paths = [saved(tmp_path / f"x.{suffix}", smooth(8, 8)) for suffix in ("jpg", "png", "webp", "gif", "tif")]
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        for path in paths:
            decode(path, PIXELS)
            crop_and_resize(open_image(path, PIXELS), (0, 0, 4, 4), 4)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_an_image_of_the_right_size_is_left_as_it_is(tmp_path, suffix):
    path = saved(tmp_path / f"x.{suffix}", noise(32, 32))
    assert torch.equal(resize_and_center_crop(open_image(path, PIXELS), 32), decode(path, PIXELS))


@pytest.mark.parametrize(("height", "width"), [(32, 41), (32, 40), (57, 32)])
def test_an_image_with_the_right_short_edge_is_only_cut(tmp_path, height, width):
    path = saved(tmp_path / "x.png", noise(height, width))
    top, left = (height - 32) // 2, (width - 32) // 2
    assert torch.equal(resize_and_center_crop(open_image(path, PIXELS), 32), decode(path, PIXELS)[:, top : top + 32, left : left + 32])


def test_a_large_image_keeps_the_middle_of_its_short_edge():
    values = np.zeros((64, 100, 3), dtype=np.uint8)
    values[4:60, 22:78] = 200  # 56 = 64 * 0.875
    middle = resize_and_center_crop(Image.fromarray(values), 28)
    assert middle[:, 1:-1, 1:-1].unique().tolist() == [200]
    assert middle.min() > 100  # at the border, the filter sees a pixel outside, as it does where a resized image is cut
    assert resize_and_center_crop(Image.fromarray(values), 28, ratio=1.0).min() == 0


def test_a_small_image_is_enlarged_whole():
    values = np.zeros((8, 8, 3), dtype=np.uint8)
    values[0] = 255
    assert (resize_and_center_crop(Image.fromarray(values), 32)[:, 0] == 255).all()


def test_a_crop_without_scaling_is_a_slice(tmp_path):
    path = saved(tmp_path / "x.png", noise(40, 50))
    assert torch.equal(crop_and_resize(open_image(path, PIXELS), (7, 3, 39, 35), 32), decode(path, PIXELS)[:, 3:35, 7:39])


@pytest.mark.parametrize(("box", "size", "factor"), [((0, 0, 600, 600), 224, 1), ((0, 0, 600, 600), 100, 2), ((100, 40, 700, 640), 32, 8)])
def test_a_crop_read_at_low_resolution_is_nearly_the_same_and_always_the_same(tmp_path, box, size, factor):
    path = saved(tmp_path / "x.jpg", smooth(643, 801), quality=95)
    image = open_image(path, PIXELS)
    drafted = crop_and_resize(image, box, size)
    assert image.size == (-(-801 // factor), -(-643 // factor))
    full = crop_and_resize(open_image(path, PIXELS).copy(), box, size)
    assert (drafted.float() - full.float()).abs().mean() < 1.5
    assert torch.equal(drafted, crop_and_resize(open_image(path, PIXELS), box, size))


@pytest.mark.parametrize("width", range(64, 81))
def test_a_draft_of_any_width_is_cut_at_the_right_place(tmp_path, width):
    path = saved(tmp_path / "x.jpg", smooth(64, width), quality=95)
    drafted = crop_and_resize(open_image(path, PIXELS), (0, 0, 64, 64), 4)
    assert (drafted.float() - crop_and_resize(open_image(path, PIXELS).copy(), (0, 0, 64, 64), 4)).abs().max() < 8


def test_a_second_crop_of_one_opened_file_is_at_the_same_place(tmp_path):
    path = saved(tmp_path / "x.jpg", smooth(640, 800), quality=95)
    image = open_image(path, PIXELS)
    first, second = crop_and_resize(image, (80, 0, 720, 640), 32), crop_and_resize(image, (80, 0, 720, 640), 32)
    assert torch.equal(first, second)
