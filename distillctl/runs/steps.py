"""The values that a plan is made of: steps, and rows of the final table. Plain descriptions, of which nothing is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distillctl.build import find_class
from distillctl.config import DatasetConfig, ExportStepConfig, ModelConfig, PruneConfig, QuantizeConfig, StageConfig
from distillctl.losses.weighted import build_loss
from distillctl.methods.method import Method
from distillctl.runs.sources import CHOICE, FILE, Given, MadeBy, Several, Source, parts, peer_models, start_from


@dataclass(frozen=True)
class Step:
    """One training: of which model, on which data, by what.

    name: of its folder. role: "teacher" or "student", what the shipped files are called. loss, method: their nodes of the config.
    seed: of fresh weights, order and views. shares_teacher: whether its teacher is the config's own, which other runs may have too, and no
    student of this run. reuse: whether an equal training of another run may stand for it. fresh: of its model the architecture alone is
    taken, with new weights. keeps_zeros: weights that are zero in it stay so.
    for_int8: it is trained as if its numbers had 8 bits. skipped: why it is left out. taught_by: the step that has made its teacher, once that is ready.
    level: of a search, to which it belongs: whether it is done is known once the steps before it are (`runs/search.py`).
    tasks: of a sequence, those whose samples it learns, from 1; empty: it knows no tasks. sequence: what the steps of one sequence are called.
    """

    name: str
    role: str
    model: Source
    data: DatasetConfig
    loss: Mapping[str, Any]
    budget: StageConfig
    seed: int
    teacher: Source | None = None
    method: Mapping[str, Any] | None = None
    shares_teacher: bool = False
    reuse: bool = False
    fresh: bool = False
    keeps_zeros: bool = False
    for_int8: bool = False
    skipped: str = ""
    taught_by: str = ""
    level: str = ""
    tasks: tuple[int, ...] = ()
    sequence: str = ""

    suffix = ".safetensors"

    @property
    def goes_on(self) -> bool:
        """Whether it learns a task after another."""
        return bool(self.tasks) and self.tasks[0] > 1

    def peers(self) -> dict[str, ModelConfig]:
        """The students that train beside the first, by the names of their folders."""
        return peer_models(self.method)

    def taps(self, role: str) -> tuple[str, ...]:
        """What is read of the student or of the teacher, besides logits."""
        loss = build_loss(self.loss)
        own_teacher = self.teacher is None and role == "student"
        return tuple(dict.fromkeys((*loss.taps(role), *reads(self.method, role), *(loss.taps("teacher") if own_teacher else ()))))

    def asks_teacher(self) -> bool:
        """Whether its steps ask the teacher about their samples. Where labels are all that a loss reads, only measurements do."""
        if self.teacher is None or self.method and find_class(self.method, Method, "method").needs_teacher is False:
            return False
        return build_loss(self.loss).needs_teacher or bool(reads(self.method, "teacher"))


@dataclass(frozen=True)
class Verify:
    """What is to be compared: a file that is there already, by the keys of `export`."""

    file: str
    keys: ExportStepConfig


@dataclass(frozen=True)
class Trial:
    """What is tried at a level of a search for a file within a budget.

    level: how much is cut, in words. prune: how; None of the student as it is. rows: of its files that count, whether each is of smaller
    numbers. milder: the first steps of the levels before. last: whether no level is stronger.
    """

    level: str
    prune: PruneConfig | None
    export: ExportStepConfig
    quantize: QuantizeConfig
    rows: Mapping[str, bool]
    milder: tuple[str, ...] = ()
    last: bool = False


@dataclass(frozen=True)
class Transform:
    """A model made of another without training it: cut, written for another runtime, of smaller numbers.

    does: what, a name of `runs/transform.py`. settings: what the config says of that. part: which of how many steps towards it.
    suffix: of the file that it leaves. reference: the file that one of smaller numbers is compared with. level: as of a `Step`.
    """

    name: str
    does: str
    role: str
    model: Given | MadeBy
    data: DatasetConfig
    settings: Any
    seed: int
    suffix: str = ".safetensors"
    part: tuple[int, int] = (1, 1)
    reference: Given | MadeBy | None = None
    skipped: str = ""
    level: str = ""


@dataclass(frozen=True)
class Row:
    """A model that is measured at the end. own: the run's student at a stage of its way, which is compared with itself alone."""

    name: str
    role: str
    model: Source
    own: bool = False


@dataclass(frozen=True)
class Choice:
    """Two rows of one student, before and after fine-tuning, of which the better on the validation split is final.

    kept: the setting by which the one after is final whatever validation says; empty where validation decides.
    """

    before: str
    after: str
    kept: str = ""


@dataclass(frozen=True)
class Plan:
    """final: the name of the row that the run is about; where there is a `choice`, until it is made. test: the data whose test split the rows are measured on. notes: what is said first."""

    steps: tuple[Step | Transform, ...]
    rows: tuple[Row, ...]
    final: str
    test: DatasetConfig
    notes: tuple[str, ...] = ()
    choice: Choice | None = None

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def step(self, name: str) -> Step | Transform:
        if name == CHOICE:
            assert self.choice is not None
            after = self.row(self.choice.after).model
            assert isinstance(after, MadeBy)
            name = after.step
        if name == FILE:
            name = "export"
        return next(step for step in self.steps if step.name == name)

    @property
    def todo(self) -> tuple[Step, ...]:
        """The trainings that are not skipped."""
        return tuple(step for step in self.steps if isinstance(step, Step) and not step.skipped)

    @property
    def transforms(self) -> tuple[Transform, ...]:
        return tuple(step for step in self.steps if isinstance(step, Transform))

    @property
    def trials(self) -> tuple[Transform, ...]:
        """The first step of each level of a search, from the mildest to the strongest."""
        return tuple(step for step in self.transforms if step.does == "level")

    @property
    def data(self) -> tuple[DatasetConfig, ...]:
        """The data sets that take part, each once; the one that is measured on first."""
        found = [self.test]
        for step in self.steps:
            found += [step.data] if step.data not in found else []
        return tuple(found)

    def file(self, source: Source) -> str | None:
        """Where in the run's folder a model will lie; None of one that is given, or that is really several."""
        if isinstance(source, Several) and len(source.members) == 1:
            [source] = source.members.values()
        if not isinstance(source, MadeBy):
            return None
        step = self.step(source.step)
        return "/".join(filter(None, (step.name, source.peer, f"{step.role}{step.suffix}")))

    def base(self, source: Given | MadeBy) -> ModelConfig:
        """The architecture of a model as the config describes it, whoever trains it on the way."""
        if isinstance(source, Given):
            return source.model
        step = self.step(source.step)
        if source.peer:
            assert isinstance(step, Step), f"{step.name} has no peers"
            return step.peers()[source.peer]
        assert not isinstance(step.model, Several), f"{step.name} trains one model"
        return self.base(step.model)

    def ready(self, step: Step, made: Mapping[str, Path]) -> Step:
        """The step with models that are all given: those of steps before it by the files that they have made, by name."""
        teacher = None if step.teacher is None else Given(self.resolved(step.teacher, made), "teacher")
        makers = [part.step for part in parts(step.teacher) if isinstance(part, MadeBy)]
        model = Given(self.resolved(step.model, made), step.role)
        return replace(step, model=model, teacher=teacher, taught_by=next(iter(makers), ""))

    def ready_to_transform(self, step: Transform, made: Mapping[str, Path]) -> Transform:
        """The same for a step that trains nothing."""
        reference = None if step.reference is None else Given(self.resolved(step.reference, made), step.role)
        return replace(step, model=Given(self.resolved(step.model, made), step.role), reference=reference)

    def resolved(self, source: Source, made: Mapping[str, Path]) -> ModelConfig:
        """The model that a source has come to be."""
        if isinstance(source, Several):
            members = {name: self.resolved(member, made) for name, member in source.members.items()}
            return replace(source.teacher, members=members)
        if isinstance(source, Given):
            return source.model
        file = made[source.step]
        return start_from(self.base(source), file.parent / source.peer / file.name if source.peer else file)

    def record(self) -> dict[str, Any]:
        """What run.json says of it."""
        return {
            "steps": [
                {
                    "name": step.name,
                    "role": step.role,
                    **({"epochs": step.budget.epochs} if isinstance(step, Step) else {"does": step.does}),
                    **({"skipped": step.skipped} if step.skipped else {}),
                    **({"level": step.level} if step.level else {}),
                }
                for step in self.steps
            ],
            "rows": [{"name": row.name, "role": row.role, "own": row.own, "file": self.file(row.model)} for row in self.rows],
            "final": self.final,
        }


def reads(method: Mapping[str, Any] | None, role: str) -> tuple[str, ...]:
    """Taps that a method reads, whatever its loss does."""
    return find_class(method, Method, "method").reads(method, role) if method else ()
