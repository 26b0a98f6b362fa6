"""The record of a shipped model: written as ever, read strictly, and never believed."""

import contextlib
import hashlib
import json
from pathlib import Path

import pytest
import torch
from contents import with_entry
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from distillctl.config import ModelConfig
from distillctl.errors import CheckpointError
from distillctl.inputs.image import Images
from distillctl.models.cifar.resnet import resnet8
from distillctl.models.edits import Edit
from distillctl.models.obtain import obtain
from distillctl.models.record import Record
from distillctl.models.shipping import read_record, ship
from distillctl.state import NewerFormat

WHOLE = {
    "format_version": 1,
    "role": "student",
    "stage": "distill",
    "architecture": {"source": "cifar", "name": "resnet8", "stem": "small", "args": {}, "edits": [], "image_size": 8},
    "classes": ["ant", "bee"],
    "preprocessing": {"image_size": 8, "resize": 8, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    "dataset": {"name": "digits", "root": None},
    "metrics": {"val_top1": 0.5, "val_kl": None},
    "epoch": 3,
    "epochs": 4,
    "seed": 0,
    "parents": {"teacher": None, "start": "ab"},
    "versions": {"distillctl": "0.1.0"},
    "sha256": "cd",
}
IMAGES = Images(("ant", "bee"), 8, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def changed(path: str, value: object) -> dict:
    return with_entry(WHOLE, path, value)


def beside(folder: Path, content: object) -> Path:
    """A file of weights with `content` as its record, under the right checksum where it is a mapping."""
    weights = folder / "student.safetensors"
    save_file(dict(resnet8(2).state_dict()), weights)
    if isinstance(content, dict):
        content = content | {"sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
    weights.with_suffix(".json").write_text(content if isinstance(content, str) else json.dumps(content))
    return weights


def refusal(folder, content: object) -> str:
    with pytest.raises(CheckpointError) as error:
        read_record(beside(folder, content), "student.checkpoint")
    message = str(error.value)
    assert message.startswith(f"student.checkpoint: {folder / 'student.json'} ")
    assert "\n" not in message
    assert len(message) < 400 + len(str(folder))
    return message


def test_it_is_written_as_it_was_read():
    assert json.dumps(Record.from_json(WHOLE).to_json()) == json.dumps(WHOLE)


def test_edits_are_written_as_pairs():
    content = changed("architecture.edits", [["conv1", "3x3, stride 1"], ["pool", "bottleneck 64 128 256"]])
    record = Record.from_json(content)
    assert record.architecture.edits == (Edit("conv1", "3x3, stride 1"), Edit("pool", "bottleneck 64 128 256"))
    assert json.dumps(record.to_json()) == json.dumps(content)


def test_what_ships_is_read_again(tmp_path):
    shipped = ship(tmp_path, "student", resnet8(2).state_dict(), Record.from_json(WHOLE), "")
    assert read_record(tmp_path / "student.safetensors", "student.checkpoint") == shipped
    assert json.loads((tmp_path / "student.json").read_text()) == WHOLE | {"sha256": shipped.sha256}


@pytest.mark.parametrize(
    "path",
    ["format_version", "role", "stage", "dataset", "metrics", "epoch", "epochs", "seed", "parents", "versions", "parents.teacher"]
    + [f"architecture.{name}" for name in ("stem", "args", "edits", "image_size")],
)
def test_weights_can_be_used_without_it(tmp_path, path):
    weights = beside(tmp_path, changed(path, ...))
    found = obtain(ModelConfig(name="recorded", checkpoint=str(weights)), IMAGES, "student", 0)
    assert found.net.input_size == 8
    assert found.classifier.eval()(torch.zeros(1, 3, 8, 8)).logits.shape == (1, 2)


@pytest.mark.parametrize(
    "path",
    ["architecture", "classes", "preprocessing", "architecture.source", "architecture.name"]
    + [f"preprocessing.{name}" for name in ("image_size", "resize", "mean", "std")],
)
def test_without_it_they_cannot(tmp_path, path):
    assert f"({path} is missing)" in refusal(tmp_path, changed(path, ...))


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("format_version", ("1", True, 1.0, None, 0, -1, 10**400)),
        ("architecture", ("resnet8", [], None, 3)),
        ("architecture.source", (None, 1, "torch", "x" * 10_000)),
        ("architecture.name", (None, 1, ["resnet8"])),
        ("architecture.stem", (None, 1)),
        ("architecture.args", (None, [], "x", {"a": json.loads("[" * 50 + "]" * 50)})),
        ("architecture.image_size", ("8", 8.0, True, 0, -8, 10**9, [8])),
        (
            "architecture.edits",
            (None, "x", {}, [["a"]], ["ab"], [["a", 1]], [["a", "b", "c"]], [["a", "no edit"]], [["a", "linear 9999999"]]),
        ),
        ("classes", (None, "ab", [], [1, 2], {"ant": 0}, [["ant"]], [None])),
        ("preprocessing", (None, [], "x")),
        ("preprocessing.mean", (None, 0.5, [0.5], [0.5] * 4, ["0.5"] * 3, [True] * 3, [10**400] * 3)),
        ("preprocessing.std", (None, {}, [[0.5]] * 3)),
        ("preprocessing.image_size", (None, "8", 0, 10**9)),
        ("preprocessing.resize", (None, 8.5)),
        ("dataset", ("digits", [])),
        ("metrics", (None, [], 1)),
        ("epoch", ("3", 3.5, True)),
        ("parents", (None, "x")),
        ("parents.start", (1, [])),
        ("versions", ("0.1.0", None)),
    ],
)
def test_an_entry_of_another_type_is_one_line_that_names_it(tmp_path, path, values):
    for value in values:
        message = refusal(tmp_path, changed(path, value))
        assert path in message.partition("(")[2]
        assert message.endswith("move it away to use the weights without it")


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "1", '"x"', "[" * 100_000, '{"a": NaN}', '{"a": ' + "9" * 5000 + "}", "{}"])
def test_what_is_no_record_is_one_line(tmp_path, content):
    assert "is not the record of a model" in refusal(tmp_path, content)


def test_bytes_that_are_no_text_are_one_line(tmp_path):
    weights = beside(tmp_path, "{}")
    weights.with_suffix(".json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match="is not the record of a model"):
        read_record(weights, "student.checkpoint")


@pytest.mark.parametrize(
    ("versions", "writer"),
    [
        ({"distillctl": "7.1"}, "distillctl 7.1"),
        ({}, "a newer distillctl"),
        (None, "a newer distillctl"),
        ({"distillctl": "a\nb"}, "a newer"),
    ],
)
def test_a_newer_format_says_who_wrote_it_and_what_is_read_here(tmp_path, versions, writer):
    content = {"format_version": 2, "versions": versions, "what else": "nobody knows"}
    message = refusal(tmp_path, content)
    assert f"was written by {writer}" in message
    assert "in format 2, this one reads format 1" in message
    with pytest.raises(NewerFormat):
        Record.from_json(content)


@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        ({"name": "resnet7"}, "'resnet7' of cifar, which is not known here"),
        ({"name": "no_such_net", "source": "timm"}, "'no_such_net' of timm"),
        (
            {"source": "timm", "name": "resnet18", "args": {"checkpoint_path": "x.pt"}},
            "the argument checkpoint_path, which is not for a record to say",
        ),
        ({"edits": [["nowhere", "identity"]]}, "the edit 'identity' does not fit 'nowhere'"),
        ({"edits": [["classifier", "stride 1"]]}, "the edit 'stride 1' does not fit 'classifier'"),
        ({"edits": [["classifier", "inputs 99999"]]}, "the edit 'inputs 99999' does not fit 'classifier'"),
        ({"edits": [["stage1.0.conv1", "channels 99999 16 1"]]}, "the edit 'channels 99999 16 1' does not fit 'stage1.0.conv1'"),
        ({"edits": [["classifier", "inputs 8"], ["classifier", "inputs 9"]]}, "the edit 'inputs 9' does not fit 'classifier'"),
    ],
)
def test_an_architecture_that_cannot_be_built_is_one_line(tmp_path, architecture, said):
    weights = beside(tmp_path, WHOLE | {"architecture": WHOLE["architecture"] | architecture})
    with pytest.raises(CheckpointError) as error:
        obtain(ModelConfig(name="recorded", checkpoint=str(weights)), IMAGES, "student", 0)
    assert str(error.value).startswith(f"student.checkpoint={weights}: ")
    assert said in str(error.value)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(WHOLE)) | st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


PATHS = [*WHOLE, *(f"{outer}.{inner}" for outer, content in WHOLE.items() if isinstance(content, dict) for inner in content)]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(PATHS), ANYTHING)
def test_nothing_but_an_error_for_people_comes_of_it(path, value):
    for content in (changed(path, value), value):
        with contextlib.suppress(CheckpointError):
            json.dumps(Record.from_json(content).to_json(), allow_nan=False)


# --- the record that rides in the file of weights


def riding(folder: Path, told: str) -> Path:
    save_file(dict(resnet8(2).state_dict()), folder / "student.safetensors", {"distillctl": told})
    return folder / "student.safetensors"


def test_a_lone_file_brings_what_is_needed_to_use_it(tmp_path):
    shipped = ship(tmp_path, "student", resnet8(2).state_dict(), Record.from_json(WHOLE), "")
    (tmp_path / "student.json").unlink()
    found = read_record((tmp_path / "student.safetensors").rename(tmp_path / "mine.safetensors"), "checkpoint")
    assert found is not None
    for name in ("role", "architecture", "classes", "preprocessing", "sha256"):
        assert getattr(found, name) == getattr(shipped, name)
    assert found.dataset is None  # where it learned, and how well, is no business of whoever gets the file


def test_where_and_when_it_learned_changes_no_byte_of_its_file(tmp_path):
    contents = []
    for name, value in (("dataset", {"root": "/a"}), ("dataset", {"root": "/b"}), ("metrics", {"top1": 0.5}), ("versions", {})):
        ship(tmp_path, "student", {"w": torch.ones(2)}, Record.from_json(changed(name, value)), "")
        contents.append((tmp_path / "student.safetensors").read_bytes())
    assert len(set(contents)) == 1


@pytest.mark.parametrize(
    "told",
    ["", "{", "[]", "7", "[" * 100_000, "{}", json.dumps(changed("classes", [])), json.dumps(changed("architecture.source", "os")),
     json.dumps(changed("preprocessing.std", "x")), json.dumps(changed("architecture.edits", [["a", "exec"]]))],
)  # fmt: skip
def test_a_record_that_rides_is_believed_as_little_as_one_beside(tmp_path, told):
    file = riding(tmp_path, told)
    with pytest.raises(CheckpointError, match=r"its metadata is not the record of a model \(.*\); copy it anew") as error:
        read_record(file, "checkpoint")
    assert "\n" not in str(error.value)


def test_a_record_of_a_later_version_rides_too(tmp_path):
    with pytest.raises(NewerFormat, match="its record was written by"):
        read_record(riding(tmp_path, json.dumps(changed("format_version", 99))), "checkpoint")


def test_a_file_of_somebody_else_has_none(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "x.safetensors", {"format": "pt"})
    assert read_record(tmp_path / "x.safetensors", "checkpoint") is None
    (tmp_path / "y.safetensors").write_bytes(b"\x10" + bytes(7) + b"{")
    assert read_record(tmp_path / "y.safetensors", "checkpoint") is None
