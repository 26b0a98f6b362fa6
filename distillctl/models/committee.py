"""Several models that answer as one: by the mean of their probabilities, each with its own view of the images and order of classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillctl.config import MemberConfig, ModelConfig, TeacherConfig
from distillctl.errors import ConfigError
from distillctl.inputs.contract import Contract
from distillctl.models.adapter import Adapter
from distillctl.models.obtain import obtain, source_of
from distillctl.models.taps import LOGITS
from distillctl.types import Inputs, Output


class Committee(nn.Module):
    """Members by name. Each normalises images by its own statistics at its own resolution, since its adapter does.

    orders: for a member that knows the classes in another order, where in its logits each of ours is. weights: of the members, normalised here.
    """

    weights: Tensor

    def __init__(
        self,
        members: Mapping[str, Adapter],
        orders: Mapping[str, Sequence[int]] | None = None,
        weights: Mapping[str, float] | None = None,
    ):
        super().__init__()
        self.names = tuple(members)
        self.members = nn.ModuleList(members.values())
        shares = torch.tensor([weights[name] if weights else 1.0 for name in self.names], dtype=torch.float32)
        self.register_buffer("weights", shares / shares.sum(), persistent=False)
        for name, order in (orders or {}).items():
            self.register_buffer(order_name(self.names.index(name)), torch.tensor(order), persistent=False)

    def answers(self, inputs: Inputs) -> dict[str, Output]:
        """Each member's own answer; logits float32 [B, K] in our order of classes."""
        found = {}
        for number, (name, member) in enumerate(zip(self.names, self.members, strict=True)):
            answer: Output = member(inputs)
            order: Tensor | None = getattr(self, order_name(number), None)
            logits = answer.logits if order is None else answer.logits.index_select(1, order)
            found[name] = Output(logits.float(), answer.features, mask=answer.mask)
        return found

    def forward(self, inputs: Inputs) -> Output:  # logits [B, K]
        answers = self.answers(inputs)
        return Output(mixture(torch.stack([answer.logits for answer in answers.values()]), self.weights), tapped(answers))


def order_name(number: int) -> str:
    return f"order{number}"


def mixture(logits: Tensor, weights: Tensor, temperature: float = 1.0) -> Tensor:
    """Logits z [B, K] with softmax(z / T) = Σ w softmax(z_k / T); logits [M, B, K], weights [M] or [M, B], summing to 1 over the members."""
    shares = weights.to(logits).reshape(len(logits), -1, 1).log()
    return temperature * torch.logsumexp(shares + F.log_softmax(logits / temperature, dim=-1), dim=0)


def tapped(answers: Mapping[str, Output]) -> dict[str, Tensor]:
    """The members' features as `<member>.<tap>`, their logits among them."""
    return {
        f"{name}.{tap}": feature for name, answer in answers.items() for tap, feature in {LOGITS: answer.logits, **answer.features}.items()
    }


def gather(config: TeacherConfig, inputs: Contract, key: str, seed: int, taps: Sequence[str] = ()) -> tuple[Committee, str]:
    """Every member of `config` with its weights, and what their nets are called together.

    `taps` are `<member>.<tap>`. Raises ConfigError and CheckpointError that begin with the member's key.
    """
    members, orders, nets = {}, {}, []
    wanted = taps_of(config.members, taps)
    for name, member in config.members.items():
        place = f"{key}.members.{name}"
        order = class_order(member, inputs, place)
        if order is not None:
            orders[name] = order
        obtained = obtain(in_any_order(member, inputs, place), inputs, place, seed, taps=wanted[name])
        members[name] = obtained.classifier
        nets.append(obtained.net.name)
    return Committee(members, orders, member_weights(config)), " + ".join(nets)


def member_weights(config: TeacherConfig) -> dict[str, float] | None:
    """Those of combine=fixed; None where all members count alike."""
    return {name: config.weights.get(name, 1.0) for name in config.members} if config.combine == "fixed" else None


def taps_of(members: Iterable[str], taps: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """What is tapped in each member: `a.stage3` is the tap stage3 of the member a."""
    found: dict[str, list[str]] = {name: [] for name in members}
    for tap in taps:
        name, dot, rest = tap.partition(".")
        if tap == LOGITS:
            continue
        if not dot or name not in found:
            known = ", ".join(found)
            example = f"{next(iter(found))}.{tap if not dot else rest}"
            raise ConfigError(f"teacher: it has no tap {tap!r}; an ensemble's begin with a member, as in {example}; members: {known}")
        found[name].append(rest)
    return {name: tuple(wanted) for name, wanted in found.items()}


def class_order(config: ModelConfig, inputs: Contract, key: str) -> tuple[int, ...] | None:
    """Where each of our classes is in what a member answers; None where they are as ours, or are not the same classes at all."""
    record = source_of(config, key)[1]
    if record is None or config.new_head or config.ignore_class_names:
        return None
    theirs = list(record.classes)
    if theirs == list(inputs.classes) or sorted(theirs) != sorted(inputs.classes):
        return None
    return tuple(theirs.index(name) for name in inputs.classes)


def in_any_order(config: ModelConfig, inputs: Contract, key: str) -> ModelConfig:
    """A member of an ensemble may know the data set's classes in another order; any other model may not."""
    if isinstance(config, MemberConfig) and class_order(config, inputs, key) is not None:
        return replace(config, ignore_class_names=True)
    return config
