"""Fit named tensors of whatever origin into a net: what it needs has to be there, what it has no place for is named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from distillctl.errors import CheckpointError
from distillctl.models.cosine import CosineHead

# of equally good prefixes the first: what wraps a net before what merely lies beside it
PREFIXES = ("module.", "model.", "net.", "student.", "teacher.", "backbone.", "encoder.")
# entries that are no weights: of profilers, of averages, of modules that keep state of their own
COUNTERS = ("total_ops", "total_params", "n_averaged", "_extra_state")
MAY_LACK = ("num_batches_tracked", "_extra_state")  # files older than torch 0.4.1 have no batch counters, and torch fills them in


def load_weights(
    module: nn.Module, weights: Mapping[str, Tensor], key: str, path: str | Path, *, name: str | None = None, new_head: bool = False
) -> tuple[str, ...]:
    """Copy `weights` into `module`, whose every entry must be there, fit and be finite. Returns the entries that it has no place for.

    name: what the model is called in messages. new_head: the classifier keeps its fresh weights, the rest must fit.
    Another depth or kind of net is an error: of `weights` only heads, projections and counters beside the net may be left over.
    """
    where, model = f"{key}={path}", name or type(module).__name__
    own = {entry: tensor for entry, tensor in module.state_dict().items() if isinstance(tensor, Tensor)}
    inside, left = match_names(weights, own)
    head = head_names(module)
    beside = [entry for entry in inside if entry not in own and _is_beside(entry, own, head if new_head else ())]
    given = {entry: tensor for entry, tensor in inside.items() if entry in own or entry not in beside}
    if new_head:
        given |= {entry: own[entry] for entry in own if entry in head or _classes(entry, given, own, head)}
    _check_names(given, beside, own, head, key, where, model)
    _check_shapes(given, own, head, key, where, model)
    for entry, tensor in given.items():
        if tensor.is_floating_point() != own[entry].is_floating_point():
            raise CheckpointError(f"{where}: {entry} holds {_dtype(tensor)}, {model} needs {_dtype(own[entry])}")
        if tensor.is_floating_point() and not tensor.is_meta and not torch.isfinite(tensor).all():
            what = "NaN" if torch.isnan(tensor).any() else "infinity"
            raise CheckpointError(f"{where}: {what} in {entry}; these weights cannot be used")
    if not any(tensor.is_meta for tensor in own.values()):  # a plan of a net: it is checked, there is nothing to fill
        module.load_state_dict(dict(given), strict=False)  # all is checked; a module's own extra state stays as it is
    return (*left, *beside)


def left_over(names: Iterable[str]) -> str:
    """Entries by what they belong to, `8 of aux1, 61 total_ops`; empty where there are none."""
    counted: Counter[str] = Counter()
    for name in names:
        top, last = name.partition(".")[0], name.rpartition(".")[2]
        counted[last if last in COUNTERS else f"of {top}" if top != name else name] += 1
    return ", ".join(f"{count} {what}" if what.startswith("of ") or count > 1 else what for what, count in counted.items())


def match_names(weights: Mapping[str, Tensor], own: Collection[str]) -> tuple[dict[str, Tensor], list[str]]:
    """The entries that lie under the prefix which makes most names those of the net (DDP, compile, Lightning, a backbone add one), without it;
    and the names of those that lie elsewhere."""
    given = dict(weights)
    if not any("_orig_mod." in entry for entry in own):  # torch.compile of a part puts it in the middle
        given = {entry.replace("_orig_mod.", ""): tensor for entry, tensor in given.items()}
    prefix, _ = _prefix(given, own)
    inside = {entry.removeprefix(prefix): tensor for entry, tensor in given.items() if entry.startswith(prefix)}
    return inside, [entry for entry in given if not entry.startswith(prefix)]


def fit(weights: Mapping[str, Tensor], own: Collection[str]) -> tuple[int, int]:
    """How well a set of weights fits a net: the entries that it has names for, and then how few others lie beside them."""
    prefix, common = _prefix([entry.replace("_orig_mod.", "") for entry in weights], own)
    return common, common - sum(entry.replace("_orig_mod.", "").startswith(prefix) for entry in weights)


def _prefix(names: Iterable[str], own: Collection[str]) -> tuple[str, int]:
    """What most names of a net stand behind, and how many do."""
    known, counted = set(own), Counter({"": 0})
    for name in names:
        starts = [0, *(place + 1 for place, letter in enumerate(name) if letter == ".")]
        counted.update(name[:start] for start in starts if name[start:] in known)

    def rank(prefix: str) -> tuple[int, bool, int]:
        place = PREFIXES.index(prefix) if prefix in PREFIXES else len(PREFIXES)
        return counted[prefix], prefix == "", -place

    best = max(counted, key=rank)
    return best, counted[best]


def head_names(module: nn.Module) -> tuple[str, ...]:
    """The entries of the classifier: of the last linear or cosine layer or 1x1 convolution.

    Nets of transformers say where what lies below their head is; some make the head first, so those layers count where there are no others.
    """
    found: list[str] = []
    below: tuple[str, ...] = ()
    for name, part in module.named_modules():
        base = getattr(part, "base_model_prefix", None)
        if isinstance(base, str) and base and isinstance(getattr(part, base, None), nn.Module):
            below = (*below, f"{name}.{base}." if name else f"{base}.")
        if isinstance(part, (nn.Linear, CosineHead)) or (isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1)):
            found.append(name)
    above = [name for name in found if not name.startswith(below)] if below else found
    last = (above or found)[-1:]
    return tuple(f"{name}.{entry}" if name else entry for name in last for entry in module.get_submodule(name).state_dict())


def _is_beside(entry: str, own: Collection[str], head: Collection[str]) -> bool:
    """Whether an entry that a net lacks belongs to no part of it: a counter, or under a top name like none of the net's.

    `layer5`, and `features.28`, are like those of a net with `layer4` and `features.0`: the file is then of a deeper one.
    """
    top, last = entry.partition(".")[0], entry.rpartition(".")[2]
    if last in COUNTERS or top in {name.partition(".")[0] for name in head}:
        return True
    return _without_number(top) not in {_without_number(name.partition(".")[0]) for name in own}


def _without_number(name: str) -> str:
    return name.rstrip("0123456789").rstrip("_")


def _check_names(
    given: Mapping[str, Tensor], beside: Collection[str], own: Mapping[str, Tensor], head: tuple[str, ...], key: str, where: str, model: str
) -> None:
    missing = [entry for entry in own if entry not in given and entry.rpartition(".")[2] not in MAY_LACK]
    extra = [entry for entry in given if entry not in own]
    if missing and not set(missing) <= set(head):  # another net: all that it has is of interest
        extra += [entry for entry in beside if entry.rpartition(".")[2] not in COUNTERS]
    problems = []
    if extra:
        problems.append(f"{_entries(extra)} not in the model (first: {extra[0]})")
    if missing:
        problems.append(f"{_entries(missing) if not extra else f'{len(missing)} are'} missing (first: {missing[0]})")
    if not problems:
        return
    owner = key.rpartition(".")[0] or key
    if not extra and set(missing) == set(head):
        way_out = f"; it has no classifier of that name: for a new one on these weights set {owner}.new_head=true"
    elif set(missing) <= set(head):
        way_out = f"; if its classifier is another, set {owner}.new_head=true for a new one on these weights"
    else:
        way_out = f"; name the net that they are of: {owner}=<model>"
    raise CheckpointError(f"{where} does not fit {model}: {', '.join(problems)}{way_out}")


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
