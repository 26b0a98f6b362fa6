"""Files that anybody may have made: only regular ones are opened, and nothing is written through a link."""

import json
import os
import socket
from pathlib import Path

import pytest

from distillctl import files, outputs, state
from distillctl.commands import predict
from distillctl.config import PredictConfig
from distillctl.data.image.files import BadImage, open_image
from distillctl.errors import CheckpointError, MachineError, UserError
from distillctl.inputs.image import Images
from distillctl.models.shipping import read_record
from distillctl.models.weights import read_weights


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def sock(path: Path) -> Path:
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket is short
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)
    return path


def device(path: Path) -> Path:
    path.symlink_to("/dev/zero")
    return path


def endless(path: Path) -> Path:
    """Larger than any memory, and takes no room."""
    with path.open("wb") as file:
        file.truncate(2**43)
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    return path


SPECIAL = {"pipe": pipe, "socket": sock, "device": device, "endless": endless, "folder": folder}
special = pytest.mark.parametrize("make", SPECIAL.values(), ids=SPECIAL)


@special
def test_only_a_regular_file_is_opened(tmp_path, make):
    with pytest.raises(OSError, match=r"not a regular file|larger than the memory"):
        files.open_file(make(tmp_path / "x"))


def read_as_image(path: Path) -> object:
    return open_image(path, 10**6)


def read_as_run(path: Path) -> object:
    path.rename(path.parent / "run.json")
    return outputs.read_run(path.parent)


def read_as_record(path: Path) -> object:
    weights = path.with_name("student.safetensors")
    weights.write_bytes(b"")
    path.rename(path.with_name("student.json"))
    return read_record(weights, "student.checkpoint")


def read_as_weights(path: Path) -> object:
    return read_weights(path, "student.checkpoint")


@special
@pytest.mark.parametrize("read", [read_as_image, read_as_run, read_as_record, read_as_weights, state.load])
def test_whatever_reads_refuses_what_is_no_file_in_one_line(tmp_path, make, read):
    with pytest.raises(UserError) as error:
        read(make(tmp_path / "x"))
    assert "\n" not in str(error.value)
    assert error.value.exit_code in (3, 4)


def test_a_file_is_read_as_far_as_its_size_says():
    if not Path("/proc/self/pagemap").exists():
        pytest.skip("this system has no /proc")
    assert files.read_bytes("/proc/self/pagemap") == b""  # regular, of size 0, and of 256 TiB


def test_text_has_a_limit(tmp_path):
    (tmp_path / "x").write_text("long")
    with pytest.raises(OSError, match="larger than 3 bytes"):
        files.read_text(tmp_path / "x", 3)


@pytest.mark.parametrize("content", ["[" * 200_000, '{"a": NaN}', "-Infinity", "", "\x00", "{"])
def test_what_is_no_json_is_one_kind_of_error(tmp_path, content):
    (tmp_path / "x").write_text(content)
    with pytest.raises(ValueError, match=r"."):
        files.read_json(tmp_path / "x")


def test_a_name_with_a_nul_is_no_name():
    with pytest.raises(OSError, match="NUL"):
        files.open_file("a\0b")


def test_links_are_followed_only_where_they_may_be(tmp_path):
    (tmp_path / "file").write_text("{}")
    (tmp_path / "link").symlink_to("file")
    assert files.read_json(tmp_path / "link") == {}
    with pytest.raises(OSError, match="symbolic link"):
        files.read_json(tmp_path / "link", links=False)


@pytest.mark.parametrize("kind", ["file", "nothing"])
def test_nothing_of_a_run_is_written_through_a_link(tmp_path, kind, capsys):
    """In a run's folder from elsewhere, its lock, its log and its temporary files may be links to anything."""
    victim, run = tmp_path / "victim", tmp_path / "run"
    run.mkdir()
    if kind == "file":
        victim.write_text("mine")
    for name in (".lock", "metrics.jsonl", f".run.json.{os.getpid()}.tmp", "run.json"):
        (run / name).symlink_to(victim)
    with pytest.raises(MachineError):
        outputs.RunFolder(run, "train", 0)
    outputs.record_failure(run, "why", 4)
    outputs.MetricsLog(run / "metrics.jsonl").write({"step": 1})
    assert "going on without this log" in capsys.readouterr().err
    state.write_json(run / "run.json", {"status": "done"})
    assert not (run / "run.json").is_symlink()
    assert json.loads((run / "run.json").read_text()) == {"status": "done"}
    assert victim.read_text() == "mine" if kind == "file" else not victim.exists()


def test_a_stage_is_no_link_to_another_folder(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/.x.tmp").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/distill").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="symbolic link"):
        outputs.RunFolder(tmp_path / "run", "train", 0).stage("distill")
    assert (tmp_path / "elsewhere/.x.tmp").exists()


def test_what_is_written_is_shared_as_the_umask_says(tmp_path):
    before = os.umask(0o002)
    try:
        os.close(files.open_to_write(tmp_path / "ours", os.O_RDWR))
        state.write_json(tmp_path / "json", {})
    finally:
        os.umask(before)
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("ours", "json")} == {0o664}


def test_an_image_that_is_a_pipe_is_one_line_of_predict(tmp_path):
    pipe(tmp_path / "cat.png")
    inputs = Images(("ant", "bee"), 8, (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(BadImage, match="named pipe"):
        inputs.read([item.what for item in predict.expand([str(tmp_path / "cat.png")], inputs)], PredictConfig())


@pytest.mark.parametrize(
    ("owner", "mode", "ours"),
    [("me", 0o644, True), ("root", 0o644, True), ("other", 0o644, False), ("me", 0o646, False), ("other", 0o600, False)],
)
def test_what_is_ours_no_stranger_may_change(tmp_path, owner, mode, ours):
    (tmp_path / "x").touch()
    info = list(os.stat(tmp_path / "x"))
    info[0], info[4] = 0o100000 | mode, {"me": os.geteuid(), "root": 0, "other": os.geteuid() + 12345}[owner]
    assert files.is_ours(os.stat_result(info)) is ours


def test_a_group_of_several_may_change_nothing_of_ours(tmp_path, monkeypatch):
    (tmp_path / "x").touch()
    (tmp_path / "x").chmod(0o664)
    for alone in (True, False):
        monkeypatch.setattr(files, "_is_private", lambda group, alone=alone: alone)
        assert files.is_ours(os.stat(tmp_path / "x")) is alone
