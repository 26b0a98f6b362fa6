"""What a run will do, as a value that checks, execution, tables, sweeps, caches and resume read. Builds no net, reads no data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from distillctl.build import find_class
from distillctl.config import (
    ENSEMBLE,
    CompressConfig,
    Distils,
    ExportConfig,
    Finetunes,
    LifelongConfig,
    ModelConfig,
    Pretrains,
    TeacherConfig,
    TrainConfig,
    has_budget,
)
from distillctl.draws import seed_of
from distillctl.losses.weighted import build_loss
from distillctl.methods.method import Method
from distillctl.runs import unlabelled
from distillctl.runs.draft import Draft
from distillctl.runs.ladder import searched
from distillctl.runs.lifelong.plan import sequences
from distillctl.runs.smaller import EAGER, keeps_zeros, pruned, pruned_alone, together, written
from distillctl.runs.sources import CHOICE, Given, MadeBy, Several, Source, is_named, is_ready, peer_models, start_from, weights_of
from distillctl.runs.steps import Choice, Plan, Row, Verify

ATTACKED = {"_target_": "distillctl.methods.adversarial.Adversarial", "attacked": ["ce"], "objective": "ce"}  # Madry et al. 2018


def plan(config: Any) -> Plan:
    """What `distillctl train`, `pretrain`, `distill` or `finetune` will do. Raises ConfigError where loss or method cannot be made."""
    draft = Draft(config)
    if isinstance(config, TrainConfig):
        return whole_plan(draft, config)
    if isinstance(config, CompressConfig):
        return compressed(draft, config)
    if isinstance(config, ExportConfig):
        return exported(draft, config)
    if isinstance(config, LifelongConfig):
        return sequences(draft, config)
    if isinstance(config, Pretrains):
        add_teacher(draft, pretrained(draft, config, again=True))
    elif isinstance(config, Distils):
        teacher = given(config.teacher) if teacher_is_read(config) else None
        if teacher is None:
            draft.notes.append("no loss reads a teacher here, so none is used")
        else:
            add_teacher(draft, teacher)
        distilled(draft, config, teacher)
    elif isinstance(config, Finetunes):
        student = Given(config.student, "student")
        finetuned(draft, config, student, "" if config.student.new_head else add_before(draft, student))
    return draft.done()


def whole_plan(draft: Draft, config: TrainConfig) -> Plan:
    """Pretrain the teacher, distil, fine-tune; and the same student alone, at the same budget."""
    teacher = None
    if teacher_is_read(config):
        teacher = pretrained(draft, config)
        add_teacher(draft, teacher)
    else:
        draft.notes.append("no loss reads a teacher here, so none is trained")
    student: Given | MadeBy = Given(config.student, "student")
    before = ""
    if config.distill.epochs:
        student, before = distilled(draft, config, teacher), "distilled"
    elif config.finetune.epochs and is_ready(config.student):
        before = add_before(draft, student)
    student, before = pruned(draft, config, student, teacher, before)
    if config.finetune.epochs:
        student = finetuned(draft, config, student, before)
    budget = replace(config.distill, epochs=together(config.distill.epochs, config.finetune.epochs))
    if config.baseline and budget.epochs:
        skipped = draft.needs_labels("alone")
        alone = draft.train("alone", "student", Given(config.student, "student"), budget, skipped=skipped)
        draft.rows += [] if skipped else [Row("alone", "student", alone)]
        pruned_alone(draft, config)
    if isinstance(student, Given) and not is_ready(config.student):
        if config.export.format != "none":
            draft.notes.append("no stage trains the student, so nothing is exported")
        return draft.done()
    return draft.done(written(draft, config, student, teacher))


def compressed(draft: Draft, config: CompressConfig) -> Plan:
    """A student that is ready: cut and taught again, then written as the file that runs."""
    teacher = given(config.teacher) if is_named(config.teacher) else None
    if teacher is not None:
        add_teacher(draft, teacher)
    given_student = Given(config.student, "student")
    before = add_before(draft, given_student)
    if has_budget(config.budget):
        return draft.done(searched(draft, config, given_student, teacher))
    student, before = pruned(draft, config, given_student, teacher, before)
    if config.finetune.epochs:
        student = finetuned(draft, config, student, before)
    if config.baseline:
        pruned_alone(draft, config)
    elif config.prune.name not in ("none", "unstructured"):
        draft.notes.append("what training again brings by itself: baseline=true trains the net that is left from fresh weights too")
    return draft.done(written(draft, config, student, teacher))


def exported(draft: Draft, config: ExportConfig) -> Plan:
    """A model that is ready, as a file for another runtime."""
    model = Given(weights_of(config), "model")
    draft.rows.append(Row(EAGER, "student", model, own=True))
    if config.verify is not None:
        file = Given(start_from(model.model, Path(config.verify)), "verify")
        draft.transform("verify", "verify", model, Verify(config.verify, config.export), suffix="")
        draft.rows.append(Row("the file", "student", file, own=True))
        return draft.done("the file")
    return draft.done(written(draft, config, model))


def pretrained(draft: Draft, config: Pretrains, again: bool = False) -> Source:
    """The teacher: what of it has no weights is trained; with `again` what has some too."""

    def trained(model: ModelConfig, key: str, member: str = "") -> Given | MadeBy:
        possible = config.pretrain.epochs and draft.config.dataset.labels
        if not again and (is_ready(model) or not possible):
            return Given(model, key)
        seed = seed_of(draft.config.seed, "member", member) if member else draft.config.seed
        reuse = isinstance(config, TrainConfig) and config.pretrain.reuse
        name = f"pretrain-{member}" if member else "pretrain"
        return draft.train(name, "teacher", Given(model, key), config.pretrain, seed=seed, reuse=reuse)

    teacher = config.teacher
    if teacher.name != ENSEMBLE:
        return trained(teacher, "teacher")
    return Several(teacher, {name: trained(member, f"teacher.members.{name}", name) for name, member in teacher.members.items()})


def distilled(draft: Draft, config: Distils, teacher: Source | None) -> MadeBy:
    """Assistants from big to small, the student and its later generations: each learns from the one before."""
    lesson = {"loss": unlabelled.loss_of(config)}
    peers = peer_models(config.method)
    original: Source | None = teacher
    for number, name in enumerate(config.assistants, start=1):
        method = None if peers else config.method  # they are the student's
        model = Given(ModelConfig(name=name), f"assistants.{number - 1}")
        taught = {"teacher": teacher, "shares_teacher": teacher is original, "method": method}
        teacher = draft.train(f"assistant-{number}", "student", model, config.distill, **taught, **lesson)
        draft.rows.append(Row(f"assistant {number}", "student", teacher))
    generations: dict[str, Given | MadeBy] = {}
    for generation in range(1, config.generations + 1):
        last, first = generation == config.generations, generation == 1
        seed = draft.config.seed if first else seed_of(draft.config.seed, "generation", generation)
        name = "distill" if first else f"distill-{generation}"
        model = Given(config.student, "student")
        taught = {"teacher": teacher, "shares_teacher": teacher is original, "method": config.method}
        made = draft.train(name, "student", model, config.distill, seed=seed, **taught, **lesson)
        for peer in peers:
            draft.rows.append(Row(peer if last else f"{peer} of {generation}", "student", MadeBy(name, peer)))
        if last and config.ensemble_generations:
            everyone = {**generations, f"generation{generation}": made}
            draft.rows.append(Row("together", "student", Several(TeacherConfig(name=ENSEMBLE), everyone)))
        draft.rows.append(Row("distilled" if last else f"generation {generation}", "student", made, own=last))
        teacher = generations[f"generation{generation}"] = made
    return made


def add_before(draft: Draft, student: Given | MadeBy) -> str:
    """The row of a student as it is given, by its name."""
    draft.rows.append(Row("before", "student", student, own=True))
    return "before"


def finetuned(draft: Draft, config: Finetunes, student: Given | MadeBy, before: str) -> Given | MadeBy:
    """A student that is ready, by labels. before: the row of what it was; empty where that was worth nothing. Returns what is final of both."""
    skipped = draft.needs_labels("finetune")
    method = ATTACKED if config.finetune.adversarial else None
    made = draft.train("finetune", "student", student, config.finetune, method=method, skipped=skipped, keeps_zeros=keeps_zeros(config))
    draft.rows += [] if skipped else [Row("fine-tuned", "student", made, own=True)]
    if skipped:
        return student
    if not before:
        return made
    draft.choice = Choice(before, "fine-tuned", kept_by(draft.config))
    return MadeBy(CHOICE)


def kept_by(config: Any) -> str:
    """The setting by which fine-tuning keeps its result, better or not; empty where validation decides."""
    if config.finetune.keep == "always":
        return "finetune.keep=always"
    if config.finetune.adversarial:  # it gives accuracy for robustness, which validation does not measure
        return "finetune.adversarial=true"
    return "trainer.select=last" if config.trainer.select == "last" else ""


def add_teacher(draft: Draft, teacher: Source) -> None:
    """Its row, which the rows after it are compared with, and those of an ensemble's members."""
    draft.rows.append(Row("teacher", "teacher", teacher))
    if isinstance(teacher, Several):
        for name, member in teacher.members.items():
            alone = Several(TeacherConfig(name=ENSEMBLE), {name: member})
            draft.rows.append(Row(f"teacher {name}", "teacher", alone))


def given(teacher: TeacherConfig) -> Given | Several:
    """A teacher as the config has it."""
    if teacher.name != ENSEMBLE:
        return Given(teacher, "teacher")
    return Several(teacher, {name: Given(member, f"teacher.members.{name}") for name, member in teacher.members.items()})


def teacher_is_read(config: Distils) -> bool:
    """Whether the method or a loss looks at the teacher at all."""
    if isinstance(config, CompressConfig) and not is_named(config.teacher):
        return False
    needed = find_class(config.method, Method, "method").needs_teacher
    return build_loss(config.loss).needs_teacher if needed is None else needed  # type: ignore[attr-defined]
