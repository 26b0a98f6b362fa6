"""What words may say of how Hydra works, typed ones and those that a folder keeps; and what Hydra may build. No torch here."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, Override, RangeSweep
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from distillctl import trust
from distillctl.compose.groups import groups_of
from distillctl.compose.literal import FOLDERS, parsed
from distillctl.compose.own import HYDRA, KEY, parts
from distillctl.config import SCHEMAS
from distillctl.config.keys import entries
from distillctl.errors import ConfigError

PLACES = (*FOLDERS, "hydra.sweep.subdir")
PLAIN = (*PLACES, "hydra.mode", "hydra.output_subdir", "hydra.job.name", "hydra.job.num", "hydra.verbose", "hydra.launcher.n_jobs")
BUILT = ("callbacks", "launcher", "sweeper", "job_logging", "hydra_logging")  # the branches that Hydra makes objects of
NAMES_CODE = ("_target_", "()", "class", "listener", "queue")
# what these may name, besides what --trust adds
BUILDS = (
    *("distillctl.runs.sweep.SweepReport", "hydra._internal.core_plugins.", "hydra_plugins.", "optuna.samplers.", "optuna.pruners."),
    *("logging.StreamHandler", "logging.FileHandler", "logging.NullHandler", "logging.Formatter", "logging.Filter", "colorlog."),
    *("logging.handlers.RotatingFileHandler", "logging.handlers.TimedRotatingFileHandler", "sys.stdout", "sys.stderr"),
)
ELSEWHERE = re.compile(r"\.\.|//|(^|[,\[('\"\s])/")
REFERENCE = re.compile(rf"{KEY.pattern}|(now|hydra|oc\.env):.*")  # by `${...}`, in the name of a folder
MOST_JOBS = 10_000  # of a sweep
OPTION = re.compile(r"\w[\w.+-]*")


# ------------------------------------------------------------------------------------------------ words
def may_choose(command: str, key: str) -> bool:
    """Whether a key may be a group, also one that the command does not have: its value is then the path of a file."""
    return "." not in key and (key in groups_of(command) or key not in entries(SCHEMAS[command]))


def check_typed(command: str, words: Iterable[str]) -> bool:
    """Raise ConfigError where typed words let a file say how Hydra works; else whether they say what it builds, so that `check_built` is due."""
    due, known = False, list(filter(None, map(parsed, words)))
    if problem := too_many_jobs(known):
        raise ConfigError(f"this sweep has {problem}; give fewer values, or sweep in parts")
    for word in known:
        key, place = word.key_or_group, word.package or ""
        if key == "hydra.searchpath":
            raise ConfigError(f"{word.input_line}: folders of your own are given by --config-dir DIR, as many as are needed")
        if HYDRA in parts(place) and parts(key)[0] != HYDRA:
            raise ConfigError(f"{word.input_line}: no file says how Hydra works; type its keys, as in hydra.run.dir=runs/first")
        if may_choose(command, key) and ELSEWHERE.search(str(word.input_line).partition("=")[2]):
            raise ConfigError(
                f"{word.input_line}: an option is a name; a file elsewhere is given as distillctl {command} FILE.yaml, or by --config-dir"
            )
        due |= parts(key)[0] == HYDRA and (key not in PLAIN or "${" in str(word.input_line))
    return due


def too_many_jobs(words: Iterable[Override]) -> str | None:
    """Why a sweep is refused before its jobs are counted out one by one: `range(0,1000000000)` would fill the memory."""
    jobs = 1.0
    for word in words:
        value = word.value() if word.is_discrete_sweep() else None
        if isinstance(value, RangeSweep):
            jobs *= max(0.0, (float(value.stop or 0) - float(value.start or 0)) / (float(value.step) or 1e-9))
        elif isinstance(value, ChoiceSweep):
            jobs *= len(value.list)
    return f"{jobs:,.0f} jobs, more than {MOST_JOBS:,}" if jobs > MOST_JOBS else None


def problem_of_stored(command: str, word: str) -> str | None:
    """Why a word that a run's folder keeps is refused: it may be from anywhere, and is no more than a key and a value, or the choice of a group."""
    found = parsed(word)
    if word.startswith("-") or found is None:
        return "no key=value"
    key = found.key_or_group
    if found.package is not None or not KEY.fullmatch(key) or HYDRA in parts(key):
        return "they touch Hydra itself" if HYDRA in parts(f"{key} {found.package or ''}") else "no plain key"
    value = found.value() if not found.is_sweep_override() else None
    chosen = value if isinstance(value, list) else [value]
    if may_choose(command, key) and not all(item is None or isinstance(item, dict) or OPTION.fullmatch(str(item)) for item in chosen):
        return "no name of an option"
    return None


# ------------------------------------------------------------------------------------------------ what Hydra builds
def check_built(command: str, words: list[str]) -> None:
    """Compose once more before Hydra starts, and raise ConfigError where it would build what is on no list of ours."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    from distillctl.compose.places import conf_dir

    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        composed = loader.load_configuration(command, list(words), run_mode=RunMode.MULTIRUN)
    for branch in BUILT:
        for key, name in named_code(OmegaConf.select(composed, f"{HYDRA}.{branch}"), f"{HYDRA}.{branch}"):
            if not (isinstance(name, str) and allowed(name)):
                package = str(name).partition(".")[0]
                raise ConfigError(f"{key}={name}: not among what may be built for Hydra; for a package of your own add --trust {package}")
    if trust.VARIABLE in composed.hydra.job.env_set:
        raise ConfigError(f"hydra.job.env_set.{trust.VARIABLE}: trust is given by --trust PACKAGE on the command line alone")
    for folder in PLACES:
        check_folder(composed, folder)


def named_code(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    """What a branch names to be imported, by its full key, with all `${...}` resolved; what cannot be resolved is None."""
    if isinstance(node, DictConfig) and not (node._is_none() or node._is_missing()):
        entries: Iterable[Any] = list(node)
    elif isinstance(node, ListConfig) and not (node._is_none() or node._is_missing()):
        entries = range(len(node))
    else:
        return
    for entry in entries:
        try:
            value = node[entry]
        except OmegaConfBaseException:  # of what Hydra knows only later, as the folder of a run
            value = None
        if entry in NAMES_CODE and not isinstance(value, (DictConfig, ListConfig)):
            yield f"{key}.{entry}", value
        elif isinstance(value, str) and value.startswith("ext://"):
            yield f"{key}.{entry}", value.removeprefix("ext://")
        yield from named_code(value, f"{key}.{entry}")


def allowed(name: str) -> bool:
    """Whether a dotted name is on the list, or in a package that the user trusts; where it really lives decides, as in `build`."""
    if name in BUILDS:
        return True
    packages = (*(known.removesuffix(".") for known in BUILDS if known.endswith(".")), *trust.given())
    if not (all(part.isidentifier() for part in name.split(".")) and trust.within(name, packages)):
        return False
    module, _, last = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), last)
    except (ImportError, AttributeError):  # a class in a class, or nothing
        return False
    return not inspect.ismodule(found) and trust.within(f"{getattr(found, '__module__', '')}.", packages)


def check_folder(composed: DictConfig, key: str, deep: int = 0) -> None:
    """A typed folder may name other keys, whose values may be a file's: each is one name in the path and leads nowhere else."""
    said: Any = OmegaConf.to_container(composed[HYDRA], resolve=False)
    for name in key.split(".")[1:]:
        said = said.get(name, "") if isinstance(said, dict) else ""
    names = re.findall(r"\$\{([^${}]*)\}", str(said))
    if deep > len(PLACES) or len(names) != str(said).count("${") or not all(REFERENCE.fullmatch(other) for other in names):
        raise ConfigError(f"{key}={said}: only plain keys can stand in the name of a folder, as in ${{seed}}; write the folder itself")
    for other in names:
        if parts(other)[0] == HYDRA and "." in other:
            check_folder(composed, other, deep + 1)
        elif KEY.fullmatch(other):
            value = str(OmegaConf.select(composed, other))
            if "/" in value or value == "..":
                raise ConfigError(f"{key}={said}: {other} is {value}, which is no name of a folder; write the folder itself")
