"""The first token's state at layers on the way, which stands for the text (PKD, Sun et al. 2019, 1908.09355).

B batch, M pairs of layers, C and D widths.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from distillctl.errors import ConfigError
from distillctl.losses.inputs import as_read, precise, unit
from distillctl.losses.pairing import Pairs, check_pairs, chosen_pairs, spread
from distillctl.losses.tokens import stacked
from distillctl.types import Batch, Output

TAPS = ("cls_states",)


def patience_gap(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean square of the difference of states [B, M, C], each at length one, over texts, layers and width. L_PT in the form of their code.

    The paper sums over layers and width; its weight β of 10 to 1000 goes with the code's mean.
    """
    return (unit(precise(student)) - unit(precise(teacher))).square().mean()


def last_layers(student: int, teacher: int, key: str) -> Pairs:
    """The student's layers but its last with those right before the teacher's last. Raises ConfigError where the teacher has fewer."""
    if teacher < student:
        raise ConfigError(
            f"{key}.layers=last: the teacher has {teacher} layers, fewer than the student's {student}; say which go together, as in {key}.layers=[[1,1]]"
        )
    return tuple((layer, layer + teacher - student) for layer in range(1, student))


class Patient(nn.Module):
    """L_PT of L_PKD = (1 - α) L_CE + α L_DS + β L_PT. L_DS is `kd`, so that `loss=[kd,pkd]` is the whole.

    layers: skip pairs layer l with l · L_t / L_s, last with l + L_t - L_s, both without the student's last layer; or pairs [student, teacher].
    The paper's students are as wide as their teacher; where they are not, one projection is learned for all layers, before the length is one.
    It reads the first token alone, so student and teacher may have tokenizers of their own.
    """

    needs_teacher = True
    norms_batches = False
    reads_tokens = False
    key = "loss.pkd"

    def __init__(self, layers: str | Sequence[Sequence[int]] = "skip"):
        super().__init__()
        self.student_taps, self.teacher_taps = TAPS, TAPS
        self.layers = chosen_pairs(layers, ("skip", "last"))
        self.pairs: Pairs = ()
        self.projections = nn.ModuleList()

    def prepare(self, student: Output, teacher: Output, samples: int) -> None:
        ours, theirs = stacked(student, *TAPS, 3), stacked(teacher, *TAPS, 3)
        self.pairs = self.paired(ours.shape[1] - 1, theirs.shape[1] - 1)
        if ours.shape[2] != theirs.shape[2]:
            self.projections.append(nn.Linear(ours.shape[2], theirs.shape[2], bias=False).to(ours.device))

    def paired(self, student: int, teacher: int) -> Pairs:
        if not isinstance(self.layers, str):
            return check_pairs(self.layers, student, teacher, self.key)
        if student == 1:
            raise ConfigError(
                f"{self.key}.layers={self.layers} leaves out the student's last layer, and it has no other; "
                f"say which it learns from, as in {self.key}.layers=[[1,{teacher}]]"
            )
        if self.layers == "last":
            return last_layers(student, teacher, self.key)
        return spread(student, teacher, self.key, upto=student - 1)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        assert self.pairs, "prepare comes first"
        one, other = (list(layers) for layers in zip(*self.pairs, strict=True))
        ours, theirs = stacked(student, *TAPS, 3)[:, one], stacked(teacher, *TAPS, 3)[:, other]
        with as_read(ours):
            for project in self.projections:
                ours = project(ours)
        return patience_gap(ours, theirs)
