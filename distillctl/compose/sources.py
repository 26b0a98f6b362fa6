"""What Hydra can compose besides the files of `conf/`: schemas, the names of models, recipes. No torch here."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import MISSING, OmegaConf

from distillctl import config
from distillctl.compose.own import OwnConfigs
from distillctl.compose.places import recipes_dir
from distillctl.errors import ConfigError, UserError
from distillctl.models import catalogue

ROLES = ("teacher", "student", "model")
EXTRA_NAMES = ("own", "recorded")
TEACHES = ("teacher", "model")  # what an exported file can be
ALONE = ("teacher",)
# options that name no net of a catalogue, and the groups that have them
NO_NETS = {config.FILE: TEACHES, config.ANSWERS: ALONE, config.API: ALONE, config.CAUSAL: ALONE}
KIND_GROUP = "dataset/kind"
# As this file is imported, since a job that another process composes has no other sign of us than the sources that are handed to it.
OmegaConf.register_new_resolver("oc.env", config.read_variable, replace=True)


@cache
def prepare() -> None:
    """Tell Hydra about our sources; has to happen before it composes anything."""
    for plugin in (Schemas, ModelNames, Recipes, OwnConfigs, SearchPath):
        Plugins.instance().register(plugin)


class InMemory(ConfigSource):
    """A source whose configs are made as they are asked for: a table of them is never needed whole."""

    def available(self) -> bool:
        return True

    def result(self, content: Any) -> ConfigResult:
        return ConfigResult(provider=self.provider, path=f"{self.scheme()}://{self.path}", config=content, header={"package": None})


class Schemas(InMemory):
    """Makes `train_schema` of TrainConfig, and each kind of data an option of the group dataset/kind."""

    @staticmethod
    def scheme() -> str:
        return "schemas"

    def load_config(self, config_path: str) -> ConfigResult:
        schema = self.schema(config_path)
        assert schema is not None
        return self.result(deepcopy(structured(schema)))

    def schema(self, config_path: str) -> type | None:
        group, _, name = config_path.removesuffix(".yaml").rpartition("/")
        if group == KIND_GROUP:
            return config.recorded_schema() if name == config.RECORDED else config.DATA_KINDS.get(name)
        return config.SCHEMAS.get(name.removesuffix("_schema")) if not group and name.endswith("_schema") else None

    def is_group(self, config_path: str) -> bool:
        return config_path in ("", "dataset", KIND_GROUP)

    def is_config(self, config_path: str) -> bool:
        return self.schema(config_path) is not None

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        return sorted(config.DATA_KINDS) if config_path == KIND_GROUP and results_filter in (None, ObjectType.CONFIG) else []


@cache
def structured(schema: type) -> Any:
    """The config of a dataclass; to copy it takes a quarter of the time that it takes to make.

    What a command's `dataset` holds comes from its kind alone: a value that the schema had put there could not be told from one that somebody set.
    """
    found = OmegaConf.structured(schema)
    for name in found.get("dataset", ()):
        found.dataset[name] = MISSING
    return found


class ModelNames(InMemory):
    """Makes every model name an option of the groups teacher, student and model, without a file for each."""

    @staticmethod
    def scheme() -> str:
        return "models"

    def load_config(self, config_path: str) -> ConfigResult:
        role, name = split_path(config_path)
        if name == "own":
            return self.result(OmegaConf.create({"name": "own", "source": "own"}))
        if name == config.FILE and role not in TEACHES:
            raise ConfigError(
                f"{role}={name}: an exported file cannot learn; name a net, as in {role}=resnet8, and let it learn by teacher={name}"
            )
        if name in config.TOLD and role not in NO_NETS[name]:
            raise ConfigError(f"{role}={name}: answers are no model; name one, as in {role}=resnet8, and let it learn by teacher={name}")
        if name == config.CAUSAL and role != "teacher":
            raise ConfigError(
                f"{role}={name}: a causal language model teaches by its words and does not learn here; take {role}=bilstm, or its folder "
                f"with a new head: {role}=transformer {role}.model=<name on the hub or folder> {role}.new_head=true"
            )
        if name not in ("recorded", *NO_NETS):
            catalogue.resolve(name, key=role)
        return self.result(OmegaConf.create({"name": name}))

    def is_group(self, config_path: str) -> bool:
        return config_path in ("", *ROLES)

    def is_config(self, config_path: str) -> bool:
        role, name = split_path(config_path)
        if role not in ROLES:
            return False
        if name in (*EXTRA_NAMES, *NO_NETS):
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
            return sorted((*catalogue.FEATURED, *EXTRA_NAMES, *(name for name, roles in NO_NETS.items() if config_path in roles)))
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
    """Adds the sources above to wherever Hydra looks."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("distillctl", "schemas://")
        search_path.append("distillctl", "models://")
        if recipes_dir().is_dir():
            search_path.append("distillctl", f"recipes://{recipes_dir()}")


def split_path(config_path: str) -> tuple[str, str]:
    """`teacher/resnet20.yaml` as ("teacher", "resnet20")."""
    group, _, name = config_path.partition("/")
    return group, name.removesuffix(".yaml")
