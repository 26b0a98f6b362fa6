"""`import distillctl`: what docs/python.md shows works as it stands, and is the same as the command line."""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from processes import StopAfter, record, same_stage
from safetensors.torch import load_file, save_file

import distillctl
from distillctl.commands import runs
from distillctl.errors import CheckpointError, ConfigError, Interrupted, MachineError

DOCUMENT = Path(__file__).parent.parent / "docs" / "python.md"
QUICK = ("student=resnet8", "distill.epochs=2", "dataset.subset=160", "trainer.batch_size=32", "trainer.device=cpu", "trainer.threads=1")


class Stop(StopAfter):
    """In the place of the signals."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def quick(teacher: Path) -> distillctl.Experiment:
    return distillctl.configure("distill", f"teacher.checkpoint={teacher}", "trainer.precision=fp32", *QUICK)


def test_importing_it_imports_no_torch():
    code = "import sys, distillctl; dir(distillctl); assert not {'torch', 'hydra', 'omegaconf'} & set(sys.modules), 'slow import'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_all_names_are_there_and_others_are_not():
    for name in distillctl.__all__:
        assert getattr(distillctl, name).__doc__, name
    assert set(distillctl.__all__) <= set(dir(distillctl))
    with pytest.raises(AttributeError, match="teach"):
        distillctl.teach  # noqa: B018


def test_what_the_document_shows_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    shown: dict = {}
    for block in blocks:
        exec(compile(block, str(DOCUMENT), "exec"), shown)
    assert len(blocks) == 6
    assert shown["todo"].writes[0] == "run.json"
    assert shown["learnt"]["stream"]["samples"] == 200
    assert [row["model"] for row in shown["summary"]["rows"]] == ["teacher", "distilled", "alone"]
    assert (tmp_path / "runs/first/distill/load_student.py").is_file()
    assert shown["own"].grad is not None
    assert set(shown["gains"]) == {1, 4}
    assert "trainer.batch_size=many: expected a whole number" in capsys.readouterr().out


def test_a_run_that_is_stopped_goes_on_from_python_to_the_same_bits(tiny_run, tmp_path, monkeypatch):
    teacher = tiny_run / "pretrain"
    whole = distillctl.run(quick(teacher), tmp_path / "whole")
    monkeypatch.setattr(runs, "StopRequest", lambda: Stop(6))
    with pytest.raises(Interrupted, match="distillctl distill resume="):
        distillctl.run(quick(teacher), tmp_path / "stopped")
    monkeypatch.undo()
    assert (record(tmp_path / "stopped")["status"], record(tmp_path / "stopped")["exit_code"]) == ("interrupted", 143)
    assert distillctl.resume(tmp_path / "stopped")["top1"] == whole["top1"]
    assert same_stage(tmp_path / "whole/distill", tmp_path / "stopped/distill") == []
    assert distillctl.resume(tmp_path / "stopped")["top1"] == whole["top1"]


def test_the_command_line_goes_on_with_a_run_of_python(tiny_run, tmp_path, monkeypatch, distillctl):
    import distillctl as interface

    monkeypatch.setattr(runs, "StopRequest", lambda: Stop(6))
    with pytest.raises(Interrupted):
        interface.run(quick(tiny_run / "pretrain"), tmp_path / "run")
    monkeypatch.undo()
    changed = distillctl("distill", f"resume={tmp_path / 'run'}", "optimizer.lr=1", cwd=tmp_path)
    assert changed.code == 2
    assert "optimizer.lr was" in changed.err
    finished = distillctl("distill", f"resume={tmp_path / 'run'}", cwd=tmp_path)
    assert finished.code == 0, finished.err
    assert record(tmp_path / "run")["status"] == "done"


def test_it_leaves_hydra_and_the_working_directory_as_they_were():
    folder, marker = Path.cwd(), object()
    before, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, marker
    try:
        distillctl.plan(distillctl.configure("train", "student=resnet8"))
        with pytest.raises(ConfigError):
            distillctl.configure("train", "student=resnet888")
        assert GlobalHydra.instance().hydra is marker
    finally:
        GlobalHydra.instance().hydra = before
    assert Path.cwd() == folder


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        ("trian", [], "did you mean train?"),
        ("evaluate", [], "no command that trains"),
        ("streem", [], "did you mean stream?"),
        ("stream", ["stream.samples=0"], "stream.samples=0 must be >= 1"),
        ("train", ["stunt=1"], "did you mean student?"),
        ("train", ["--trust"], "a flag of the command line"),
        ("train", ["hydra.run.dir=there"], "an argument of run()"),
        ("train", ["resume=there"], "distillctl.resume('there')"),
        ("train", ["trainer.batch_size=many"], "expected a whole number"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(command, words, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        distillctl.configure(command, *words)


STREAM = ("stream.samples=120", "stream.release_every=50", "trainer.device=cpu", "trainer.threads=1", "trainer.precision=fp32")


def test_a_stream_is_planned_run_and_gone_on_with_as_by_the_command_line(tmp_path, monkeypatch):
    experiment = distillctl.configure("stream", *STREAM)
    assert distillctl.plan(experiment) == distillctl.plan(experiment)
    whole = distillctl.run(experiment, tmp_path / "whole")
    monkeypatch.setattr("distillctl.interruption.StopRequest", lambda: Stop(6))
    with pytest.raises(Interrupted, match="distillctl stream resume="):
        distillctl.run(experiment, tmp_path / "stopped")
    monkeypatch.undo()
    assert record(tmp_path / "stopped")["status"] == "interrupted"
    assert distillctl.resume(tmp_path / "stopped") == whole
    assert distillctl.resume(tmp_path / "stopped") == whole
    assert [row["model"] for row in whole["rows"]] == ["average", "student", "alone"]
    with pytest.raises(ConfigError, match="holds a run already"):
        distillctl.run(experiment, tmp_path / "whole")


@pytest.mark.parametrize("word", ["action=history", "action=rollback"])
def test_what_is_no_run_of_a_stream_is_for_the_command_line(word, tmp_path):
    experiment = distillctl.configure("stream", word, "folder=there")
    with pytest.raises(ConfigError, match=f"{word} learns nothing"):
        distillctl.plan(experiment)
    with pytest.raises(ConfigError, match=f"{word} is no run; it is for the command line"):
        distillctl.run(experiment, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_stream_that_cannot_be_is_found_by_the_plan():
    with pytest.raises(ConfigError, match="no teacher is named"):
        distillctl.plan(distillctl.configure("stream", "stream.teacher=model"))


def test_settings_that_cannot_be_are_found_by_the_plan():
    with pytest.raises(ConfigError, match="temperature=-1 must be > 0"):
        distillctl.plan(distillctl.configure("train", "loss.kd.temperature=-1"))


def test_a_config_is_not_changed_once_it_is_composed():
    experiment = distillctl.configure("train", "trainer.batch_size=32")
    with pytest.raises(Exception, match="read-only"):
        experiment.config.trainer.batch_size = 64
    assert experiment.config.trainer.batch_size == 32


def test_a_folder_of_ones_own_configs_is_found(tmp_path):
    own = tmp_path / "it's mine, = all" / "loss"
    own.mkdir(parents=True)
    (own / "plain.yaml").write_text("ce:\n  _target_: distillctl.losses.logits.CrossEntropy\n  weight: 0.25\n")
    experiment = distillctl.configure("distill", "teacher.checkpoint=run", "loss=plain", config_dir=own.parent)
    assert experiment.config.loss.ce.weight == 0.25
    with pytest.raises(ConfigError, match="no such folder"):
        distillctl.configure("train", config_dir=tmp_path / "nowhere")


def test_a_run_is_neither_written_over_nor_begun_where_it_cannot_be(tiny_run, tmp_path):
    experiment = distillctl.configure("train", "student=resnet8")
    with pytest.raises(ConfigError, match="holds a run already"):
        distillctl.run(experiment, tiny_run)
    problems = []

    def elsewhere():
        try:
            distillctl.run(experiment, tmp_path / "run")
        except MachineError as error:
            problems.append(str(error))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert "main thread" in problems[0]
    assert not os.listdir(tmp_path)


def test_a_model_is_loaded_from_a_run_a_stage_or_a_file(tiny_run, tmp_path):
    for path in (tiny_run, tiny_run / "pretrain", tiny_run / "distill/student.safetensors"):
        model = distillctl.load(path)
        assert model.classes == tuple("0123456789")
        assert not model.training
    with pytest.raises(CheckpointError, match="no such file"):
        distillctl.load(tmp_path / "nowhere")
    alone = tmp_path / "student.safetensors"
    save_file(load_file(tiny_run / "distill/student.safetensors"), alone)
    with pytest.raises(CheckpointError, match="no record beside it"):
        distillctl.load(alone)
