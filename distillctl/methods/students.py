"""Several students in one pass: the teacher answers once for all, and they may teach each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from distillctl.build import positive
from distillctl.losses.inputs import precise
from distillctl.losses.logits import soft_targets
from distillctl.losses.weighted import WeightedSum
from distillctl.methods.method import Method
from distillctl.types import Batch, Output, Terms


class Students(Method):
    """Each student learns by a loss of its own, `mutual` times the mean over its peers of T² KL(peer ‖ student) on top.

    With mutual = 0 they only share the teacher's answers. With mutual = 1 and `loss=ce` this is deep mutual learning (Zhang et al. 2018, all
    students stepping at once): L_k = CE(z_k, y) + mean over j of KL(p_j ‖ p_k), the peers' answers detached. The students share no
    parameter, so one optimizer over all of them is as good as one each.
    """

    def __init__(
        self,
        student: nn.Module,
        loss: WeightedSum,
        teacher: Callable[[Batch], Output] | None = None,
        *,
        peers: Sequence[tuple[nn.Module, WeightedSum]],
        mutual: float = 0.0,
        temperature: float = 1.0,
    ):
        super().__init__()
        if not mutual >= 0:
            raise ValueError(f"mutual={mutual} must be >= 0")
        self.mutual, self.temperature = mutual, positive(temperature=temperature)
        self.teacher = teacher
        everyone = {"student": (student, loss), **{f"peer{number}": pair for number, pair in enumerate(peers, start=1)}}
        self.nets = nn.ModuleDict({name: net for name, (net, _) in everyone.items()})
        self.losses = nn.ModuleDict({name: term for name, (_, term) in everyone.items()})

    @property
    def student(self) -> nn.Module:  # type: ignore[override]
        return self.nets["student"]

    def students(self) -> dict[str, nn.Module]:
        return dict(self.nets.items())

    def at(self, epoch: float, epochs: float) -> None:
        for loss in self.losses.values():
            loss.at(epoch, epochs)  # type: ignore[operator]

    def forward(self, batch: Batch, player: str = "student") -> Terms:
        needed = self.teacher is not None and any(loss.needs_teacher for loss in self.losses.values())
        guide = self.teacher(batch) if needed and self.teacher is not None else None
        answers = {name: net(batch.inputs) for name, net in self.nets.items()}
        parts: dict[str, Tensor] = {}
        totals = []
        for name, answer in answers.items():
            terms = self.losses[name](answer, guide, batch)
            totals.append(terms.loss)
            parts |= {f"{name}.{part}": value for part, value in terms.parts.items()}
            if self.mutual:
                others = [other.logits for peer, other in answers.items() if peer != name]
                lesson = self.mutual * mutual_divergence(answer.logits, others, self.temperature)
                totals.append(lesson)
                parts[f"{name}.mutual"] = lesson.detach()
        return Terms(torch.stack(totals).sum(), parts)


def mutual_divergence(logits: Tensor, peers: Sequence[Tensor], temperature: float) -> Tensor:
    """Mean over the peers of T² KL(p_peer ‖ p), batchmean; logits [B, K]. No gradient reaches the peers."""
    with torch.autocast(logits.device.type, enabled=False):
        return torch.stack([soft_targets(precise(logits), precise(peer.detach()), temperature) for peer in peers]).mean()
