"""What must hold of a composed config besides the types of its values; needs neither data nor torch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from distillctl.config.answering import TAUGHT, check_answers
from distillctl.config.api_rules import check_api
from distillctl.config.data import DatasetConfig, ImageSetConfig
from distillctl.config.deploy import BudgetConfig
from distillctl.config.fields import AUTO
from distillctl.config.keys import leaves
from distillctl.config.limits import check_budget
from distillctl.config.models import ENSEMBLE, FILE, TOLD, ModelConfig, TeacherConfig
from distillctl.config.parts import check_distilling, check_finetuning
from distillctl.config.prompts import check_prompts
from distillctl.config.schema import (
    CompressConfig,
    Deploys,
    DistillConfig,
    Distils,
    EvaluateConfig,
    ExportConfig,
    Finetunes,
    FitConfig,
    PretrainConfig,
    RunConfig,
    TrainConfig,
)
from distillctl.config.training import AttackConfig, StageConfig, TrainerConfig

ONNX_NUMBERS = ("auto", "static", "dynamic", "qat", "fp16", "bf16", "int8_weights", "int4_weights")
OF_FORMAT = {"onnx": ONNX_NUMBERS, "web": ONNX_NUMBERS, "openvino": ("openvino",), "litert": ("litert",)}  # which quantisers a format has


def home_of(quantiser: str) -> str:
    """What a file is, where its quantiser alone is named."""
    return next((name for name, known in OF_FORMAT.items() if quantiser in known), "onnx")


def check(config: Any) -> list[str]:
    """Everything that types cannot see; one line a problem."""
    broken = {key: problem for key, value, rules in leaves(config) if (problem := broken_rule(key, value, rules))}
    problems = list(broken.values())
    for kinds, rule in RULES:
        for key, node in nodes(config):
            if isinstance(node, kinds):
                # one line a value; a group is told by its own name, which its key `name` has
                problems += [each for each in rule(key, node) if not {subject(each), f"{subject(each)}.name"} & broken.keys()]
    return problems


def subject(problem: str) -> str:
    """The key that a line begins with."""
    return re.split(r"[=: ]", problem, maxsplit=1)[0]


def nodes(config: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The config, whose key is empty, and every branch of it by its full key."""
    yield key, config
    for entry in fields(config):
        value = getattr(config, entry.name)
        if is_dataclass(value):
            yield from nodes(value, f"{key}.{entry.name}" if key else entry.name)


def broken_rule(key: str, value: Any, rules: Mapping[str, Any]) -> str | None:
    """The sentence about a value outside its range or choices."""
    if value is None:
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return f"{key}={value} must be a finite number"
    if rules.get("auto") and isinstance(value, str):
        return None if value == AUTO else f"{key}={value}: expected a whole number, or {AUTO}"
    choices = rules.get("choices")
    if choices and value not in choices:
        return f"{key}={value}: must be one of {', '.join(choices)}"
    if rules.get("above") is not None and not value > rules["above"]:
        return f"{key}={value} must be > {rules['above']}"
    if rules.get("low") is not None and value < rules["low"]:
        return f"{key}={value} must be >= {rules['low']}"
    if rules.get("high") is not None and value > rules["high"]:
        return f"{key}={value} must be <= {rules['high']}" + (f": {rules['unit']}" if rules.get("unit") else "")
    return None


def check_epochs(_: str, config: FitConfig) -> list[str]:
    stages = {key: node for key, node in nodes(config) if isinstance(node, StageConfig)}
    if isinstance(config, CompressConfig) or not stages or any(stage.epochs for stage in stages.values()):
        return []
    return [f"{' '.join(f'{key}.epochs=0' for key in stages)}: nothing to train; give one of them epochs"]


def check_shots(key: str, dataset: DatasetConfig) -> list[str]:
    if dataset.shots is None:
        return []
    problems = []
    if dataset.subset is not None:
        problems.append(f"{key}.shots={dataset.shots} and {key}.subset={dataset.subset} both say how many images; give one of them")
    if not dataset.labels:
        problems.append(f"{key}.shots={dataset.shots} counts labels, and {key}.labels=false; use {key}.subset=N")
    return problems


def check_balance(key: str, dataset: DatasetConfig) -> list[str]:
    if dataset.balance != "none" and not dataset.labels:
        return [f"{key}.balance={dataset.balance} goes by labels, and {key}.labels=false; leave one of them out"]
    if dataset.balance == "oversample" and isinstance(dataset, ImageSetConfig) and (dataset.augment.mixup or dataset.augment.cutmix):
        return [f"{key}.balance=oversample: samples that are mixed have partners of any class; take {key}.balance=class_weights"]
    return []


def check_model(role: str, model: ModelConfig) -> list[str]:
    if model.name in TOLD:  # of a teacher `check_answers` says the rest
        return (
            []
            if isinstance(model, TeacherConfig)
            else [f"{role}={model.name}: answers are no model; they teach alone, as teacher={model.name}"]
        )
    problems = []
    if model.source == "own" and not model._target_:
        problems.append(f"{role}={model.name} needs {role}._target_=package.Class, and --trust package on the command line")
    if model._target_ and model.source != "own":
        problems.append(f"{role}._target_={model._target_} works with {role}=own only")
    problems += check_file(role, model)
    problems += check_prompts(role, model)
    if model.new_head and not (model.pretrained or model.checkpoint or model.file or model.model):
        problems.append(f"{role}.new_head=true needs weights to start from: {role}.pretrained=true or {role}.checkpoint=<file>")
    for name, low in (("mean", "at least 0"), ("std", "more than 0")):
        values = getattr(model, name)
        if values is not None and (len(values) != 3 or not all(0 <= each <= 1 and (each or name == "mean") for each in values)):
            way_out = "; divide by 255" if any(each > 1 for each in values) else ""
            problems.append(f"{role}.{name}={values}: three numbers, a channel each, {low} and at most 1, of images in [0, 1]{way_out}")
    return problems


def check_file(role: str, model: ModelConfig) -> list[str]:
    """What goes with a file that another framework exported: it is a whole net, and stays as it is."""
    if model.file is not None and model.checkpoint is not None:
        return [f"{role}.file={model.file} and {role}.checkpoint={model.checkpoint} are two models; give one of them"]
    if model.file is not None and model.name not in (FILE, "recorded"):
        return [f"{role}.file={model.file} is a whole net, and {role}={model.name} names another; pass {role}={FILE}"]
    if model.name != FILE and model.file is None:
        return []
    if model.file is None and model.checkpoint is None and role != "model":  # of which `checkpoint` is the short way
        return [f"{role}.file is not set: pass {role}.file=<file.onnx>"]
    changes = {"pretrained": model.pretrained, "new_head": model.new_head, "args": model.args, "stem": model.stem != "auto"}
    changes["source"] = model.source != "auto"
    return [
        f"{role}.{name}: a file that another framework exported stays as it is; leave it out" for name, given in changes.items() if given
    ]


def check_ensemble(key: str, teacher: TeacherConfig) -> list[str]:
    if teacher.name != ENSEMBLE:
        none = TeacherConfig()
        given = [name for name in ("members", "combine", "weights", "temperature") if getattr(teacher, name) != getattr(none, name)]
        return [f"{key}.{name} belongs to {key}=ensemble, and {key}={teacher.name}: leave one of them out" for name in given]
    if not teacher.members:
        return [f"{key}=ensemble has no members: name some, as in {key}.members.a=resnet20 {key}.members.b=vgg8"]
    problems, first, plain = [], next(iter(teacher.members)), ModelConfig()
    for entry in fields(ModelConfig)[1:]:
        value = getattr(teacher, entry.name)
        if value != getattr(plain, entry.name):
            problems.append(f"{key}.{entry.name}={value}: an ensemble has none of its own; set {key}.members.{first}.{entry.name}")
    for name, member in teacher.members.items():
        problems += check_model(f"{key}.members.{name}", member)
    return problems + check_member_weights(key, teacher)


def check_member_weights(key: str, teacher: TeacherConfig) -> list[str]:
    if teacher.weights and teacher.combine != "fixed":
        return [f"{key}.weights are for {key}.combine=fixed, and {key}.combine={teacher.combine}: leave one of them out"]
    members, problems = ", ".join(teacher.members), []
    for name, weight in teacher.weights.items():
        if name not in teacher.members:
            problems.append(f"{key}.weights.{name}={weight}: there is no member {name}; members: {members}")
        if weight < 0:
            problems.append(f"{key}.weights.{name}={weight} must be >= 0")
    if not any(teacher.weights.get(name, 1.0) for name in teacher.members):
        problems.append(f"{key}.weights: all weights are zero, so nobody teaches; give a member a weight > 0")
    return problems


def check_confidence(_: str, config: PretrainConfig | DistillConfig | TrainConfig | EvaluateConfig) -> list[str]:
    if config.teacher.combine == "confidence" and not config.dataset.labels:
        return ["teacher.combine=confidence weighs by labels, and dataset.labels=false; take teacher.combine=entropy"]
    return []


def check_generations(_: str, config: Distils) -> list[str]:
    if config.ensemble_generations and config.generations == 1:
        return ["ensemble_generations=true is about several generations; pass generations=2 or more"]
    return []


def check_attack(key: str, attack: AttackConfig) -> list[str]:
    if 0 < attack.eps < attack.step <= 1 and attack.steps > 1:
        return [
            f"{key}.step={attack.step:.6g} is more than {key}.eps={attack.eps:.6g}, the largest change that {attack.steps} steps may add up to: "
            f"are they swapped? pass {key}.step={attack.eps / 4:.3g}"
        ]
    return []


def check_attack_trains(_: str, config: FitConfig) -> list[str]:
    attack = getattr(config, "attack", None)
    if attack is None or attack.name != "autoattack":
        return []
    return ["attack=autoattack measures and does not train: train with attack=pgd, then distillctl evaluate attack=autoattack"]


def check_parts(key: str, trainer: TrainerConfig) -> list[str]:
    if not isinstance(trainer.batch_size, int) or trainer.batch_size < 1:
        return []
    return [
        f"{key}.{name}={parts} is more than {key}.batch_size={trainer.batch_size}; lower it"
        for name, parts in (("accumulate", trainer.accumulate), ("devices", trainer.devices))
        if parts > trainer.batch_size
    ]


def check_subset(_: str, config: RunConfig) -> list[str]:
    size, subset = config.trainer.batch_size, config.dataset.subset
    if not isinstance(size, int) or subset is None or size <= subset:
        return []
    return [f"trainer.batch_size={size} is more than dataset.subset={subset}; lower it"]


def check_deployment(_: str, config: Deploys) -> list[str]:
    numbers, file, problems = config.quantize, config.export, []
    kept = numbers.keep_float
    if not (kept in ("auto", "none") or isinstance(kept, list) and all(isinstance(name, str) for name in kept)):
        problems.append(f"quantize.keep_float={kept}: expected auto, none, or a list of layers, as in quantize.keep_float=[/head/Gemm]")
    if numbers.name not in (*OF_FORMAT.get(file.format, ()), "none") and file.format != "none":
        problems.append(f"quantize={numbers.name} does not go with export.format={file.format}; take export.format={home_of(numbers.name)}")
    if numbers.name == "qat" and isinstance(config, ExportConfig):
        problems.append("quantize=qat trains, and export does not; distillctl compress checkpoint=... quantize=qat")
    if file.format == "web" and file.web_runtime is None:
        problems.append(
            "export.format=web: export.web_runtime is not set: npm install onnxruntime-web, and pass export.web_runtime=node_modules/onnxruntime-web"
        )
    if file.opset is not None and file.format not in ("onnx", "web"):
        problems.append(f"export.opset={file.opset} is about ONNX, and export.format={file.format}; leave it out")
    return problems


def check_pruning(_: str, config: TrainConfig | CompressConfig) -> list[str]:
    keys, problems = config.prune, []
    changed = [entry.name for entry in fields(keys) if entry.name != "name" and getattr(keys, entry.name) != entry.default]
    if keys.name == "none" and changed:
        problems.append(f"prune.{changed[0]}={getattr(keys, changed[0])}: nothing is cut here; choose by what, as in prune=magnitude")
    if keys.name == "unstructured" and keys.target_macs is not None:
        problems.append(
            f"prune.target_macs={keys.target_macs:g}: single weights that are zero save no MACs; take prune=magnitude, or prune.ratio"
        )
    if isinstance(config, CompressConfig):
        for key, given, usual in (("assistants", config.assistants, []), ("generations", config.generations, 1)):
            if given != usual:
                problems.append(
                    f"{key}={given}: compress teaches the student that is there; distillctl distill has assistants and generations"
                )
        if keys.name == "none" and config.quantize.name == "none" and config.export.format == "none" and config.budget == BudgetConfig():
            problems.append("nothing to do: choose prune=magnitude, quantize=auto, export.format=onnx, or a budget, as in budget.size_mb=2")
    return problems


# what is checked of which nodes, in the order in which problems are told
RULES: tuple[tuple[type | tuple[type, ...], Callable[[str, Any], list[str]]], ...] = (
    (FitConfig, check_epochs),
    (RunConfig, check_subset),
    (Finetunes, check_finetuning),
    (Distils, check_distilling),
    (DatasetConfig, check_shots),
    (ModelConfig, check_model),
    (TeacherConfig, check_ensemble),
    (TAUGHT, check_answers),
    (TeacherConfig, check_api),
    ((PretrainConfig, DistillConfig, TrainConfig, EvaluateConfig), check_confidence),
    (Distils, check_generations),
    (AttackConfig, check_attack),
    (FitConfig, check_attack_trains),
    (DatasetConfig, check_balance),
    (TrainerConfig, check_parts),
    (Deploys, check_deployment),
    ((TrainConfig, CompressConfig), check_pruning),
    (CompressConfig, check_budget),
)
