"""The shippable model: plain weights, a record of what they are, and a script that loads them without this package."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from distillctl import state
from distillctl.errors import CheckpointError
from distillctl.models.build import Net
from distillctl.models.catalogue import CIFAR

# where a role's model lies in a run folder, the most finished first
STAGES = {
    "teacher": ("pretrain/teacher", "finetune/student", "distill/student"),
    "student": ("finetune/student", "distill/student", "alone/student", "pretrain/teacher"),
    "model": ("finetune/student", "distill/student", "pretrain/teacher", "alone/student"),
}


def ship(folder: Path, role: str, weights: Mapping[str, Tensor], record: Mapping[str, Any], script: str) -> dict[str, Any]:
    """Write `<role>.safetensors`, `load_<role>.py` and, last, `<role>.json` into a stage's folder. Returns the record."""
    content = safetensors_bytes({name: value.detach().cpu().contiguous() for name, value in weights.items()})
    complete = {**record, "sha256": hashlib.sha256(content).hexdigest()}
    state.write_atomically(folder / f"{role}.safetensors", [content])
    state.write_atomically(folder / f"load_{role}.py", [script.encode()])
    state.write_json(folder / f"{role}.json", complete)
    return complete


def locate(given: str, role: str, key: str) -> Path:
    """The file of weights that a path names: itself, or the one in a stage's or a run's folder."""
    path = Path(given).expanduser()
    if not path.is_dir():
        if path.name in (state.NEWEST, state.BEFORE) and (path.parent / "metrics.jsonl").exists():
            raise CheckpointError(f"{key}={given}: made for resuming a run (resume=<run folder>); give the .safetensors beside it")
        return path
    in_stage = sorted(path.glob("*.safetensors"))
    if len(in_stage) == 1:
        return in_stage[0]
    kind, _, member = role.partition(".members.")
    for place in (f"pretrain-{member}/teacher", *STAGES[kind]) if member else STAGES[kind]:
        file = path / f"{place}.safetensors"
        if file.is_file():
            return file
    raise CheckpointError(f"{key}={given}: the folder holds no trained {kind}; give a run folder, a stage's folder or a file")


def read_record(weights: Path, key: str) -> dict[str, Any] | None:
    """The record beside a file of weights, None where there is none. Raises CheckpointError where file and record differ."""
    file = weights.with_suffix(".json")
    if weights.suffix != ".safetensors" or not file.is_file():
        return None
    try:
        record = json.loads(file.read_text())
        needed = (record["architecture"]["name"], record["architecture"]["source"], record["classes"], record["preprocessing"]["mean"])
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(f"{key}: {file} is not the record of a model; move it away to use the weights without it") from None
    del needed
    seen = weights.stat()
    if checksum(weights, seen.st_mtime_ns, seen.st_size) != record.get("sha256"):
        raise CheckpointError(f"{key}: {weights} is damaged, or not the file that {file.name} describes (checksum mismatch)")
    return record


@cache
def checksum(weights: Path, modified_ns: int, size: int) -> str:
    """SHA-256 of a file, once for each state of it: several checks of a run ask."""
    return hashlib.sha256(weights.read_bytes()).hexdigest()


def load_script(net: Net, role: str, record: Mapping[str, Any]) -> str:
    """Python that needs torch, safetensors and the architecture's own library, and nothing of ours."""
    architecture, preprocessing = record["architecture"], record["preprocessing"]
    arguments = "".join(f", {name}={value!r}" for name, value in architecture["args"].items())
    count = len(record["classes"])
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
    edits = "\n".join(edit_line(net.module, path, became) for path, became in net.edits)
    parts = BOTTLENECK if any(became.startswith("bottleneck") for _, became in net.edits) else ""
    return SCRIPT.format(
        definition=definition.replace("from __future__ import annotations\n", ""),
        role=role,
        make=make,
        edits=f"\n{edits}" if edits else "",
        parts=parts,
        classes=json.dumps(record["classes"], ensure_ascii=True),
        size=preprocessing["image_size"],
        resize=preprocessing["resize"],
        mean=tuple(preprocessing["mean"]),
        std=tuple(preprocessing["std"]),
    )


def edit_line(module: nn.Module, path: str, became: str) -> str:
    """One edit of a net as a line of Python, or a few."""
    kind, *sizes = became.split()
    if kind == "bottleneck":
        return f'    replace(net, "{path}", torch.nn.Sequential(bottleneck({", ".join(sizes)}), net.get_submodule("{path}")))'
    if kind == "linear":
        head = module.get_submodule(path)
        assert isinstance(head, nn.Linear)
        return f'    replace(net, "{path}", torch.nn.Linear({sizes[0]}, {head.out_features}))'
    if became == "identity":
        return f'    replace(net, "{path}", torch.nn.Identity())'
    if became == "3x3, stride 1":
        part = module.get_submodule(path)
        assert isinstance(part, nn.Conv2d)
        channels = f"{part.in_channels}, {part.out_channels}"
        return f'    replace(net, "{path}", torch.nn.Conv2d({channels}, 3, padding=1, bias={part.bias is not None}))'
    line = f'    net.get_submodule("{path}").stride = (1, 1)'
    return line + (f'\n    net.get_submodule("{path}").padding = "same"' if became.endswith("same padding") else "")


BOTTLENECK = """

def bottleneck(channels_in, narrow, channels):
    layers = []
    for a, b, kernel in ((channels_in, narrow, 1), (narrow, narrow, 3), (narrow, channels, 1)):
        layers += [torch.nn.Conv2d(a, b, kernel, padding=kernel // 2, bias=False), torch.nn.BatchNorm2d(b), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers)
"""

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
