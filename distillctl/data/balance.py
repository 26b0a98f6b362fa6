"""Classes of very different size: how to tell, and the two ways to even them out.

Oversampling draws as many samples of each class in an epoch; class weights let each class count alike in the loss. Both are functions of
the training split and, of the former, seed and epoch, so a resumed run and any number of processes see the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from distillctl.data.split import Split
from distillctl.draws import bits, permutation

UNEVEN = 2  # times the smallest class that occurs, from which on accuracy is mostly about the large ones


def is_uneven(targets: Tensor) -> bool:
    """Whether some class is UNEVEN times as large as another that occurs; targets int64 [N]."""
    sizes = torch.bincount(targets.cpu())
    return bool(sizes.max() >= UNEVEN * sizes[sizes > 0].min())


def shape_of(targets: Tensor, classes: int) -> dict[str, Any]:
    """What of a split's classes decides which measures say something: their number, and whether they are uneven."""
    return {"classes": classes, "uneven": is_uneven(targets)}


def class_weights(targets: Tensor, classes: int) -> Tensor:
    """float32 [K]: N / (number of classes · samples of the class), whose mean over the samples is 1; 0 for a class without any."""
    sizes = torch.bincount(targets, minlength=classes).double()
    weights = len(targets) / (sizes.clamp(min=1) * (sizes > 0).sum())
    return torch.where(sizes > 0, weights, 0.0).float()


def balanced_order(targets: Tensor, seed: int, epoch: int) -> Tensor:
    """Positions of as many samples as there are, shuffled, of which every class has as many as another, up to one.

    A class goes through its samples in drawn orders, again and again from epoch to epoch: each comes as often as any other of its class,
    up to one.
    """
    present = targets.unique().tolist()
    share, left = divmod(len(targets), len(present))
    chosen = []
    for place, label in enumerate(present):
        members = (targets == label).nonzero().flatten()
        extra = (place - epoch * left) % len(present) < left  # of what does not go up evenly, each class in turn
        before = sum((place - past * left) % len(present) < left for past in range(epoch % len(present)))
        start = epoch * share + epoch // len(present) * left + before
        chosen.append(members[_endless(len(members), seed, label, start, share + extra)])
    order = torch.cat(chosen)
    return order[permutation(len(order), seed, "order", epoch)]


def _endless(count: int, seed: int, label: int, start: int, wanted: int) -> Tensor:
    """`wanted` numbers from place `start` of an endless row: the numbers 0 to count - 1 in one drawn order after another."""
    first, last = start // count, (start + max(wanted, 1) - 1) // count
    passes = torch.arange(first, last + 1)[:, None]
    row = bits(seed, "oversample", label, passes, torch.arange(count)).argsort(dim=1, stable=True).flatten()
    return row[start - first * count :][:wanted]


def remark(split: Split, classes: Sequence[str], noun: str, balance: str) -> str | None:
    """What to say of a training split whose classes are uneven, and the ways out that are not taken."""
    if not split.labelled or not is_uneven(split.targets):
        return None
    sizes = torch.bincount(split.targets, minlength=len(classes))
    least, most = int(torch.where(sizes > 0, sizes, sizes.max()).argmin()), int(sizes.argmax())
    found = (
        f"the classes are uneven: from {int(sizes[least]):,} ({classes[least]}) to {int(sizes[most]):,} ({classes[most]}) training {noun}"
    )
    if balance == "oversample":
        return f"{found}; each epoch has as many of one class as of another (dataset.balance=oversample)"
    if balance == "class_weights":
        weights = class_weights(split.targets, len(classes))
        return f"{found}; labels weigh from {weights[most]:.2f} to {weights[least]:.2f} (dataset.balance=class_weights)"
    return (
        f"{found}, so top-1 is mostly about the large ones: look at macro-F1; "
        "to even them out: dataset.balance=oversample or class_weights, and trainer.select_by=val_macro_f1"
    )
