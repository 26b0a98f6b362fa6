"""Every edit of a net is done, spelled and written as Python by one class, and the three say the same."""

import json

import pytest
import torch
from torch import nn

from distillctl.errors import CheckpointError
from distillctl.inputs.image import Images
from distillctl.models.edits import CHANGES, BehindBottleneck, Edit, OtherFeatures, apply_edits, change_of
from distillctl.models.net import Net
from distillctl.models.pruned import PRUNED
from distillctl.models.record import Architecture, Record
from distillctl.models.script import load_script

SPELLED = {
    "stride 1": '    net.get_submodule("0").stride = (1, 1)',
    "stride 1, same padding": '    net.get_submodule("0").stride = (1, 1)\n    net.get_submodule("0").padding = "same"',
    "3x3, stride 1": '    replace(net, "0", torch.nn.Conv2d(3, 8, 3, padding=1, bias=True))',
    "identity": '    replace(net, "0", torch.nn.Identity())',
    "bottleneck 3 4 3": '    replace(net, "0", torch.nn.Sequential(bottleneck(3, 4, 3), net.get_submodule("0")))',
    "cosine 2": '    replace(net, "3", CosineHead(8, 2, 2))',
    "linear 16": '    replace(net, "3", torch.nn.Linear(16, 2))',
}

BOTTLENECK = """

def bottleneck(channels_in, narrow, channels):
    layers = []
    for a, b, kernel in ((channels_in, narrow, 1), (narrow, narrow, 3), (narrow, channels, 1)):
        layers += [torch.nn.Conv2d(a, b, kernel, padding=kernel // 2, bias=False), torch.nn.BatchNorm2d(b), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers)
"""

COSINE = """

class CosineHead(torch.nn.Module):
    def __init__(self, features, classes, proxies):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(classes, proxies, features))
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, features):
        normalize = torch.nn.functional.normalize
        cosines = normalize(features, dim=-1) @ normalize(self.weight, dim=-1).flatten(0, 1).T
        cosines = cosines.unflatten(-1, self.weight.shape[:2])
        return self.scale * (cosines.softmax(-1) * cosines).sum(-1)
"""
DEFINED = {"bottleneck": BOTTLENECK, "cosine": COSINE}

SEEN = Images(("a",), 8, (0.0,) * 3, (1.0,) * 3).script().preprocess
SCRIPT = '''"""Load the student that lies beside this file: `python load_student.py image.png` prints its answer.

Needs torch, safetensors, Pillow and numpy, and the library of the architecture.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from ours.net import Net


CLASSES = ["ant", "b\\u00e9e"]
SIZE, RESIZE, MEAN, STD = 32, 37, (0.1, 0.2, 0.3), (0.5, 0.25, 0.125)


def replace(net, path, part):
    parent, _, name = path.rpartition(".")
    setattr(net.get_submodule(parent), name, part)
%s

def load(weights=Path(__file__).with_name("student.safetensors")):
    """The net in eval mode; it takes what `preprocess` gives."""
    net = Net(num_classes=2, width=6)%s
    net.load_state_dict(load_file(weights))
    return net.eval()


%s

if __name__ == "__main__":
    net = load()
    for path in sys.argv[1:]:
        with torch.inference_mode():
            probabilities = net(preprocess(Image.open(path))).softmax(-1)[0]
        best = int(probabilities.argmax())
        print(path, CLASSES[best], round(float(probabilities[best]), 4))
'''


def small_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))


def place_of(became: str) -> str:
    return "3" if became.startswith(("linear", "cosine")) else "0"


def script_of(*edits: Edit) -> str:
    module = small_net()
    apply_edits(module, edits)
    net = Net(module, "own", "ours.net.Net", "small", edits, {"width": 6}, None, None, 32)
    preprocessing = {"image_size": 32, "resize": 37, "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.25, 0.125]}
    architecture = Architecture(net.source, net.name, net.stem, net.args, net.edits, 32)
    record = Record(architecture, ("ant", "bée"), preprocessing)
    return load_script(net, "student", record, Images.from_record(record).script())


def test_a_script_without_edits_to_the_letter():
    assert script_of() == SCRIPT % ("", "", SEEN)


@pytest.mark.parametrize("became", SPELLED)
def test_a_script_with_an_edit_to_the_letter(became):
    parts = next((text for name, text in DEFINED.items() if became.startswith(name)), "")
    assert script_of(Edit(place_of(became), became)) == SCRIPT % (parts, "\n" + SPELLED[became], SEEN)


def test_a_script_defines_the_bottleneck_once():
    edits = (Edit("0", "stride 1"), Edit("1", "bottleneck 8 4 8"), Edit("0", "bottleneck 3 4 3"))
    assert script_of(*edits).count("def bottleneck(") == 1


def test_every_change_is_among_the_spellings():
    assert {type(change_of(became)) for became in SPELLED} == set(CHANGES) - set(PRUNED)  # those have tests of their own


@pytest.mark.parametrize("became", SPELLED)
def test_a_spelling_comes_back_from_json(became):
    assert str(change_of(became)) == became
    [[module, spelled]] = json.loads(json.dumps([Edit("layer", str(change_of(became)))]))
    assert (module, change_of(spelled)) == ("layer", change_of(became))


@pytest.mark.parametrize("became", SPELLED)
def test_the_script_s_lines_build_what_the_edit_built(became):
    path = place_of(became)
    edited, scripted = small_net().eval(), small_net().eval()
    apply_edits(edited, [[path, became]])

    def replace(net, path, part):
        setattr(net, path, part)

    names = {"torch": torch, "net": scripted, "replace": replace}
    lines = change_of(became).needs + "\n".join(line.strip() for line in change_of(became).source(edited, path).splitlines())
    exec(lines, names)
    scripted.load_state_dict(edited.state_dict())
    part, other = (net.eval().get_submodule(path) for net in (edited, scripted))
    inputs = torch.rand(1, 16) if became.startswith("linear") else torch.rand(1, 3, 8, 8)
    assert torch.equal(part(inputs), other(inputs))


def test_sizes_are_spelled_in_their_order():
    assert str(BehindBottleneck(64, 128, 256)) == "bottleneck 64 128 256"
    assert change_of("bottleneck 64 128 256") == BehindBottleneck(64, 128, 256)
    assert change_of("linear 64") == OtherFeatures(64)


@pytest.mark.parametrize(
    "became",
    ["", "stride", "stride 2", "stride 1 1", "identity 1", "Identity", "bottleneck", "bottleneck 1 2", "bottleneck 1 2 3 4", "linear"]
    + [
        "linear 0",
        "linear -1",
        "linear 1.5",
        "linear 064",
        "linear  64",
        "linear 64 ",
        "linear\n64",
        "linear 9999999",
        "linear64",
        "linear ٣",
    ],
)
def test_an_unknown_spelling_is_an_error_that_names_it(became):
    with pytest.raises(CheckpointError) as error:
        change_of(became)
    assert str(error.value) == f"unknown edit {became!r}"


@pytest.mark.parametrize(
    ("module", "became"), [("9", "identity"), ("", "identity"), ("1", "stride 1"), ("0", "linear 3"), ("0.a", "identity")]
)
def test_an_edit_that_does_not_fit_is_an_error_that_names_it(module, became):
    with pytest.raises(CheckpointError) as error:
        apply_edits(small_net(), [[module, became]])
    assert str(error.value) == f"the edit {became!r} does not fit {module!r} of this net"
