"""Distillation without data: a generator makes images that the teacher knows, and the student learns from its answers to them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillctl.build import positive
from distillctl.errors import ConfigError
from distillctl.inputs.image import Images
from distillctl.losses.inputs import precise
from distillctl.losses.logits import jensen_shannon
from distillctl.losses.weighted import WeightedSum
from distillctl.methods.method import Method
from distillctl.models.generator import Generator, normal
from distillctl.modes import evaluating
from distillctl.teachers.frozen import Frozen
from distillctl.types import Batch, Output, Terms

NO_LABELS = "and the images of method=data_free have none"


class DataFree(Method):
    """Two players a step: the generator, by what the teacher thinks of its images; then the student, by the loss on new ones of them.

    The generator minimises bn · Σ over layers of batch norm (‖mean - m‖ + ‖var - v‖), its images' statistics and those that the layer
    recorded (Yin et al. 2020, DeepInversion, eq. 4); one_hot · CE(z_t, argmax z_t) and balance · (log K - H(mean p_t)) (Chen et al. 2019,
    DAFL, with H subtracted from its bound so that the term is >= 0); adversarial · (1 - JS(p_s, p_t) / log 2) (Yin et al., adaptive
    DeepInversion; Fang et al. 2021, CMI, have a term of this kind too). A teacher without batch norm has no first term. Of a batch only the
    size, `index` and `view` are read: they name the noise. The student alone ships.
    """

    players = ("generator", "student")
    needs_teacher = True
    asks_of_views = False
    kinds = ("images",)
    norms_batches = True

    def __init__(
        self,
        student: nn.Module,
        loss: WeightedSum,
        teacher: Frozen,
        *,
        inputs: Images,
        seed: int,
        latent: int = 100,
        width: int = 64,
        bn: float = 1.0,
        one_hot: float = 1.0,
        balance: float = 5.0,
        adversarial: float = 1.0,
    ):
        super().__init__()
        self.check_loss(loss)
        if getattr(teacher, "combine", None) == "confidence":
            raise ConfigError(f"teacher.combine=confidence weighs by labels, {NO_LABELS}; take teacher.combine=entropy")
        self.weights = {"bn": bn, "one_hot": one_hot, "balance": balance, "adversarial": adversarial}
        for name, weight in self.weights.items():
            if not weight >= 0:
                raise ValueError(f"{name}={weight} must be >= 0")
        if not any(self.weights.values()):
            raise ValueError(f"{', '.join(self.weights)} are all 0, so the generator has nothing to learn from; give one a weight > 0")
        self.student, self.loss, self.teacher = student, loss, teacher
        self.image_size, self.seed = inputs.image_size, seed
        self.latent, self.width = int(positive(latent=latent)), int(positive(width=width))

    @classmethod
    def check_loss(cls, loss: WeightedSum) -> None:
        for name, term in loss.terms.items():
            if getattr(term, "needs_labels", False):
                raise ConfigError(f"loss.{name} needs labels, {NO_LABELS}; set loss.{name}.weight=0, or take loss=funmatch")

    def prepare(self, student: Output, teacher: Output | None) -> None:
        self.generator = Generator(self.latent, self.image_size, self.width).to(student.logits.device)

    def forward(self, batch: Batch, player: str) -> Terms:
        latents = normal(self.latent, self.seed, f"noise of the {player}", batch.index, batch.view)
        if player == "generator":
            return self.judged(self.generator(latents))
        with torch.no_grad():
            images = self.generator(latents)
        made = batch._replace(inputs=images)
        return self.loss(self.student(images), self.teacher(made), made)

    def judged(self, images: Tensor) -> Terms:
        """The generator's loss on its images [B, 3, S, S]. Gradients pass through both nets, and stay in neither."""
        with statistics_gaps(self.teacher.model) as gaps:
            guide = self.teacher.model(images).logits
        with torch.autocast(images.device.type, enabled=False):
            parts = {"one_hot": one_hotness(guide), "balance": imbalance(guide)}
            if gaps:
                parts["bn"] = torch.stack(gaps).sum()
        if self.weights["adversarial"]:
            with untouched(self.student):
                answer = self.student(images).logits
            with torch.autocast(images.device.type, enabled=False):
                parts["adversarial"] = 1 - jensen_shannon(answer, guide, 1.0) / math.log(2)
        parts = {f"generator.{name}": self.weights[name] * part for name, part in parts.items() if self.weights[name]}
        return Terms(torch.stack(tuple(parts.values())).sum(), {name: part.detach() for name, part in parts.items()})

    def trainable(self, player: str) -> list[nn.Parameter]:
        mine = set(self.generator.parameters())
        return [parameter for parameter in self.parameters() if parameter.requires_grad and (parameter in mine) == (player == "generator")]


def one_hotness(logits: Tensor) -> Tensor:
    """CE(z, argmax z) of logits [B, K]: 0 where every image is of one class for sure."""
    logits = precise(logits)
    return F.cross_entropy(logits, logits.argmax(1))


def imbalance(logits: Tensor) -> Tensor:
    """log K - H(mean p) of logits [B, K]: 0 where all classes are asked for alike."""
    log_mean = F.log_softmax(precise(logits), dim=1).logsumexp(0) - math.log(len(logits))
    return math.log(len(log_mean)) + (log_mean.exp() * log_mean).sum()


@contextlib.contextmanager
def statistics_gaps(model: nn.Module) -> Iterator[list[Tensor]]:
    """Fills the list, while `model` answers in eval mode, with each batch norm's distance of its input from what it expects."""
    found: list[Tensor] = []

    def before(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = precise(inputs[0]).transpose(0, 1).flatten(1)  # [C, B * positions]
        found.append(statistics_gap(values, layer.running_mean, layer.running_var))  # type: ignore[arg-type]

    layers = [layer for layer in model.modules() if getattr(layer, "running_mean", None) is not None]
    handles = [layer.register_forward_pre_hook(before) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def statistics_gap(values: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """‖mean of rows - mean‖ + ‖variance of rows - variance‖ of values [C, N], the biased variance."""
    spread, centre = torch.var_mean(values, dim=1, correction=0)
    return torch.linalg.vector_norm(centre - mean) + torch.linalg.vector_norm(spread - variance)


@contextlib.contextmanager
def untouched(net: nn.Module) -> Iterator[None]:
    """What `net` answers in here moves no statistics of it, and no gradient ends in its parameters; it passes through."""
    learning = [parameter for parameter in net.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        with evaluating(net):
            yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
