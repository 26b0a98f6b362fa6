"""What strategies share whose student answers by angles: a cosine classifier, old directions that stay, features held where they pointed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillctl import draws
from distillctl.build import positive
from distillctl.errors import ConfigError
from distillctl.inputs.contract import Contract
from distillctl.losses.inputs import precise
from distillctl.models.cosine import Cosine, CosineHead
from distillctl.models.edits import Edit, apply_edits
from distillctl.models.net import Net
from distillctl.models.obtain import Obtained
from distillctl.models.points import TapPoint
from distillctl.models.taps import Catch
from distillctl.modes import evaluating
from distillctl.strategies.exemplars import POOLED, KeepsExemplars, answer_features, head_of
from distillctl.strategies.replay import learnt_together
from distillctl.strategies.task import Samples
from distillctl.types import Batch, Output, Terms

SCALE = 10.0  # what logits begin with: at 1, as in the authors' codes, a softmax of cosines is flat, and short tasks end before it is not


class Angular(KeepsExemplars):
    """A student with a cosine classifier, in the place of its last linear layer. Its first task makes it so, and it ships so.

    `scale` is what the scale of its logits begins with. Directions of classes of earlier tasks stay, those of new ones begin where the old
    model sees their samples (`imprinted`), both as in the authors' codes. A subclass says what a step minimises: `lesson`, of new and drawn samples in one mean, and `about_kept`, of the drawn ones alone.
    """

    distils = own_formula = True
    imprints_first: ClassVar[bool] = False  # in the first task too, where the authors' codes begin with random directions

    def __init__(self, *arguments: Any, scale: float = SCALE, samples: Samples | None = None, **more: Any):
        super().__init__(*arguments, **more)
        positive(scale=scale)
        head = head_of(self.student.net)  # type: ignore[arg-type]
        if isinstance(head, CosineHead):
            head.fixed = self.task.old
            if samples is not None and (self.old is not None or self.imprints_first):
                self.imprint(head, samples)

    @classmethod
    def about_known_classes(cls, node: Mapping[str, Any]) -> str | None:
        return f"strategy={cls.name} tells new classes from old ones by the task that they come in; take strategy=derpp, er or ewc"

    @classmethod
    def directions(cls, node: Mapping[str, Any]) -> int:
        """Directions of a class."""
        return 1

    @classmethod
    def check_net(cls, plan: Callable[[], Net], key: str, inputs: Contract) -> None:
        net = plan()
        if not isinstance(head_of(net.module), (nn.Linear, CosineHead)):
            raise ConfigError(
                f"{key}={net.name}: {cls.name} answers by angles in the place of a linear classifier, and this net ends in none"
            )

    @classmethod
    def adapt(cls, node: Mapping[str, Any], student: Obtained, teacher: Any, inputs: Contract, seed: int) -> Obtained:
        """The student with a cosine classifier; as it is where a task before, or another run, has made it so."""
        net, wanted = student.net, cls.directions(node)
        head = head_of(net.module)
        if isinstance(head, CosineHead):
            if head.proxies != wanted:
                raise ConfigError(
                    f"student.checkpoint: its classifier has {head.proxies} directions a class, and strategy={cls.name} has {wanted}; give a student of the same"
                )
            return student
        path = next(name for name, part in net.module.named_modules() if part is head)
        edit = Edit(path, str(Cosine(wanted)))
        torch.manual_seed(draws.seed_of(seed, "initialisation", "cosine"))
        apply_edits(net.module, [edit])
        made = net.module.get_submodule(path)
        assert isinstance(made, CosineHead)
        with torch.no_grad():
            made.scale.fill_(float(node.get("scale", SCALE)))
        taps = student.classifier.taps
        if taps is not None and POOLED in taps.points:  # its hook went with the layer
            made.register_forward_pre_hook(Catch(taps, POOLED, TapPoint(path, "input")).before, with_kwargs=True)
        return dataclasses.replace(student, net=dataclasses.replace(net, edits=(*net.edits, edit)))

    @torch.no_grad()
    def imprint(self, head: CosineHead, samples: Samples) -> None:
        """Let the directions of the new classes begin where the student sees their samples by now, as long as directions are."""
        with evaluating(self.student):
            seen = [(answer_features(self.student(batch.inputs)), batch.targets) for batch in samples.plain(samples.split)]
        features, targets = (torch.cat([item[place] for item in seen]) for place in (0, 1))
        length = head.weight[: self.task.old or None].norm(dim=-1).mean()
        for label in range(self.task.old, self.task.seen):
            own = features[targets == label]
            if len(own):
                order = draws.permutation(len(own), self.seed, "imprint", label).to(own.device)
                head.weight[label] = length * imprinted(own[order], head.proxies).to(head.weight)

    @property
    def head(self) -> CosineHead:
        found = head_of(self.student.net)  # type: ignore[arg-type]
        assert isinstance(found, CosineHead)
        return found

    @property
    def new(self) -> int:
        """How many classes this task brings."""
        return self.task.seen - self.task.old

    def forward(self, batch: Batch, player: str = "student") -> Terms:
        return learnt_together(self.student, batch, self.memory, self.lesson, self.about_kept)[1]

    def about_kept(self, answer: Output, batch: Batch) -> Terms | None:
        return None


def feature_angle(student: Tensor, old: Tensor) -> Tensor:
    """Mean over samples of one minus the cosine between features [B, D] of now and then. Hou et al. 2019, eq. 6."""
    return (1 - (F.normalize(precise(student), dim=1) * F.normalize(precise(old), dim=1)).sum(1)).mean()


def imprinted(features: Tensor, count: int, rounds: int = 20) -> Tensor:
    """[count, D], of length one: the middle of normalised features [N, D]; of several those of k-means clusters (Lloyd 1982) from the first rows.

    A cluster that loses all its samples stays where it was; of fewer samples than `count` some rows come again.
    """
    unit = F.normalize(features.double(), dim=1)
    if count == 1:
        return F.normalize(unit.mean(0, keepdim=True), dim=1)
    centres = unit[torch.arange(count, device=unit.device) % len(unit)].clone()
    for _ in range(rounds):
        nearest = torch.cdist(unit, centres).argmin(1)
        for place in nearest.unique().tolist():
            centres[place] = unit[nearest == place].mean(0)
    return F.normalize(centres, dim=1)
