"""Python that loads a shipped model without this package."""

from __future__ import annotations

import json
from pathlib import Path

from distillctl.models.catalogue import CIFAR
from distillctl.models.edits import change_of
from distillctl.models.net import Net
from distillctl.models.record import Record


def load_script(net: Net, role: str, record: Record) -> str:
    """Python that needs torch, safetensors and the architecture's own library, and nothing of ours."""
    architecture, preprocessing = record.architecture, record.preprocessing
    arguments = "".join(f", {name}={value!r}" for name, value in architecture.args.items())
    count = len(record.classes)
    source, name = net.source, net.name
    if source == "cifar":
        definition = (Path(__file__).parent / "cifar" / f"{CIFAR[name]}.py").read_text()
        make = f"{name}(num_classes={count}{arguments})"
    elif source == "torchvision":
        definition = "import torchvision\n"
        make = f'torchvision.models.get_model("{name}", weights=None, num_classes={count}{arguments})'
    elif source == "timm":
        definition = "import timm\n"
        make = f'timm.create_model("{name}", pretrained=False, num_classes={count}{arguments})'
    else:
        module, _, class_name = name.rpartition(".")
        definition = f"from {module} import {class_name}\n"
        make = f"{class_name}(num_classes={count}{arguments})"
    changes = [(path, change_of(became)) for path, became in net.edits]
    edits = "\n".join(change.source(net.module, path) for path, change in changes)
    parts = "".join(dict.fromkeys(change.needs for _, change in changes))
    return SCRIPT.format(
        definition=definition.replace("from __future__ import annotations\n", ""),
        role=role,
        make=make,
        edits=f"\n{edits}" if edits else "",
        parts=parts,
        classes=json.dumps(record.classes, ensure_ascii=True),
        size=preprocessing["image_size"],
        resize=preprocessing["resize"],
        mean=tuple(preprocessing["mean"]),
        std=tuple(preprocessing["std"]),
    )


SCRIPT = '''"""Load the {role} that lies beside this file: `python load_{role}.py image.png` prints its answer.

Needs torch, safetensors, Pillow and numpy, and the library of the architecture.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy
import torch
from PIL import Image
from safetensors.torch import load_file

{definition}

CLASSES = {classes}
SIZE, RESIZE, MEAN, STD = {size}, {resize}, {mean}, {std}


def replace(net, path, part):
    parent, _, name = path.rpartition(".")
    setattr(net.get_submodule(parent), name, part)
{parts}

def load(weights=Path(__file__).with_name("{role}.safetensors")):
    """The net in eval mode; it takes what `preprocess` gives."""
    net = {make}{edits}
    net.load_state_dict(load_file(weights))
    return net.eval()


def preprocess(image):
    """A PIL image as float [1, 3, SIZE, SIZE], normalised: the middle of it, as it was evaluated in training."""
    image = image.convert("RGB")
    width, height = image.size
    short = min(width, height)
    side = min(short * SIZE / RESIZE, short) if short > SIZE else short
    left, top = (width - side) // 2, (height - side) // 2
    image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    pixels = torch.from_numpy(numpy.asarray(image).copy()).permute(2, 0, 1).float() / 255
    return ((pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1))[None]


if __name__ == "__main__":
    net = load()
    for path in sys.argv[1:]:
        with torch.inference_mode():
            probabilities = net(preprocess(Image.open(path))).softmax(-1)[0]
        best = int(probabilities.argmax())
        print(path, CLASSES[best], round(float(probabilities[best]), 4))
'''
