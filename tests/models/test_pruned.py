"""Edits of widths: done, spelled and written as Python alike, and never the way to a net that is larger than it was."""

import json

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from distillctl.errors import CheckpointError
from distillctl.models.edits import apply_edits, change_of
from distillctl.models.pruned import PRUNED, narrowings, widths


class Scaled(nn.Module):
    """A tensor beside layers, and one of each kind of layer that has a width."""

    def __init__(self):
        super().__init__()
        from timm.layers import Attention

        self.scale = nn.Parameter(torch.rand(8, 1, 1))
        self.register_buffer("shift", torch.rand(8))
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.parts = nn.Conv2d(8, 8, 3, groups=4, bias=False)
        self.batch = nn.BatchNorm2d(8)
        self.layer = nn.LayerNorm(8)
        self.group = nn.GroupNorm(2, 8)
        self.attention = Attention(8, num_heads=4)
        self.head = nn.Linear(8, 5)


CASES = [
    ("conv", "channels 6 4 1", {"weight": (6, 4, 3, 3), "bias": (6,)}, ["out_channels 6", "in_channels 4", "groups 1"]),
    ("parts", "channels 6 6 3", {"weight": (6, 2, 3, 3)}, ["out_channels 6", "in_channels 6", "groups 3"]),
    ("conv", "inputs 3", {"weight": (8, 3, 3, 3), "bias": (8,)}, ["in_channels 3", "out_channels 8"]),
    ("head", "inputs 3", {"weight": (5, 3), "bias": (5,)}, ["in_features 3", "out_features 5"]),
    ("head", "features 4 3", {"weight": (4, 3), "bias": (4,)}, ["in_features 3", "out_features 4"]),
    (
        "batch",
        "norm 3",
        {"weight": (3,), "bias": (3,), "running_mean": (3,), "running_var": (3,), "num_batches_tracked": ()},
        ["num_features 3"],
    ),
    ("layer", "norm 3", {"weight": (3,), "bias": (3,)}, ["normalized_shape (3,)"]),
    ("group", "norm 4", {"weight": (4,), "bias": (4,)}, ["num_channels 4", "num_groups 2"]),
    ("attention", "heads 3", {}, ["num_heads 3", "attn_dim 6", "head_dim 2"]),
    ("scale", "shape 5 1 1", {}, []),
    ("shift", "shape 5", {}, []),
]


def narrowed(path: str, became: str) -> tuple[nn.Module, nn.Module]:
    """A net that was edited, and one that the lines of a loading script were done to, both from the same weights."""
    torch.manual_seed(0)
    edited, scripted = Scaled(), Scaled()
    scripted.load_state_dict(edited.state_dict())
    apply_edits(edited, [[path, became]])
    change = change_of(became)
    names = {"torch": torch, "net": scripted}
    exec(change.needs + "\n".join(line.strip() for line in change.source(edited, path).splitlines()), names)
    return edited, scripted


@pytest.mark.parametrize(("path", "became", "shapes", "sizes"), CASES)
def test_an_edit_and_its_line_of_python_make_the_same(path, became, shapes, sizes):
    edited, scripted = narrowed(path, became)
    own, theirs = edited.state_dict(), scripted.state_dict()
    assert {name: value.shape for name, value in own.items()} == {name: value.shape for name, value in theirs.items()}
    assert all(torch.equal(own[name], theirs[name]) for name in own)  # the first channels of what was there
    assert [type(value) for value in edited.parameters()] == [type(value) for value in scripted.parameters()]
    for net in (edited, scripted):
        if shapes or sizes:
            part = net.get_submodule(path)
            assert all(tuple(part.state_dict()[name].shape) == shape for name, shape in shapes.items())
            assert [f"{size.split()[0]} {getattr(part, size.split()[0])}" for size in sizes] == sizes
        else:
            assert str(list(getattr(net, path).shape))[1:-1].replace(",", "") == became.removeprefix("shape ")


@pytest.mark.parametrize("became", [case[1] for case in CASES])
def test_a_spelling_comes_back_from_json(became):
    assert str(change_of(json.loads(json.dumps(became)))) == became


def test_every_change_of_widths_is_among_the_cases():
    assert {type(change_of(case[1])) for case in CASES} == set(PRUNED)


@pytest.mark.parametrize(("path", "became"), [case[:2] for case in CASES if not case[1].startswith("heads")])
def test_what_became_of_a_net_is_found_by_comparing(path, became):
    edited, _ = narrowed(path, became)
    assert narrowings(widths(Scaled()), widths(edited)) == [(path, became)]


class Largest(TorchDispatchMode):
    """The most elements of any tensor that is made in here."""

    seen = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.seen = max(self.seen, made.numel())
        return made


@pytest.mark.parametrize(
    ("path", "became"),
    [
        ("conv", "channels 99999 99999 1"), ("conv", "channels 9 8 1"), ("conv", "channels 8 9 1"), ("conv", "channels 8 8 3"),
        ("parts", "channels 8 8 1"), ("parts", "channels 8 8 2"), ("parts", "channels 7 8 4"), ("parts", "inputs 4"), ("conv", "inputs 99999"), ("head", "inputs 9"),
        ("head", "features 99999 99999"), ("head", "features 6 8"), ("batch", "norm 99999"), ("layer", "norm 9"), ("group", "norm 9"), ("group", "norm 3"),
        ("attention", "heads 5"), ("attention", "heads 99999"), ("conv", "heads 1"), ("scale", "shape 99999 99999 99999"), ("scale", "shape 8 2 1"),
        ("scale", "shape 8"), ("scale", "shape 8 1 1 1"), ("conv", "shape 8"), ("conv.stride", "shape 1 1"), ("nowhere", "shape 1"), ("", "norm 1"), ("", "shape 1"),
        ("head", "channels 1 1 1"), ("conv", "features 1 1"), ("conv", "norm 1"), ("attention", "inputs 1"), ("head.weight", "inputs 1"), ("__class__", "shape 1"),
    ],
)  # fmt: skip
def test_nothing_grows_and_nothing_is_made_before_it_is_judged(path, became):
    net = Scaled()
    before = {name: (value.shape, value.data_ptr()) for name, value in net.state_dict().items()}
    with Largest() as made, pytest.raises(CheckpointError) as error:
        apply_edits(net, [[path, became]])
    assert str(error.value) == f"the edit {became!r} does not fit {path!r} of this net"
    assert made.seen == 0
    assert {name: (value.shape, value.data_ptr()) for name, value in net.state_dict().items()} == before


@pytest.mark.parametrize(
    "became", ["channels 1 1", "channels 0 1 1", "inputs", "norm 100000", "shape", "shape 0", "shape 1.5", "heads -1", "features 1"]
)
def test_an_unknown_spelling_is_an_error_that_names_it(became):
    with pytest.raises(CheckpointError) as error:
        change_of(became)
    assert str(error.value) == f"unknown edit {became!r}"
