"""How a command line becomes a config: where configs are found, and what is wrong when none comes out. No torch here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException, ValidationError

from distillctl import config
from distillctl.errors import ConfigError, MachineError, UserError, did_you_mean, nearest, one_slip
from distillctl.models import catalogue

ROLES = ("teacher", "student", "model")
EXTRA_NAMES = ("own", "recorded")
# what decides views of images and a teacher's answers to them, and what decides a teacher that `train` trains first
OF_ANSWERS = (
    *("seed", "dataset", "teacher", "recipe"),
    *(f"trainer.{name}" for name in ("batch_size", "device", "devices", "precision", "channels_last", "compile", "threads")),
)
OF_PRETRAINING = ("pretrain", "optimizer", "schedule", "loss.ce", "trainer")
EXAMPLES = {"checkpoint": "<run folder or file>", "inputs": "[image.png]"}  # of values that have no default


@cache
def conf_dir() -> Path:
    """`conf/` inside the wheel, or beside the package in a checkout."""
    return shipped("conf")


@cache
def recipes_dir() -> Path:
    return shipped("recipes")


def shipped(name: str) -> Path:
    package = Path(__file__).resolve().parent
    inside, beside = package / name, package.parent / name
    return inside if inside.is_dir() else beside


class ModelNames(ConfigSource):
    """Makes every model name an option of the groups teacher, student and model, without a file for each."""

    @staticmethod
    def scheme() -> str:
        return "models"

    def load_config(self, config_path: str) -> ConfigResult:
        role, name = split_path(config_path)
        if name == "own":
            content = {"name": "own", "source": "own"}
        elif name == "recorded":
            content = {"name": "recorded"}
        else:
            catalogue.resolve(name, key=role)
            content = {"name": name}
        return ConfigResult(
            provider=self.provider,
            path=f"{self.scheme()}://{self.path}",
            config=OmegaConf.create(content),
            header={"package": None},
        )

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return config_path in ("", *ROLES)

    def is_config(self, config_path: str) -> bool:
        role, name = split_path(config_path)
        if role not in ROLES:
            return False
        if name in EXTRA_NAMES:
            return True
        try:
            catalogue.resolve(name, key=role)
        except UserError:
            return False
        return True

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        if config_path == "":
            return sorted(ROLES) if results_filter in (None, ObjectType.GROUP) else []
        if config_path in ROLES and results_filter in (None, ObjectType.CONFIG):
            return sorted((*catalogue.FEATURED, *EXTRA_NAMES))
        return []


class Recipes(FileConfigSource):
    """Makes the files of `recipes/` the options of the group recipe."""

    @staticmethod
    def scheme() -> str:
        return "recipes"

    def load_config(self, config_path: str) -> ConfigResult:
        return super().load_config(split_path(config_path)[1])

    def is_group(self, config_path: str) -> bool:
        return config_path in ("", "recipe")

    def is_config(self, config_path: str) -> bool:
        group, name = split_path(config_path)
        return group == "recipe" and super().is_config(name)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        if config_path == "":
            return ["recipe"] if results_filter in (None, ObjectType.GROUP) else []
        if config_path == "recipe" and results_filter in (None, ObjectType.CONFIG):
            return sorted(file.stem for file in recipes_dir().glob("*.yaml"))
        return []


class SearchPath(SearchPathPlugin):
    """Adds the two sources above to wherever Hydra looks."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("distillctl", "models://")
        if recipes_dir().is_dir():
            search_path.append("distillctl", f"recipes://{recipes_dir()}")


def split_path(config_path: str) -> tuple[str, str]:
    """`teacher/resnet20.yaml` as ("teacher", "resnet20")."""
    group, _, name = config_path.partition("/")
    return group, name.removesuffix(".yaml")


def prepare() -> None:
    """Tell Hydra about our schemas and sources; has to happen before it composes anything."""
    config.register()
    for plugin in (ModelNames, Recipes, SearchPath):
        Plugins.instance().register(plugin)


def opened(overrides: list[str]) -> list[str]:
    """Members of an ensemble need no plus: `teacher.members.c.name=vgg8`, for short `teacher.members.c=vgg8`, changes one or adds it."""
    found = []
    for word in overrides:
        member = re.fullmatch(r"\+{0,2}teacher\.(members|weights)\.([\w-]+)(\.[^=]+)?=(.*)", word, re.DOTALL)
        if member:
            kind, name, rest, value = member.groups()
            short = kind == "members" and not rest and not value.startswith("{")
            word = f"++teacher.{kind}.{name}{'.name' if short else rest or ''}={value}"
        found.append(word)
    return found


def typed_words(hydra: Any = None) -> list[str]:
    """What was asked for, as it was typed: a `${...}` in it is not resolved. `hydra`: its own config; None: that of this job, if it is one."""
    if hydra is None and not HydraConfig.initialized():
        return []
    words = OmegaConf.to_container((hydra or HydraConfig.get()).overrides.task, resolve=False)
    assert isinstance(words, list)
    return [str(word) for word in words]


def shared(command: str, overrides: list[str]) -> list[str]:
    """The overrides of a sweep, and where some of its jobs see the same views by the same teacher, that its answers are worth keeping.

    The jobs are a product of the values: where a key that decides neither has several, jobs differ in it alone.
    """
    try:
        words = OverridesParser.create().parse_overrides(overrides)
    except (HydraException, ValueError):
        return overrides  # Hydra says what is wrong
    given = {word.key_or_group: word.value() for word in words if not word.is_delete()}
    if command not in ("distill", "train") or given.keys() & {"teacher.cache.shared", "hydra/sweeper"}:
        return overrides
    if command == "train" and given.get("pretrain.reuse") is False:
        return overrides  # each job has a teacher of its own
    deciding = (*OF_ANSWERS, *OF_PRETRAINING) if command == "train" else OF_ANSWERS
    free = [word for word in words if not word.is_hydra_override() and not any(overlap(word.key_or_group, name) for name in deciding)]
    return [*overrides, "teacher.cache.shared=true"] if any(map(takes_several, free)) else overrides


def overlap(key: str, other: str) -> bool:
    """Whether one of two keys is the other, or holds it."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def takes_several(word: Override) -> bool:
    """Whether an override is a sweep over more than one value."""
    if not word.is_discrete_sweep():
        return False
    if isinstance(word.value(), Glob):
        return True
    return len(list(word.sweep_string_iterator())) > 1


def group_names(command: str) -> dict[str, list[str]]:
    """The config groups that a command's primary config uses, each with its options."""
    primary = yaml.safe_load((conf_dir() / f"{command}.yaml").read_text())
    groups = [next(iter(item)) for item in primary["defaults"] if isinstance(item, dict)]
    return {group: options(group) for group in groups}


def options(group: str) -> list[str]:
    """What a group can be set to; for models the featured names, of the many that work."""
    return [*files_of(group), *catalogue.FEATURED, *EXTRA_NAMES] if group in ROLES else files_of(group)


def files_of(group: str) -> list[str]:
    folder = recipes_dir() if group == "recipe" else conf_dir() / group
    return sorted(file.stem for file in folder.glob("*.yaml"))


def explain(error: Exception, command: str, overrides: list[str]) -> UserError | None:
    """The one line for what went wrong while a config was composed; None where the fault is not the user's."""
    for cause in causes(error):  # our own errors, raised inside Hydra or a resolver, know best
        if isinstance(cause, UserError):
            place = getattr(error, "full_key", None)
            return type(cause)(f"{place}={cause}") if place and isinstance(cause, ConfigError) else cause
    if isinstance(error, MissingConfigException):
        return missing_option(error, command)
    if isinstance(error, OSError) and error.filename:
        return MachineError(f"{error.filename}: {error.strerror}; set hydra.run.dir=<a folder that can be written>")
    if isinstance(error, ValueError) and "Config group override" in str(error):
        return not_a_name(command, overrides)
    several = re.match(r"Ambiguous value for argument '(.*)'", str(error))
    if several:
        key, _, value = several[1].partition("=")
        return ConfigError(f"{key}={value}: several values are a sweep, which needs -m; one list is {key}=[{value}]")
    if isinstance(error, OverrideParseException):
        return ConfigError(f"{error.override!s}: cannot be read as key=value; quote values with spaces, commas or brackets")
    inner = error.__cause__ or error.__context__
    key, value = mentioned(str(error), overrides)
    for added in (word for word in overrides if word.startswith("+")):
        group, _, name = added.lstrip("+").partition("=")
        if group in group_names(command) and (group == key or f"Multiple values for {group}." in str(error)):
            return ConfigError(f"{added}: {group} is chosen already; write {group}={name} without the +")
    if isinstance(error, (ConfigCompositionException, OmegaConfBaseException)):
        if isinstance(inner, ValidationError) or isinstance(error, ValidationError):
            return ConfigError(wrong_type(key, overrides, inner if isinstance(inner, ValidationError) else error))
        unresolved = next((item for item in (inner, error) if isinstance(item, InterpolationResolutionError)), None)
        if unresolved is not None:
            return ConfigError(unresolvable(unresolved, overrides))
        if key is not None:
            return ConfigError(unknown_key(key, value, command))
    if isinstance(error, (HydraException, OmegaConfBaseException, yaml.YAMLError)):
        return ConfigError(" ".join(str(error).split()))
    return None


def causes(error: BaseException) -> list[BaseException]:
    """The error and what led to it, each once: an error that was raised from what it had caused closes a circle."""
    found: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in found:
        found.append(cause)
        cause = cause.__cause__ or cause.__context__
    return found


def not_a_name(command: str, overrides: list[str]) -> UserError:
    """A group that is given a number, or a value without any key."""
    groups = group_names(command)
    for override in overrides:
        key, _, value = override.partition("=")
        bare = key.lstrip("+~").partition("@")[0]
        if not bare:
            return ConfigError(f"{override}: there is no key before the =")
        if bare in groups and value not in groups[bare]:
            return ConfigError(f"{override}: no such option; {did_you_mean(value, groups[bare])}")
    return ConfigError("a group is given a number; its options are names")


def missing_option(error: MissingConfigException, command: str) -> UserError:
    """An option that its group does not have, or a primary config that does not exist."""
    group, name = split_path(str(error.missing_cfg_file or ""))
    if not name:
        return ConfigError(" ".join(str(error).split()))
    if group in ROLES and not nearest(name, files_of(group)):
        try:
            catalogue.resolve(name, key=group)
        except UserError as problem:
            return problem
    known = options(group)
    if not known:
        return ConfigError(unknown_key(group, name, command))
    return ConfigError(f"{group}={name}: no such option; {did_you_mean(name, known)}")


def mentioned(message: str, overrides: list[str]) -> tuple[str | None, str | None]:
    """The override that Hydra's message is about, as (key, value)."""
    quoted = re.findall(r"'([^']+)'", message) + re.findall(r"\"([^\"]+)\"", message)
    for override in overrides:
        key, _, value = override.partition("=")
        bare = key.lstrip("+~")
        if any(bare == text.lstrip("+~") or override == text for text in quoted):
            return bare, value if "=" in override else None
    for text in quoted:
        key, equals, value = text.partition("=")
        if re.fullmatch(r"[+~]*[\w./@-]+", key):
            return key.lstrip("+~"), value if equals else None
    return None, None


def unresolvable(error: InterpolationResolutionError, overrides: list[str]) -> str:
    """A `${...}` that leads nowhere."""
    message = str(error).splitlines()[0]
    name = re.search(r"'([^']+)'", message)
    if name is None:
        where = next((word for word in overrides if "${" in word), error.full_key or "config")
        return f"{where}: {message}"
    where = next((word for word in overrides if f"${{{name[1]}" in word), f"{error.full_key or 'config'}=${{{name[1]}}}")
    return f"{where}: there is no {name[1]}; write the value itself, or a key that --cfg job prints"


def wrong_type(key: str | None, overrides: list[str], error: BaseException) -> str:
    """A value that its field cannot take."""
    key = getattr(error, "full_key", None) or key
    values = [value for name, _, value in (override.partition("=") for override in overrides) if name.lstrip("+") == key]
    shown = f"{key}={values[-1]}" if values else key
    message = str(error).splitlines()[0]
    if "is not Optional" in message:
        return f"{shown}: a value is needed"
    if "is not a ListConfig" in message:
        return f"{shown}: expected a list, as in {key}=[{values[-1] if values else '...'}]"
    for kind, expected in (("Integer", "a whole number"), ("Float", "a number"), ("bool", "true or false")):
        if kind.lower() in message.lower():
            return f"{shown}: expected {expected}"
    return f"{shown}: {message}"


def unknown_key(key: str, value: str | None, command: str) -> str:
    """An unknown key or group, with the nearest that exist."""
    shown = key if value is None else f"{key}={value}"
    parent = key.rpartition(".")[0]
    if parent.endswith(".args"):
        return f"{shown}: an argument of the model is added with a plus: +{shown}"
    if parent.startswith("hydra"):
        return f"{shown}: Hydra has no such key; distillctl {command} --cfg hydra prints those it has"
    kind = "group or key" if "." not in key and "/" not in key else "key"
    return f"{shown}: unknown {kind}; {suggestion(key, known_keys(command))}"


def suggestion(key: str, known: Sequence[str]) -> str:
    """What may have been meant: a neighbour where the branch is right, else the nearest of all, else what there is."""
    parent, dot, last = key.rpartition(".")
    siblings = {name.removeprefix(parent + dot): name for name in known if name.rpartition(".")[0] == parent}
    same_name = [name for name in known if "." in name and name.rpartition(".")[2] == last]
    meant = (
        [name for name in known if one_slip(key, name)]
        or [siblings[name] for name in nearest(last, siblings)]
        or nearest(key, same_name)
        or same_name
        or nearest(key, known)
    )
    if meant:
        return f"did you mean {', '.join(meant[:3])}?"
    return f"known: {', '.join(sorted(siblings.values()) or sorted(name for name in known if '.' not in name))}"


@cache
def known_keys(command: str) -> tuple[str, ...]:
    """Every key and group of a command's default config."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    before = GlobalHydra.instance().hydra  # we may be called from within a sweep
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            composed = compose(command)
    finally:
        GlobalHydra.instance().hydra = before
    return tuple(dict.fromkeys([*group_names(command), *walk(composed)]))


def walk(node: Any, prefix: str = "") -> list[str]:
    """Full names of all keys of a config, branches included."""
    names = []
    if isinstance(node, DictConfig) and not (node._is_none() or node._is_missing()):
        for name in node:
            names.append(f"{prefix}{name!s}")
            names += walk(node._get_node(name), f"{prefix}{name!s}.")
    return names


def typed(composed: DictConfig) -> Any:
    """The composed config as our dataclasses. Raises ConfigError with all problems at once, one a line."""
    schema = OmegaConf.get_type(composed)
    assert schema is not None
    content = OmegaConf.to_container(composed, resolve=False)
    assert isinstance(content, dict)
    missing = [f"{key} is not set: pass {key}={EXAMPLES.get(key, '...')}" for key in sorted(OmegaConf.missing_keys(composed))]
    known = config.names(schema)
    strangers = [  # a `+key=value` passes OmegaConf
        f"+{key}={OmegaConf.select(composed, key)}: unknown key; {suggestion(key, known)}"
        for key in config.strangers({str(key): value for key, value in content.items()}, schema)
    ]
    if missing or strangers:
        raise ConfigError("\n".join(missing + strangers))
    plain = OmegaConf.to_object(composed)
    teacher = getattr(plain, "teacher", None)
    problems = read_members(teacher) if isinstance(teacher, config.TeacherConfig) else []
    problems = problems or config.check(plain)
    if problems:
        raise ConfigError("\n".join(problems))
    return plain


def read_members(teacher: config.TeacherConfig) -> list[str]:
    """Make each member a MemberConfig, in place; a bare name is short for its `name`. Returns what is wrong, one line each.

    They are open in the schema: Hydra cannot add to a mapping of dataclasses by `+`.
    """
    problems = []
    for name, given in teacher.members.items():
        key, node = f"teacher.members.{name}", {"name": given} if isinstance(given, str) else given
        if not re.fullmatch(r"\w[\w-]*", str(name)):
            problems.append(f"{key}: a member's name is made of letters, digits, _ and -, as in teacher.members.a")
        elif not isinstance(node, dict):
            problems.append(f"{key}={given}: expected a model, as in {key}=resnet20 or {key}.checkpoint=<run folder or file>")
        elif unknown := config.strangers(node, config.MemberConfig):
            known = [f"{key}.{entry}" for entry in config.names(config.MemberConfig)]
            problems += [f"{key}.{entry}={node[entry]}: unknown key; {suggestion(f'{key}.{entry}', known)}" for entry in unknown]
        else:
            schema = OmegaConf.create({"teacher": {"members": {name: OmegaConf.structured(config.MemberConfig)}}})
            try:
                merged = OmegaConf.merge(schema, {"teacher": {"members": {name: node}}})
                teacher.members[name] = OmegaConf.to_object(merged.teacher.members[name])
            except OmegaConfBaseException as error:
                problems.append(wrong_type(key, [f"{key}.{entry}={value}" for entry, value in node.items()], error))
    return problems
