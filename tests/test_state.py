"""Checkpoint files: what is written comes back, a crash at any point leaves one, and damage is noticed."""

import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from processes import CEILING_S

from distillctl import state
from distillctl.errors import CheckpointError, Diverged, MachineError

STATE = {
    "method": {"weight": torch.arange(12.0).view(3, 4), "half": torch.ones(2, dtype=torch.bfloat16), "count": torch.tensor(7)},
    "optimizers": {"student": {"state": {0: {"momentum_buffer": None}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99)}]}},
    "ema": None,
    "history": [{"epoch": 1, "ce": 0.25}],
    "step": 3,
    "name": "größer",
}


def numbered(number: int, size: int = 3000) -> dict:
    return {"number": number, "ballast": torch.full((size,), float(number))}


def newest(folder: Path) -> tuple[int | None, list[str]]:
    warnings: list[str] = []
    found = state.newest(folder, warnings.append)
    if found is None:
        return None, warnings
    content = found[0]
    assert torch.equal(content["ballast"], torch.full_like(content["ballast"], float(content["number"])))
    return content["number"], warnings


def equal(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))
    return type(one) is type(other) and one == other


# round trip


def test_what_is_saved_comes_back_equal(tmp_path):
    file = state.save(tmp_path, STATE, {"stage": "distill", "step": 3})
    content, description = state.load(file)
    assert equal(content, STATE)
    assert description == {"format_version": state.FORMAT_VERSION, "stage": "distill", "step": 3}


def test_the_layout_of_a_tensor_comes_back_too(tmp_path):
    lying = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    content, _ = state.load(state.save(tmp_path, {"weight": lying}, {}))
    assert content["weight"].stride() == lying.stride()


def test_the_footer_says_how_long_the_parts_are_and_what_they_add_up_to(tmp_path):
    content = state.save(tmp_path, STATE, {"step": 3}).read_bytes()
    payload, about, digest, magic = state.FOOTER.unpack(content[-state.FOOTER.size :])
    assert magic == b"DSTLCTL1"
    assert payload + about + state.FOOTER.size == len(content)
    assert json.loads(content[payload : payload + about])["step"] == 3
    assert hashlib.sha256(content[: payload + about]).digest() == digest


def test_a_folder_keeps_the_newest_and_the_one_before(tmp_path):
    assert newest(tmp_path) == (None, [])
    for number in (1, 2, 3):
        state.save(tmp_path, numbered(number), {})
        assert newest(tmp_path) == (number, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pt", "previous.pt"]
    assert state.load(tmp_path / "previous.pt")[0]["number"] == 2


def test_a_checkpoint_of_a_newer_version_is_refused_and_not_passed_over(tmp_path, monkeypatch):
    state.save(tmp_path, numbered(1), {})
    monkeypatch.setattr(state, "FORMAT_VERSION", 2)
    file = state.save(tmp_path, numbered(2), {"versions": {"distillctl": "7.1"}})
    monkeypatch.setattr(state, "FORMAT_VERSION", 1)
    before = file.read_bytes()
    with pytest.raises(CheckpointError, match=r"written by distillctl 7\.1 in format 2, this one reads 1; upgrade"):
        newest(tmp_path)
    assert file.read_bytes() == before


def test_a_missing_file_is_one_line():
    with pytest.raises(CheckpointError, match=r"/nowhere/last\.pt: no such file"):
        state.load(Path("/nowhere/last.pt"))


# what may not be kept


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"opt": {"param_groups": [{"lr": np.float64(0.1)}]}}, r"state\['opt'\]\['param_groups'\]\[0\]\['lr'\]: numpy.float64"),
        ({"path": Path("x")}, r"state\['path'\]: pathlib"),
        ({"array": np.zeros(2)}, r"state\['array'\]: numpy.ndarray"),
        ({(1, 2): 3}, r"key \(1, 2\)"),
        ({"set": {1}}, r"builtins.set"),
    ],
)
def test_what_could_not_be_loaded_is_refused_at_save_by_its_name(tmp_path, value, place):
    with pytest.raises(TypeError, match=place):
        state.save(tmp_path, value, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_a_tensor_that_is_not_finite_is_never_kept(tmp_path, broken):
    state.save(tmp_path, numbered(1), {})
    with pytest.raises(Diverged, match=r"state\['method'\]\['w'\] is no longer finite"):
        state.save(tmp_path, {"method": {"w": torch.tensor([0.0, broken])}}, {})
    assert newest(tmp_path) == (1, [])


# damage


def damaged(content: bytes, kind: str, place: float) -> bytes:
    position = min(int(place * len(content)), len(content) - 1)
    if kind == "flip":
        return content[:position] + bytes([content[position] ^ (1 << int(place * 997) % 8)]) + content[position + 1 :]
    if kind == "truncate":
        return content[:position]
    if kind == "zero":
        zeroed = content[:position] + bytes(min(4096, len(content) - position)) + content[position + 4096 :]
        return zeroed if zeroed != content else content[:-1]
    return b""


DAMAGE = st.tuples(st.sampled_from(["flip", "truncate", "zero", "empty"]), st.floats(0, 0.999999))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(DAMAGE, DAMAGE)
@example(("flip", 0.999999), ("flip", 0.0))
@example(("truncate", 0.999999), ("empty", 0.0))
def test_a_damaged_checkpoint_is_passed_over_and_two_are_one_line(tmp_path_factory, one, other):
    folder = tmp_path_factory.mktemp("damage")
    for number in (1, 2):
        state.save(folder, numbered(number), {"number": number})
    file = folder / "last.pt"
    content, broken = file.read_bytes(), damaged(file.read_bytes(), *one)
    file.write_bytes(broken)
    number, warnings = newest(folder)
    assert number == 1
    assert len(warnings) == 1
    assert str(file) in warnings[0]
    assert "going on from previous.pt" in warnings[0]
    assert (folder / "damaged.pt").read_bytes() == broken
    file.write_bytes(content)
    assert newest(folder) == (2, [])
    file.write_bytes(broken)
    before = folder / "previous.pt"
    before.write_bytes(damaged(before.read_bytes(), *other))
    with pytest.raises(CheckpointError) as error:
        newest(folder)
    assert "\n" not in str(error.value)
    assert "no checkpoint is left" in str(error.value)


def test_a_save_after_damage_does_not_put_the_damaged_one_in_the_place_of_the_good_one(tmp_path, monkeypatch):
    for number in (1, 2):
        state.save(tmp_path, numbered(number), {})
    (tmp_path / "last.pt").write_bytes(b"")
    assert newest(tmp_path)[0] == 1
    real = os.replace

    def crashing(source, target, **folders):
        if str(source).endswith(".tmp"):
            raise SystemExit("killed before the last rename")
        real(source, target, **folders)

    monkeypatch.setattr(os, "replace", crashing)
    with pytest.raises(SystemExit):
        state.save(tmp_path, numbered(3), {})
    assert newest(tmp_path) == (1, [])


@pytest.mark.parametrize(
    "content",
    [
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"<html>404</html>",
        b"{}",
        b"PK\x03\x04" + bytes(90),
        bytes(56),
        b"DSTLCTL1",
        bytes(48) + b"DSTLCTL1",
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, content):
    file = tmp_path / "last.pt"
    file.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        state.load(file)
    assert "\n" not in str(error.value)
    assert str(file) in str(error.value)


def sealed(payload: bytes, about: bytes) -> bytes:
    """A file whose footer is right whatever is in it."""
    return payload + about + state.FOOTER.pack(len(payload), len(about), hashlib.sha256(payload + about).digest(), state.MAGIC)


def test_code_in_a_checkpoint_whose_checksum_is_right_does_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "marker"),))

    buffer = io.BytesIO()
    torch.save({"method": Evil()}, buffer)
    (tmp_path / "last.pt").write_bytes(sealed(buffer.getvalue(), b'{"format_version": 1}'))
    with pytest.raises(CheckpointError) as error:
        state.load(tmp_path / "last.pt")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("about", [b"", b"[]", b'"x"', b"\xff", b'{"format_version": "x"}', b'{"step": 3}'])
def test_a_description_that_makes_no_sense_is_one_line(tmp_path, about):
    (tmp_path / "last.pt").write_bytes(sealed(b"payload", about))
    with pytest.raises(CheckpointError) as error:
        state.load(tmp_path / "last.pt")
    assert "\n" not in str(error.value)


# crashes

CRASHING = """
import os, signal, sys
from pathlib import Path
import torch
from distillctl import state

real_open = open


class Crash:
    \"\"\"Kills the process at the n-th point: before and after each call of the writer, and in the middle of a write.\"\"\"

    def __init__(self, at):
        self.at, self.passed = at, 0

    def point(self):
        self.passed += 1
        if self.passed == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, call):
        def calling(*arguments, **folders):
            self.point()
            answer = call(*arguments, **folders)
            self.point()
            return answer
        return calling

    def opening(self, handle, mode):
        file = real_open(handle, mode)
        return Writing(file, self) if mode == "wb" else file


class Writing:
    def __init__(self, file, crash):
        self.file, self.crash, self.flush, self.fileno = file, crash, file.flush, file.fileno

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, piece):
        self.file.write(piece[: len(piece) // 2])
        self.file.flush()
        self.crash.point()
        self.file.write(piece[len(piece) // 2 :])
        self.file.flush()
        self.crash.point()


def crashing(folder, at):
    crash = Crash(at)
    os.fdopen, os.fsync, os.replace = crash.opening, crash.around(os.fsync), crash.around(os.replace)
    for number in (1, 2, 3):
        state.save(folder, {"number": number, "ballast": torch.full((3000,), float(number))}, {})
        with real_open(folder / "returned", "w") as file:
            file.write(str(number))


for at in range(1, 1000):
    folder = Path(sys.argv[1]) / str(at)
    folder.mkdir()
    child = os.fork()
    if not child:
        crashing(folder, at)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
"""


def test_a_kill_at_any_point_of_a_save_leaves_the_last_one_that_returned(tmp_path):
    subprocess.run([sys.executable, "-c", CRASHING, str(tmp_path)], check=True, timeout=CEILING_S)
    folders = sorted(tmp_path.iterdir(), key=lambda folder: int(folder.name))
    assert len(folders) == 3 * 12 + 2 * 2 + 1  # six in writing, two for each fsync and rename; the first save has nothing to rotate
    left_behind = 0
    for folder in folders:
        returned = int((folder / "returned").read_text()) if (folder / "returned").exists() else 0
        number, warnings = newest(folder)
        assert (number or 0) in (returned, returned + 1), f"killed at point {folder.name}: {number} after {returned} returned"
        assert warnings == []
        left_behind += len(list(folder.glob(".*.tmp")))
    assert returned == 3  # nobody killed the last one
    assert left_behind > 10


FILLING = """
import os, resource, sys
from pathlib import Path
import torch
from distillctl import state
from distillctl.errors import UserError
folder, limit = Path(sys.argv[1]), int(sys.argv[2])
state.save(folder, {"number": 1, "ballast": torch.full((3000,), 1.0)}, {})
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    for number in range(2, 100):
        state.save(folder, {"number": number, "ballast": torch.full((300_000 * (number if not limit else 1),), float(number))}, {})
except UserError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def fill(folder: Path, limit: int) -> str:
    found = subprocess.run(
        [sys.executable, "-c", FILLING, str(folder), str(limit)], capture_output=True, text=True, timeout=CEILING_S, check=False
    )
    assert found.returncode == MachineError.exit_code == 5, found.stderr
    assert len(found.stdout.splitlines()) == 1
    assert str(folder / "last.pt") in found.stdout
    assert "MiB; what was saved before is intact, free some space and resume" in found.stdout
    assert not list(folder.glob(".*.tmp"))
    return found.stdout


def test_a_file_that_may_not_grow_costs_the_new_checkpoint_and_not_the_old(tmp_path):
    assert "File too large while writing 1.1 MiB" in fill(tmp_path, 500_000)
    assert newest(tmp_path) == (1, [])


def test_a_full_disk_costs_the_new_checkpoint_and_not_the_old(tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        assert "No space left on device" in fill(place, 0)
        number, warnings = newest(place)
        assert number >= 1
        assert warnings == []
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_folder_that_is_gone_is_one_line(tmp_path):
    with pytest.raises(MachineError, match="No such file or directory while writing 0.0 MiB") as error:
        state.save(tmp_path / "gone", {"step": 1}, {})
    assert "\n" not in str(error.value)
    assert "free some space" not in str(error.value)
