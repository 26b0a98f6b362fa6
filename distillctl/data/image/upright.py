"""What a net sees of an image file: upright, RGB, its middle.

The one definition, for training, measuring and predicting. Loading scripts hold what is below the imports word for word, so it needs
Pillow and numpy alone.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """What makes the image upright, by its Exif block; None where it is."""
    try:
        return UPRIGHT.get(int(image.getexif().get(ORIENTATION, 1)))
    except Exception:  # a broken Exif block does not make the pixels wrong
        return None


def upright(image: Image.Image) -> Image.Image:
    """A PIL image of any mode as RGB, turned as its Exif block says; of several frames the one that it is at."""
    image.load()  # first: a PNG may tell at its end how it lies
    turn = turn_of(image)
    return to_rgb(image if turn is None else image.transpose(turn))


def to_rgb(image: Image.Image) -> Image.Image:
    """A decoded image of any mode as RGB; what is transparent is laid on white. Raises ValueError for pixels without a known range."""
    mode = image.mode
    if is_transparent(image):
        layers = image.convert("RGBA")
        white = Image.new("RGBA", layers.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layers).convert("RGB")
    if mode == "I" or mode.startswith("I;16"):
        # 0..65535 to 0..255 by 257, rounded. Pillow's own conversion clips at 255, which makes nearly every pixel white.
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("whole-number pixels outside 0..65535; convert the file to 8 or 16 bits")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if mode == "F":
        raise ValueError("floating-point pixels have no known range; convert the file to 8 bits")
    if mode not in ("RGB", "RGBX", "L", "1", "P", "CMYK", "YCbCr", "LAB", "HSV"):
        raise ValueError(f"pixels of mode {mode} are not read here; convert the file to 8-bit RGB")
    return image.convert("RGB")


def is_transparent(image: Image.Image) -> bool:
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info


def middle(image: Image.Image, size: int, resize: int) -> Image.Image:
    """The middle of an RGB image, size x size: as if its short edge became `resize` px first, where it is longer than `size`, else all of that edge."""
    width, height = image.size
    short = min(width, height)
    side = min(short * size / resize, short) if short > size else short
    left, top = (width - side) // 2, (height - side) // 2  # whole pixels: nothing is interpolated where nothing is scaled
    return image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
