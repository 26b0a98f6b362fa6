"""`dataset=recorded`: the data set that a checkpoint learned from, as its record says, with the keys that are set in place of the recorded ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from distillctl import config
from distillctl.compose.data import holds_texts
from distillctl.compose.suggest import suggestion
from distillctl.errors import CheckpointError, ConfigError
from distillctl.paths import as_path

# What a record says and another run does not take over: how fast and by how much patience files are read, and which views epochs take.
OF_ITS_RUN = ("workers", "timeout_s", "max_pixels", "download", "views", "view_seed")


def is_recorded(composed: DictConfig) -> bool:
    return "dataset" in composed and issubclass(OmegaConf.get_type(composed.dataset) or dict, config.RecordedSetConfig)


def filled(composed: DictConfig) -> DictConfig:
    """The config with its recorded data set spelt out. Raises CheckpointError where a record says nonsense of it.

    Where no record says which, it is the images or texts below `dataset.root`; without a root its name stays `recorded` and `runs.check` says so,
    beside all else that is wrong; what is wrong with a checkpoint is said there too.
    """
    given = values_set(composed.dataset)
    if given.get("name") == config.RECORDED:
        del given["name"]
    found, root = next(records(composed), None), given.get("root")
    base = recorded_set(*found) if found is not None else None
    if root is not None:
        base = below(root, base)
    elif base is None:
        base = OmegaConf.structured(config.DATA_KINDS["images"])
        base.name = config.RECORDED
    schema = OmegaConf.get_type(base) or dict
    if base.name == config.RECORDED:
        given = known_values(given, schema)
    elif unknown := next(iter(config.strangers(given, schema)), None):
        raise ConfigError(f"dataset.{unknown}: unknown key; {suggestion(unknown, config.key_names(schema))}, as {base.name} has them")
    complete = composed.copy()
    with read_write(complete), open_dict(complete):
        complete.dataset = OmegaConf.merge(base, given)
    return complete


def below(root: str, base: DictConfig | None) -> DictConfig:
    """The data set of a file or folder that somebody names: another place of the one that is recorded, or as the files are; columns of texts are
    called as in the recorded ones."""
    of_texts = holds_texts(root)
    if of_texts and base is not None and issubclass(OmegaConf.get_type(base) or dict, config.TextSetConfig):
        return OmegaConf.merge(base, {"name": "text", "hub": None, "hub_config": None})  # type: ignore[return-value]
    if base is not None and not of_texts and (base.name == "image_folder" or holds(base.name, root)):
        return base
    found: DictConfig = OmegaConf.structured(config.DATA_KINDS["texts" if of_texts else "images"])
    found.name = "text" if of_texts else "image_folder"
    return found


def recorded_set(where: str, schema: type[config.DatasetConfig], recorded: Mapping[str, Any]) -> DictConfig:
    """A data set as a record has it, of known keys and values that may be: it may come from anywhere."""
    values = {key: value for key, value in known_values(recorded, schema).items() if key not in OF_ITS_RUN}
    problem: str | None = "it names none, or no plain one"
    if isinstance(values.get("name"), str) and "???" not in str(values):
        try:
            found = OmegaConf.merge(OmegaConf.structured(schema), values)
            problem = next(iter(config.check(OmegaConf.to_object(found))), None)
        except OmegaConfBaseException as error:
            problem = str(error).splitlines()[0]
    if problem is not None:
        raise CheckpointError(f"{where}: the recorded data set cannot be used ({problem}); pass dataset=<name>")
    assert isinstance(found, DictConfig)
    return found


def values_set(node: DictConfig) -> dict[str, Any]:
    """What somebody has set of a schema whose keys are all missing; as it was written, with its `${...}`."""
    found: dict[str, Any] = {}
    for name in node:
        if OmegaConf.is_missing(node, name):
            continue
        child = node._get_node(name)
        value = values_set(child) if isinstance(child, DictConfig) else OmegaConf.to_container(node, resolve=False)[name]  # type: ignore[index]
        if not isinstance(child, DictConfig) or value:
            found[str(name)] = value
    return found


def records(composed: DictConfig) -> Iterator[tuple[str, type[config.DatasetConfig], Mapping[str, Any]]]:
    """Each checkpoint whose record names its data, their schema, and what is said of them. One that cannot be read says nothing here."""
    from distillctl.inputs import from_record
    from distillctl.models.locate import locate
    from distillctl.models.shipping import read_record

    for key, given in checkpoints(composed):
        role = "model" if key == "checkpoint" else key.rpartition(".")[0]
        with suppress(CheckpointError):
            record = read_record(locate(given, role, key), key)
            if record is not None and record.dataset is not None:
                yield f"{key}={given}", config.DATA_KINDS[from_record(record).kind], record.dataset


def known_values(recorded: Mapping[str, Any], schema: type) -> dict[str, Any]:
    hints: dict[str, Any] = {entry.name: entry.default_factory for entry in fields(schema)}
    found = {key: value for key, value in recorded.items() if key in hints}
    return {
        key: known_values(value, hints[key]) if is_dataclass(hints[key]) and isinstance(value, Mapping) else value
        for key, value in found.items()
    }


def checkpoints(composed: DictConfig) -> Iterator[tuple[str, str]]:
    """The checkpoints that a config names, the teacher's first: (key, path)."""
    if composed.get("checkpoint"):
        yield "checkpoint", str(composed.checkpoint)
    for role in ("teacher", "student"):
        if role not in composed:
            continue
        node = composed[role]
        models = {role: node, **{f"{role}.members.{name}": member for name, member in (node.get("members") or {}).items()}}
        for key, model in models.items():
            if isinstance(model, DictConfig) and not model.get("new_head"):
                yield from ((f"{key}.{entry}", str(model[entry])) for entry in ("checkpoint", "file") if model.get(entry))


def holds(name: str, root: str) -> bool:
    """Whether the files of an official set lie below a folder: another place of the same set, and not another set."""
    from distillctl.data.image import official

    return official.is_below(name, as_path(root))
