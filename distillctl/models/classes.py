"""Whether the classes that a model has learnt are those of the data set."""

from __future__ import annotations

from collections.abc import Sequence

from distillctl.config import ModelConfig
from distillctl.data.forms import one_form
from distillctl.errors import CheckpointError
from distillctl.models.record import Record


def sorted_by(key: str, config: ModelConfig) -> str:
    """The other way out, of a teacher."""
    return f", or let an ensemble sort them: teacher=ensemble teacher.members.a.checkpoint={config.checkpoint}" if key == "teacher" else ""


def check_classes(record: Record, ours: Sequence[str], config: ModelConfig, where: str, key: str) -> None:
    """Count, names and order of the classes: equal numbers with another order would train in silence towards nonsense."""
    theirs = record.classes
    if len(theirs) != len(ours):
        raise CheckpointError(f"{where} knows {len(theirs)} classes, the data set has {len(ours)}; give a {key} of these classes")
    pairs = zip(map(one_form, theirs), map(one_form, ours), strict=True)
    other = next(((place, a, b) for place, (a, b) in enumerate(pairs) if a != b), None)
    if other is None or config.ignore_class_names:
        return
    place, a, b = other
    if sorted(map(one_form, theirs)) == sorted(map(one_form, ours)):
        raise CheckpointError(
            f"{where}: its classes are the data set's in another order (class {place} is {a!r}, the data set's is {b!r}); give a {key} of this order{sorted_by(key, config)}"
        )
    ways = ["dataset=recorded is the data that it learned from", f"{key}.new_head=true learns these classes"]
    if (record.dataset or {}).get("name") in (None, "image_folder"):  # what the classes of a published set mean is known
        ways.append(f"{key}.ignore_class_names=true if they mean the same")
    raise CheckpointError(f"{where}: its class {place} is {a!r}, the data set's is {b!r}; {', '.join(ways[:-1])}, or {ways[-1]}")
