"""`predict.py`: a script beside an exported ONNX file that answers for images without this package and without PyTorch."""

from __future__ import annotations

from pathlib import Path

from distillctl.data.image import upright

PILLOW = "from PIL import Image\n"


def predict_script(file: str) -> str:
    """Python that needs onnxruntime, numpy and Pillow. file: the name of the ONNX file beside it.

    Classes and preprocessing are read from the file's own metadata, so the script says nothing that could differ from it; how an image is
    made upright and cut is `data/image/upright.py`, word for word.
    """
    seen = Path(upright.__file__).read_text(encoding="utf-8").partition(PILLOW)[2].strip()
    return SCRIPT.replace("FILE_NAME", repr(file)).replace("UPRIGHT_SOURCE", seen)


SCRIPT = '''"""What the model beside this file sees in images: `python predict.py image.jpg ...`, or with `--top 3` the likeliest three.

Prints the path, a class and its probability, between tabs. Needs onnxruntime, numpy and pillow.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

try:
    import numpy as np
    import onnxruntime
    from PIL import Image
except ImportError as error:
    sys.exit(f"error: {error}; pip install onnxruntime numpy pillow")

MODEL = Path(__file__).with_name(FILE_NAME)


UPRIGHT_SOURCE


def pixels_of(path, told, inside):
    """An image as the model takes it: uint8 [1, H, W, 3], which the model itself cuts, or float32 [1, 3, S, S], normalised."""
    with Image.open(path, formats=("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")) as image:
        image = upright(image)
    if inside:
        return np.array(image)[None]
    pixels = np.array(middle(image, told["image_size"], told["resize"]), dtype=np.float32) / np.float32(255)
    return ((pixels - np.float32(told["mean"])) / np.float32(told["std"])).transpose(2, 0, 1)[None]


def shown(text):
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def main():
    parser = argparse.ArgumentParser(description="What the model sees in images.")
    parser.add_argument("images", nargs="+", metavar="image")
    parser.add_argument("--top", type=int, default=1, metavar="N", help="how many classes an image, the likeliest first")
    arguments = parser.parse_args()
    if arguments.top < 1:
        sys.exit(f"error: --top {arguments.top}: 1 or more")
    try:
        session = onnxruntime.InferenceSession(str(MODEL), providers=["CPUExecutionProvider"])
        told = json.loads(session.get_modelmeta().custom_metadata_map["distillctl"])
    except Exception as error:
        reason = "the model has to lie beside this script" if not MODEL.exists() else " ".join(str(error).split())[:200]
        sys.exit(f"error: {shown(MODEL)}: {reason}")
    name, failed = session.get_inputs()[0].name, False
    for path in arguments.images:
        try:
            probabilities = session.run(["probabilities"], {name: pixels_of(path, told["preprocessing"], name == "image")})[0][0]
        except Exception as error:  # a broken file trips Pillow in many ways
            unknown = isinstance(error, Image.UnidentifiedImageError)
            reason = "not an image that can be read" if unknown else getattr(error, "strerror", None) or " ".join(str(error).split())
            print(f"error: {shown(path)}: {reason[:200]}", file=sys.stderr)
            failed = True
            continue
        for position in probabilities.argsort()[::-1][: arguments.top]:
            print(shown(path), shown(told["classes"][position]), f"{probabilities[position]:.4f}", sep="\\t")
    sys.exit(3 if failed else 0)


if __name__ == "__main__":
    main()
'''
