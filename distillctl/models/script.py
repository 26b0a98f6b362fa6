"""Python that loads a shipped model without this package."""

from __future__ import annotations

import json
import keyword
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from distillctl.models.catalogue import CIFAR
from distillctl.models.edits import change_of
from distillctl.models.net import Net
from distillctl.models.record import Record


class Reading(NamedTuple):
    """What a script says of its inputs, which their kind knows: an example of what it is given, the libraries it needs, imports that go
    before and behind torch's, constants, the function `preprocess` from what was opened to what the net takes, how `path` is opened, and
    how the net is asked."""

    file: str
    needs: str
    imports: str
    more_imports: str
    constants: str
    preprocess: str
    opened: str
    what: str = "files"
    ask: str = "net({})"


def load_script(net: Net, role: str, record: Record, reading: Reading) -> str:
    """Python that needs torch, safetensors and the architecture's own library, and nothing of ours."""
    architecture = record.architecture
    arguments = keywords(architecture.args)
    count = len(record.classes)
    source, name = net.source, net.name
    if source == "cifar":
        definition = (Path(__file__).parent / "cifar" / f"{CIFAR[name]}.py").read_text()
        make = f"{name}(num_classes={count}{arguments})"
    elif source == "text":
        definition = (Path(__file__).parent / "text" / f"{name}.py").read_text()
        make = f"{name}(num_classes={count}{arguments})"
    elif source == "transformers":
        settings = keywords({name: value for name, value in architecture.args.items() if name != "model_type"})
        definition = "from transformers import AutoConfig, AutoModelForSequenceClassification\n"
        make = f"AutoModelForSequenceClassification.from_config(AutoConfig.for_model({architecture.args['model_type']!r}, num_labels={count}{settings}))"
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
        **{**reading._asdict(), "ask": reading.ask.format(f"preprocess({reading.opened})")},
    )


def keywords(args: Mapping[str, Any]) -> str:
    """Arguments behind others, as Python: names may come from files, so that one which is none must not be code."""
    plain = {name: value for name, value in args.items() if name.isidentifier() and not keyword.iskeyword(name)}
    others = {name: value for name, value in args.items() if name not in plain}
    return "".join(f", {name}={value!r}" for name, value in plain.items()) + (f", **{others!r}" if others else "")


SCRIPT = '''"""Load the {role} that lies beside this file: `python load_{role}.py {file}` prints its answer.

Needs torch, safetensors, {needs}, and the library of the architecture.
"""

from __future__ import annotations

import sys
from pathlib import Path

{imports}import torch
{more_imports}from safetensors.torch import load_file

{definition}

CLASSES = {classes}
{constants}


def replace(net, path, part):
    parent, _, name = path.rpartition(".")
    setattr(net.get_submodule(parent), name, part)
{parts}

def load(weights=Path(__file__).with_name("{role}.safetensors")):
    """The net in eval mode; it takes what `preprocess` gives."""
    net = {make}{edits}
    net.load_state_dict(load_file(weights))
    return net.eval()


{preprocess}

if __name__ == "__main__":
    net = load()
    for path in sys.argv[1:]:
        with torch.inference_mode():
            probabilities = {ask}.softmax(-1)[0]
        best = int(probabilities.argmax())
        print(path, CLASSES[best], round(float(probabilities[best]), 4))
'''
