"""What decides a teacher's answer to a view: the key that kept answers are found by."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

from torch import nn

from distillctl import formats, models, outputs
from distillctl.data.loader import TrainLoader
from distillctl.formats import by_file
from distillctl.formats.engine import Engine, has_engine
from distillctl.models.adapter import Adapter
from distillctl.runs.bundle import Bundle
from distillctl.runs.session import Session
from distillctl.runtime import precision_name
from distillctl.teachers.frozen import Frozen
from distillctl.teachers.records import Layout
from distillctl.teachers.store import FORMAT_VERSION

PUBLISHED = ("torch", "torchvision", "timm")  # whose code is as their versions say
DECIDING_VERSIONS = ("distillctl", *PUBLISHED)


def deciding_parts(session: Session, bundle: Bundle, teacher: Frozen, batches: TrainLoader, layout: Layout) -> dict[str, Any]:
    """Everything that decides an answer, by names that a person understands. Whatever is not here must not matter."""
    versions = outputs.versions()
    return {
        "format": f"{FORMAT_VERSION}, {sys.byteorder} endian",
        "teacher": teacher.name,
        "weights": teacher.weights_mark,
        "architecture": digest(re.sub(r" at 0x[0-9a-f]+", "", repr(teacher.model))),
        "code": code_of(teacher.model),
        "preprocessing": digest(preprocessing(teacher.model)),
        "precision": precision_name(teacher.precision),
        "device": teacher.device.type,
        "channels_last": session.config.trainer.channels_last,
        "compile": session.config.trainer.compile,
        "data_set": bundle.data.name,
        "data": bundle.data.fingerprint,
        "split": "train",
        "samples": len(batches.split),
        **batches.deciding(),
        "teachers": layout.teachers,
        "classes": layout.classes,
        "dtype": layout.dtype,
        "top_k": layout.top_k,
        "features": {name: list(shape) for name, shape in layout.features},
        "versions": {name: versions[name] for name in DECIDING_VERSIONS} | runtimes(teacher.model),
    }


def code_of(model: nn.Module) -> dict[str, str]:
    """Of packages that nets come from and that have no version here, the user's own and our nets: their sources."""
    homes = {type(part).__module__ for part in model.modules()}
    found = {}
    for name in sorted({home.partition(".")[0] for home in homes} - set(PUBLISHED)):
        file = getattr(sys.modules[name], "__file__", None)
        place = (
            Path(models.__file__).parent if name == "distillctl" else Path(file).parent if file and file.endswith("__init__.py") else file
        )
        found[name] = outputs.sources(Path(place)) if place else ""
    if has_engine(model):
        found["distillctl.formats"] = outputs.sources(Path(formats.__file__).parent)
    return found


def runtimes(model: nn.Module) -> dict[str, str]:
    """The versions of what runs the exported files among the models."""
    names = {name for part in model.modules() if isinstance(part, Engine) and (form := by_file(part.file)) for name in form.runs_by}
    return {name: getattr(sys.modules.get(name), "__version__", "") for name in sorted(names)}


def preprocessing(model: nn.Module) -> list[Any]:
    """What a state dict does not hold: means, deviations, orders of classes, the resolutions that nets see."""
    kept = model.state_dict()
    buffers = [[name, value.flatten().tolist()] for name, value in model.named_buffers() if name not in kept]
    return [buffers, [[name, part.settings()] for name, part in model.named_modules() if isinstance(part, Adapter)]]


def digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
