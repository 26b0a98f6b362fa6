"""Which data a command is about where its words name none: what lies below dataset.root or lifelong.folders, or what the checkpoint learned from; and what texts have by default where images have something else. No torch here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from distillctl.compose import yaml_files
from distillctl.compose.groups import default_of, files_of, groups_of, primary_of
from distillctl.compose.places import conf_dir, recipes_dir
from distillctl.config.keys import flat
from distillctl.config.recorded import RECORDED
from distillctl.data.text.table import SUFFIXES
from distillctl.errors import ConfigError, UserError
from distillctl.files import read_json
from distillctl.paths import as_path

CHECKPOINT = re.compile(r"((?:teacher|student)(?:\.members\.[\w-]+)?\.)(?:checkpoint|file)")
NOTHING = ("", "null", "''", '""')
OF_TEXTS = re.compile(r"override kind@_here_:\s*texts")
USUAL_OF_TEXTS = {"teacher": "bert_mini", "student": "bilstm", "optimizer": "adamw_text", "schedule": "linear"}
KEY_OF_TEXTS = "trainer.clip_norm=1"
STAGES_OF = {"pretrain": "teacher", "distill": "student"}  # whose net comes with weights that a large rate would undo


def with_data(command: str, words: list[str], config_dirs: Sequence[str | Path] = ()) -> list[str]:
    """The words of a new run, and the data set that they mean where they choose none.

    Without it a folder or a checkpoint would be named, and the default set be trained on. Raises ConfigError where nothing says which data is meant.
    """
    named = with_set(command, words, config_dirs)
    return with_usual(command, named, config_dirs)


def with_set(command: str, words: list[str], config_dirs: Sequence[str | Path]) -> list[str]:
    """Before the words the set that they mean, where they choose none."""
    if "dataset" not in groups_of(command):
        return words
    given = {key: value for key, value in dict(settings(words, config_dirs)).items() if value not in NOTHING}
    if "dataset" in given:
        return words
    if "dataset.name" in given:
        return [f"dataset={given['dataset.name']}", *words] if given["dataset.name"] in files_of("dataset") else words
    if default_of(command, "dataset") == RECORDED:
        return words
    if "dataset.hub" in given or "dataset.root" in given and holds_texts(given["dataset.root"]):
        return ["dataset=text", *words]
    if "dataset.root" in given or "stream.path" in given or given.get("lifelong.folders", "[]") != "[]":
        return ["dataset=image_folder", *words]
    checkpoints = [key for key in given if CHECKPOINT.fullmatch(key)]
    if not checkpoints:
        return words
    roles = [found[1] for key in checkpoints if (found := CHECKPOINT.fullmatch(key))]
    if all(given.get(f"{role}new_head", "").lower() == "true" for role in roles):
        raise ConfigError(
            f"{roles[0]}new_head=true: a new head is for other classes, and no data set has been named; "
            "pass dataset=<name>, or dataset.root=<folder of images>"
        )
    return [f"dataset={RECORDED}", *words]


def holds_texts(root: str) -> bool:
    """Whether a file is a table of texts by its name, or a folder holds such and no folders, as it does where a table is about images in them."""
    path = as_path(root.strip("'\""))
    if not path.is_dir():
        return path.suffix.lower() in SUFFIXES
    try:
        inside = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
    except OSError:
        return False
    return any(entry.suffix.lower() in SUFFIXES for entry in inside) and not any(entry.is_dir() for entry in inside)


def with_usual(command: str, words: list[str], config_dirs: Sequence[str | Path]) -> list[str]:
    """The words of a run on texts, and before them what it has by default where they choose nothing else."""
    given, groups = dict(settings(words, config_dirs)), groups_of(command)
    if "dataset" not in groups or not is_of_texts(given, config_dirs):
        return words
    usual = {
        group: name
        for group, name in USUAL_OF_TEXTS.items()
        if group not in given and group in groups and default_of(command, group) not in (None, RECORDED)
    }
    for role in ("teacher", "student"):
        if role in usual and any(key.startswith(f"{role}.") and CHECKPOINT.fullmatch(key) for key in given):
            usual[role] = RECORDED
    clip = [KEY_OF_TEXTS] if "trainer" in groups and "trainer.clip_norm" not in given else []
    keys = [
        f"{stage}.lr_scale=0.1"
        for stage, role in STAGES_OF.items()
        if given.get(role) == "transformer" and f"{stage}.lr_scale" not in given and has_stage(command, stage)
    ]
    return [*(f"{group}={name}" for group, name in usual.items()), *clip, *keys, *words]


def is_of_texts(given: dict[str, str], config_dirs: Sequence[str | Path]) -> bool:
    """Whether the data set that is chosen is one of texts, or the checkpoint that it is taken from learned from texts."""
    chosen = given.get("dataset")
    files = [Path(folder) / "dataset" / f"{chosen}.yaml" for folder in (*config_dirs, conf_dir())]
    file = next((each for each in files if each.is_file()), None)
    if chosen != RECORDED:
        return file is not None and OF_TEXTS.search(file.read_text()) is not None
    if given.get("dataset.root", "null") not in NOTHING:
        return holds_texts(given["dataset.root"])
    return any(kind_of_model(value, found[1]) == "texts" for key, value in given.items() if (found := CHECKPOINT.fullmatch(key)))


def kind_of_model(place: str, role: str) -> str | None:
    """The kind of inputs that the record beside a model names. What is wrong with a checkpoint is said by who reads it: here it has none."""
    from distillctl.models.locate import locate

    try:
        told = read_json(locate(place.strip("'\""), role.rstrip("."), "checkpoint").with_suffix(".json"))
        return str(told["preprocessing"]["kind"])
    except (UserError, OSError, ValueError, KeyError, TypeError):
        return None


def has_stage(command: str, stage: str) -> bool:
    return stage in primary_of(command)


def settings(words: Iterable[str], config_dirs: Sequence[str | Path]) -> list[tuple[str, str]]:
    """Every (key, value) that words and the recipe among them set, in the order in which they count."""
    found: list[tuple[str, str]] = []
    for word in words:
        key, _, value = word.lstrip("+").partition("=")
        if key == "recipe":
            found[:0] = [item for name in re.findall(r"[^\[\],\s]+", value) for item in recipe_settings(name, config_dirs)]
        found.append((key.partition("@")[0], value))
    return found


def recipe_settings(name: str, config_dirs: Sequence[str | Path]) -> list[tuple[str, str]]:
    """What a recipe chooses and sets, sweeps included. Of one that cannot be read nothing: to say so is Hydra's part."""
    places = [*(Path(folder) / "recipe" for folder in config_dirs), recipes_dir()]
    try:
        file = next((place / f"{name}.yaml" for place in places if (place / f"{name}.yaml").is_file()), None)
        content = yaml_files.load(file) if file is not None else None
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        return []
    defaults = content.pop("defaults", None)
    chosen = [entry for entry in defaults if isinstance(entry, dict)] if isinstance(defaults, list) else []
    groups = [
        (str(key).removeprefix("override ").lstrip("/").partition("@")[0], str(value)) for entry in chosen for key, value in entry.items()
    ]
    prefix = "hydra.sweeper.params."
    said = ((key.removeprefix(prefix), "null" if value is None else str(value)) for key, value in flat(content).items() if value != {})
    return [*groups, *said]
