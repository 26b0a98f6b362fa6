"""What becomes of the models of a stream: which are kept, which go, what a rollback can put back; by files alone, and in a run that breaks off."""

import hashlib
import shutil
from pathlib import Path

import pytest
from processes import StopAfter, configured
from streams import FAST, history

from distillctl import state
from distillctl.errors import ConfigError, MachineError
from distillctl.runs.session import session
from distillctl.runs.stream.driver import Pass
from distillctl.runs.stream.releases import Releases, before, current, outdated, versions
from distillctl.runs.stream.results import conclude


def content(number: int) -> bytes:
    return f"model {number}".encode()


class Store(Releases):
    """A run's folder in which models are a few bytes."""

    def release(self, keep: int | None = None) -> int:
        lines = self.history()
        number = 1 + max((line["version"] for line in lines if line["what"] == "released"), default=0)
        place = self.version(number)
        place.mkdir(parents=True)
        (place / "student.safetensors").write_bytes(content(number))
        (place / "load_student.py").write_text("pass")
        line = {"what": "released", "version": number, "position": 10 * number, "held_out": 5, "accuracy": 0.5, "deployed": current(lines)}
        line |= {"deployed_accuracy": None, "sha256": hashlib.sha256(content(number)).hexdigest()}
        if gone := outdated([*lines, line], keep):
            line["pruned"] = gone
        with self.locked():
            self.note(line)
        return number

    def there(self) -> list[int]:
        return sorted(int(place.name) for place in self.versions.iterdir())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_without_a_number_all_versions_stay(store: Store):
    for _ in range(6):
        store.release()
    assert store.there() == versions(store.history()) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("keep", [2, 3])
def test_the_newest_stay_and_the_history_says_which_are_gone(store: Store, keep: int):
    for _ in range(6):
        store.release(keep)
    assert store.there() == versions(store.history()) == list(range(7 - keep, 7))
    assert [line.get("pruned") for line in store.history()] == [None] * keep + [[number] for number in range(1, 7 - keep)]


def test_what_a_rollback_would_put_back_and_what_was_deployed_stay(store: Store):
    for _ in range(5):
        store.release()
    store.roll_back(2)
    store.release(2)  # version 6: before it version 2 was deployed, and a rollback takes version 5
    assert store.there() == [2, 5, 6]
    assert before(store.history()) == 5
    store.roll_back(None)
    assert (store.folder / "student.safetensors").read_bytes() == content(5)
    store.roll_back(None)  # and so back over what is gone
    assert (store.folder / "student.safetensors").read_bytes() == content(2)
    with pytest.raises(ConfigError, match="version 2 is the first"):
        store.roll_back(None)


def test_a_version_that_is_gone_is_not_put_back(store: Store):
    for _ in range(4):
        store.release(2)
    with pytest.raises(
        ConfigError, match=r"version=1: it was pruned, by stream\.keep_versions; this run still has 3, 4; take one of these"
    ):
        store.roll_back(1)
    with pytest.raises(ConfigError, match="this run deployed 1, 2, 3, 4"):
        store.roll_back(9)
    assert (store.folder / "student.safetensors").read_bytes() == content(4)


def test_numbers_are_not_given_twice(store: Store):
    assert [store.release(2) for _ in range(5)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("left", [[], ["student.safetensors"]])
def test_a_crash_among_the_files_of_a_version_that_goes_is_mended(store: Store, monkeypatch: pytest.MonkeyPatch, left: list[str]):
    for _ in range(3):
        store.release(3)

    class Crash(BaseException):
        pass

    def breaks_off(place: Path) -> None:
        for file in sorted(place.iterdir()):
            if file.name not in left:
                file.unlink()
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", breaks_off)
        with pytest.raises(Crash):
            store.release(3)
    assert store.there() == [1, 2, 3, 4]
    assert (store.folder / "student.safetensors").read_bytes() == content(4)
    with store.locked():
        store.settle()
    assert store.there() == [2, 3, 4]


def test_a_version_that_cannot_be_removed_is_a_line(store: Store, monkeypatch: pytest.MonkeyPatch):
    for _ in range(2):
        store.release(2)

    def denied(place: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(shutil, "rmtree", denied)
    with pytest.raises(MachineError, match=r"versions/0001: a version that is pruned cannot be removed \(Permission denied\)"):
        store.release(2)


def test_the_deployed_version_stays_whatever_a_history_says(store: Store):
    for _ in range(2):
        store.release()
    lines = store.history()
    lines[-1]["pruned"] = [1, 2]
    with store.locked():
        state.write_json(store.folder / "history.json", lines)
        store.settle()
    assert store.there() == [2]


def test_a_link_in_the_place_of_a_version_is_not_followed(store: Store, tmp_path: Path):
    for _ in range(2):
        store.release(2)
    (tmp_path / "precious").mkdir()
    shutil.rmtree(store.version(1))
    store.version(1).symlink_to(tmp_path / "precious")
    with pytest.raises(Exception, match="symbolic link"):
        store.release(2)
    assert (tmp_path / "precious").is_dir()


def learnt(place: Path) -> None:
    """A stream that releases every 20 samples, whatever they are worth."""
    words = (*FAST, "stream.samples=120", "stream.release_every=20", "stream.tolerance=1", "stream.teacher=none", "stream.keep_versions=2")
    config = configured("stream", place, *words)
    with session(config, place, StopAfter(10**9)) as running:
        found = Pass(running, running.bundle(config.dataset))
        found.run()
        conclude(found)


def files(run: Path) -> dict[str, bytes]:
    found = [file for place in ("deployed", "versions") for file in (run / place).rglob("*.*") if file.is_file() and file.name != ".lock"]
    return {str(file.relative_to(run)): file.read_bytes() for file in found}


def test_a_run_that_breaks_off_as_a_version_goes_ends_as_if_it_never_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Crash(BaseException):
        pass

    learnt(tmp_path / "whole")
    assert versions(history(tmp_path / "whole")) == [5, 6]
    calls, own = iter(range(100)), shutil.rmtree

    def breaks_off(place: Path, **more) -> None:
        if Path(place).parent.name == "versions" and next(calls) == 1:
            raise Crash
        own(place, **more)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", breaks_off)
        with pytest.raises(Crash):
            learnt(tmp_path / "broken")
    assert history(tmp_path / "broken")[-1]["pruned"] == [2]
    learnt(tmp_path / "broken")
    assert files(tmp_path / "whole") == files(tmp_path / "broken")
