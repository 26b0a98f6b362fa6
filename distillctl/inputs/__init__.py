"""The kinds of inputs: what nets are given, how that is batched, recorded, shipped and read, each kind in a file of its own.

A kind is a `Contract` in `KINDS` and its schema of `dataset` in `config.DATA_KINDS`, both under the same name. Nothing above knows more.
"""

from __future__ import annotations

from distillctl.config import DATA_KINDS, DatasetConfig
from distillctl.entries import Malformed
from distillctl.inputs.contract import Contract
from distillctl.inputs.image import Images
from distillctl.inputs.text import Texts
from distillctl.models.record import Record
from distillctl.models.seen import kind_in

KINDS: dict[str, type[Contract]] = {"images": Images, "texts": Texts}


def kind_of(config: DatasetConfig) -> type[Contract]:
    """The kind of a data set, by the schema that its config has."""
    return KINDS[next(name for name, schema in DATA_KINDS.items() if type(config) is schema)]


def from_record(record: Record) -> Contract:
    """What a shipped model's inputs were. Raises Malformed where that is not known here."""
    kind = kind_in(record)
    if kind not in KINDS:
        raise Malformed(f"its inputs are {kind[:40]!r}, which is not known here; known: {', '.join(KINDS)}")
    return KINDS[kind].from_record(record)
