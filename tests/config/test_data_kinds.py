"""Data of another kind than images bring their own keys; whoever says nothing of a kind has images."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from distillctl import compose, config
from distillctl.config import DatasetConfig, ImageSetConfig, TextSetConfig, number, option
from distillctl.errors import ConfigError

SETS = sorted({file.stem for file in (compose.conf_dir() / "dataset").glob("*.yaml")} - {config.RECORDED})


@dataclass
class SentencesConfig(DatasetConfig):
    """A kind of data that is no image set."""

    max_tokens: int = number(128, decides="answers", low=1)
    case: str = option("keep", "keep", "lower", decides="answers")


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for --config-dir with two data sets: one that names its kind, and one that names none."""
    monkeypatch.setitem(config.DATA_KINDS, "sentences", SentencesConfig)
    (tmp_path / "mine" / "dataset").mkdir(parents=True)
    (tmp_path / "mine" / "dataset" / "reviews.yaml").write_text(
        "defaults:\n  - override kind@_here_: sentences\nname: reviews\nmax_tokens: 64\n"
    )
    (tmp_path / "mine" / "dataset" / "photos.yaml").write_text("name: image_folder\nimage_size: 48\naugment:\n  flip: 0.25\n")
    return tmp_path / "mine"


def composed(folder: Path, command: str, *words: str):
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    compose.prepare()
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(compose.conf_dir()), version_base="1.3"):
        return compose.typed(hydra.compose(command, [*words, f"hydra.searchpath=[file://{folder}]"]))


def said(distillctl, folder: Path, *words: str) -> str:
    return distillctl("train", "--config-dir", str(folder), *words, cwd=folder.parent).err


@pytest.mark.parametrize("name", SETS)
def test_our_own_data_are_images_but_for_those_that_say_otherwise(name: str, tmp_path: Path):
    found = composed(tmp_path, "evaluate", "checkpoint=x", f"dataset={name}").dataset
    assert type(found) is (TextSetConfig if name in ("text", "docstrings") else ImageSetConfig)


def test_a_file_that_names_no_kind_is_an_image_set(mine: Path):
    found = composed(mine, "train", "dataset=photos", "dataset.augment.erasing=0.5").dataset
    assert type(found) is ImageSetConfig
    assert (found.image_size, found.augment.flip, found.augment.erasing) == (48, 0.25, 0.5)


def test_a_file_that_names_its_kind_has_the_keys_of_that_kind(mine: Path):
    found = composed(mine, "train", "dataset=reviews", "dataset.case=lower", "dataset.subset=9").dataset
    assert found == SentencesConfig(name="reviews", max_tokens=64, case="lower", subset=9)
    assert not isinstance(found, ImageSetConfig)


def test_a_recipe_may_choose_it(mine: Path):
    (mine / "recipe").mkdir()
    (mine / "recipe" / "words.yaml").write_text("# @package _global_\ndefaults:\n  - override /dataset: reviews\nseed: 4\n")
    found = composed(mine, "train", "recipe=words")
    assert type(found.dataset) is SentencesConfig
    assert found.seed == 4


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("dataset=reviews", "dataset.max_tokens=0"), "dataset.max_tokens=0 must be >= 1"),
        (("dataset=reviews", "dataset.max_tokens=many"), "dataset.max_tokens=many: expected a whole number"),
        (("dataset=reviews", "dataset.case=upper"), "dataset.case=upper: must be one of keep, lower"),
        (("dataset=reviews", "dataset.shots=3", "dataset.subset=3"), "dataset.shots=3 and dataset.subset=3 both say how many images"),
        (("dataset=reviews", "+dataset.image_size=3"), "+dataset.image_size=3: unknown key"),
        (("dataset=reviews", "+dataset.max_token=3"), "+dataset.max_token=3: unknown key; did you mean dataset.max_tokens?"),
        (("dataset=photos", "+dataset.max_tokens=3"), "+dataset.max_tokens=3: unknown key"),
        (("dataset=reviews", "dataset.augment.flip=0"), "dataset.augment.flip=0: unknown key"),
        (("dataset=photos", "dataset.image_size=0"), "dataset.image_size=0 must be >= 1"),
    ],
)
def test_mistakes_in_it_are_lines(words: tuple[str, ...], line: str, mine: Path, distillctl):
    told = said(distillctl, mine, *words)
    assert line in told
    assert len(told.splitlines()) == 1


def test_the_kind_is_nothing_that_a_person_chooses(distillctl, tmp_path: Path):
    assert "dataset/kind" not in compose.group_names("train")
    assert "kind" not in distillctl("train", "--help", cwd=tmp_path).out


def test_a_kind_that_does_not_exist_is_one_line(mine: Path, distillctl):
    told = said(distillctl, mine, "dataset/kind=pictures")
    assert len(told.splitlines()) == 1
    assert "dataset/kind=pictures" in told


def test_typed_raises_for_whoever_composes_by_hand(mine: Path):
    with pytest.raises(ConfigError, match="max_tokens=-1 must be >= 1"):
        composed(mine, "train", "dataset=reviews", "dataset.max_tokens=-1")
