"""A run that cuts, exports and quantises, stopped in any of these steps and resumed, leaves the very files of the run that was not."""

import json
import os
import signal
from pathlib import Path

import pytest
from processes import CONTEXT, Attempt, be, record, run, run_on_two_ranks

from distillctl.runs.int8 import RANGES

SMALL = ("trainer.batch_size=64", "trainer.device=cpu", "trainer.precision=fp32", "trainer.threads=1", "dataset.subset=100")
SHORT = ("export.samples=16", "quantize.samples=16", "quantize.keep_float=none")
WAYS = {
    "export": ("quantize=static", *SMALL[1:4], *SHORT),
    "compress": ("prune=magnitude", "prune.steps=2", "quantize=static", "distill.epochs=1", "baseline=false", *SMALL, *SHORT),
    "qat": ("quantize=qat", "distill.epochs=1", "baseline=false", *SMALL, *SHORT),
}
FILES = ("*.onnx", "*.safetensors", "*.json", "labels.txt", "predict.py", "load_*.py", "*.jsonl")

pytestmark = pytest.mark.usefixtures("logs")


class Stopped(Attempt):
    """A process that sends itself a signal right before a file of it takes its name."""

    def __init__(self, *arguments: str, at: str, signal_number: int):
        self.log = Path(os.environ["DISTILLCTL_TEST_LOGS"]) / f"{at.replace('/', '-')}-{signal_number}.log"
        self.log.touch()
        environment = {"DISTILLCTL_CACHE": str(self.log.parent / "cache")}
        self.process = CONTEXT.Process(target=be_stopped, args=(at, signal_number, arguments, str(self.log), environment), daemon=False)
        self.process.start()
        self.pid = self.process.pid


def be_stopped(at: str, signal_number: int, arguments: tuple[str, ...], log: str, environment: dict[str, str]) -> None:
    """The child's side. at: the end of the path that is about to be there."""
    real, sent = os.replace, []

    def replace(source, target, **places):
        folder = os.readlink(f"/proc/self/fd/{places['dst_dir_fd']}") if "dst_dir_fd" in places else ""
        if not sent and f"{folder}/{target}".endswith(at):
            sent.append(os.kill(os.getpid(), signal_number))
        return real(source, target, **places)

    os.replace = replace
    be(arguments, log, environment, True, ())


def command(way: str) -> str:
    return "export" if way == "export" else "compress"


def words(way: str, student: Path) -> list[str]:
    return [command(way), f"checkpoint={student / 'distill'}", *WAYS[way]]


def contents(folder: Path) -> dict[str, bytes]:
    """The files that a run is there for, by their places; logs without times."""
    found = {}
    for file in (file for kind in FILES for file in folder.glob(f"*/{kind}")):
        content = file.read_bytes()
        if file.suffix == ".jsonl":
            lines = [json.loads(line) for line in content.splitlines()]
            content = json.dumps([{k: v for k, v in line.items() if k not in ("seconds", "images_per_s")} for line in lines]).encode()
        found[str(file.relative_to(folder))] = content
    return found


def leftovers(folder: Path) -> list[Path]:
    return [*folder.rglob("*.tmp"), *folder.rglob("candidates")]


def measured(folder: Path) -> list[dict]:
    rows = json.loads((folder / "summary.json").read_text())["rows"]
    return [{key: value for key, value in row.items() if not key.startswith("latency")} for row in rows]


@pytest.fixture(scope="module")
def whole(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory):
    """The folder of a run of one way that nobody stopped, made once."""
    place, made = tmp_path_factory.mktemp("whole"), {}

    def of(way: str) -> Path:
        if way not in made:
            attempt = run(*words(way, tiny_run), f"hydra.run.dir={place / way}")
            assert attempt.code == 0, attempt.output
            made[way] = place / way
        return made[way]

    return of


@pytest.mark.parametrize(
    ("way", "at", "number", "code"),
    [
        ("export", "export/student.json", signal.SIGKILL, -9),
        ("compress", "prune-2/student.safetensors", signal.SIGKILL, -9),
        ("compress", "train-again-1/student.json", signal.SIGTERM, 143),
        ("compress", "candidates/static.onnx", signal.SIGKILL, -9),
        ("compress", "quantize/student.onnx", signal.SIGINT, 130),
        ("compress", "export/README.md", signal.SIGKILL, -9),
        ("qat", f"qat/{RANGES}", signal.SIGKILL, -9),
    ],
)
def test_a_run_that_is_stopped_among_its_files_ends_as_if_it_never_was(whole, tiny_run: Path, tmp_path: Path, way, at, number, code):
    expected, folder = whole(way), tmp_path / "run"
    stopped = Stopped(*words(way, tiny_run), f"hydra.run.dir={folder}", at=at, signal_number=number)
    assert stopped.wait() == code, stopped.output
    assert "Traceback" not in stopped.output
    assert record(folder)["status"] == ("running" if code < 0 else "interrupted")
    before = record(folder)["stages"]
    again = run(command(way), f"resume={folder}")
    assert again.code == 0, again.output
    for step in before:
        assert f"{step}: done before" in again.output
    assert contents(folder) == contents(expected)
    assert leftovers(folder) == []
    assert measured(folder) == measured(expected)


def test_what_trains_nothing_is_done_once_by_several_ranks(whole, tiny_run: Path, tmp_path: Path):
    expected = whole("export")
    for attempt in run_on_two_ranks(*words("export", tiny_run), f"hydra.run.dir={tmp_path / 'run'}"):
        assert attempt.code == 0, attempt.output
    assert record(tmp_path / "run")["status"] == "done"
    assert (tmp_path / "run/quantize/README.md").is_file()
    assert contents(tmp_path / "run") == contents(expected)


def test_a_file_of_a_finished_step_that_is_gone_or_changed_is_said(tiny_run: Path, tmp_path: Path):
    folder = tmp_path / "run"
    stopped = Stopped(*words("export", tiny_run), f"hydra.run.dir={folder}", at="quantize/student.onnx", signal_number=signal.SIGKILL)
    assert stopped.wait() == -9, stopped.output
    file = folder / "export/student.onnx"
    content = file.read_bytes()
    for left, said in ((None, "the file is gone"), (content[:-9], "is damaged, or not the file that student.json describes")):
        file.unlink() if left is None else file.write_bytes(left)
        again = run("export", f"resume={folder}")
        assert again.code == 4, again.output
        assert len(again.problems) == 1
        assert said in again.problems[0]
    file.write_bytes(content)
    other = run("export", f"resume={folder}", "quantize=dynamic")
    assert other.code == 2
    assert "quantize.name was static, now dynamic" in other.output
