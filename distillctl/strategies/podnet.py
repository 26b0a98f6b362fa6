"""The old model's maps, pooled along width and along height, hold the new one's; several directions a class, and a margin."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distillctl.build import not_negative
from distillctl.losses.inputs import as_map, precise
from distillctl.losses.tapped import tap_names
from distillctl.strategies.angles import SCALE, Angular, feature_angle
from distillctl.strategies.exemplars import answer_features
from distillctl.strategies.strategy import one, total
from distillctl.types import Batch, Output, Terms

STAGES = ("stage1", "stage2", "stage3")


class Podnet(Angular):
    """Douillard et al. 2020: NCA loss of a local similarity classifier, and pooled outputs distillation, of new samples and exemplars alike.

    stages: taps whose maps are held, the mean of their distances
    spatial, flat: weights of the maps' and of the feature's distance, each times the root of how many classes so far there are to a new one
    proxies, margin, scale: directions of a class, the margin of the NCA loss, and what the scale begins with
    The scale is learnt, but not by the margin that it multiplies: a margin which features cannot reach (those behind a ReLU lie within a right
    angle; the authors take it away) would turn it below zero, and all answers round.
    """

    name = "podnet"
    imprints_first = True  # of ten random directions most would stay where no feature ever is

    def __init__(
        self,
        *arguments: Any,
        stages: Sequence[str] = STAGES,
        spatial: float = 3.0,
        flat: float = 1.0,
        proxies: int = 10,
        margin: float = 0.6,
        scale: float = SCALE,
        **more: Any,
    ):
        super().__init__(*arguments, scale=scale, **more)
        if proxies < 1:
            raise ValueError(f"proxies={proxies} must be >= 1")
        self.stages = tap_names(stages=stages)
        self.spatial, self.flat, self.margin = not_negative(spatial=spatial), not_negative(flat=flat), not_negative(margin=margin)

    @classmethod
    def reads(cls, node: Mapping[str, Any], role: str) -> tuple[str, ...]:
        return (*super().reads(node, role), *(tap_names(stages=node.get("stages", STAGES)) if role == "student" else ()))

    @classmethod
    def directions(cls, node: Mapping[str, Any]) -> int:
        return int(node.get("proxies", 10))

    def lesson(self, answer: Output, batch: Batch) -> Terms:
        logits = precise(answer.logits)[:, : self.task.seen]
        found = [one("nca", nca(logits, batch.targets, self.margin * precise(self.head.scale.detach())))]
        if self.old is not None:
            old, grown = self.old(batch), math.sqrt(self.task.seen / self.new)
            if self.spatial:
                distances = [pooled_distance(as_map(answer.features[name]), as_map(old.features[name])) for name in self.stages]
                found.append(one("pod spatial", self.spatial * grown * torch.stack(distances).mean()))
            if self.flat:
                found.append(one("pod flat", self.flat * grown * feature_angle(answer_features(answer), answer_features(old))))
        return total(*found)


def nca(logits: Tensor, targets: Tensor, margin: Tensor | float) -> Tensor:
    """Mean over samples of max(-(z_y - margin) + log Σ_{i≠y} exp z_i, 0). Eq. 9 of Douillard et al. 2020, z and margin with the scale η inside.

    logits: [B, K]; targets: int64 [B]. 0 where there is one class. The authors' code leaves a one, exp(0), in the sum for the class itself.
    """
    if logits.shape[1] < 2:
        return 0.0 * logits.sum()
    own = logits.gather(1, targets[:, None])[:, 0]
    others = logits.masked_fill(F.one_hot(targets, logits.shape[1]).bool(), -torch.inf).logsumexp(1)
    return (others - own + margin).clamp(min=0).mean()


def pooled_distance(student: Tensor, old: Tensor) -> Tensor:
    """Mean over samples of the Euclidean distance between the pooled maps [B, C, H, W] of now and then.

    Squares, summed over the width and over the height (eq. 3 to 5 of Douillard et al. 2020), side by side, normalised: as in the authors'
    code, where the paper has neither squares nor lengths of one, and the square of the distance.
    """
    return torch.linalg.vector_norm(along_both(precise(student)) - along_both(precise(old)), dim=1).mean()


def along_both(maps: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, C (H + W)], of length one."""
    squares = maps.square()
    return F.normalize(torch.cat([squares.sum(3).flatten(1), squares.sum(2).flatten(1)], 1), dim=1)
