"""What must hold of a stage that trains a part of a model alone."""

from __future__ import annotations

from dataclasses import fields

from distillctl.config.models import ModelConfig
from distillctl.config.schema import Distils, Finetunes
from distillctl.config.training import LoraConfig, PartStageConfig, PromptConfig


def check_finetuning(_: str, config: Finetunes) -> list[str]:
    stage = config.finetune
    problems = check_keys("finetune", stage)
    if stage.adversarial and config.attack.name == "none":
        problems.append("finetune.adversarial=true trains on attacked images: choose an attack, as attack=pgd")
    if not (isinstance(config, Distils) and config.distill.epochs):
        problems += check_begins("finetune", stage, config.student)
    return problems


def check_distilling(_: str, config: Distils) -> list[str]:
    stage = config.distill
    problems = [*check_keys("distill", stage), *check_begins("distill", stage, config.student)]
    if stage.train != "all" and config.assistants:
        problems.append(
            f"distill.train={stage.train} freezes most weights, and those of assistants={config.assistants} are random; leave one of them out"
        )
    return problems


def check_keys(key: str, stage: PartStageConfig) -> list[str]:
    """Keys that say how a part is trained, where it is another one."""
    problems = []
    if stage.stages != PartStageConfig.stages and stage.train != "last":
        problems.append(f"{key}.stages={stage.stages} works with {key}.train=last only")
    for name, given, usual in (("lora", stage.lora, LoraConfig()), ("prompt", stage.prompt, PromptConfig())):
        if given != usual and stage.train != name:
            changed = next(entry.name for entry in fields(given) if getattr(given, entry.name) != entry.default)
            problems.append(f"{key}.{name}.{changed}={getattr(given, changed)} works with {key}.train={name} only")
    return problems


def check_begins(key: str, stage: PartStageConfig, student: ModelConfig) -> list[str]:
    """What is frozen has to be worth something."""
    ready = student.checkpoint or student.pretrained or student.model or student.name == "recorded"
    if stage.train == "all" or not stage.epochs or ready:
        return []
    return [
        f"{key}.train={stage.train} freezes weights that are random: set student.checkpoint=<run folder or file> or student.pretrained=true"
    ]
