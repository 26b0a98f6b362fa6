"""Help and docs/keys.md say of every key what it is, from the schema, and of every option what its file says."""

import dataclasses
from pathlib import Path

import pytest

from distillctl import manual
from distillctl.compose import reference
from distillctl.compose.groups import files_of
from distillctl.config import SCHEMAS
from distillctl.config.keys import meanings

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("command", SCHEMAS)
def test_every_key_has_a_meaning(command: str):
    assert [key.name for key in reference.keys_of(command) if not key.meaning] == []


def test_the_document_of_keys_is_current():
    assert (ROOT / "docs" / "keys.md").read_text() == manual.keys_document(), "run `make docs`"


def test_defaults_are_those_that_compose(composing):
    import hydra
    from omegaconf import OmegaConf

    composed = hydra.compose("train")
    for key in reference.keys_of("train"):
        found = OmegaConf.select(composed, key.name)
        if not OmegaConf.is_dict(found):
            plain = OmegaConf.to_container(found) if OmegaConf.is_config(found) else found
            assert key.default == reference.spelled(plain), key.name


@pytest.mark.parametrize(
    ("command", "topic", "said"),
    [
        ("train", "trainer", ["trainer.batch_size=", "(a whole number >= 1", "trainer=laptop"]),
        ("train", "trainer.clip_norm", ["trainer.clip_norm=null  (a number > 0 | null)"]),
        ("train", "loss", ["loss=kd", "loss=reviewkd"]),
        ("train", "loss.vid", ["initial_variance: 5.0"]),
        ("train", "all", ["finetune.lora.rank=8", "dataset.augment.flip=0  (a number >= 0 and <= 1)"]),
        ("predict", "format", ["format=table  (table | jsonl"]),
        ("distill", "teacher.cache", ["teacher.cache.mode=auto  (off | auto | fill | require)"]),
    ],
)
def test_help_about_a_topic(command: str, topic: str, said: list[str], distillctl, tmp_path: Path):
    finished = distillctl(command, f"--help={topic}", cwd=tmp_path)
    assert (finished.code, finished.err) == (0, "")
    assert all(text in finished.out for text in said), finished.out
    assert max(map(len, finished.out.splitlines())) <= 140


@pytest.mark.parametrize(
    ("topic", "said"), [("trianer", "did you mean trainer?"), ("trainer.batchsize", "did you mean trainer.batch_size?"), ("", "known: ")]
)
def test_an_unknown_topic_is_a_line(topic: str, said: str, distillctl, tmp_path: Path):
    finished = distillctl("train", f"--help={topic}", cwd=tmp_path)
    assert finished.code == 2
    (line,) = finished.err.splitlines()
    assert said in line


def test_the_keys_that_people_use_exist_and_are_about_twenty():
    shown = {command: manual.usual(command) for command in SCHEMAS}
    assert 15 <= len(shown["train"]) <= 24
    assert all(any(name == key.name for command in SCHEMAS for key in reference.keys_of(command)) for name in manual.USUAL if "." in name)


@pytest.mark.parametrize(("command", "group"), [("losses", "loss"), ("methods", "method")])
def test_losses_and_methods_have_a_line_each(command: str, group: str, distillctl, tmp_path: Path):
    finished = distillctl(command, cwd=tmp_path)
    assert (finished.code, finished.err) == (0, "")
    first = [line.split()[0] for line in finished.out.splitlines()]
    assert first[: len(files_of(group))] == files_of(group)
    assert all(option.summary for option in reference.options_of(group))


def test_what_a_loss_reads_and_costs():
    found = {option.name: option for option in reference.options_of("loss")}
    assert (found["kd"].reads, found["kd"].costs) == ("labels, logits", "")
    assert (found["vid"].reads, found["vid"].costs) == ("labels, stage1-3", "27 %")
    assert found["reviewkd"].reads == "labels, stage1-3, pooled"
    assert found["funmatch"].reads == "logits"
    assert found["ce"].reads == "labels"
    assert found["minilmv2"].reads == "labels, queries, keys and values"


def test_a_search_that_finds_nothing_is_a_line(distillctl, tmp_path: Path):
    finished = distillctl("losses", "search=reviewdk", cwd=tmp_path)
    assert finished.code == 2
    assert finished.err == "error: search=reviewdk: no loss says that; did you mean reviewkd?\n"


@dataclasses.dataclass
class Parent:
    one: int = 1
    """the first"""
    two: int = 2
    """the second"""


@dataclasses.dataclass
class Child(Parent):
    two: int = 3
    """another second"""
    bare: int = 4


def test_what_stands_below_a_field_is_its_meaning():
    assert meanings(Child) == {"one": "the first", "two": "another second"}
