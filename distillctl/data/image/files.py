"""Turn one image file into a uint8 RGB array, or tensor. Torch is imported where a tensor is made, and nowhere else."""

from __future__ import annotations

import contextlib
import os
import warnings
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin, WebPImagePlugin  # noqa: F401  (formats that Pillow would look for among all its plugins)

from distillctl.data.image.upright import is_transparent, middle, turn_of, upright
from distillctl.errors import BadSample
from distillctl.files import open_file

if TYPE_CHECKING:
    from torch import Tensor

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")

Image.preinit()
# An image is used, or refused with a reason; what Pillow would print about it in between (a damaged Exif block) helps nobody.
warnings.filterwarnings("ignore", module=r"PIL\.")
# Pillow's own limit is a warning first and an error at twice its size, and no argument changes it: every file is held against
# dataset.max_pixels here instead, before anything is decoded.
Image.MAX_IMAGE_PIXELS = None

# what other formats begin with, in small letters; a camera's or a phone's often under a name that ends in .jpg
OTHERS = {
    "HEIC": (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypheim", b"ftypmif1", b"ftypmsf1"),
    "AVIF": (b"ftypavif", b"ftypavis"),
    "a video": (b"ftypqt", b"ftypisom", b"ftypmp4", b"matroska", b"webm"),
    "JPEG XL": (b"\x00\x00\x00\x0cjxl ", b"\xff\x0a"),
    "JPEG 2000": (b"\x00\x00\x00\x0cjp  ", b"\xff\x4f\xff\x51"),
    "a Photoshop file": (b"8bps",),
    "PDF": (b"%pdf-",),
    "a raw photo": (b"ftypcrx", b"fujifilmccd-raw"),
    "a numpy array": (b"\x93numpy",),
}
KINDS = {"L": "gray", "1": "1-bit", "P": "palette", "I": "16-bit gray"}


class BadImage(BadSample):
    """An image file that cannot be used: the message names the file and the reason."""


def shown(path: str | os.PathLike[str]) -> str:
    """A path or name as printable text of one line, whatever bytes it is made of."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in os.fspath(path))


def open_image(path: str | os.PathLike[str], max_pixels: int) -> Image.Image:
    """An upright RGB image. A plain JPEG is not decoded yet, so that `crop_and_resize` can read it at a lower resolution."""
    return open_with_remarks(path, max_pixels)[0]


def open_with_remarks(path: str | os.PathLike[str], max_pixels: int) -> tuple[Image.Image, tuple[str, ...]]:
    """The image as of `open_image`, and what had to be done to it: "gray", "CMYK", "transparent", "rotated", "first frame of many" ..."""
    try:
        image = _opened(path)
    except Image.UnidentifiedImageError:
        raise BadImage(f"{shown(path)}: {_what_it_is(path)}") from None
    except Exception as problem:
        raise _bad(path, problem) from None
    try:
        width, height = image.size
        if width * height > max_pixels:
            raise BadImage(f"{shown(path)}: {width} x {height} pixels are more than dataset.max_pixels={max_pixels}")
        jpeg = image.format in ("JPEG", "MPO")
        if jpeg and image.mode == "RGB" and turn_of(image) is None:
            return image, ()
        with image:
            rgb = upright(image)
            turned = "rotated" if turn_of(image) is not None else ""
            frames = "first frame of many" if not jpeg and _has_more_frames(image) else ""
            return rgb, tuple(filter(None, (_kind(image), turned, frames)))
    except Exception as problem:
        image.close()
        raise _bad(path, problem) from None


def decode(path: str | os.PathLike[str], max_pixels: int) -> Tensor:
    """A file at its own size: uint8 [3, H, W]."""
    return to_tensor(open_image(path, max_pixels))


def decodes(path: str | os.PathLike[str], max_pixels: int) -> None:
    """Raises BadImage where a file cannot be decoded. All of its bytes are read, but a JPEG's pixels are made at an eighth."""
    image = open_image(path, max_pixels)
    image.draft("RGB", (1, 1))
    _load(image)


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB image as uint8 [3, H, W]."""
    import torch

    _load(image)
    return torch.from_numpy(np.array(np.asarray(image).transpose(2, 0, 1), order="C"))


def decode_array(path: str | os.PathLike[str], max_pixels: int) -> np.ndarray:
    """A file at its own size: uint8 [H, W, 3]."""
    return to_array(open_image(path, max_pixels))


def to_array(image: Image.Image) -> np.ndarray:
    """An RGB image as uint8 [H, W, 3]."""
    _load(image)
    return np.array(image)


def middle_array(image: Image.Image, size: int, ratio: float = 0.875) -> np.ndarray:
    """What `resize_and_center_crop` gives, as uint8 [size, size, 3]."""
    _load(image)
    return to_array(middle(image, size, round(size / ratio)))


def resize_and_center_crop(image: Image.Image, size: int, ratio: float = 0.875) -> Tensor:
    """The middle of an image, for evaluation: uint8 [3, size, size].

    Of an image larger than `size`, the middle `ratio` of the short edge is kept; of others, all of the short edge. So an image that
    has the size already comes out as it is.
    """
    _load(image)
    return to_tensor(middle(image, size, round(size / ratio)))


def crop_and_resize(image: Image.Image, box: tuple[float, float, float, float], size: int) -> Tensor:
    """A box (left, top, right, bottom), in pixels of the full image, scaled to uint8 [3, size, size].

    Where the box is at least four times as large as the output, a JPEG is decoded at 1/2, 1/4 or 1/8, which leaves at least two
    pixels for one. This uses the image up: open it again to crop elsewhere at full resolution.
    """
    full_width, full_height = image.info.setdefault("full_size", image.size)
    left, top, right, bottom = box
    assert 0 <= left < right <= full_width, f"{box} is outside {full_width} x {full_height}"
    assert 0 <= top < bottom <= full_height, f"{box} is outside {full_width} x {full_height}"
    oversampling = min(right - left, bottom - top) / size
    for factor in (8, 4, 2):
        if oversampling >= 2 * factor:
            image.draft("RGB", (full_width // factor, full_height // factor))
            break
    _load(image)
    # The last row and column of a draft may stand for part of a pixel: its scale is a power of two, not a quotient of sizes.
    scale = next(factor for factor in (1, 2, 4, 8) if image.width == -(-full_width // factor))
    scaled = (left / scale, top / scale, right / scale, bottom / scale)
    return to_tensor(image.resize((size, size), Image.Resampling.BILINEAR, box=scaled))


def _opened(path: str | os.PathLike[str]) -> ImageFile.ImageFile:
    """As Pillow opens a path, but only where a file is: a named pipe would be waited for without end."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open_file(path))
        if os.fstat(file.fileno()).st_size == 0:
            raise BadImage(f"{shown(path)}: 0 bytes")
        image = Image.open(file, formats=FORMATS)
        image.filename, image._exclusive_fp = os.fspath(path), True  # it closes the file when it is read, as one of its own
        stack.pop_all()
    return image


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except Exception as problem:
        raise _bad(getattr(image, "filename", "") or "image", problem) from None


def _bad(path: str | os.PathLike[str], problem: Exception) -> Exception:
    """What to raise for a problem met while reading a file. Pillow raises whatever a broken file makes it trip over, not one class."""
    if isinstance(problem, (BadImage, MemoryError)):
        return problem
    reason = problem.strerror if isinstance(problem, OSError) and problem.strerror else str(problem) or type(problem).__name__
    return BadImage(f"{shown(path)}: {shown(reason[:1].lower() + reason[1:])}")


def _what_it_is(path: str | os.PathLike[str]) -> str:
    with open_file(path) as file:
        head = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<svg")):
        return "HTML or XML text, not an image"
    if other := next((name for name, marks in OTHERS.items() if any(mark in head[:64] for mark in marks)), None):
        return f"{other}, which is not read here; convert it to JPEG or PNG"
    return f"not an image in a format that is read here ({', '.join(FORMATS)})"


def _has_more_frames(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # what is broken behind the first frame is not used
        return True


def _kind(image: Image.Image) -> str:
    """What an image was before it became RGB ("" for RGB)."""
    if is_transparent(image):
        return "transparent"
    if image.mode.startswith("I"):
        return KINDS["I"]
    return "" if image.mode in ("RGB", "RGBX") else KINDS.get(image.mode, image.mode)
