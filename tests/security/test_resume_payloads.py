"""A run folder may be a stranger's: what its files say runs nothing, and what they link to is not written."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from payloads import EVIL_MODULE, RUN, Payload, Sandbox

from distillctl import state

FOUND = "evil"  # a config of the working folder that a word could lead to
CONFIG = f"# @package _global_\nhydra:\n  callbacks:\n    e: {RUN}\n"
WORDS = [
    "--config-dir=evil",
    "--config-dir",
    "-cd=evil",
    "--experimental-rerun=evil.pickle",
    "--config-path=evil",
    "--config-name=evil",
    "--multirun",
    "-m",
    "--trust=evil",
    "--cfg=job",
    "hydra.callbacks.e._target_=evil.Callback",
    "+hydra.callbacks.e._target_=evil.Callback",
    "++hydra.callbacks={e: {_target_: evil.Callback}}",
    "~hydra.callbacks",
    "hydra/callbacks=evil",
    "+hydra/callbacks=../../evil/evil",
    "hydra.run.dir=OUTSIDE",
    "hydra.searchpath=[file://evil]",
    "hydra.searchpath=[pkg://evil]",
    "optimizer@hydra.callbacks.e=evil",
    "+optimizer@hydra.callbacks.e=sgd",
    "+optimizer@_global_.hydra=sgd",
    "recipe=../../../../../../../../../../../OUTSIDE/evil",
    "recipe=../evil",
    "recipe=/OUTSIDE/evil",
    "recipe='../evil'",
    "optimizer=[sgd,../../evil]",
    "optimizer=/OUTSIDE/evil",
    "+attack=../../evil/evil",
    "+unknown=../../evil/evil",
    "+optimizer/evil=../evil",
    "+dataset/kind@dataset=../../evil",
    "optimizer._target_=evil.Callback",
    "student._target_=evil.Callback",
    "optimizer=sgd,adamw",
    "key",
    "=value",
    "",
    "a b=c",
    "seed=!!python/object/apply:os.system",
    "seed=${oc.env:SECRET}",
    "x" * 100_000,
]


@pytest.fixture(scope="module")
def stopped(distillctl, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was stopped before its first step."""
    place = tmp_path_factory.mktemp("stopped")
    words = ["teacher=resnet8", "student=resnet8", "dataset.subset=200", "trainer.device=cpu", "trainer.threads=1"]
    finished = distillctl(
        "pretrain", *[word for word in words if "student" not in word], "pretrain.epochs=1", "hydra.run.dir=run", cwd=place
    )
    assert finished.code == 0, finished.err
    record = json.loads((place / "run/run.json").read_text())
    (place / "run/run.json").write_text(json.dumps(record | {"status": "interrupted", "stages": {}}))
    return place / "run"


def refused(payload: Payload, change, stopped: Path, distillctl, place: Path) -> None:
    sandbox = Sandbox(place)
    shutil.copytree(stopped, sandbox.work / "run")
    for name in ("evil.yaml", "evil/evil.yaml", "evil/recipe/evil.yaml", "evil/hydra/callbacks/evil.yaml"):
        (sandbox.work / name).parent.mkdir(parents=True, exist_ok=True)
        (sandbox.work / name).write_text(sandbox.filled(CONFIG))
    (sandbox.outside / "evil.yaml").write_text(sandbox.filled(CONFIG))
    payload.files["evil.py"] = payload.files["evil/__init__.py"] = EVIL_MODULE
    change(sandbox)
    words = sandbox.lay_out(payload)
    finished = distillctl(*words, cwd=sandbox.work, env={"SECRET": "secret"})
    sandbox.check(payload, finished.code, finished.err)
    assert "secret" not in finished.out + finished.err.replace("SECRET", "")


@pytest.mark.parametrize("word", WORDS, ids=lambda word: word[:40] or "nothing")
def test_a_word_that_a_folder_keeps_is_a_key_and_a_value(word: str, stopped: Path, distillctl, tmp_path: Path):
    def change(sandbox: Sandbox) -> None:
        file = sandbox.work / "run/.hydra/overrides.yaml"
        file.write_text(yaml.safe_dump([*yaml.safe_load(file.read_text()), sandbox.filled(word)]))

    refused(Payload(word[:40], "pretrain resume=run"), change, stopped, distillctl, tmp_path)


def rewrite(name: str, text: str):
    return lambda sandbox: (sandbox.work / "run" / name).write_text(sandbox.filled(text))


def link(name: str, target: str):
    """A file or a folder of the run is a link to one outside."""

    def change(sandbox: Sandbox) -> None:
        place = sandbox.work / "run" / name
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        place.unlink(missing_ok=True)
        place.symlink_to(sandbox.filled(target))

    return change


def pipe(name: str):
    def change(sandbox: Sandbox) -> None:
        (sandbox.work / "run" / name).unlink(missing_ok=True)
        os.mkfifo(sandbox.work / "run" / name)

    return change


def hard(name: str):
    """A file of the run has another name, outside."""

    def change(sandbox: Sandbox) -> None:
        (sandbox.work / "run" / name).unlink(missing_ok=True)
        os.link(sandbox.outside / "precious.txt", sandbox.work / "run" / name)

    return change


def stage(**entries: object):
    def change(sandbox: Sandbox) -> None:
        file = sandbox.work / "run/run.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"stages": {"pretrain": entries}}))

    return change


def checkpoint(**entries: object):
    """A whole one, of which one entry is something else."""

    def change(sandbox: Sandbox) -> None:
        place = sandbox.work / "run/pretrain"
        content, about = state.load(place / "last.pt")
        for name in ("last.pt", "previous.pt"):
            (place / name).unlink(missing_ok=True)
        state.save(place, content | entries, about)

    return change


FOLDERS = {
    "a lock that is a file elsewhere, too": hard(".lock"),
    "steps that are a text": stage(steps="x"),
    "steps that are none": stage(steps=None),
    "steps below 0": stage(steps=-1),
    "seconds that are a list": stage(steps=1, seconds=[1]),
    "a step that ran out of time after no steps": stage(out_of_time=True),
    "a checkpoint of an epoch below 0": checkpoint(epoch=-(10**9)),
    "a checkpoint of a step that is a text": checkpoint(step="x"),
    "a checkpoint of a batch that is a tensor": checkpoint(batch=torch.zeros(5)),
    "a checkpoint whose log ends before it begins": checkpoint(log_size=-1),
    "a checkpoint whose history is a mapping": checkpoint(history={}),
    "a checkpoint whose best is nothing": checkpoint(best={}),
    "a checkpoint whose best is half": checkpoint(best={"student": {"epoch": 1}}),
    "a checkpoint whose sums are texts": checkpoint(sums={"ce": "x"}),
    "overrides that are a mapping": rewrite(".hydra/overrides.yaml", "a: b\n"),
    "overrides that are numbers": rewrite(".hydra/overrides.yaml", "[1, 2]\n"),
    "overrides that are code": rewrite(".hydra/overrides.yaml", "- !!python/object/apply:os.system ['touch MARKER']\n"),
    "overrides without end": rewrite(".hydra/overrides.yaml", "[" * 100_000),
    "a config that is code": rewrite(".hydra/config.yaml", "seed: !!python/object/apply:os.system ['touch MARKER']\n"),
    "a config of aliases": rewrite(".hydra/config.yaml", "a: &a [1]\nb: [*a, *a]\n"),
    "a config that is a list": rewrite(".hydra/config.yaml", "[1, 2]\n"),
    "a config that is rubbish": rewrite(".hydra/config.yaml", "\x00"),
    "a config that is too large": rewrite(".hydra/config.yaml", "x: " + "y" * 2_000_000),
    "overrides that are a pipe": pipe(".hydra/overrides.yaml"),
    "a config that is a pipe": pipe(".hydra/config.yaml"),
    "a record without a command": rewrite("run.json", '{"stages": {}, "status": "interrupted"}'),
    "a record of a command that is none": rewrite("run.json", '{"stages": {}, "command": ["pretrain"]}'),
    "a record of a command elsewhere": rewrite("run.json", '{"stages": {}, "command": "../../outside/evil"}'),
    "a record of words": rewrite("run.json", '"pretrain"'),
    "a record without end": rewrite("run.json", "[" * 200_000),
    "configs that lie elsewhere": link(".hydra", "OUTSIDE"),
    "a stage that lies elsewhere": link("pretrain", "OUTSIDE"),
    "a lock that is a file elsewhere": link(".lock", "OUTSIDE/precious.txt"),
    "metrics that are a file elsewhere": link("pretrain/metrics.jsonl", "OUTSIDE/precious.txt"),
    "a checkpoint that is a file elsewhere": link("pretrain/last.pt", "OUTSIDE/last.pt"),
    "a log that is a file elsewhere": link("error.log", "OUTSIDE/precious.txt"),
    "an attempt that lies elsewhere": link(".hydra/attempt-2", "OUTSIDE"),
    "curves that lie elsewhere": link("tensorboard", "OUTSIDE"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_a_run_is_what_it_seems(name: str, stopped: Path, distillctl, tmp_path: Path):
    refused(Payload(name, "pretrain resume=run tracker=tensorboard"), FOLDERS[name], stopped, distillctl, tmp_path)


WORDS_OF_SWEEP = ["teacher=resnet8", "pretrain.epochs=1", "dataset.subset=100", "trainer.device=cpu", "trainer.threads=1"]
SWEEP = {
    "format_version": 1,
    "command": "pretrain",
    "words": [*WORDS_OF_SWEEP, "seed=0"],
    "jobs": [[*WORDS_OF_SWEEP, "seed=0"]],
    "job": None,
}


def sweep_of(**entries: object):
    return lambda sandbox: (sandbox.work / "sweep/jobs.json").write_text(json.dumps(SWEEP | entries))


def link_in_sweep(name: str, target: str):
    return lambda sandbox: (sandbox.work / "sweep" / name).symlink_to(sandbox.filled(target))


SWEEPS = {
    "a job that lies elsewhere": link_in_sweep("0", "OUTSIDE"),
    "a lock that is a file elsewhere": link_in_sweep(".lock", "OUTSIDE/precious.txt"),
    "a table that is a file elsewhere": link_in_sweep("sweep.csv", "OUTSIDE/precious.txt"),
    "a command that is a list": sweep_of(command=[]),
    "more jobs than anybody has": sweep_of(jobs=[["seed=0"]] * 20_000),
    "words of jobs without end": sweep_of(words=["seed=range(0,1000000000)"]),
    "words that say how Hydra works": sweep_of(words=["seed=0", "hydra.callbacks.e._target_=os.system"]),
    "words of which one leads elsewhere": sweep_of(words=["optimizer=choice('../../outside/evil',sgd)"]),
}


@pytest.mark.parametrize("name", SWEEPS)
def test_a_folder_of_a_sweep_is_what_it_seems(name: str, distillctl, tmp_path: Path):
    sandbox = Sandbox(tmp_path)
    (sandbox.work / "sweep").mkdir()
    (sandbox.work / "sweep/jobs.json").write_text(json.dumps(SWEEP))
    SWEEPS[name](sandbox)
    payload = Payload(name, "pretrain resume=sweep")
    finished = distillctl(*sandbox.lay_out(payload), cwd=sandbox.work)
    sandbox.check(payload, finished.code, finished.err)


def test_curves_of_a_new_run_land_in_no_other_folder(distillctl, tmp_path: Path):
    sandbox = Sandbox(tmp_path)
    (sandbox.work / "run").mkdir()
    (sandbox.work / "run/tensorboard").symlink_to(sandbox.outside)
    payload = Payload("curves", f"pretrain {' '.join(WORDS_OF_SWEEP)} tracker=tensorboard hydra.run.dir=run")
    finished = distillctl(*sandbox.lay_out(payload), cwd=sandbox.work)
    sandbox.check(payload, finished.code, finished.err)
