"""The stages in a row: pretrain the teacher, distil, fine-tune, the same student alone; then measure them all, once."""

from __future__ import annotations

from dataclasses import replace

from distillctl.config import ENSEMBLE, ModelConfig, StageConfig, TeacherConfig, TrainConfig
from distillctl.report import table as results
from distillctl.runs import unlabelled
from distillctl.runs.check import preflight
from distillctl.runs.measure import Candidate, measure
from distillctl.runs.plan import Task, labels_only, start_from, teacher_is_read
from distillctl.runs.reuse import train_once
from distillctl.runs.session import Session
from distillctl.runs.teachers import is_ready, make_teacher
from distillctl.runs.train import train

ATTACKED = {"_target_": "distillctl.methods.adversarial.Adversarial", "attacked": ["ce"], "objective": "ce"}  # Madry et al. 2018


def run_train(session: Session) -> float:
    """All of it. Returns the top-1 of the final student, which is what a sweeper may maximise."""
    config: TrainConfig = session.config
    preflight(session)
    candidates: list[Candidate] = []
    teacher = None
    if teacher_is_read(config):
        teacher = pretrained(session)
        candidates += taught_by(teacher)
    else:
        session.console.say("no loss reads a teacher here, so none is trained")
    student = config.student
    if config.distill.epochs:
        candidates += distilled(session, teacher)
        student = candidates[-1].model
    if config.finetune.epochs and unlabelled.possible(session, "finetune"):
        student = start_from(config.student, train(session, finetuning(session, student, config.finetune)))
        candidates.append(Candidate("fine-tuned", "student", student))
    budget = config.distill.epochs + config.finetune.epochs
    if config.baseline and budget and unlabelled.possible(session, "alone"):
        alone = train(session, Task("alone", "student", config.student, labels_only(config.loss), replace(config.distill, epochs=budget)))
        candidates.append(Candidate("alone", "student", start_from(config.student, alone)))
    return conclude(session, candidates)


def run_pretrain(session: Session) -> float:
    """A teacher, by labels."""
    preflight(session)
    return conclude(session, taught_by(pretrained(session, again=True)))


def run_distill(session: Session) -> float:
    """A student, by a teacher that is ready."""
    config = session.config
    preflight(session)
    teacher = config.teacher if teacher_is_read(config) else None
    if teacher is None:
        session.console.say("no loss reads a teacher here, so none is used")
    before = taught_by(teacher) if teacher is not None else []
    return conclude(session, before + distilled(session, teacher))


def run_finetune(session: Session) -> float:
    """A student that is ready, by labels."""
    config = session.config
    preflight(session)
    before = Candidate("before", "student", config.student)
    weights = train(session, finetuning(session, config.student, config.finetune))
    after = Candidate("fine-tuned", "student", start_from(config.student, weights))
    return conclude(session, [after] if config.student.new_head else [before, after])


def distilled(session: Session, teacher: ModelConfig | None) -> list[Candidate]:
    """Assistants from big to small, the student and its later generations: each learns from the one before. The final student is last."""
    config, found = session.config, []
    generations: dict[str, ModelConfig] = {}
    for number, name in enumerate(config.assistants, start=1):
        assistant, stage = ModelConfig(name=name), f"assistant-{number}"
        task = distilling(session, assistant, teacher, config.distill, stage)
        if task.peers():  # they are the student's
            task = replace(task, method=None)
        teacher = start_from(assistant, train(session, task))
        found.append(Candidate(stage.replace("-", " "), "student", teacher))
    for generation in range(1, config.generations + 1):
        task = distilling(session, config.student, teacher, config.distill, "distill", generation)
        file = train(session, task)
        teacher = generations[f"generation{generation}"] = start_from(config.student, file)
        for peer, model in task.peers().items():
            row = peer if generation == config.generations else f"{peer} of {generation}"
            found.append(Candidate(row, "student", start_from(model, file.parent / peer / file.name)))
        name = "distilled" if generation == config.generations else f"generation {generation}"
        found.append(Candidate(name, "student", teacher))
    if config.ensemble_generations:
        found.insert(-1, Candidate("together", "student", TeacherConfig(name=ENSEMBLE, members=generations)))
    return found


def pretrained(session: Session, again: bool = False) -> TeacherConfig:
    """The teacher with its weights: what has none, itself or some members of an ensemble, is trained; with `again` what has some too."""
    config, teacher = session.config, session.config.teacher
    made = train if again else train_once
    if teacher.name != ENSEMBLE:
        if is_ready(teacher) and not again:
            return teacher
        return start_from(teacher, made(session, pretraining(session, teacher, config.pretrain)))
    members = {
        name: member
        if is_ready(member) and not again
        else start_from(member, made(session, pretraining(session, member, config.pretrain, name)))
        for name, member in teacher.members.items()
    }
    return replace(teacher, members=members)


def taught_by(teacher: TeacherConfig) -> list[Candidate]:
    """The teacher, which the rows after it are compared with, and the members of an ensemble."""
    members = {name: TeacherConfig(name=ENSEMBLE, members={name: member}) for name, member in teacher.members.items()}
    alone = [Candidate(f"teacher {name}", "teacher", member) for name, member in members.items()]
    return [Candidate("teacher", "teacher", teacher), *alone]


def pretraining(session: Session, model: ModelConfig, budget: StageConfig, member: str = "") -> Task:
    name = f"pretrain-{member}" if member else "pretrain"
    return Task(name, "teacher", model, labels_only(session.config.loss), budget, member=member)


def distilling(
    session: Session, student: ModelConfig, teacher: ModelConfig | None, budget: StageConfig, name: str = "distill", generation: int = 1
) -> Task:
    config = session.config
    task = Task(
        name if generation == 1 else f"{name}-{generation}",
        "student",
        student,
        unlabelled.loss_of(config),
        budget,
        method=config.method,
        generation=generation,
    )
    return task if teacher is None else replace(task, teacher=make_teacher(session, teacher, task.taps("teacher"), task.loss))


def finetuning(session: Session, student: ModelConfig, budget: StageConfig) -> Task:
    method = ATTACKED if session.config.finetune.adversarial else None
    return Task("finetune", "student", student, labels_only(session.config.loss), budget, method=method)


def conclude(session: Session, candidates: list[Candidate]) -> float:
    """Measure on the test split, print the table, close the run."""
    rows = measure(session, candidates)
    summary = results.summary(session.config, rows)
    if session.run is not None:
        held_out = "test, {:,} images" if session.data.test.labelled else "held out, {:,} images without labels"
        session.console.table(results.table(rows, f"{session.data.name} {held_out.format(len(session.data.test))}"))
        for line in results.remarks(rows):
            session.console.say(line)
        session.run.finish(summary)
        session.console.say(f"results: {session.folder / 'summary.json'}")
    return results.objective(rows)
