"""How long the steps of a plan are, in epochs and optimizer steps; and whether that is enough to learn anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from distillctl.config import TrainerConfig, chosen
from distillctl.data.loader import TrainLoader
from distillctl.runs.budget import STEPS, is_demo, stages_of
from distillctl.runs.session import Session
from distillctl.runs.sources import Given, MadeBy, is_ready
from distillctl.runs.steps import Plan, Step

FEW, FEW_MORE = 300, 50  # steps that teach a fresh net little, and one that has weights already
FEW_FOR_DEMO = 50
LIFELONG = "lifelong"  # the stage of every task
LIKE = {
    "alone": ("distill", LIFELONG),
    "train": ("distill",),
    "pruned": ("distill",),
    "qat": ("finetune", "distill"),
    **dict.fromkeys(("task", "teacher", "sgd", "joint"), (LIFELONG,)),
}  # by which stages other steps are as long


@dataclass(frozen=True)
class Length:
    """Of a step. epochs: that are begun; steps: of the optimizer."""

    epochs: int
    steps: int


def length(step: Step, batches: TrainLoader, trainer: TrainerConfig, most: int | None = None) -> Length:
    """How long a step is: to the end of its epochs, or `trainer.max_steps`, or `most`."""
    whole = chosen(step.budget.epochs) * batches.batches_per_epoch
    steps = min(whole, trainer.max_steps or whole, most or whole)
    return Length(-(-steps // batches.batches_per_epoch), steps)


def most_steps(session: Session, step: Step) -> int | None:
    """What a student alone may take, where time has cut short the one that it is compared with: as many as that."""
    if step.name != "alone":
        return None
    rivals = [record for record in map(session.stage_record, ("distill", "finetune")) if record is not None]
    return sum(record.get("steps", 0) for record in rivals) if any(record.get("out_of_time") for record in rivals) else None


def lengths(session: Session, plan: Plan) -> dict[str, Length]:
    """Of every step that is not skipped, by its name."""
    return {step.name: length(step, session.bundle_of(step).train_batches(step.seed), session.config.trainer) for step in plan.todo}


def choice_in_words(session: Session, plan: Plan) -> str:
    """What was chosen, and how one chooses otherwise; empty where nothing was."""
    if not session.chosen or not plan.todo:
        return ""
    bundle, found = session.bundle(plan.test), lengths(session, plan)
    told, keys = [], []
    if "trainer.batch_size" in session.chosen:
        told.append(f"batches of {session.chosen['trainer.batch_size']}")
        keys.append("trainer.batch_size=N")
    for name in STEPS:
        if f"{name}.epochs" in session.chosen and (steps := steps_of(name, plan, found)):
            told.append(f"{name} {session.chosen[f'{name}.epochs']} epochs ({steps:,} steps)")
            keys.append(f"{name}.epochs=N")
    why = "for this demo" if is_demo(plan.test) else f"for {len(bundle.data.train):,} training {bundle.inputs.noun}"
    return f"chosen {why}: {', '.join(told)}; choose otherwise by {' '.join(keys)}" if told else ""


def steps_of(stage: str, plan: Plan, found: Mapping[str, Length]) -> int:
    """What the first step of a stage takes of the optimizer; of tasks, all of the first sequence."""
    if stage == LIFELONG:
        return sum(found[step.name].steps for step in plan.todo if step.tasks and step.sequence == plan.todo[0].sequence)
    return next((found[step.name].steps for step in plan.todo if step.name.startswith(stage)), 0)


def too_few(session: Session, plan: Plan) -> dict[str, int]:
    """Steps of a plan that are so short that their models learn little, and what they take of the optimizer."""
    found = {}
    done = session.run.record["stages"] if session.run is not None else {}
    for name, taken in lengths(session, plan).items():
        steps = min(taken.steps, done.get(name, {}).get("steps", taken.steps))  # time may have ended it early
        step = plan.step(name)
        assert isinstance(step, Step), name
        steps *= sum(other.sequence == step.sequence for other in plan.todo) if step.tasks else 1  # a sequence counts as a whole
        model = step.model
        if isinstance(model, MadeBy):
            continue  # what it begins with was looked at
        ready = isinstance(model, Given) and is_ready(model.model)
        enough = FEW_MORE if ready else FEW_FOR_DEMO if is_demo(step.data) else FEW
        if steps < enough:
            found[step.sequence or name] = steps
    return found


def announce(session: Session, plan: Plan) -> None:
    """Say what was chosen, and warn of steps that are too short."""
    if session.config.resume is None and (line := choice_in_words(session, plan)):
        session.console.say(line)
    if few := too_few(session, plan):
        session.console.warn(f"{few_in_words(few)}; {more_in_words(session, few)}")


def too_few_in_words(session: Session, plan: Plan) -> str:
    """What the figures of a run of too few steps are worth; empty where it had enough."""
    few = too_few(session, plan)
    about = "a strategy keeps" if any(step.tasks for step in plan.todo) else "distillation brings"
    return f"{few_in_words(few)}: these figures say little of what {about}; {more_in_words(session, few)}" if few else ""


def cut_in_words(session: Session, plan: Plan) -> str:
    """Which steps the clock has ended; empty where none."""
    done, found = session.run.record["stages"] if session.run is not None else {}, lengths(session, plan)
    cut = [f"{name} {done[name]['steps']:,} of {found[name].steps:,}" for name in found if done.get(name, {}).get("out_of_time")]
    return (
        f"stopped in time by trainer.max_minutes={session.config.trainer.max_minutes:g} (steps: {', '.join(cut)}); all is shipped and measured"
        if cut
        else ""
    )


def few_in_words(few: Mapping[str, int]) -> str:
    """Of what `too_few` has found."""
    told = ", ".join(f"{name} {count:,}" for name, count in few.items())
    return f"few optimizer steps ({told}), where a net needs some hundreds"


def more_in_words(session: Session, few: Mapping[str, int]) -> str:
    """How a run trains for longer. few: the steps that are too short; the student alone is as long as the others' distilling."""
    trainer = session.config.trainer
    limit = (
        "without trainer.max_steps, "
        if trainer.max_steps
        else f"than in trainer.max_minutes={trainer.max_minutes:g}, "
        if trainer.max_minutes
        else ""
    )
    kinds = {name.partition("-")[0] for name in few}
    short = {stage for kind in kinds for stage in LIKE.get(kind, (kind,))}
    keys = " ".join(f"{name}.epochs=N" for name in stages_of(session.config) if name in short)
    return f"more {limit}by {keys}, or by smaller batches: trainer.batch_size=N"
