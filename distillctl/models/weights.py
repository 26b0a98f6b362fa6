"""Read a file of weights into a net, strictly, without ever running code that the file holds."""

from __future__ import annotations

import os
import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distillctl.errors import CheckpointError
from distillctl.files import open_file

WRAPPERS = ("state_dict", "model", "model_state", "ema", "state_dict_ema", "net", "model_ema")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "student.", "teacher.", "backbone.", "encoder.")
MAGIC = {
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"%PDF": "PDF",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x7fELF": "a program",
    b"MZ": "a program",
    b"\x93NUMPY": "numpy",
    b"\x89HDF": "HDF5",
    b"version https://git-lfs": "a Git LFS pointer: the file itself was not fetched",
}
# what a pickle of plain tensors names; anything else is code
PLAIN_MODULES = ("torch._utils", "torch._tensor", "torch.storage", "torch.serialization")
PLAIN_NAMES = ("Size", "device", "Tensor", "_utils", "OrderedDict", "Parameter", "set", "bytearray", "encode")
PICKLE_LIMIT = 256 * 2**20  # bytes of a pickle that are looked through for the name of its code


def read_weights(path: str | Path, key: str) -> dict[str, Tensor]:
    """The tensors of a .safetensors or torch file by name. `key` is the setting that named the file: `teacher.checkpoint`."""
    path = Path(path)
    where = f"{key}={path}"
    head = _head(path, where)
    if head.startswith(b"PK\x03\x04"):
        content = _read_zip(path, where)
    elif head.startswith(b"\x80") and head[1:2] <= b"\x05":  # a pickle names its protocol
        content = _read_torch(path, where)
    elif head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**27:  # the length of a header, which is at most 100 MB
        content = _read_safetensors(path, where)
    else:
        raise CheckpointError(f"{where}: not a checkpoint (looks like {_kind(head)})")
    return _tensors(content, where)


def load_weights(
    module: nn.Module, weights: Mapping[str, Tensor], key: str, path: str | Path, *, name: str | None = None, new_head: bool = False
) -> None:
    """Copy `weights` into `module`; every entry must be there, fit and be finite.

    name: what the model is called in messages. new_head: the classifier keeps its fresh weights, the rest must fit.
    """
    where, model = f"{key}={path}", name or type(module).__name__
    own = module.state_dict()
    given = match_names(weights, own)
    head = head_names(module)
    if new_head:
        given = {**given, **{entry: own[entry] for entry in own if entry in head or _classes(entry, given, own, head)}}
    _check_names(given, own, where, model)
    _check_shapes(given, own, head, key, where, model)
    for entry, tensor in given.items():
        if tensor.is_floating_point() != own[entry].is_floating_point():
            raise CheckpointError(f"{where}: {entry} holds {_dtype(tensor)}, {model} needs {_dtype(own[entry])}")
        if tensor.is_floating_point() and not tensor.is_meta and not torch.isfinite(tensor).all():
            what = "NaN" if torch.isnan(tensor).any() else "infinity"
            raise CheckpointError(f"{where}: {what} in {entry}; these weights cannot be used")
    if not any(tensor.is_meta for tensor in own.values()):  # a plan of a net: it is checked, there is nothing to fill
        module.load_state_dict(dict(given))


def match_names(weights: Mapping[str, Tensor], own: Mapping[str, Any]) -> dict[str, Tensor]:
    """Drop the prefixes that wrappers add (DDP, compile, Lightning) where that makes the names those of the model."""
    expected = {entry for entry in own if not entry.endswith("num_batches_tracked")}
    stripped = dict(weights)
    while not expected <= set(stripped):
        if any("_orig_mod." in entry for entry in stripped):  # torch.compile of a part puts it in the middle
            stripped = {entry.replace("_orig_mod.", ""): tensor for entry, tensor in stripped.items()}
            continue
        for prefix in PREFIXES:
            if stripped and all(entry.startswith(prefix) for entry in stripped):
                stripped = {entry.removeprefix(prefix): tensor for entry, tensor in stripped.items()}
                break
        else:
            break
    close = len(expected & set(stripped)) > len(expected & set(weights))  # for a message in the model's own names
    return stripped if close else dict(weights)


def head_names(module: nn.Module) -> tuple[str, ...]:
    """The entries of the classifier: of the last linear layer or 1x1 convolution."""
    last: tuple[str, ...] = ()
    for name, part in module.named_modules():
        linear = isinstance(part, nn.Linear) or (isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1))
        if linear:
            last = tuple(f"{name}.{entry}" if name else entry for entry in part.state_dict())
    return last


def _check_names(given: Mapping[str, Tensor], own: Mapping[str, Tensor], where: str, model: str) -> None:
    extra = [entry for entry in given if entry not in own]
    # files older than torch 0.4.1 have no num_batches_tracked, and torch fills it in
    missing = [entry for entry in own if entry not in given and not entry.endswith("num_batches_tracked")]
    problems = []
    if extra:
        problems.append(f"{_entries(extra)} not in the model (first: {extra[0]})")
    if missing:
        problems.append(f"{_entries(missing) if not extra else f'{len(missing)} are'} missing (first: {missing[0]})")
    if problems:
        raise CheckpointError(f"{where} does not fit {model}: {', '.join(problems)}")


def _check_shapes(given: Mapping[str, Tensor], own: Mapping[str, Tensor], head: tuple[str, ...], key: str, where: str, model: str) -> None:
    wrong = [entry for entry in given if given[entry].shape != own[entry].shape]
    if not wrong:
        return
    owner = key.rpartition(".")[0] or key
    first = wrong[0]
    have, need = given[first].shape, own[first].shape
    classes = {_classes(entry, given, own, head) for entry in wrong}
    if len(classes) == 1 and None not in classes:
        raise CheckpointError(
            f"{where} holds {classes.pop()} classes, the data set has {need[0]}; "
            f"for a new classifier on these weights set {owner}.new_head=true"
        )
    hint = ""
    if all(len(given[entry].shape) == 4 and given[entry].shape[:2] == own[entry].shape[:2] for entry in wrong):
        hint = f"; only kernels differ: was it trained with the other stem ({owner}.stem=large or small)?"
    shapes = f"{first} is {tuple(have)} in the file, {tuple(need)} in the model"
    raise CheckpointError(f"{where} does not fit {model}: {_entries(wrong)} of another shape (first: {shapes}){hint}")


def _classes(entry: str, given: Mapping[str, Tensor], own: Mapping[str, Tensor], head: tuple[str, ...]) -> int | None:
    """The classes that `given` knows, where this entry differs from the model's in nothing but them. A distilled net has two heads."""
    if not head or entry not in given or entry not in own:
        return None
    have, need = given[entry].shape, own[entry].shape
    if len(have) != len(need) or not have or have == need or have[1:] != need[1:] or need[0] != own[head[0]].shape[0]:
        return None
    return have[0]


def _entries(names: list[str]) -> str:
    return f"{len(names)} {'entry is' if len(names) == 1 else 'entries are'}"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _head(path: Path, where: str) -> bytes:
    if os.path.isdir(path):
        raise CheckpointError(f"{where}: a folder, not a file of weights")
    try:
        with open_file(path) as file:
            head = file.read(512)
    except FileNotFoundError:
        raise CheckpointError(f"{where}: no such file") from None
    except OSError as error:
        raise CheckpointError(f"{where}: cannot be read ({error.strerror})") from None
    if not head:
        raise CheckpointError(f"{where}: an empty file (0 bytes)")
    return head


def _kind(head: bytes) -> str:
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            return kind
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "HTML: a web page was saved in its place"
    if start.startswith((b"{", b"[")):
        return "JSON"
    if b"\x00" not in head and head.isascii():
        return "text"
    return "an unknown format"


def _read_safetensors(path: Path, where: str) -> Any:
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except Exception:  # a damaged file can raise anything: SafetensorError, KeyError, struct.error ...
        raise CheckpointError(f"{where}: truncated or damaged (no valid safetensors)") from None


def _read_zip(path: Path, where: str) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except Exception:  # as above: BadZipFile, NotImplementedError, UnicodeDecodeError, struct.error ...
        raise CheckpointError(f"{where}: truncated or damaged") from None
    names = {member.filename.rpartition("/")[2] for member in members}
    if "constants.pkl" in names:
        raise CheckpointError(f"{where}: not a checkpoint (looks like TorchScript); save the state_dict of the model instead")
    if "data.pkl" not in names:
        raise CheckpointError(f"{where}: not a checkpoint (looks like a zip archive)")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        # torch.save never compresses; a few bytes that unpack to gigabytes would
        raise CheckpointError(f"{where}: not a checkpoint (looks like a compressed zip archive)")
    return _read_torch(path, where)


def _read_torch(path: Path, where: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # as above; what the message says is torch's and changes, so it is not read
        code = _code_in(path)
    if code:
        raise CheckpointError(f"{where}: refused: it holds code ({code}); only plain weights are read, so save the state_dict of the model")
    raise CheckpointError(f"{where}: truncated or damaged")


def _code_in(path: Path) -> str | None:
    """The first class or function that a pickle names and plain weights do not need. Reads opcodes, runs none."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                member = next(each for each in archive.namelist() if each.rpartition("/")[2] == "data.pkl")
                with archive.open(member) as file:
                    return _first_code(file.read(PICKLE_LIMIT))
        with path.open("rb") as file:
            return _first_code(file.read(PICKLE_LIMIT))
    except Exception:  # it is damaged as well; that is then the message
        return None


def _first_code(data: bytes) -> str | None:
    position = 0
    while position < len(data):  # an old torch file is several pickles in a row
        strings: list[str] = []
        memo: dict[int, str] = {}
        end = position
        try:
            for opcode, argument, start in pickletools.genops(data[position:]):
                end = position + (start or 0) + 1
                name = _global(opcode.name, argument, strings, memo)
                if name and not _plain(name):
                    return name
        except (pickle.UnpicklingError, ValueError, IndexError, EOFError):
            return None
        if end <= position:
            return None
        position = end
    return None


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


def _plain(name: str) -> bool:
    module, _, last = name.rpartition(".")
    if module in PLAIN_MODULES or last.endswith("Storage"):
        return module.startswith("torch")
    if module in ("torch", "torch.nn.parameter", "collections", "builtins", "__builtin__", "_codecs"):
        return last in PLAIN_NAMES or (module == "torch" and isinstance(getattr(torch, last, None), torch.dtype))
    return False


def _tensors(content: Any, where: str, depth: int = 0) -> dict[str, Tensor]:
    if isinstance(content, Tensor):
        raise CheckpointError(f"{where}: holds one tensor, not the weights of a model")
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{where}: holds a {type(content).__name__}, not the weights of a model")
    if content and all(isinstance(entry, str) and isinstance(value, Tensor) for entry, value in content.items()):
        return {entry: value.detach() for entry, value in content.items()}
    for wrapper in WRAPPERS:
        inner = content.get(wrapper)
        if isinstance(inner, Mapping) and inner and depth < 3:
            return _tensors(inner, where, depth + 1)
    shown = ", ".join(str(entry) for entry in list(content)[:6]) or "none"
    raise CheckpointError(f"{where}: holds no weights of a model (its keys: {shown})")
