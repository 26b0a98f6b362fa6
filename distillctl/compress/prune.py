"""Cut the channels and heads of a trained net that matter least, and say what was cut as edits of its record."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from distillctl.compress.channels import attentions, channel_groups, require_torch_pruning
from distillctl.compress.heads import head_groups
from distillctl.compress.importance import all_learn, gradients, measure
from distillctl.compress.units import Group, choose, layers_of, saved
from distillctl.config import PruneConfig
from distillctl.errors import CheckpointError, ConfigError, first_line
from distillctl.metrics.cost import macs, parameters
from distillctl.models.adapter import Adapter
from distillctl.models.edits import Edit, apply_edits, change_of
from distillctl.models.logits import logits_of
from distillctl.models.net import Net
from distillctl.models.pruned import PRUNED, is_attention, narrowings, widths
from distillctl.models.trace import Example
from distillctl.modes import evaluating
from distillctl.types import Batch, Inputs

CLOSE = 0.03  # of the goal: nearer than this it counts as reached
MOST = 0.99  # of the channels that can be asked to go
HALVINGS = 24


@dataclass(frozen=True)
class Pruned:
    """What one step of pruning did. net: the same module, and all its edits; edits: those of this step alone.

    ratio: the share of the channels that could go which went. said: what a user should know, a line each.
    """

    net: Net
    edits: tuple[Edit, ...]
    ratio: float
    macs_before: int
    macs: int
    parameters_before: int
    parameters: int
    said: tuple[str, ...] = ()


def prune(
    net: Net,
    example: Example,
    config: PruneConfig,
    *,
    classifier: Adapter | None = None,
    batches: Iterable[Batch] | None = None,
    step: int = 1,
) -> Pruned:
    """Cut `net.module` in place, by step `step` of `config.steps` of the way that the config asks for; training may go between.

    example: `inputs.seen_by(net).net_example`. classifier, batches: for taylor, the net as it answers samples as they are stored, and labelled
    training samples. A pure function of the weights, the config and these. Optimizers of the net have to be made anew. Raises ConfigError,
    MachineError where torch-pruning is missing.
    """
    require_torch_pruning()
    check(config, step)
    module = net.module
    first = next(module.parameters(), torch.zeros(()))
    sample = example(first.device, first.dtype)
    untouched = copy.deepcopy(module)
    before, macs_before, parameters_before = widths(module), macs(module, sample), parameters(module)
    goal = goal_of(config, step, macs_before, net.name)
    with all_learn(module), evaluating(module):
        if config.name == "taylor":
            if classifier is None or batches is None:
                raise ConfigError("prune=taylor takes gradients of training images, and was given none; set prune.samples=256")
            assert classifier.net is module
            gradients(classifier, batches)
        groups = found_groups(net, sample, config)
        ratio = share_of_step(config.ratio, step, config.steps) if goal is None else ratio_for(groups, config.scope, macs_before, goal)
        chosen = choose(groups, ratio, config.scope)
        for group, units in zip(groups, chosen, strict=True):
            if units:
                group.cut(units)
    edits = tuple(Edit(*each) for each in narrowings(before, widths(module)))
    check_cut(untouched, module, edits, sample, net.name)
    after = macs(module, sample)
    share = sum(map(len, chosen)) / sum(group.width for group in groups)
    said = heads_that_stay(module)
    if goal is not None and abs(after - goal) > CLOSE * goal:
        nearest = f"the nearest to {goal:,} that {net.name} comes is {after:,}, with {100 * share:.0f} % of its channels gone that can go"
        said.insert(0, f"prune.target_macs: {nearest}; set a larger one, or take another student")
    return Pruned(
        replace(net, edits=merged(net.edits, edits)),
        edits,
        share,
        macs_before,
        after,
        parameters_before,
        parameters(module),
        tuple(said),
    )


def check_prunable(net: Net, example: Example, config: PruneConfig) -> tuple[str, ...]:
    """Find before any training what would make `prune` fail, on a copy without weights of what may be a plan on the meta device.

    Returns what a user should know, a line each; how near a goal is reached depends on weights little. Raises as `prune` does.
    """
    return tuple(line for line in rehearsed(net, example, config).said if "prune.target_macs" not in line)


def rehearsed(net: Net, example: Example, config: PruneConfig) -> Pruned:
    """What pruning would leave, by the architecture alone: on a copy without weights of what may be a plan on the meta device. Raises as `prune` does."""
    blank = copy.deepcopy(net.module).to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*blank.parameters(), *blank.buffers()):
            tensor.zero_()
    judged_without_data = replace(config, name="magnitude" if config.name == "taylor" else config.name)
    return prune(replace(net, module=blank), example, judged_without_data)


def check(config: PruneConfig, step: int) -> None:
    """Raises ConfigError for numbers that make no sense, which a config from Python may hold."""
    if config.name not in ("magnitude", "taylor", "bn_scale"):
        raise ConfigError(f"prune={config.name} cuts no channels; prune=magnitude, prune=taylor and prune=bn_scale do")
    if config.target_macs is None and not 0 < config.ratio <= MOST:
        raise ConfigError(f"prune.ratio={config.ratio}: must be above 0 and at most {MOST}, the share of the channels that go")
    if config.target_macs is not None and config.target_macs <= 0:
        raise ConfigError(f"prune.target_macs={config.target_macs}: must be above 0, up to 1 a share of the net's, beyond that a count")
    if config.target_macs == 1:
        raise ConfigError("prune.target_macs=1: all multiply-accumulates stay, so nothing is cut; half of them: prune.target_macs=0.5")
    if not 1 <= step <= config.steps:
        raise ConfigError(f"prune.steps={config.steps}: there is no step {step}")


def share_of_step(ratio: float, step: int, steps: int) -> float:
    """Of what is left now, what goes so that after all steps `ratio` of the beginning has gone, an equal part of it in each."""
    return 1 - (1 - ratio * step / steps) / (1 - ratio * (step - 1) / steps)


def goal_of(config: PruneConfig, step: int, now: int, name: str) -> int | None:
    """The multiply-accumulates after this step; None where channels are counted instead. Raises ConfigError where the net has fewer already."""
    target = config.target_macs
    if target is None:
        return None
    if target <= 1:
        return round(now * (1 - share_of_step(1 - target, step, config.steps)))
    if target >= now:
        raise ConfigError(
            f"prune.target_macs={target:,.0f}: {name} has {now:,} multiply-accumulates, which is not more; set a smaller number"
        )
    return round(now - (now - target) / (config.steps - step + 1))


def found_groups(net: Net, sample: Inputs, config: PruneConfig) -> list[Group]:
    """What can be cut. Raises ConfigError where nothing can."""
    layers = layers_of(net.module, sample)
    judge = measure(config.name, net.name, net.module)
    groups = [*channel_groups(net.module, sample, net.name, judge, layers), *head_groups(net.module, config.name, layers)]
    groups = [group for group in groups if group.width > 1]
    if not groups:
        raise ConfigError(f"prune={config.name}: no channels of {net.name} can be cut; take another student, or prune=unstructured")
    return groups


def ratio_for(groups: Sequence[Group], scope: str, now: int, goal: int) -> float:
    """By bisection: the share of the channels to cut that comes nearest to the goal. Counted, nothing is cut."""
    low, high = 0.0, MOST
    best, distance = high, float("inf")
    for _ in range(HALVINGS):
        ratio = (low + high) / 2
        left = now - saved(groups, choose(groups, ratio, scope))
        if abs(left - goal) < distance:
            best, distance = ratio, abs(left - goal)
        if left > goal:
            low = ratio
        else:
            high = ratio
    return best


def check_cut(untouched: nn.Module, module: nn.Module, edits: Sequence[Edit], sample: Inputs, name: str) -> None:
    """Whether the net still answers, and the record can say what became of it: an untouched one is edited and compared. Raises ConfigError."""
    try:
        apply_edits(untouched, edits)
    except CheckpointError as error:
        raise ConfigError(
            f"prune: what was cut from {name} cannot be recorded ({error}); take another student, or prune=unstructured"
        ) from None
    shapes, expected = ({entry: tuple(value.shape) for entry, value in each.state_dict().items()} for each in (module, untouched))
    other = next((entry for entry in shapes if shapes[entry] != expected.get(entry)), None)
    if other is not None:
        raise ConfigError(f"prune: what was cut from {name} cannot be recorded: {other}; take another student, or prune=unstructured")
    untouched.load_state_dict(module.state_dict())
    try:
        with torch.no_grad(), evaluating(module), evaluating(untouched):
            ours, theirs = (logits_of(each(sample)).nan_to_num() for each in (module, untouched))
    except Exception as error:  # a net may object to its own widths in any way it likes
        raise ConfigError(
            f"prune: {name} does not run once its channels are cut ({first_line(error)[:200]}); take another student, or prune=unstructured"
        ) from None
    if not torch.equal(ours, theirs):
        raise ConfigError(f"prune: {name} holds more than its record can say of what was cut; take another student, or prune=unstructured")


def merged(old: Sequence[Edit], new: Sequence[Edit]) -> tuple[Edit, ...]:
    """All edits of a net: what pruning did last replaces what it did to the same place before, where nothing else was done in between."""
    tail = len(old)
    while tail and isinstance(change_of(old[tail - 1].became), PRUNED):
        tail -= 1
    widths_now = {edit.module: edit for edit in (*old[tail:], *new)}
    return (*old[:tail], *widths_now.values())


def heads_that_stay(module: nn.Module) -> list[str]:
    """A line about attention that is not cut, where there is any."""
    stay = [(path, part) for path, part in attentions(module) if not is_attention(part)]
    if not stay:
        return []
    path, part = stay[0]
    more = f" and {len(stay) - 1} more" if len(stay) > 1 else ""
    return [f"prune: the heads of {path} ({type(part).__name__}){more} stay: only those of timm's plain attention can be cut"]
