"""Sets of the `datasets` library, by their names on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from distillctl import extras
from distillctl.data.names import part_of
from distillctl.data.text.table import Table, cell_of
from distillctl.errors import DataError, MachineError, first_line


def tables(name: str, configuration: str | None) -> dict[str, list[tuple[str, Table]]]:
    """A table of each part, from the library's cache or the network. Raises MachineError without either."""
    try:
        import datasets
    except ImportError:
        raise extras.missing(f"dataset.hub={name}", "datasets", "hub") from None
    try:
        found: Any = datasets.load_dataset(name, configuration)
    except ValueError as error:  # of a set with several configurations
        raise DataError(f"dataset.hub={name}: {first_line(error)[:200]}; dataset.hub_config names one") from None
    except Exception as error:  # of the hub, of the network, of the files
        raise MachineError(f"dataset.hub={name}: cannot be had ({first_line(error)[:160]})") from None
    parts = {split: part_of(split) for split in found}
    known = {part[0]: split for split, part in reversed(parts.items()) if part is not None}
    if not known:
        raise DataError(f"dataset.hub={name}: none of its splits ({', '.join(found)}) is train, validation or test")
    return {part: [(f"{name} ({known[part]})", table_of(found[known[part]]))] for part in ("train", "val", "test") if part in known}


def table_of(split: Any) -> Table:
    names = tuple(split.column_names)
    labels = {name: list(feature.names) for name, feature in split.features.items() if hasattr(feature, "names")}

    def rows() -> Iterator[tuple[int, Sequence[str | None]]]:
        for number, record in enumerate(split, 1):
            yield number, [cell_of(record[name]) for name in names]

    return Table(names, rows(), names=labels)
