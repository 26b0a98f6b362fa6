"""A teacher and a student of the same weights as one net in memory: what the student does not train, both hold once."""

from __future__ import annotations

from torch import nn

from distillctl.models.adapter import Adapter

ADDED = ".base_layer."  # what adapters put into the name of a weight that they adapt


def share(student: nn.Module, teacher: nn.Module) -> int:
    """Let the teacher's parameters be the student's own tensors where these are frozen and equal bit for bit. Returns how many numbers.

    No adapter has to be turned off while the teacher answers: it has the plain layers, and the student's adapters are not in them.
    Both have to be where they stay: to bring one to another device afterwards would part them again.
    """
    frozen = {name.replace(ADDED, "."): value for name, value in student.named_parameters() if not value.requires_grad}
    shared = 0
    for part in teacher.modules() if frozen else ():
        for name, value in part.net.named_parameters() if isinstance(part, Adapter) else ():
            own = frozen.get(name)
            if own is None or value.requires_grad or own.device != value.device or own.dtype != value.dtype:
                continue
            if own.shape == value.shape and bool((own == value).all()):
                value.data = own.data
                shared += own.numel()
    return shared
