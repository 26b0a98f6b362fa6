"""What a graph in a .pt2 file may name: operators that compute, parts of a net, sizes and nestings of tensors; nothing that torch would run as code."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable
from typing import Any

from distillctl.entries import Malformed
from distillctl.files import parse_json

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
