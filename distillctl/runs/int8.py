"""A net that is trained as if its numbers had 8 bits: how it is made of a float net, and how it is shipped beside that."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load as safetensors_load
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from distillctl.compress.quantize.qat import QatNet, finish, prepare
from distillctl.errors import CheckpointError, first_line
from distillctl.files import read_bytes
from distillctl.models.adapter import Adapter
from distillctl.runs.bundle import Bundle
from distillctl.state import write_atomically

RANGES = "student.ranges"  # scales and zero points as safetensors, beside the weights of the float net
SEEN = 256  # training samples that ranges begin with
INSIDE = "graph."  # before the names of the float net's own parameters and buffers


def fake_quantise(classifier: Adapter, bundle: Bundle) -> None:
    """Put the net of a classifier, in place, behind rounding to 8 bits, which training sees. Raises ConfigError where it cannot be."""
    example = classifier.prepare(bundle.few(SEEN).inputs)
    classifier.net = prepare(classifier.net, example)


def parted(weights: Mapping[str, Tensor], net: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The float net's own weights by their names, and what rounding needs besides."""
    own = {name: weights[INSIDE + name] for name in net.state_dict() if INSIDE + name in weights}
    return own, {name: value for name, value in weights.items() if name.removeprefix(INSIDE) not in own}


def write_quantizers(folder: Path, found: Mapping[str, Tensor]) -> None:
    write_atomically(folder / RANGES, [safetensors_bytes({name: value.detach().cpu().contiguous() for name, value in found.items()})])


def in_int8(classifier: Adapter, bundle: Bundle, folder: Path) -> nn.Module:
    """What an exporter takes: the net of a shipped student with the ranges that lie beside it, its numbers of 8 bits."""
    file, own = folder / RANGES, classifier.plain_state()
    fake_quantise(classifier, bundle)
    net = classifier.net
    assert isinstance(net, QatNet)
    try:
        ranges = safetensors_load(read_bytes(file))
        net.load_state_dict({**{INSIDE + name: value for name, value in own.items()}, **ranges}, strict=False)
    except Exception as error:  # a file that was changed, or is gone
        raise CheckpointError(f"{file}: no ranges of this net ({first_line(error)[:200]}); start a new run") from None
    return finish(net.eval())
