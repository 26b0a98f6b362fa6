"""Which classes and functions a pickle names, and what stands in for those that are only settings. Reads opcodes, runs none."""

from __future__ import annotations

import pickle
import pickletools
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch

from distillctl.files import open_file

# what a pickle of plain tensors names, which torch reads by itself
PLAIN_MODULES = ("torch._utils", "torch._tensor", "torch.storage", "torch.serialization")
PLAIN_NAMES = ("Size", "device", "Tensor", "_utils", "OrderedDict", "Counter", "Parameter", "set", "bytearray", "encode")
# classes of Python that are values: what training scripts keep beside weights. Whatever else is of Python itself is there to do something.
VALUES = ("argparse.Namespace", "types.SimpleNamespace", "uuid.UUID", "decimal.Decimal", "fractions.Fraction", "builtins.complex")
MODULES_OF_VALUES = ("collections", "datetime", "pathlib", "enum", "typing", "zoneinfo")
BUILTIN_VALUES = ("int", "float", "bool", "str", "bytes", "list", "dict", "tuple", "frozenset", "slice", "range", "object", "type")
LIMIT = 256 * 2**20  # bytes of a pickle that are looked through


class StandIn:
    """In place of an object of any class: nothing is made of what it is given, and nothing is asked of it.

    inert: it is known as a value that says nothing of weights, as settings and figures are.
    """

    name: ClassVar[str] = ""
    inert: ClassVar[bool] = False

    def __new__(cls, *given: Any, **named: Any) -> StandIn:
        return super().__new__(cls)

    def __init__(self, *given: Any, **named: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def stand_in(name: str) -> type:
    """A class of its own for a name. Mappings of other libraries are told by their names, and filled as mappings."""
    last = name.rpartition(".")[2]
    if last.lower().endswith("dict") or last == "CfgNode":
        return OrderedDict
    return type("StandIn", (StandIn,), {"name": name, "inert": is_value(name)})


def is_plain(name: str) -> bool:
    """Whether torch itself reads it as a part of tensors."""
    module, _, last = name.rpartition(".")
    if module in PLAIN_MODULES or last.endswith("Storage"):
        return module.startswith("torch")
    if module in ("torch", "torch.nn.parameter", "collections", "builtins", "__builtin__", "_codecs"):
        return last in PLAIN_NAMES or (module == "torch" and isinstance(getattr(torch, last, None), torch.dtype))
    return False


def acts(name: str) -> bool:
    """Whether a file that names it is to be refused: of Python itself, and no value. (What it names is not run either way.)"""
    root = name.partition(".")[0]
    return (root in sys.stdlib_module_names or root == "__builtin__") and not is_value(name)


def is_value(name: str) -> bool:
    module, _, last = name.rpartition(".")
    root = module.partition(".")[0]
    if module in ("builtins", "__builtin__"):
        return last in BUILTIN_VALUES or name in VALUES
    return name in VALUES or root in MODULES_OF_VALUES or root == "numpy"


def names_in(path: Path) -> list[str]:
    """Every class or function that a torch file names, as `module.name`, in order; of a damaged one those before the damage."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                member = next(each for each in archive.namelist() if each.rpartition("/")[2] == "data.pkl")
                with archive.open(member) as file:
                    data = file.read(LIMIT)
        else:
            with open_file(path) as plain:
                data = plain.read(LIMIT)
    except Exception:  # it is damaged as well; that is then the message
        return []
    return list(_names(data))


def _names(data: bytes) -> Iterator[str]:
    position = 0
    while position < len(data):  # an old torch file is several pickles in a row
        strings: list[str] = []
        memo: dict[int, str] = {}
        end = position
        try:
            for opcode, argument, start in pickletools.genops(data[position:]):
                end = position + (start or 0) + 1
                if name := _global(opcode.name, argument, strings, memo):
                    yield name
        except (pickle.UnpicklingError, ValueError, IndexError, EOFError):
            return
        if end <= position:
            return
        position = end


def _global(opcode: str, argument: Any, strings: list[str], memo: dict[int, str]) -> str | None:
    """`module.name` where this opcode looks one up; keeps track of the strings that STACK_GLOBAL takes."""
    if opcode in ("GLOBAL", "INST"):
        return str(argument).replace(" ", ".")
    if opcode == "STACK_GLOBAL":
        return ".".join(strings[-2:])
    if "UNICODE" in opcode or "STRING" in opcode:
        strings.append(str(argument))
    elif opcode == "MEMOIZE":
        memo[len(memo)] = strings[-1] if strings else ""
    elif opcode in ("BINPUT", "LONG_BINPUT", "PUT"):
        memo[int(argument)] = strings[-1] if strings else ""
    elif opcode in ("BINGET", "LONG_BINGET", "GET"):
        strings.append(memo.get(int(argument), ""))
    return None
