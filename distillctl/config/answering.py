"""What must hold of a teacher that is a file of answers, beyond its keys' types and ranges."""

from __future__ import annotations

from dataclasses import fields
from pathlib import PurePath

from distillctl.config.api import API
from distillctl.config.models import ANSWERS, TOLD, ModelConfig, TeacherConfig
from distillctl.config.schema import CachesConfig, Distils, EvaluateConfig, LifelongConfig, Pretrains, StreamConfig

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet", ".npz")
TAUGHT = (Pretrains, Distils, LifelongConfig, StreamConfig, EvaluateConfig)  # configs that have a teacher
OWN = ("answers", "confidence")  # keys that are about nothing else
ASKED = (
    (StreamConfig, "a stream's samples are new, and nobody has answered them yet; name a model, as in teacher=resnet20"),
    (LifelongConfig, "a sequence of tasks numbers its classes anew; name a model, as in teacher=resnet20"),
    (EvaluateConfig, "evaluate asks models; give a checkpoint, as in teacher.checkpoint=<run folder or file>"),
)


def check_answers(_: str, config: Pretrains | Distils | LifelongConfig | StreamConfig | EvaluateConfig) -> list[str]:
    teacher, none = config.teacher, TeacherConfig()
    if teacher.name not in TOLD:
        changed = [name for name in OWN if getattr(teacher, name) != getattr(none, name)]
        return [
            f"teacher.{name}={getattr(teacher, name)} is about teacher={ANSWERS}, and teacher={teacher.name}; leave it out"
            for name in changed
        ]
    if why := next((why for kind, why in ASKED if isinstance(config, kind)), ""):
        return [f"teacher={teacher.name}: {why}"]
    if not isinstance(config, Distils):
        return [f"teacher={teacher.name}: answers are no model that could be trained; distillctl distill learns from them"]
    if teacher.name == API:
        return check_asked(config)
    if isinstance(config, CachesConfig) and config.action in ("plan", "fill", "export"):
        return [f"action={config.action}: teacher={ANSWERS} is a file already, and nobody is asked; distillctl distill reads it"]
    return check_given(teacher)


def check_asked(config: Distils) -> list[str]:
    """Keys that are about a net, where a teacher is asked over the network."""
    plain, own = ModelConfig(), ("name", "model", "template", "verbalizer")
    problems = [
        f"teacher.{entry.name}={getattr(config.teacher, entry.name)} is about a net, and teacher={API} has none here; leave it out"
        for entry in fields(ModelConfig)
        if entry.name not in own and getattr(config.teacher, entry.name) != getattr(plain, entry.name)
    ]
    if isinstance(config, CachesConfig) and config.action == "export":
        problems.append(f"action=export: the answers of teacher={API} are kept in its ledger; action=fill asks for them")
    return problems


def check_given(teacher: TeacherConfig) -> list[str]:
    """The file is all that is said of it: there is no net."""
    if teacher.file is None:
        return [f"teacher.file is not set: pass teacher.file=<answers{SUFFIXES[0]}>, or another of {', '.join(SUFFIXES[1:])}"]
    problems, plain = [], ModelConfig()
    suffix = PurePath(teacher.file).suffix.lower()
    if suffix not in SUFFIXES:
        problems.append(
            f"teacher.file={teacher.file}: answers are read from {', '.join(SUFFIXES)}, and this is {suffix or 'without a suffix'}"
        )
    for entry in fields(ModelConfig):
        value = getattr(teacher, entry.name)
        if entry.name not in ("name", "file") and value != getattr(plain, entry.name):
            shown = str(value).lower() if isinstance(value, bool) else value
            problems.append(f"teacher.{entry.name}={shown} is about a net, and teacher={ANSWERS} has none; leave it out")
    if teacher.cache.mode in ("fill", "require"):
        problems.append(f"teacher.cache.mode={teacher.cache.mode}: the answers of teacher={ANSWERS} are kept already; leave it out")
    return problems
