"""Find the logits [B, K] in what a net returned, whatever it wraps them in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from distillctl.errors import ConfigError


def logits_of(answer: Any, classes: int | None = None) -> Tensor:
    """A tensor is they; of anything else what is called `logits`, else its first item where that is [B, K], else the only item that is.

    classes: K, where it is known. Raises ConfigError where nothing, or more than one thing, may be they.
    """
    if isinstance(answer, Tensor):
        return checked(answer, classes)
    items = dict(items_of(answer))
    if isinstance(items.get("logits"), Tensor):
        return checked(items["logits"], classes)
    first = next(iter(items.values()), None)
    if first is not None and not isinstance(first, Tensor) and any(fits(item, classes) for _, item in items_of(first)):
        return logits_of(first, classes)
    found = [item for item in items.values() if fits(item, classes)]
    if found and (found[0] is first or len(found) == 1):
        return found[0]
    many = f"{len(found)} tensors in it may be they" if found else "nothing in it is"
    raise ConfigError(f"its logits have to be {wanted(classes)}, and it answers with {shape_of(answer)}, where {many}")


def checked(logits: Tensor, classes: int | None) -> Tensor:
    if not fits(logits, classes):
        raise ConfigError(f"its logits have to be {wanted(classes)}, and it answers with {shape_of(logits)}")
    return logits


def fits(item: Any, classes: int | None) -> bool:
    return isinstance(item, Tensor) and item.ndim == 2 and item.is_floating_point() and classes in (None, item.shape[1])


def wanted(classes: int | None) -> str:
    return f"[B, {classes}], one number a class of the data set" if classes else "[B, K]"


def items_of(answer: Any) -> Iterator[tuple[str, Any]]:
    """The parts of an answer by their names: of mappings, dataclasses, tuples and lists, and of objects that have `logits`."""
    if isinstance(answer, Mapping):
        yield from ((str(name), value) for name, value in answer.items())
    elif is_dataclass(answer) and not isinstance(answer, type):
        yield from ((field.name, getattr(answer, field.name)) for field in fields(answer))
    elif isinstance(answer, (tuple, list)):
        names = getattr(answer, "_fields", range(len(answer)))
        yield from ((str(name), value) for name, value in zip(names, answer, strict=True))
    elif hasattr(answer, "logits"):
        yield "logits", answer.logits


def shape_of(answer: Any) -> str:
    """`[2, 7]`, or `{features: [2, 64], out: [2, 7]}`."""
    if isinstance(answer, Tensor):
        return str(list(answer.shape))
    parts = ", ".join(f"{name}: {shape_of(value)}" for name, value in list(items_of(answer))[:6])
    return f"{{{parts}}}" if parts else type(answer).__name__
