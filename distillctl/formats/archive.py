"""What a .pt2 file holds, held against what a net needs: names, numbers and operators, and nothing that torch would run as code.

`torch.export.load` unpickles what an archive says is pickled, loads shared libraries that lie in it, evaluates its expressions of sizes as
Python, looks its operators up by any name under `torch`, and compiles the names of its nodes into a Python function. So an archive is
parsed here, what is not needed is left out, the rest has to be on the lists below, and torch is given an archive that was made anew from it.
"""

from __future__ import annotations

import io
import json
import keyword
import re
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

from distillctl.entries import Malformed
from distillctl.files import parse_json

EXTRA = "extra/distillctl"  # where the metadata lies, as JSON
MODEL = "models/model.json"
WEIGHTS, CONSTANTS = "data/weights/", "data/constants/"
CONFIGS = (f"{WEIGHTS}model_weights_config.json", f"{CONSTANTS}model_constants_config.json")
PAYLOADS = (re.compile(r"weight_\d{1,9}"), re.compile(r"tensor_\d{1,9}"))
EXAMPLE = "data/sample_inputs/model.pt"  # a pickle, which nothing needs: empty
WHOLE = {"archive_format": b"pt2", "archive_version": b"0", "byteorder": b"little"}
LARGEST_JSON = 2**28  # bytes; a net of a thousand layers has some 2**21

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+]*|")  # of nodes, weights, operators, of the version; "" of what has none
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|")  # of nodes: torch compiles them as they are
ARGUMENTS = ("as_operator", "as_custom_obj", "as_opaque_obj")  # what an argument may not be: something that is called, or was pickled
ATEN = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)")
OTHERS = re.compile(
    r"torch\.ops\.higher_order\.cond|torch\.sym_(?:min|max|not|float|int|ite|sum)|math\.(?:ceil|floor|trunc)"
    r"|_operator\.(?:add|sub|mul|floordiv|truediv|mod|neg|pos|pow|eq|ne|lt|le|gt|ge|and_|or_|getitem)"
)
MAKERS = (  # operators that take no tensor. Any other is refused: `from_file` is one
    *(
        "arange",
        "empty",
        "eye",
        "full",
        "linspace",
        "ones",
        "scalar_tensor",
        "zeros",
        "sym_constrain_range_for_size",
        "sym_constrain_range",
    ),
    *(
        "_assert_scalar",
        "cat",
        "stack",
        "concat",
        "concatenate",
        "hstack",
        "vstack",
        "meshgrid",
        "einsum",
        "block_diag",
        "broadcast_tensors",
    ),
)
INNER = (  # operators that begin with an underscore and are no door: of the others some leave out to check where they write
    *(
        "_adaptive_avg_pool2d",
        "_assert_scalar",
        "_assert_tensor_metadata",
        "_log_softmax",
        "_native_batch_norm_legit_no_training",
        "_softmax",
    ),
    *("_scaled_dot_product_flash_attention_for_cpu", "_to_copy", "_unsafe_view", "_upsample_bicubic2d_aa", "_upsample_bilinear2d_aa"),
    *("__and__", "__or__", "__xor__", "__lshift__", "__rshift__"),
)
SYMBOL = r"Symbol\('[a-z]{1,4}\d{1,9}'(?:, ?(?:positive|nonnegative|nonzero|integer|real|finite)=(?:True|False))*\)"
NUMBER = r"(?:Integer|Float)\('?-?\d{1,20}(?:\.\d{1,20})?'?(?:, ?precision=\d{1,4})?\)|-?\d{1,20}"
FUNCTION = (
    r"(?:Add|Mul|Max|Min|FloorDiv|CeilDiv|CleanDiv|Mod|PythonMod|ModularIndexing|IntTrueDiv|CeilToInt|FloorToInt|TruncToInt|ToFloat|Identity"
    r"|Equality|Unequality|Eq|Ne|GreaterThan|LessThan|StrictGreaterThan|StrictLessThan|Ge|Le|Gt|Lt|And|Or|Not)(?=\()"
)
TOKEN = re.compile(rf"{SYMBOL}|{NUMBER}|{FUNCTION}|[(), ]|true|false")
LONGEST_EXPRESSION = 4096
TREES = (None, "builtins.tuple", "builtins.list", "builtins.dict")


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


def check_strings(content: Any, key: str = "") -> None:
    """Every string, also those that are keys, by where it stands."""
    judges: dict[str, Callable[[str], None]] = {
        "expr_str": check_expression,
        "in_spec": check_tree,
        "out_spec": check_tree,
        "target": check_target,
        "name": check_identifier,
        "as_name": check_identifier,
    }
    stack: list[tuple[str, Any]] = [(key, content)]
    while stack:
        key, each = stack.pop()
        if isinstance(each, dict):
            for name, value in each.items():
                check_name(name)
                if name in ARGUMENTS and value is not None:
                    raise Malformed(f"{name} is an argument of it, which may run code")
            stack.extend(each.items())
        elif isinstance(each, list):
            stack.extend((key, item) for item in each)
        elif isinstance(each, str):
            judges.get(key, check_name)(each)


def check_name(name: str) -> None:
    if NAME.fullmatch(name) is None or any(keyword.iskeyword(part) for part in name.split(".") if part not in ("None", "True", "False")):
        raise Malformed(f"{name[:60]!r} is no name of a part of a net")
    if "__" in name and any(part.startswith("__") for part in name.split(".")):
        raise Malformed(f"{name[:60]!r} is a name that Python keeps for itself")


def check_identifier(name: str) -> None:
    check_name(name)
    if IDENTIFIER.fullmatch(name) is None:
        raise Malformed(f"{name[:60]!r} is no name of a node")


def check_expression(expression: str) -> None:
    if len(expression) > LONGEST_EXPRESSION or TOKEN.sub("", expression):
        raise Malformed(f"{expression[:60]!r} is no size")


def check_target(target: str) -> None:
    if ATEN.fullmatch(target) is None and OTHERS.fullmatch(target) is None:
        check_name(target)  # of a weight, in the signature


def check_operator(target: Any) -> None:
    """Of ATen, which computes; of what else lies under `torch` nothing."""
    if isinstance(target, str) and OTHERS.fullmatch(target):
        return
    named = ATEN.fullmatch(target) if isinstance(target, str) else None
    if named is None:
        raise Malformed(f"{str(target)[:80]!r} is no operator of a net")
    import torch

    if named[1].startswith("_") and named[1] not in INNER:
        raise Malformed(f"{target[:80]!r} is for the inside of torch, and may reach outside of a net")
    operator = getattr(getattr(torch.ops.aten, named[1], None), named[2], None)
    if not isinstance(operator, torch._ops.OpOverload):
        raise Malformed(f"{target[:80]!r} is no operator of this version of torch")
    takes_tensors = any(isinstance(each.type, torch.TensorType) for each in operator._schema.arguments)
    if not takes_tensors and named[1] not in MAKERS:
        raise Malformed(f"{target[:80]!r} takes no tensor, and may reach outside of a net")


def check_tree(spec: str) -> None:
    """How inputs and outputs are nested: tuples, lists and dicts of tensors."""
    try:
        stack = [parse_json(spec)]
    except ValueError:
        raise Malformed(f"{spec[:60]!r} is no nesting of tensors") from None
    while stack:
        each = stack.pop()
        if isinstance(each, dict):
            if each.get("type") not in TREES or each.get("context") not in (None, "null", "[]"):
                raise Malformed(f"{str(each.get('type'))[:60]!r} holds its inputs or outputs; tensors, tuples, lists and dicts are read")
            stack.extend(each.get("children_spec") or ())
        elif isinstance(each, list):
            stack.extend(each)
        elif each != 1:
            raise Malformed(f"{spec[:60]!r} is no nesting of tensors")
