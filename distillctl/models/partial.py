"""Which part of a model a fine-tuning stage trains, and how fast each layer of it learns."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from torch import nn

from distillctl.config import FinetuneStageConfig, PartStageConfig, StageConfig
from distillctl.draws import seed_of
from distillctl.errors import ConfigError
from distillctl.inputs.contract import Contract
from distillctl.models import lora
from distillctl.models.adapter import Adapter
from distillctl.models.fitting import head_names
from distillctl.models.obtain import Obtained
from distillctl.models.points import TapPoint
from distillctl.models.taps import STAGES, short_names
from distillctl.models.text import virtual
from distillctl.models.trace import Example, Seen, trace


@dataclass(frozen=True)
class Part:
    """What trains. summary: for people; empty where all of the model trains alike. lr_factors: for `make_optimizer`."""

    summary: str = ""
    lr_factors: dict[nn.Parameter, float] = field(default_factory=dict)


def prepared(model: Obtained, inputs: Contract, budget: StageConfig, seed: int) -> Obtained:
    """The model that a stage trains: with virtual tokens where it asks for them. Raises ConfigError."""
    if not isinstance(budget, PartStageConfig) or budget.train != "prompt":
        return model
    net = inputs.with_prompt(model.net, budget.prompt.tokens, seed, f"{key_of(budget)}.train=prompt")
    classifier = inputs.adapt(net)
    classifier.outputs, classifier.taps = model.classifier.outputs, model.classifier.taps
    return replace(model, classifier=classifier, net=net, inputs=inputs.seen_by(classifier))


def key_of(budget: PartStageConfig) -> str:
    """Of the stage."""
    return "finetune" if isinstance(budget, FinetuneStageConfig) else "distill"


def select(classifier: Adapter, example: Example, budget: StageConfig, seed: int, name: str) -> Part:
    """Freeze what `finetune.train` or `distill.train` leaves out, add adapters where it asks for them; to be called before there is an optimizer.

    Frozen weights lose `requires_grad`, and frozen layers stay in eval mode: no batch statistics move, no dropout. `name` is the
    model's, for messages. Raises ConfigError.
    """
    if not isinstance(budget, PartStageConfig) or trains_all_alike(budget):
        return Part()
    net = classifier.net
    check_trainable(net, example, budget, name)
    depths = Depths(net, example)
    fixed = {parameter for parameter in net.parameters() if not parameter.requires_grad}  # by the net itself
    layers = adaptable(net, example) if budget.train == "lora" else []
    if layers:
        lora.adapt(net, layers, budget.lora, seed_of(seed, "initialisation", "lora"))
    trains = what_trains(net, budget, depths)
    factors = {}
    for module, part in net.named_modules():
        for parameter in part.parameters(recurse=False):
            parameter.requires_grad_(trains(module) and parameter not in fixed)
            if parameter.requires_grad and budget.layer_decay < 1:
                factors[parameter] = budget.layer_decay ** depths.depth(module)
    classifier.still = still(net, depths, trains, frozen_until(budget, depths))
    classifier.train(classifier.training)
    count = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    total = sum(parameter.numel() for parameter in net.parameters())
    return Part(f"training {count:,} of {total:,} parameters: {in_words(budget, depths.stages, len(layers))}", factors)


def trains_all_alike(budget: PartStageConfig) -> bool:
    return budget.train == "all" and budget.layer_decay == 1


def check_trainable(net: nn.Module, example: Example, budget: PartStageConfig, name: str) -> None:
    """Find before any training what would make `select` fail; `net` may lie on the meta device. Raises ConfigError."""
    if trains_all_alike(budget):
        return
    key = key_of(budget)
    if not head_names(net):
        raise ConfigError(f"{key}.train={budget.train}: {name} has no linear layer for a classifier; use {key}.train=all")
    if budget.train == "last":
        count = Depths(net, example).stages
        if count == 0:
            raise ConfigError(f"{key}.train=last: {name} has no stages that can be told apart; use {key}.train=head or all")
        if budget.stages > count:
            raise ConfigError(f"{key}.stages={budget.stages}: {name} has {count} stages; lower it, or use {key}.train=all")
    if budget.train == "lora":
        lora.require_peft(f"{key}.train=lora")
        if not adaptable(net, example):
            raise ConfigError(f"{key}.train=lora: {name} has no blocks with linear layers, as transformers have them; use {key}.train=last")


class Depths:
    """The layers of a net by their distance from the output: 0 the head, 1 the last stage, ..., `stages` the first, `stages` + 1 the stem.

    Found by watching one image pass, so it needs no table of names: stages are those that taps know as stage1 to stage4.
    """

    def __init__(self, net: nn.Module, example: Example):
        seen, _ = trace(net, example, leaves=False)
        self.first: dict[str, int] = {}  # when the image leaves the first part of a module, and when the module itself
        self.last: dict[str, int] = {}
        for moment, call in enumerate(seen):
            self.last[call.module] = moment
            for module in lineage(call.module):
                self.first.setdefault(module, moment)
        ends = sorted(stage_modules(net, example, seen), key=self.last.__getitem__)
        self.stages = len(ends)
        # the moments at which the first stage begins, the second, ..., and what follows the last
        self.bounds = [self.beginning(ends[0]), *(self.last[end] + 1 for end in ends)] if ends else []
        self.heads = self.find_heads(net)

    def beginning(self, end: str) -> int:
        """Of the stage that ends with this module: that of its container, if a stem comes before that, else its own."""
        container = end.rpartition(".")[0]
        return self.first[container] if container else self.first[end]

    def find_heads(self, net: nn.Module) -> tuple[str, ...]:
        """The classifier; two where a transformer has one for its distillation token."""
        heads = {entry.rpartition(".")[0] for entry in head_names(net)}
        sizes = {part.out_features for name, part in net.named_modules() if name in heads and isinstance(part, nn.Linear)}
        after = self.bounds[-1] if self.bounds else math.inf
        twins = [name for name, part in net.named_modules() if isinstance(part, nn.Linear) and part.out_features in sizes]
        return (*heads, *(name for name in twins if name not in heads and self.last.get(name, -1) >= after))

    def depth(self, module: str) -> int:
        """Of a module, or of a parameter of its own; where it does not show in the pass, that of the module around it."""
        if module in self.heads:
            return 0
        moment = next(self.first[name] for name in lineage(module) if name in self.first)
        return self.stages + 1 - bisect_right(self.bounds, moment)


def stage_modules(net: nn.Module, example: Example, seen: list[Seen]) -> list[str]:
    """The last module of each stage. Blocks of tokens that follow the last map are a transformer's: at most four stages of them."""
    places = {name: place for name, place in short_names(net, example).items() if re.fullmatch(r"stage\d+", name)}
    ends = [place.module for place in places.values() if isinstance(place, TapPoint)]
    moments = {call.module: moment for moment, call in enumerate(seen)}
    after = max((moments[end] for end in ends if end in moments), default=-1)
    blocks = [call.module for call in seen[after + 1 :] if len(call.outputs) == 3 and re.fullmatch(r"(\D+\.)?(\D*_)?\d+", call.module)]
    count = min(STAGES, len(blocks))
    return [blocks[math.ceil(len(blocks) * number / count) - 1] for number in range(1, count + 1)] or ends


def adaptable(net: nn.Module, example: Example) -> list[str]:
    """Linear layers that work on each position of [B, T, D] or [B, H, W, D]: qkv, proj, fc1 and fc2 of a transformer's blocks.

    torchvision's attention computes its projections without a layer of their own; there it is the two of each MLP.
    """
    heads = Depths(net, example).heads
    calls = trace(net, example)[0]
    found = [call.module for call in calls if type(net.get_submodule(call.module)) is nn.Linear and len(call.inputs) > 2]
    return [name for name in dict.fromkeys(found) if name not in heads]


def what_trains(net: nn.Module, budget: PartStageConfig, depths: Depths) -> Callable[[str], bool]:
    """Whether the parameters and statistics that a module itself owns change."""
    if budget.train == "all":
        return lambda module: True
    if budget.train == "last":
        return lambda module: depths.depth(module) <= budget.stages
    if budget.train == "lora":
        return lambda module: lora.is_adapter(module) or module in depths.heads
    if budget.train == "prompt":
        return lambda module: virtual.is_prompt(net.get_submodule(module)) or module in depths.heads
    return lambda module: module in depths.heads


def frozen_until(budget: PartStageConfig, depths: Depths) -> int:
    """The moment of the pass before which nothing trains."""
    if budget.train == "last":
        return depths.bounds[depths.stages - budget.stages]
    return depths.bounds[-1] if budget.train == "head" and depths.bounds else 0


def still(net: nn.Module, depths: Depths, trains: Callable[[str], bool], until: int) -> tuple[str, ...]:
    """What stays in eval mode: what lies before `until`, and whatever keeps statistics that are frozen. Outermost modules."""
    found = {module for module, moment in depths.last.items() if module and moment < until}
    found |= {module for module, part in net.named_modules() if hasattr(part, "running_mean") and not trains(module)}
    return tuple(sorted(module for module in found if not found & set(list(lineage(module))[1:])))


def in_words(budget: PartStageConfig, stages: int, layers: int) -> str:
    what = {
        "all": "all of them",
        "head": "head",
        "last": f"head and last {'stage' if budget.stages == 1 else f'{budget.stages} of {stages} stages'}",
        "lora": f"head, and adapters of rank {budget.lora.rank} in {layers} linear layers",
        "prompt": f"head, and {budget.prompt.tokens} virtual tokens in front of each text",
    }[budget.train]
    return what if budget.layer_decay == 1 else f"{what}, learning rate x {budget.layer_decay:g} a stage from the head"


def lineage(module: str) -> Iterator[str]:
    """The name of a module, of the one around it, and so on; "" is the net."""
    while module:
        yield module
        module = module.rpartition(".")[0]
    yield ""
