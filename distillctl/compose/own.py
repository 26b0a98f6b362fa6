"""Configs of one's own: the folders that --config-dir names, as a source that says nothing of how Hydra works. No torch here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from distillctl.compose import yaml_files
from distillctl.compose.literal import is_text, quoted, read
from distillctl.errors import ConfigError

SCHEME = "own"
HYDRA = "hydra"
KEY = re.compile(r"[A-Za-z_][\w-]*(\.[\w-]+)*")


def search_words(folders: Iterable[str | Path]) -> list[str]:
    """The override by which Hydra looks into folders of one's own, after all that ships."""
    places = [quoted(f"{SCHEME}://{Path(folder).resolve()}") for folder in folders]
    return [f"hydra.searchpath=[{','.join(places)}]"] if places else []


def folders_in(words: Iterable[str]) -> list[Path]:
    """The folders that `search_words` said among the words of a command line."""
    said = [read(word.partition("=")[2]) for word in words if word.startswith("hydra.searchpath=")]
    return [Path(str(place).removeprefix(f"{SCHEME}://")) for places in said if isinstance(places, list) for place in places]


class OwnConfigs(FileConfigSource):
    """The files of a folder, each read within limits and held against what a file may say."""

    @staticmethod
    def scheme() -> str:
        return SCHEME

    def is_config(self, config_path: str) -> bool:
        """Also what is no regular file: reading it says so."""
        file = Path(self.path) / self._normalize_file_name(config_path)
        return file.exists() and not file.is_dir()

    def load_config(self, config_path: str) -> ConfigResult:
        name = self._normalize_file_name(config_path)
        file = Path(self.path) / name
        try:
            text = yaml_files.read(file)
            content = OmegaConf.create(text)
        except OSError as error:
            raise ConfigError(f"{file}: {error.strerror}") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{file}: {yaml_files.wrong(error)}") from None
        except (ValueError, OmegaConfBaseException) as error:
            raise ConfigError(f"{file}: {' '.join(str(error).split())[:200]}") from None
        header = ConfigSource._get_header_dict(text[:512])
        problem = problem_of_file(name, header.get("package"), content)
        if problem is not None:
            raise ConfigError(f"{file}: {problem}")
        assert isinstance(content, DictConfig)  # else there was a problem
        keep_texts(content, text, place_of(name, header.get("package")))
        return ConfigResult(config=content, path=f"{SCHEME}://{self.path}", provider=self.provider, header=header)


def place_of(path: str, package: str | None) -> str:
    """Below which key the entries of a file come: its group, or the package that its header names."""
    group = Path(path).parent.as_posix().replace("/", ".") if package is None else package
    return "" if group in (".", "_global_") else f"{group}."


def keep_texts(content: DictConfig, text: str, prefix: str) -> None:
    """What stands for a key that is text stays as it is written: YAML would read `2024_11_27` as a number, `yes` as true."""

    def walk(node: yaml.Node | None, key: str) -> None:
        if isinstance(node, yaml.MappingNode):
            for name, value in node.value:
                walk(value, f"{key}.{name.value}" if key else name.value)
        elif key and is_text(prefix + key):
            said = OmegaConf.select(content, key, throw_on_missing=False)
            if isinstance(node, yaml.SequenceNode):
                OmegaConf.update(content, key, [written(item, value) for item, value in zip(node.value, said, strict=True)])
            elif said is not None:
                OmegaConf.update(content, key, written(node, said))

    walk(yaml.compose(text, Loader=yaml.SafeLoader), "")


def written(node: yaml.Node | None, read: Any) -> Any:
    """A scalar as it is written, where it was read as something else than text."""
    return node.value if isinstance(node, yaml.ScalarNode) and not isinstance(read, str) and read is not None else read


def parts(text: str) -> list[str]:
    """The names in a group, a package or a path."""
    return re.split(r"[./@: ]+", text)


def problem_of_file(path: str, package: str | None, content: Any) -> str | None:
    """Why a config of one's own is refused. path: in its folder, as in `loss/mine.yaml`; package: what its header says."""
    if HYDRA in parts(f"{path} {package or ''}"):
        return "Hydra's own configs are those that ship; type its keys, as in hydra.run.dir=runs/first"
    if not isinstance(content, DictConfig):
        return "expected keys with values"
    if HYDRA in content:
        return "hydra: " + typed_instead(OmegaConf.to_container(content._get_node(HYDRA), resolve=False))
    plain = OmegaConf.to_container(content, resolve=False)
    assert isinstance(plain, dict)
    defaults = plain.get("defaults") or []
    if not isinstance(defaults, list) or not all(map(is_default, defaults)):
        return "defaults: expected a list of choices, as in - override /student: resnet8"
    for item in defaults:
        words = [str(word) for entry in (item.items() if isinstance(item, dict) else [(item,)]) for word in entry if word is not None]
        for word in words:
            if HYDRA in parts(word):
                return f"defaults: {word}: " + typed_instead(None)
            if ".." in parts(word.replace("..", "/../")) or "//" in word:
                return f"defaults: {word}: a config elsewhere; an option of a group is a name without / and .."
    return None


def is_default(item: Any) -> bool:
    """Whether Hydra can read an entry of a list of defaults: a config, or a group with its option or options."""
    if not isinstance(item, dict):
        return isinstance(item, str)
    options = list(item.values())
    several = options[0] if len(options) == 1 and isinstance(options[0], list) else options[:1]
    return len([key for key in item if isinstance(key, str) and key != "optional"]) == 1 and all(
        option is None or isinstance(option, (str, int, float)) for option in several
    )


def typed_instead(content: Any) -> str:
    """The way out for who set Hydra's keys in a file; where it was a sweep, as it is typed."""
    sweeper = content.get("sweeper") if isinstance(content, dict) else None
    params = sweeper.get("params") if isinstance(sweeper, dict) else None
    swept = [f"{key}={value}" for key, value in params.items()] if isinstance(params, dict) else []
    example = f"-m {' '.join(swept)}" if swept and all(KEY.match(word) for word in swept) else "hydra.run.dir=runs/first or -m seed=0,1"
    return f"Hydra's own keys come from the command line alone; leave it out, and type what is needed, as in {example}"
