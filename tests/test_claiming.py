"""Nothing is written before a folder is ours; what is kept there is enough to go on from anywhere."""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import distillctl as interface
from distillctl import outputs
from distillctl.errors import ConfigError, Interrupted, MachineError
from distillctl.invocation import Invocation

QUICK = ("teacher=resnet8", "pretrain.epochs=1", "dataset.subset=200", "trainer.device=cpu", "trainer.threads=1", "trainer.precision=fp32")
HOLDING = """
import sys
from pathlib import Path
from distillctl import outputs
lock = outputs.take(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def everything(folder: Path) -> dict[str, bytes]:
    """All files but the lock, which says who asked last."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file() and file.name != ".lock"}


@pytest.fixture
def killed(tmp_path: Path, distillctl) -> Path:
    """A run that was killed before its first step."""
    assert distillctl("pretrain", *QUICK, "dataset.subset=99999", "hydra.run.dir=run", cwd=tmp_path).code == 3
    record = outputs.read_run(tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(json.dumps(record | {"status": "running", "error": None, "exit_code": None}))
    return tmp_path / "run"


@pytest.fixture
def held(killed: Path) -> Iterator[Path]:
    """The same while another process works there."""
    process = subprocess.Popen([sys.executable, "-c", HOLDING, str(killed)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield killed
    process.kill()
    process.wait()


@pytest.mark.parametrize("place", ["run", "./run/", "${hydra.job.name}/../run", "${oc.env:SLURM_TMPDIR}/run"])
def test_a_second_start_is_refused_and_has_changed_nothing(place: str, killed: Path, distillctl):
    """However the folder is spelled: what Hydra composes is looked at, not what was typed."""
    before = everything(killed)
    (killed.parent / "job").mkdir()
    words = [*QUICK, "optimizer.lr=7", f"hydra.run.dir={place}"]
    finished = distillctl("pretrain", *words, cwd=killed.parent, env={"SLURM_TMPDIR": str(killed.parent)})
    assert finished.code == 2
    assert "this folder holds a run already; choose another, or go on with" in finished.err
    assert everything(killed) == before


def test_a_second_start_from_python_has_changed_nothing(held: Path):
    before = everything(held)
    with pytest.raises(MachineError, match="in use by pid"):
        interface.resume(held)
    assert everything(held) == before
    (held / "run.json").rename(held / "elsewhere")  # the first has made its folder, and not yet its record
    with pytest.raises(MachineError, match="in use by pid"):
        interface.run(interface.configure("pretrain", *QUICK, "optimizer.lr=7"), held)
    (held / "elsewhere").rename(held / "run.json")
    assert everything(held) == before


def test_a_resume_while_the_run_goes_on_leaves_no_attempt(held: Path, distillctl):
    before = everything(held)
    assert distillctl("pretrain", f"resume={held}", cwd=held.parent).code == 5
    assert everything(held) == before


def test_an_evaluation_is_not_written_into_a_run(killed: Path, tiny_run: Path, distillctl):
    before = everything(killed)
    words = [f"checkpoint={tiny_run}", "trainer.device=cpu", "hydra.run.dir=${oc.env:SLURM_TMPDIR}/run"]
    finished = distillctl("evaluate", *words, cwd=killed.parent, env={"SLURM_TMPDIR": str(killed.parent)})
    assert finished.code == 2
    assert "holds a run already" in finished.err
    assert everything(killed) == before


def test_what_hydra_is_told_to_write_is_not_written_either(tmp_path: Path, distillctl):
    distillctl("pretrain", *QUICK, "dataset.subset=99999", "hydra.run.dir=run", "hydra.output_subdir=mine", cwd=tmp_path)
    assert sorted(everything(tmp_path / "run")) == [".hydra/config.yaml", ".hydra/overrides.yaml", "run.json"]


def test_only_the_start_that_failed_says_so(tmp_path: Path):
    first, second = Invocation("pretrain"), Invocation("pretrain")
    outputs.RunFolder(tmp_path, "pretrain", 0, first, new=True)
    outputs.record_failure(tmp_path, "not mine", 3, second.mark)
    assert outputs.read_run(tmp_path)["status"] == "running"
    with pytest.raises(ConfigError, match="holds a run already"):
        outputs.RunFolder(tmp_path, "pretrain", 0, second, new=True)
    assert outputs.read_run(tmp_path)["start"] == first.mark
    outputs.record_failure(tmp_path, "mine", 3, first.mark)
    assert outputs.read_run(tmp_path)["status"] == "failed"


def test_each_start_keeps_its_own_words(tmp_path: Path):
    for number in range(3):
        outputs.RunFolder(tmp_path, "pretrain", 0, Invocation("pretrain", (("overrides.yaml", f"- seed={number}\n"),))).lock.close()
    kept = {name: content for name, content in everything(tmp_path).items() if name.endswith(".yaml")}
    assert kept == {f".hydra/{place}overrides.yaml": b"- seed=%d\n" % n for n, place in enumerate(("", "attempt-2/", "attempt-3/"))}


def test_paths_are_kept_as_they_are_from_anywhere(tmp_path: Path, distillctl):
    """Typed, of a member, and out of one's own file."""
    (tmp_path / "mine/dataset").mkdir(parents=True)
    (tmp_path / "mine/dataset/ours.yaml").write_text("name: image_folder\nroot: pictures of mine\n")
    words = ["teacher=ensemble", "teacher.members.a.checkpoint=x y/é", "student.checkpoint=s.pt", "dataset=ours", "--config-dir", "mine"]
    shown = distillctl("distill", *words, "--cfg", "job", cwd=tmp_path)
    assert shown.code == 0, shown.err
    experiment = _composed(tmp_path, words[:-2])
    kept = dict(experiment.files)
    config, overrides = yaml.safe_load(kept["config.yaml"]), yaml.safe_load(kept["overrides.yaml"])
    assert config["teacher"]["members"]["a"]["checkpoint"] == str(tmp_path / "x y/é")
    assert config["student"]["checkpoint"] == str(tmp_path / "s.pt")
    assert config["dataset"]["root"] == str(tmp_path / "pictures of mine")
    assert overrides[1] == f"++teacher.members.a.checkpoint='{tmp_path}/x y/é'"
    assert overrides[-1] == f"++dataset.root='{tmp_path}/pictures of mine'"


def _composed(folder: Path, words: list[str]) -> Invocation:
    from distillctl import compose

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        experiment = interface.configure("distill", *compose.as_typed("distill", words), config_dir="mine")
        return compose.invocation("distill", experiment.config, experiment.overrides, experiment.again)


def test_the_line_that_goes_on_is_whole():
    """The folder from anywhere, where one's own configs are, whom one trusts, what one has changed; quoted for the shell."""
    asked = Invocation("train", again=("--trust", "mine", "--config-dir", "/x y", "trainer.log_every=3"))
    line = asked.go_on(Path("out of it/it's"))
    assert shlex.split(line)[:3] == ["distillctl", "train", f"resume={Path.cwd()}/out of it/it's"]
    assert shlex.split(line)[3:] == list(asked.again)


@pytest.mark.parametrize("named", ["run", "an odd, run [1]"])
def test_the_line_that_is_printed_works_from_another_directory(named: str, tmp_path: Path, distillctl, monkeypatch):
    """With one's own configs, trusted code and words of one's own."""
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "mine/optimizer").mkdir(parents=True)
    there.mkdir()
    (here / "mine/optimizer/own.yaml").write_text("_target_: own_steps.Own\nlr: 0.1\n")
    (here / "own_steps.py").write_text("from torch.optim import SGD\nclass Own(SGD): pass\n")
    monkeypatch.setenv("PYTHONPATH", str(here))
    monkeypatch.syspath_prepend(str(here))

    def stopping(running, *_):
        raise running.interrupted()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distillctl.runs.execute.train_steps", stopping)
        words = [*QUICK, "optimizer=own", "--config-dir", "mine", "--trust", "own_steps", f"hydra.run.dir={named}"]
        stopped = distillctl("pretrain", *words, cwd=here)
        assert stopped.code == 143
        again = shlex.split(stopped.err.strip().partition("go on with: distillctl ")[2])
        assert again[1:] == [f"resume={here / named}", "--trust", "own_steps", "--config-dir", str(here / "mine")]
        stopped = distillctl(*again, "trainer.log_every=1", cwd=there)
    again = shlex.split(stopped.err.strip().partition("go on with: distillctl ")[2])
    assert again[-1] == "trainer.log_every=1"
    finished = distillctl(*again, cwd=there)
    assert finished.code == 0, finished.err
    assert outputs.read_run(here / named)["status"] == "done"
    assert list(there.iterdir()) == []


def test_a_run_from_python_says_the_same_line(tmp_path: Path, monkeypatch):
    def stopping(running, *_):
        raise running.interrupted()

    monkeypatch.setattr("distillctl.runs.execute.train_steps", stopping)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Interrupted) as stopped:
        interface.run(interface.configure("pretrain", *QUICK), "run")
    assert str(stopped.value) == f"interrupted; go on with: distillctl pretrain resume={tmp_path / 'run'}"
