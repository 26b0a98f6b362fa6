"""What the steps of a search have said so far: which levels are done, which are left out and why, and which file is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from distillctl.compress.budget import Candidate, Choice, choose, limits_of, nearest_level
from distillctl.compress.prune import rehearsed
from distillctl.errors import ConfigError
from distillctl.metrics.metric import count
from distillctl.models.obtain import planned, source_of
from distillctl.runs.session import Session
from distillctl.runs.sources import Given
from distillctl.runs.steps import Plan, Step, Transform
from distillctl.runs.trials import SURVEY

Records = Callable[[str], Mapping[str, Any] | None]  # of a finished step, by its name
BITS = {"int4_weights": 4, "fp16": 16, "bf16": 16}  # of a weight, where a quantiser is named; else 8
SURE = 0.5  # of what a net without weights would cost: which channels go depends on weights, how many little


def left_out(plan: Plan, step: Step | Transform, records: Records) -> str:
    """Why a step of a level is not done: a milder level meets the budget, or this one cannot. Empty where it is done."""
    if not step.level:
        return ""
    for judge in (each for each in plan.transforms if each.does == "judge"):
        if judge.level == step.level:
            break
        if (records(judge.name) or {}).get("met"):
            return f"level {step.level}: not needed, level {judge.level} meets the budget"
    tried = {trial.settings.level: records(trial.name) or {} for trial in plan.trials}
    why = tried[step.level]["problem"]
    possible = {level: found["over"] for level, found in tried.items() if found["over"] is not None}
    wanted = not why or all(found["problem"] for found in tried.values()) and nearest_level(possible) == step.level
    return "" if wanted else f"level {step.level}: left out, {why}"


def result(session: Session, plan: Plan) -> Choice | None:
    """The file that is kept; None of a plan that searches nothing."""
    if not plan.trials:
        return None
    survey = session.stage_record(SURVEY) or {}
    judged = [session.stage_record(step.name) or {} for step in plan.transforms if step.does == "judge"]
    found = [Candidate(**figures) for record in judged for figures in record.get("figures", ())]
    return choose(found, limits_of(session.config.budget, survey["macs"]), survey["n"])


def check_reachable(session: Session, plan: Plan) -> None:
    """Find before the first step a budget that no level can come near, by the architecture alone. Raises ConfigError; where it is not certain nothing."""
    if not plan.trials:
        return
    trial, model = plan.trials[-1].settings, plan.trials[-1].model
    assert isinstance(model, Given), model
    inputs, budget = session.bundle(plan.test).inputs, session.config.budget
    net = planned(model.model, source_of(model.model, "student")[1], inputs, "student")
    try:
        if trial.prune is None:
            return
        left = rehearsed(net, inputs.seen_by(net).net_example, trial.prune)
    except ConfigError:  # the level says so when it is tried
        return
    megabytes = left.parameters * BITS.get(trial.quantize.name, 8) / 8e6
    if budget.size_mb is not None and SURE * megabytes > budget.size_mb:
        raise ConfigError(
            f"budget.size_mb={budget.size_mb:g}: the strongest level, {trial.level}, leaves {net.name} {count(left.parameters)} parameters, "
            f"about {megabytes:.3g} MB; raise it, set a smaller prune.target_macs, or take a smaller student"
        )
    asked = limits_of(budget, left.macs_before).macs
    if asked is not None and SURE * left.macs > asked:
        raise ConfigError(
            f"budget.macs={budget.macs:g}: the strongest level, {trial.level}, leaves {net.name} {count(left.macs)} multiply-accumulates; "
            "raise it, set a smaller prune.target_macs, or take a smaller student"
        )
