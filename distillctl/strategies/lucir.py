"""Old and new classes on one footing: angles in the place of products, features that keep their direction, old exemplars apart from new classes."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from distillctl.build import not_negative
from distillctl.losses.inputs import precise
from distillctl.losses.logits import cross_entropy
from distillctl.strategies.angles import SCALE, Angular, feature_angle
from distillctl.strategies.exemplars import answer_features
from distillctl.strategies.strategy import one, total
from distillctl.types import Batch, Output, Terms


class Lucir(Angular):
    """Hou et al. 2019, eq. 9: cross-entropy of all classes so far and the less-forget constraint, of new samples and exemplars; margin ranking, of exemplars.

    weight:  of the less-forget constraint, times the root of how many old classes there are to a new one (adaptive, as in the authors' code)
    ranking: of the margin ranking, with `margin` from the `hardest` new classes that are nearest to an exemplar
    scale:   of the logits at first; it is learnt
    """

    name = "lucir"

    def __init__(
        self,
        *arguments: Any,
        weight: float = 5.0,
        ranking: float = 1.0,
        margin: float = 0.5,
        hardest: int = 2,
        scale: float = SCALE,
        **more: Any,
    ):
        super().__init__(*arguments, scale=scale, **more)
        self.weight, self.ranking, self.margin = not_negative(weight=weight), not_negative(ranking=ranking), not_negative(margin=margin)
        if hardest < 1:
            raise ValueError(f"hardest={hardest} must be >= 1")
        self.hardest = hardest

    def lesson(self, answer: Output, batch: Batch) -> Terms:
        found = [one("ce", cross_entropy(answer.logits[:, : self.task.seen], batch.targets))]
        if self.old is not None and self.weight:
            weight = self.weight * math.sqrt(self.task.old / self.new)
            found.append(one("less forget", weight * feature_angle(answer_features(answer), answer_features(self.old(batch)))))
        return total(*found)

    def about_kept(self, answer: Output, batch: Batch) -> Terms | None:
        if not self.ranking:
            return None
        cosines = precise(self.head.similarities(answer_features(answer)))[:, : self.task.seen]
        return one("ranking", self.ranking * margin_ranking(cosines, batch.targets, self.task.old, self.hardest, self.margin))


def margin_ranking(cosines: Tensor, targets: Tensor, old: int, hardest: int, margin: float) -> Tensor:
    """Mean over samples of the sum over the `hardest` new classes k of max(margin - cos(own class) + cos(k), 0). Eq. 8 of Hou et al. 2019.

    cosines: [B, K] of samples of old classes; targets: int64 [B]; old: the number of the first new class. The authors' code has the mean over k.
    """
    own = cosines.gather(1, targets[:, None])
    nearest = cosines[:, old:].topk(min(hardest, cosines.shape[1] - old)).values
    return (margin - own + nearest).clamp(min=0).sum(1).mean()
