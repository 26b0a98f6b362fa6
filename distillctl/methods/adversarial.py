"""A student that is trained on the worst small changes of its images, by labels or by a teacher that sees the images as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from distillctl.errors import did_you_mean
from distillctl.losses.logits import cross_entropy, soft_targets
from distillctl.losses.weighted import WeightedSum
from distillctl.methods.attack import Pgd, pixels_of
from distillctl.methods.method import Method
from distillctl.types import Batch, Output, Terms


class Adversarial(Method):
    """The loss terms that `attacked` names see the student's answer to x', the others that to x; the teacher answers x, always.

    x' is what `attack` finds against the student by ascending `objective`: `ce`, the cross-entropy with the labels, or `kl`,
    KL(teacher(x) ‖ student(x')) at temperature 1. So Madry et al. 2018 is loss=ce with [ce] attacked; ARD (Goldblum et al. 2020) a teacher's
    soft targets attacked, found by ce, and ce clean; RSLAD (Zi et al. 2021) soft targets on both, found by kl. x' is looked for in eval mode
    (ARD's code: in training mode), and the student answers x only where a term needs it.
    """

    kinds = ("images",)

    def __init__(
        self,
        student: nn.Module,
        loss: WeightedSum,
        teacher: Callable[[Batch], Output] | None = None,
        *,
        attack: Pgd,
        attacked: Sequence[str],
        objective: str = "ce",
    ):
        super().__init__()
        self.student, self.loss, self.teacher, self.attack = student, loss, teacher, attack
        if objective not in ("ce", "kl"):
            raise ValueError(f"objective={objective} must be ce or kl")
        if objective == "kl" and (teacher is None or not loss.needs_teacher):
            raise ValueError("objective=kl needs a teacher, and no loss term reads one; use ce")
        if not attacked:
            raise ValueError(f"attacked=[] names no loss term; name those that see the attacked images: {', '.join(loss.terms)}")
        for name in attacked:
            if name not in loss.terms:
                raise ValueError(f"attacked={name}: the loss has no such term with a weight; {did_you_mean(name, loss.terms)}")
        self.objective = objective
        self.attacked = [name for name in loss.terms if name in attacked]
        self.clean = [name for name in loss.terms if name not in attacked]

    def forward(self, batch: Batch, player: str = "student") -> Terms:
        guide = self.guide(batch)
        worst = self.attack.perturb(self.student, pixels_of(batch), self.ascended(batch, guide), self.attack.draws(batch))
        terms = self.loss(self.student(worst), guide, batch, only=self.attacked)
        if not self.clean:
            return terms
        others = self.loss(self.student(batch.inputs), guide, batch, only=self.clean)
        return Terms(terms.loss + others.loss, terms.parts | others.parts)

    def ascended(self, batch: Batch, guide: Output | None) -> Callable[[Tensor], Tensor]:
        """What the attack makes large, as a function of the student's logits [B, K]."""
        if self.objective == "kl":
            assert guide is not None
            # samples that the teacher knows nothing of stay where they start
            known = slice(None) if guide.answered is None else guide.answered
            return lambda logits: soft_targets(logits[known], guide.logits[known].double(), 1.0)
        return lambda logits: cross_entropy(logits, batch.targets)
