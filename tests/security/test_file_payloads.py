"""What an attacker would put into records, caches, checkpoints, run folders and images: nothing of it runs, nothing is written outside, and each is one line."""

import hashlib
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from contents import with_entry
from PIL import Image
from safetensors.torch import save_file

from distillctl.models.cifar.resnet import resnet8

CODE = "__import__('os').system('touch {place}/marker')"
RECORD = {
    "format_version": 1,
    "role": "student",
    "stage": "distill",
    "architecture": {"source": "cifar", "name": "resnet8", "stem": "small", "args": {}, "edits": [], "image_size": 8},
    "classes": [str(number) for number in range(10)],
    "preprocessing": {"image_size": 8, "resize": 8, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    "dataset": {"name": "digits"},
    "epoch": 3,
    "epochs": 4,
    "seed": 0,
}
DEEP: Any = json.loads("[" * 400 + "]" * 400)
HUGE = 10**30
SURROGATE = "\ud800"


# ------------------------------------------------------------------------------------------------ records, entry by entry
def changed(path: str, value: Any) -> dict[str, Any]:
    return with_entry(RECORD, path, value)


def architecture(**entries: Any) -> dict[str, Any]:
    return {**RECORD, "architecture": {**RECORD["architecture"], **entries}}  # type: ignore[dict-item]


RECORDS: dict[str, Any] = {
    "a list": [],
    "a number": 3,
    "no architecture": changed("architecture", ...),
    "of another format": changed("format_version", -1),
    "of a format that is no number": changed("format_version", "1"),
    "a source of code": architecture(source="own", name="os.system"),
    "a class that is a function": architecture(source="own", name="torch.nn.functional.relu"),
    "a class reached through a module": architecture(source="own", name="torch.nn.modules.os.system"),
    "a class in a file here": architecture(source="own", name="marker_module.Net"),
    "a class whose name is a program": architecture(source="own", name=f"x\n{CODE}\n.Net"),
    "a class whose target is among its arguments": architecture(source="own", name="torch.nn.Linear", args={"_target_": "os.system"}),
    "a class that takes nothing of this": architecture(source="own", name="torch.nn.Linear", args={"in_features": -3, "out_features": 2}),
    "a layer of 4 PB": architecture(source="own", name="torch.nn.Linear", args={"in_features": 2**20, "out_features": 2**20}),
    "a hub": architecture(source="timm", name="hf-hub:somebody/net"),
    "a folder": architecture(source="timm", name="local-dir:/tmp"),
    "a path as a tag": architecture(source="timm", name="resnet18.../../tmp"),
    "another source": architecture(source="torch.hub", name="resnet18"),
    "a private builder": architecture(source="torchvision", name="_resnet"),
    "a name that is a program": architecture(name=f"resnet8();{CODE}"),
    "a file among the arguments": architecture(source="timm", name="resnet18", args={"checkpoint_path": "marker.pt"}),
    "a file of published weights": architecture(source="timm", name="resnet18", args={"pretrained_cfg_overlay": {"file": "marker.pt"}}),
    "published weights": architecture(source="timm", name="resnet18", args={"pretrained": True}),
    "weights of torchvision": architecture(source="torchvision", name="resnet18", args={"weights": "DEFAULT"}),
    "a folder for downloads": architecture(source="timm", name="resnet18", args={"cache_dir": "."}),
    "another model's name": architecture(source="timm", name="resnet18", args={"model_name": "vgg11"}),
    "another number of classes": architecture(source="timm", name="resnet18", args={"num_classes": 3}),
    "an argument that is a program": architecture(args={f"width=1, x={CODE}": 1}),
    "an argument that is unknown": architecture(args={"widen": 3}),
    "an argument of another type": architecture(source="timm", name="resnet18", args={"drop_rate": {"a": 1}}),
    "an argument that is huge": architecture(source="timm", name="vit_tiny_patch16_224", args={"embed_dim": HUGE}),
    "a net of a million blocks": architecture(
        source="timm", name="vit_tiny_patch16_224", args={"img_size": 8, "patch_size": 4, "depth": 2**20}
    ),
    "a net as wide as no machine": architecture(
        source="timm", name="vit_tiny_patch16_224", args={"img_size": 8, "patch_size": 4, "embed_dim": 2**19}
    ),
    "arguments that are deep": architecture(args={"a": DEEP}),
    "arguments that are a list": architecture(args=[1]),
    "an edit that is a program": architecture(edits=[[f'conv1"); {CODE} #', "identity"]]),
    "an edit that is unknown": architecture(edits=[["conv1", f"exec {CODE}"]]),
    "an edit of a size below 0": architecture(edits=[["conv1", "bottleneck -1 3 3"]]),
    "an edit as large as a house": architecture(edits=[["conv1", "bottleneck 99999 99999 99999"]]),
    "a classifier as large as a house": architecture(edits=[["classifier", "cosine 99999"]]),
    "an edit of what is no part": architecture(edits=[["", "identity"]]),
    "an edit of a private part": architecture(edits=[["__class__", "identity"]]),
    "a million edits": architecture(edits=[["conv1", "stride 1"]] * 10**5),
    "edits one in another": architecture(edits=[["conv1", "bottleneck 3 3 3"]] * 900),
    "edits of other things": architecture(edits=[["conv1", 1], {"a": 1}]),
    "another stem": architecture(stem="enormous"),
    "an image of 1 Gpx": architecture(image_size=2**15),
    "an image below 0": architecture(image_size=-1),
    "no classes": changed("classes", []),
    "a class without a name": changed("classes", [None] * 10),
    "a class of a megabyte": changed("classes", ["x" * 2**20] + ["y"] * 9),
    "more classes than weights": changed("classes", [str(number) for number in range(10**5)]),
    "one class too many": changed("classes", [str(number) for number in range(11)]),
    "preprocessing of another kind": changed("preprocessing", {"kind": "sound"}),
    "preprocessing of a kind that is a list": changed("preprocessing", {"kind": []}),
    "means that are texts": changed("preprocessing.mean", ["0"] * 3),
    "means that are huge": changed("preprocessing.mean", [HUGE * 10] * 3),
    "a deviation of 0": changed("preprocessing.std", [0.0, 0.5, 0.5]),
    "a deviation below 0": changed("preprocessing.std", [-1, 0.5, 0.5]),
    "an edge of 1 Gpx": changed("preprocessing.image_size", 2**15),
    "an edge below 0": changed("preprocessing.resize", -8),
    "a stage that is a number": changed("stage", 3),
    "a seed that is huge": changed("seed", HUGE),
    "a secret as a data set": changed("dataset", {"name": "digits", "root": "${oc.env:HOME}"}),
    "parents that are a list": {**RECORD, "parents": []},
    "metrics that are deep": {**RECORD, "metrics": {"a": DEEP}},
    "a checksum of another file": {**RECORD, "sha256": "0" * 64},
    "a checksum that is a number": {**RECORD, "sha256": 3},
    "text": '{"format_version": NaN}',
    "more text": "[" * 200_000,
    "numbers without end": '{"epoch": 1' + "0" * 10_000 + "}",
    "nothing": "",
}


def with_record(place: Path, content: Any) -> Path:
    """`student.safetensors` with `content` as its record, under the right checksum where it has none of its own."""
    weights = place / "student.safetensors"
    save_file(dict(resnet8(10).state_dict()), weights)
    if isinstance(content, dict) and "sha256" not in content:
        content = content | {"sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
    weights.with_suffix(".json").write_text(content if isinstance(content, str) else json.dumps(content).replace("{place}", str(place)))
    return weights


class Trap(NamedTuple):
    """A folder to work in, with files that would be written, read or run if a payload had its way."""

    place: Path
    outside: Path

    def check(self) -> None:
        assert not list(self.place.rglob("marker")), "code was run"
        assert {file.name: file.read_text() for file in self.outside.iterdir()} == {"mine": "mine"}, "something was written outside"


@pytest.fixture
def trap(tmp_path, monkeypatch) -> Trap:
    place, outside = tmp_path / "place", tmp_path / "outside"
    place.mkdir()
    outside.mkdir()
    (outside / "mine").write_text("mine")
    (place / "marker_module.py").write_text(f"open({str(place / 'marker')!r}, 'w')\nimport torch\nNet = torch.nn.Identity\n")
    (place / "marker.pt").write_bytes(pickle.dumps(Runs(place)))
    monkeypatch.setenv("DISTILLCTL_CACHE", str(place / "cache"))
    return Trap(place, outside)


class Runs:
    def __init__(self, place: Path):
        self.place = place

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.place}/marker",)


def refused(finished: Any, codes: tuple[int, ...] = (4,)) -> str:
    """One line, the right code, and nothing on the other stream that would be an answer."""
    assert finished.code in codes, f"{finished.code}: {finished.err[-600:]}"
    lines = [line for line in finished.err.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1, finished.err[-600:]
    assert lines[0].startswith("error: ")
    assert "internal" not in lines[0]
    assert len(lines[0]) < 1500
    return lines[0]


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_is_refused_by_whatever_reads_it(name, distillctl, trap):
    weights = with_record(trap.place, RECORDS[name])
    Image.new("RGB", (8, 8)).save(trap.place / "cat.png")
    refused(distillctl("predict", f"checkpoint={weights.name}", "inputs=[cat.png]", "trainer.device=cpu", cwd=trap.place))
    trap.check()


@pytest.mark.parametrize(
    "words", ["evaluate checkpoint={}", "distill teacher=recorded teacher.checkpoint={}", "finetune student=recorded student.checkpoint={}"]
)
@pytest.mark.parametrize(
    "name",
    [
        "a class in a file here",
        "a file among the arguments",
        "an argument that is a program",
        "a deviation of 0",
    ],
)
def test_every_command_refuses_it_before_it_makes_anything(name, words, distillctl, trap):
    weights = with_record(trap.place, RECORDS[name])
    finished = distillctl(*words.format(weights.name).split(), "dataset=digits", "trainer.device=cpu", "hydra.run.dir=out", cwd=trap.place)
    refused(finished)
    trap.check()


@pytest.mark.parametrize(
    "dataset", [{"name": "digits", "image_size": -5}, {"name": "digits", "subset": [1]}, {"name": 3, "views": "x"}, {"subset": "${seed}"}]
)
def test_a_recorded_data_set_is_held_against_the_rules(dataset, distillctl, trap):
    weights = with_record(trap.place, RECORD | {"dataset": dataset})
    refused(distillctl("evaluate", f"checkpoint={weights.name}", "trainer.device=cpu", "hydra.run.dir=out", cwd=trap.place))
    trap.check()


def test_what_is_refused_is_refused_for_its_own_sake(distillctl, trap):
    """The record that all of these change is a good one."""
    weights = with_record(trap.place, RECORD)
    Image.new("RGB", (8, 8)).save(trap.place / "cat.png")
    finished = distillctl("predict", f"checkpoint={weights.name}", "inputs=[cat.png]", "trainer.device=cpu", cwd=trap.place)
    assert finished.code == 0, finished.err


# ------------------------------------------------------------------------------------------------ checkpoints
def endless(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**43)


def zipped(place: Path, **members: bytes) -> None:
    with zipfile.ZipFile(place / "x.pt", "w") as archive:
        for name, content in members.items():
            archive.writestr(f"archive/{name.replace('_pkl', '.pkl')}", content)


CHECKPOINTS: dict[str, Callable[[Path], Any]] = {
    "a pickle": lambda place: (place / "x.pt").write_bytes(pickle.dumps({"state_dict": Runs(place)}, protocol=2)),
    "a torch file": lambda place: torch.save({"state_dict": Runs(place)}, place / "x.pt"),
    "an old torch file": lambda place: torch.save({"a": Runs(place)}, place / "x.pt", _use_new_zipfile_serialization=False),
    "a script of torch": lambda place: zipped(place, constants_pkl=b"", data_pkl=pickle.dumps(Runs(place), protocol=2)),
    "a zip of a pickle": lambda place: zipped(place, data_pkl=pickle.dumps(Runs(place), protocol=2), version=b"3"),
    "a header of 100 MB": lambda place: (place / "x.pt").write_bytes(struct.pack("<Q", 2**26) + b'{"a'),
    "tensors beyond the end": lambda place: (place / "x.pt").write_bytes(
        struct.pack("<Q", 60) + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,99999999]}}'
    ),
    "a pipe": lambda place: os.mkfifo(place / "x.pt"),
    "a device": lambda place: (place / "x.pt").symlink_to("/dev/zero"),
    "a terminal": lambda place: (place / "x.pt").symlink_to("/dev/tty"),
    "larger than memory": lambda place: endless(place / "x.pt"),
    "a link to itself": lambda place: (place / "x.pt").symlink_to("x.pt"),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_runs_nothing_and_is_one_line(name, distillctl, trap):
    CHECKPOINTS[name](trap.place)
    refused(distillctl("finetune", "dataset=digits", "student=resnet8", "student.checkpoint=x.pt", "hydra.run.dir=out", cwd=trap.place))
    trap.check()


@pytest.mark.parametrize(
    "name", ["a class in a file here", "an argument that is a program", "an edit that is a program", "a deviation of 0", "no classes"]
)
def test_a_record_that_rides_in_the_weights_is_believed_no_more(name, distillctl, trap):
    save_file(dict(resnet8(10).state_dict()), trap.place / "x.safetensors", {"distillctl": json.dumps(RECORDS[name])})
    Image.new("RGB", (8, 8)).save(trap.place / "cat.png")
    refused(distillctl("predict", "checkpoint=x.safetensors", "inputs=[cat.png]", "trainer.device=cpu", cwd=trap.place))
    trap.check()


def test_a_record_that_is_a_pipe_is_one_line(distillctl, trap):
    weights = with_record(trap.place, RECORD)
    weights.with_suffix(".json").unlink()
    os.mkfifo(weights.with_suffix(".json"))
    assert "named pipe" in refused(distillctl("evaluate", f"checkpoint={weights.name}", "dataset=digits", cwd=trap.place))


# ------------------------------------------------------------------------------------------------ images
IMAGES: dict[str, Callable[[Path], Any]] = {
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "larger than memory": lambda path: endless(path),
    "a program": lambda path: path.write_bytes(b"#!/bin/sh\ntouch marker\n"),
    "PostScript": lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(marker) (w) file\n"),
    "a picture of pictures": lambda path: path.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    ),
    "a header of 4 Gpx": lambda path: path.write_bytes(b"P6 65000 65000 255\n"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_one_line(name, distillctl, trap):
    weights = with_record(trap.place, RECORD)
    IMAGES[name](trap.place / "cat.png")
    finished = distillctl("predict", f"checkpoint={weights.name}", "inputs=[cat.png]", "trainer.device=cpu", cwd=trap.place)
    assert "cat.png" in refused(finished, codes=(3,))
    trap.check()


# ------------------------------------------------------------------------------------------------ run folders
def run_json(place: Path, content: Any) -> None:
    (place / "run/.hydra").mkdir(parents=True)
    (place / "run/run.json").write_text(content if isinstance(content, str) else json.dumps(content))
    (place / "run/.hydra/overrides.yaml").write_text("[]")
    (place / "run/.hydra/config.yaml").write_text("{}")


RUN = {"format_version": 1, "command": "train", "status": "interrupted", "seed": 0, "stages": {}}
RUNS: dict[str, Any] = {
    "a list": [],
    "text": "{",
    "deep": "[" * 200_000,
    "no command": {**RUN, "command": None},
    "a command that is a program": {**RUN, "command": f"train; {CODE}"},
    "a command that is a list": {**RUN, "command": ["train"]},
    "done, and no summary": {**RUN, "status": "done"},
    "done at a list": {**RUN, "status": "done", "finished": ["x"]},
    "a status that is a mapping": {**RUN, "status": {}},
    "a format that is a text": {**RUN, "format_version": "9"},
    "a later format": {**RUN, "format_version": 99, "versions": {"distillctl": "x" * 10**5}},
    "no stages": {**RUN, "stages": None},
    "stages that are a list": {**RUN, "stages": ["pretrain"]},
    "a stage that is a text": {**RUN, "stages": {"pretrain": "done"}},
    "a stage that is deep": {**RUN, "stages": {"pretrain": {"a": DEEP}}},
    "keys that are texts": {**RUN, "keys": {"pretrain": "x"}},
    "keys that are a list": {**RUN, "keys": []},
    "not a number": '{"command": "train", "stages": {"a": {"b": NaN}}}',
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_gone_on_with_only_where_its_record_is_one(name, distillctl, trap):
    run_json(trap.place, RUNS[name])
    refused(distillctl("train", "resume=run", cwd=trap.place))
    trap.check()


LINKS = ["run/.hydra/attempt-2", "run/.lock", "run/pretrain", "run/pretrain/metrics.jsonl", "run/pretrain/twin", "run/tensorboard"]


@pytest.mark.parametrize("link", [*LINKS, "run/.hydra/overrides.yaml"])
def test_a_run_folder_with_links_is_not_written_into(link, distillctl, trap):
    run_json(trap.place, RUN)
    place = trap.place / link
    place.parent.mkdir(exist_ok=True)
    place.unlink(missing_ok=True)
    place.symlink_to(trap.outside)
    assert "symbolic link" in refused(distillctl("train", "resume=run", cwd=trap.place))
    trap.check()


@pytest.mark.parametrize("name", ["run.json", ".hydra/overrides.yaml", ".hydra/config.yaml"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"])
def test_a_run_folder_whose_files_are_none_is_one_line(name, make, distillctl, trap):
    run_json(trap.place, RUN)
    (trap.place / "run" / name).unlink()
    make(trap.place / "run" / name)
    refused(distillctl("train", "resume=run", cwd=trap.place))
    trap.check()


@pytest.mark.parametrize("make", [os.mkfifo, endless, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "endless", "device"])
def test_a_config_of_one_s_own_that_is_no_file_is_one_line(make, distillctl, trap):
    (trap.place / "conf/optimizer").mkdir(parents=True)
    make(trap.place / "conf/optimizer/mine.yaml")
    words = ("train", "--config-dir", "conf", "optimizer=mine", "hydra.run.dir=out")
    assert "mine.yaml" in refused(distillctl(*words, cwd=trap.place), codes=(2,))
    trap.check()


PLANS = [
    {"rows": [{"name": "teacher", "own": False, "file": "../outside/mine"}], "final": "teacher"},
    {"rows": [{"name": "teacher", "own": False, "file": "/etc/passwd"}], "final": "teacher"},
    {"rows": [{"name": "teacher", "own": False, "file": ["x"]}], "final": "teacher"},
    {"rows": [{"name": "teacher", "own": False, "file": "x" * 5000}], "final": "teacher"},
    {"rows": [{"name": "teacher", "own": False, "file": "a\0b"}], "final": "teacher"},
    {"rows": 3, "final": None},
]


@pytest.mark.parametrize("plan", PLANS)
def test_a_run_leads_to_no_file_outside_of_its_folder(plan, distillctl, trap):
    run_json(trap.place, {**RUN, "plan": plan})
    assert "no trained model" in refused(distillctl("evaluate", "checkpoint=run", "dataset=digits", cwd=trap.place))
