"""The run folder: what is swept, what is not overwritten, and a log that must never stop a run."""

import fcntl
import json
import os
import subprocess
import sys

import pytest

from distillctl.errors import CheckpointError, MachineError
from distillctl.outputs import MetricsLog, RunFolder, read_run, record_failure

HOLDING = """
import sys
from pathlib import Path
from distillctl.outputs import RunFolder
run = RunFolder(Path(sys.argv[1]), "train", 0)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_log_on_a_full_disk_warns_once_and_stops_nothing(tmp_path, monkeypatch, capsys):
    log = MetricsLog(tmp_path / "metrics.jsonl")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fdopen", full)
    log.write({"step": 1})
    log.write({"step": 2})
    assert capsys.readouterr().err == f"warning: {log.path}: No space left on device; going on without this log\n"


def test_half_a_line_is_taken_back(tmp_path, monkeypatch, capsys):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write({"step": 1})

    class Filling:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, text):
            self.file.write(text[:5])
            self.file.flush()
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fdopen", lambda handle, mode: Filling(open(handle, mode)))
    log.write({"step": 2})
    monkeypatch.undo()
    assert log.path.read_text() == '{"step": 1}\n'
    assert "No space left" in capsys.readouterr().err


def test_a_log_is_cut_to_what_a_checkpoint_knows(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    assert log.size() == 0
    log.cut(0)
    log.write({"step": 1, "loss": float("nan")})
    size = log.size()
    log.write({"step": 2})
    log.cut(size)
    assert log.path.read_text() == '{"step": 1, "loss": null}\n'
    log.cut(10**6)
    assert log.size() == size


def test_what_a_killed_process_had_begun_is_swept_and_nothing_else(tmp_path):
    run = RunFolder(tmp_path / "run", "train", 0)
    for place in (run.path, run.stage("distill")):
        (place / ".last.pt.123.tmp").write_text("half")
        (place / "mine.tmp").write_text("whole")
    again = RunFolder(tmp_path / "run", "train", 0)
    again.stage("distill")
    assert not list(run.path.glob("**/.*.tmp"))
    assert len(list(run.path.glob("**/mine.tmp"))) == 2


def test_a_folder_that_another_process_holds_is_refused_and_its_record_left_alone(tmp_path):
    folder = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLDING, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(MachineError, match=f"is in use by pid {holder.pid} on .* since .*; wait for it or stop it"):
            RunFolder(folder, "train", 0)
        record_failure(folder, "not mine to say", 5)
        assert read_run(folder)["status"] == "running"
        assert read_run(folder)["error"] is None
    finally:
        holder.kill()
        holder.wait()
    record_failure(folder, "out of luck", 5)
    assert (read_run(folder)["status"], read_run(folder)["error"]) == ("failed", "out of luck")
    assert RunFolder(folder, "train", 0).record["status"] == "running"


def test_the_lock_is_not_inherited_by_workers(tmp_path):
    run = RunFolder(tmp_path / "run", "train", 0)
    child = os.fork()
    if not child:
        try:
            fcntl.lockf(run.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"stages": []}', "\x00"])
def test_a_record_that_is_none_is_one_line(content, tmp_path):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(CheckpointError) as error:
        read_run(tmp_path)
    assert "\n" not in str(error.value)


def test_a_record_never_holds_what_json_does_not_know(tmp_path):
    run = RunFolder(tmp_path / "run", "train", 0)
    run.finish_stage("distill", {"val_nll": float("inf")})
    assert json.loads((run.path / "run.json").read_text())["stages"]["distill"]["val_nll"] is None


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="Not a directory; set hydra.run.dir"):
        RunFolder(tmp_path / "file" / "run", "train", 0)
