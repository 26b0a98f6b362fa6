"""What a .pt2 file holds, held against what a net needs: names, numbers and operators, and nothing that torch would run as code.

`torch.export.load` unpickles what an archive says is pickled, loads shared libraries that lie in it, evaluates its expressions of sizes as
Python, looks its operators up by any name under `torch`, and compiles the names of its nodes into a Python function. So an archive is
parsed here, what is not needed is left out, the rest has to be on the lists of `allowed.py`, and torch is given an archive that was made anew from it.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from typing import Any

from distillctl.entries import Malformed
from distillctl.files import parse_json
from distillctl.formats.allowed import check_name, check_operator, check_strings

EXTRA = "extra/distillctl"  # where the metadata lies, as JSON
MODEL = "models/model.json"
WEIGHTS, CONSTANTS = "data/weights/", "data/constants/"
CONFIGS = (f"{WEIGHTS}model_weights_config.json", f"{CONSTANTS}model_constants_config.json")
PAYLOADS = (re.compile(r"weight_\d{1,9}"), re.compile(r"tensor_\d{1,9}"))
EXAMPLE = "data/sample_inputs/model.pt"  # a pickle, which nothing needs: empty
WHOLE = {"archive_format": b"pt2", "archive_version": b"0", "byteorder": b"little"}
LARGEST_JSON = 2**28  # bytes; a net of a thousand layers has some 2**21


def metadata_in(content: bytes) -> Any:
    """What `write` was given; an empty mapping of a file from elsewhere. Raises Malformed."""
    told = records(content).get(EXTRA)
    try:
        return {} if told is None else parse_json(told)
    except ValueError:
        raise Malformed("its metadata is no JSON") from None


def records(content: bytes) -> dict[str, bytes]:
    """What an archive holds, by name, without the folder that all of it lies in. Raises Malformed."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            stored = [each for each in archive.infolist() if not each.is_dir()]
            if any(each.compress_type != zipfile.ZIP_STORED for each in stored):
                raise Malformed("something in it is compressed, as torch does not write it")
            return {each.filename.partition("/")[2]: archive.read(each) for each in stored}
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise Malformed(f"it is no whole archive: {error}") from None


def cleaned(content: bytes, metadata: str | None = None) -> tuple[bytes, dict[str, Any]]:
    """An archive with nothing in it but what a net needs, and the JSON of its graph. Raises Malformed for what could be code."""
    found = records(content)
    kept = {name: value for name, value in WHOLE.items() if found.get(name, value) == value}
    if len(kept) < len(WHOLE):
        raise Malformed("it is an archive of another kind")
    program = json_of(found, MODEL)
    strip_program(program)
    check_program(program)
    kept[MODEL] = json.dumps(program, separators=(",", ":")).encode()
    for config, folder, payload in zip(CONFIGS, (WEIGHTS, CONSTANTS), PAYLOADS, strict=True):
        told = json_of(found, config)
        kept[config] = json.dumps(told, separators=(",", ":")).encode()
        kept |= payloads_of(told, found, folder, payload)
    kept[EXAMPLE] = b""
    if metadata is not None:
        kept[EXTRA] = metadata.encode()
    return packed(kept), program


def packed(content: dict[str, bytes]) -> bytes:
    from torch.export.pt2_archive._package import PT2ArchiveWriter

    buffer = io.BytesIO()
    with PT2ArchiveWriter(buffer) as archive:
        for name, value in content.items():
            if name != "byteorder":  # the writer's own
                archive.write_bytes(name, value)
    return buffer.getvalue()


def json_of(found: dict[str, bytes], name: str) -> dict[str, Any]:
    content = found.get(name)
    if content is None:
        raise Malformed(f"it holds no {name}")
    if len(content) > LARGEST_JSON:
        raise Malformed(f"{name} has {len(content):,} bytes")
    try:
        told = parse_json(content)
    except ValueError:
        raise Malformed(f"{name} is no JSON that can be read") from None
    if not isinstance(told, dict):
        raise Malformed(f"{name} is no mapping")
    return told


def payloads_of(config: dict[str, Any], found: dict[str, bytes], folder: str, payload: re.Pattern[str]) -> dict[str, bytes]:
    """The tensors of an archive: bytes alone, as many as their shapes say."""
    entries = config.get("config")
    if set(config) != {"config"} or not isinstance(entries, dict):
        raise Malformed("its list of tensors is not one")
    kept: dict[str, bytes] = {}
    for name, told in entries.items():
        check_name(name)
        if not isinstance(told, dict) or told.get("use_pickle") is not False:
            raise Malformed(f"{name[:60]} of it is pickled, which may run code, and no file does that here")
        check_strings(told)
        path = told.get("path_name")
        if not isinstance(path, str) or payload.fullmatch(path) is None:
            raise Malformed(f"{name[:60]} of it is no tensor but {str(path)[:60]!r}")
        if folder + path not in found:
            raise Malformed(f"{path}, a tensor of it, is missing")
        kept[folder + path] = found[folder + path]
        check_meta(name, told.get("tensor_meta"), len(kept[folder + path]))
    return kept


def check_meta(name: str, told: Any, stored: int) -> None:
    sizes = told.get("sizes") if isinstance(told, dict) else None
    if not isinstance(sizes, list) or not all(isinstance(size, dict) and isinstance(size.get("as_int"), int) for size in sizes):
        raise Malformed(f"{name[:60]} of it has no shape")
    device = told.get("device")
    if not isinstance(device, dict) or device.get("type") != "cpu":
        raise Malformed(f"{name[:60]} of it does not lie on the CPU")
    if stored == 0 and all(size["as_int"] for size in sizes):
        raise Malformed(f"{name[:60]} of it has no values")


def strip_program(program: dict[str, Any]) -> None:
    """Leave out what is for who works on an exporter: paths of a machine, Python code of guards."""
    program["guards_code"] = []
    for module in (program.get("graph_module"),):
        if not isinstance(module, dict):
            raise Malformed("it holds no graph")
        module["metadata"], module["treespec_namedtuple_fields"] = {}, {}
        calls = module.get("module_call_graph")
        module["module_call_graph"] = calls[:1] if isinstance(calls, list) else []  # the whole net; its parts are for unflattening
    for node in nodes_of(program):
        node["metadata"] = {}


def nodes_of(content: Any) -> Iterator[dict[str, Any]]:
    """The nodes of all graphs, also of those within arguments."""
    stack = [content]
    while stack:
        each = stack.pop()
        if isinstance(each, dict):
            if "target" in each and "inputs" in each:
                yield each
            stack.extend(each.values())
        elif isinstance(each, list):
            stack.extend(each)


def check_program(program: dict[str, Any]) -> None:
    for node in nodes_of(program):
        check_operator(node["target"])
    check_strings(program)
