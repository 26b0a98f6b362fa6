"""A sweep ends with its table and the code of the job that went worst, however often it was broken off before."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from processes import Attempt, until

from distillctl.runs import sweep
from distillctl.runs.sweep_table import group

QUICK = ("teacher=resnet8", "pretrain.epochs=1", "dataset.subset=200", "trainer.device=cpu", "trainer.threads=1", "trainer.precision=fp32")
LONG = (*QUICK, "pretrain.epochs=400", "trainer.log_every=1", "trainer.save_every_s=0.001")


def job(folder: Path, overrides: list[str], **run) -> Path:
    """What a job of a pretraining leaves."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra/overrides.yaml").write_text(yaml.safe_dump(overrides))
    record = {"format_version": 1, "command": "pretrain", "status": "done", "exit_code": 0, "error": None, "stages": {"pretrain": {}}}
    (folder / "run.json").write_text(json.dumps(record | {"plan": {"rows": [{"name": "teacher", "own": True}]}} | run))
    summary = {"seed": 0, "final": "teacher", "rows": [{"model": "teacher", "top1": 0.5}], "top1": 0.5}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def begun(folder: Path, jobs: list[list[str]]) -> None:
    folder.mkdir(exist_ok=True)
    content = {"format_version": 1, "command": "pretrain", "words": ["seed=0,1"], "jobs": jobs}
    (folder / "jobs.json").write_text(json.dumps(content))


def leave(folder: Path) -> int:
    try:
        sweep.leave_by_the_worst(folder)
    except SystemExit as leaving:
        return leaving.code
    return 0


# the exit code


@pytest.mark.parametrize(
    ("run_json", "code"),
    [
        ('{"half', 4),
        ("[" * 100_000, 4),
        ("\x00", 4),
        ("[]", 4),
        ('{"stages": [], "status": "done"}', 4),
        (json.dumps({"format_version": 1, "stages": {}, "status": "done", "plan": {"rows": [{}]}}), 4),
        (json.dumps({"format_version": 1, "stages": {}, "status": "running"}), 70),
        (json.dumps({"format_version": 1, "stages": {}, "status": "failed", "exit_code": 6, "error": "loss is nan"}), 6),
    ],
)
def test_a_record_that_cannot_be_read_is_a_failed_job_and_the_table_is_made(run_json: str, code: int, tmp_path: Path, capsys):
    begun(tmp_path, [["seed=0"], ["seed=1"]])
    job(tmp_path / "0", ["seed=0"])
    (job(tmp_path / "1", ["seed=1"]) / "run.json").write_text(run_json)
    assert leave(tmp_path) == code
    assert "failed: job 2 (seed=1): " in capsys.readouterr().out
    assert [bool(item["error"]) for item in json.loads((tmp_path / "sweep.json").read_text())["jobs"]] == [False, True]


def test_a_job_that_was_never_begun_did_not_finish(tmp_path: Path):
    begun(tmp_path, [["seed=0"], ["seed=1"]])
    job(tmp_path / "0", ["seed=0"])
    assert leave(tmp_path) == 70


def test_a_run_that_is_done_without_its_summary_is_a_failed_job(tmp_path: Path, capsys):
    begun(tmp_path, [["seed=0"]])
    (job(tmp_path / "0", ["seed=0"]) / "summary.json").unlink()
    assert leave(tmp_path) == 4
    assert "summary.json cannot be read" in capsys.readouterr().out


@pytest.mark.parametrize("broken", ["group", "write", "print_table"])
def test_a_sweep_whose_table_fails_is_no_success(broken: str, distillctl, tmp_path: Path, monkeypatch):
    def fails(*_):
        raise ZeroDivisionError("no rows\nat all")

    monkeypatch.setattr(f"distillctl.runs.sweep.{broken}", fails)
    finished = distillctl("pretrain", *QUICK, "-m", "dataset.subset=99999,99998", "hydra.sweep.dir=out", cwd=tmp_path)
    assert finished.code == 70
    assert finished.err.splitlines()[-1] == "error: internal: ZeroDivisionError: no rows"
    assert "Traceback" in (tmp_path / "out/error.log").read_text()


def test_a_check_that_fails_starts_no_job(distillctl, tmp_path: Path, monkeypatch):
    def fails(*_):
        raise ZeroDivisionError("checked")

    monkeypatch.setattr("distillctl.runs.sweep.check_jobs", fails)
    finished = distillctl("pretrain", *QUICK, "-m", "seed=0,1", "hydra.sweep.dir=out", cwd=tmp_path)
    assert finished.code == 70
    assert not (tmp_path / "out").exists()


def test_jobs_that_all_failed_are_the_worst_of_them(distillctl, tmp_path: Path):
    finished = distillctl("pretrain", *QUICK, "-m", "dataset.subset=99999,99998", "hydra.sweep.dir=out", cwd=tmp_path)
    assert finished.code == 3
    assert finished.out.count("failed: job") == 2


def test_jobs_are_numbered(distillctl, tmp_path: Path):
    """Folders of other names would be in no table."""
    words = ["-m", "seed=0,1", "hydra.sweep.dir=out", "hydra.sweep.subdir=${hydra.job.override_dirname}"]
    finished = distillctl("pretrain", *QUICK, *words, cwd=tmp_path)
    assert (finished.code, (tmp_path / "out").exists()) == (2, False)
    assert "hydra.sweep.subdir: the jobs of a sweep are numbered" in finished.err


def test_groups_of_ten_thousand_jobs_are_found_at_once():
    """Each override is looked at a few times: in the square of the jobs this would be 10^8 comparisons."""

    class Word(str):
        looked_at = 0

        def __hash__(self):
            Word.looked_at += 1
            return super().__hash__()

        def __eq__(self, other):
            Word.looked_at += 1
            return super().__eq__(other)

    jobs = [
        {"job": n, "overrides": [Word("teacher=resnet8"), Word(f"optimizer.lr={n // 2}"), Word(f"seed={n % 2}")], "error": "none"}
        for n in range(10_000)
    ]
    rows = group(jobs)
    assert len(rows) == 5_000
    assert {row["setting"] for row in rows} == {f"optimizer.lr={n}" for n in range(5_000)}
    assert Word.looked_at < 20 * len(jobs)


# going on


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file() and file.name != ".lock"}


@pytest.mark.parametrize("way", ["resume", "the same command", "the same command from elsewhere"])
def test_finished_jobs_stay_and_the_rest_run(way: str, distillctl, tmp_path: Path):
    """One done, one failed for want of data, one that was killed half way, one that was never begun."""
    here, out = tmp_path / "here", tmp_path / "here/out"
    here.mkdir()
    words = ["pretrain", *QUICK, "-m", "seed=0,1,2,3", f"hydra.sweep.dir={out}"]
    assert distillctl(*words, cwd=here).code == 0
    whole = {number: (out / str(number) / "pretrain/teacher.safetensors").read_bytes() for number in range(4)}
    for number in (1, 2, 3):
        for name in ("summary.json", "pretrain/student.json"):
            (out / str(number) / name).unlink(missing_ok=True)
    (out / "sweep.json").unlink()
    record = json.loads((out / "1/run.json").read_text())
    (out / "1/run.json").unlink()
    (out / "1/failure.json").write_text('{"error": "no data", "exit_code": 3}')
    (out / "2/run.json").write_text(json.dumps(record | {"status": "running", "seed": 2, "stages": {}}))
    subprocess.run(["rm", "-r", out / "3"], check=True)
    before = files(out / "0")
    again = ["pretrain", f"resume={out}"] if way == "resume" else words
    finished = distillctl(*again, cwd=here if way == "the same command" else tmp_path)
    assert (finished.code, finished.err) == (0, "")
    assert "sweep: 4 jobs, all checked, 1 done before" in finished.out
    assert files(out / "0") == before
    assert {number: (out / str(number) / "pretrain/teacher.safetensors").read_bytes() for number in range(4)} == whole
    assert (out / "2/.hydra/attempt-2/config.yaml").is_file()
    assert not (out / "1/failure.json").exists()
    assert json.loads((out / "sweep.json").read_text())["rows"][0]["n"] == 4


def test_another_sweep_is_refused_and_has_changed_nothing(distillctl, tmp_path: Path):
    words = ["pretrain", *QUICK, "-m", "dataset.subset=99999,99998", "hydra.sweep.dir=out"]
    assert distillctl(*words, cwd=tmp_path).code == 3
    before = files(tmp_path / "out")
    for other in (["optimizer.lr=0.5"], ["teacher=resnet20"], ["dataset.subset=1000,2000"]):
        finished = distillctl(*words, *other, cwd=tmp_path)
        assert finished.code == 2
        assert f"this folder holds another sweep; choose another, or go on with: distillctl pretrain resume={tmp_path}/out" in finished.err
        assert files(tmp_path / "out") == before
    refused = distillctl("pretrain", "resume=out", "optimizer.lr=0.5", cwd=tmp_path)
    assert refused.code == 2
    assert "a sweep goes on with its own jobs" in refused.err
    assert distillctl("train", "resume=out", cwd=tmp_path).err.endswith(f"go on with distillctl pretrain resume={tmp_path}/out\n")
    assert files(tmp_path / "out") == before


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[1", "[" * 100_000, '{"format_version": 9}', '{"format_version": 1, "command": "pretrain", "words": [1], "jobs": []}'],
)
def test_a_record_of_a_sweep_that_is_none_is_one_line(content: str, distillctl, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/jobs.json").write_text(content)
    for words in (["resume=out"], ["-m", "seed=0,1", "hydra.sweep.dir=out"]):
        finished = distillctl("pretrain", *words, cwd=tmp_path)
        assert finished.code == 4
        assert finished.err.count("error:") == 1
        assert "Traceback" not in finished.err


def test_a_stored_sweep_may_not_touch_hydra(distillctl, tmp_path: Path):
    begun(tmp_path / "out", [["seed=0"]])
    content = json.loads((tmp_path / "out/jobs.json").read_text()) | {"words": ["+hydra.callbacks.x._target_=os.system"]}
    (tmp_path / "out/jobs.json").write_text(json.dumps(content))
    finished = distillctl("pretrain", "resume=out", cwd=tmp_path)
    assert finished.code == 4


@pytest.mark.usefixtures("logs")
def test_a_sweep_that_is_killed_goes_on_and_one_that_is_interrupted_says_how(tmp_path: Path):
    out = tmp_path / "out"
    words = ["pretrain", *LONG, "-m", "seed=0,1", f"hydra.sweep.dir={out}"]
    attempt = Attempt(*words)
    attempt.until(lambda: (out / "0/pretrain/last.pt").exists())
    second = Attempt(*words)
    assert second.wait() == 5
    assert f"{out} is in use by pid {attempt.pid} on " in second.output
    attempt.send(signal.SIGKILL)
    attempt.wait()
    attempt = Attempt("pretrain", f"resume={out}", "trainer.log_every=7")
    attempt.until(lambda: "img/s" in attempt.output)
    attempt.send(signal.SIGTERM)
    assert attempt.wait() == 143, attempt.output
    assert f"interrupted; go on with: distillctl pretrain resume={out} trainer.log_every=7" in attempt.output


@pytest.mark.usefixtures("logs")
def test_jobs_side_by_side_save_and_end_when_whoever_launched_them_is_killed(tmp_path: Path):
    """And where it is asked to stop, it waits for them and makes the table of what there is."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "distillctl", "pretrain", *LONG, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    command += ["-m", "seed=0,1,2,3", f"hydra.sweep.dir={out}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def stopped_by(number: int) -> int:
        with open(tmp_path / "log", "a") as log:
            parent = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
        statuses = [out / str(job) / "run.json" for job in range(2)]
        until(lambda: parent.poll() is not None or all(file.exists() and _status(file) == "running" for file in statuses))
        until(lambda: parent.poll() is not None or all((out / str(job) / "pretrain/last.pt").exists() for job in range(2)))
        parent.send_signal(number)
        code = parent.wait()
        until(lambda: all(_status(file) == "interrupted" for file in statuses), lambda: (tmp_path / "log").read_text())
        assert not (out / "2").exists() or not (out / "2/run.json").exists()
        return code

    assert stopped_by(signal.SIGKILL) == -signal.SIGKILL
    assert stopped_by(signal.SIGTERM) == 143, (tmp_path / "log").read_text()
    assert "failed: job 1 (" in (tmp_path / "log").read_text()


def _status(file: Path) -> str:
    return json.loads(file.read_text())["status"]


# what would be run


def test_the_config_of_each_job_is_shown_and_nothing_is_begun(distillctl, tmp_path: Path):
    finished = distillctl("train", "-m", "--cfg", "job", "seed=0,1", "loss=glob(kd*)", "hydra.sweep.dir=out", cwd=tmp_path)
    assert (finished.code, finished.err) == (0, "")
    assert [shown["seed"] for shown in yaml.safe_load_all(finished.out)] == [0, 1]
    assert finished.out.startswith("# job 1 of 2: seed=0 loss=kd\n")
    assert list(tmp_path.iterdir()) == []
    part = distillctl("train", "--cfg", "job", "--package", "optimizer", "-m", "optimizer.lr=0.1,0.2", cwd=tmp_path)
    assert [shown["lr"] for shown in yaml.safe_load_all(part.out)] == [0.1, 0.2]


@pytest.mark.parametrize("flags", [["-m", "--run"], ["--info", "all", "-m"], ["--run", "--cfg", "job"], ["--resolve"]])
def test_flags_that_exclude_each_other_are_one_line(flags: list[str], distillctl, tmp_path: Path):
    finished = distillctl("train", *flags, "seed=0,1", cwd=tmp_path)
    assert finished.code == 2
    assert finished.err.startswith("error: ")
    assert len(finished.err.splitlines()) == 1


@pytest.mark.parametrize("word", ["{}=1", "teacher={}", "tracker.project={}", "{}", "resume={}", "hydra.run.dir={}"])
@pytest.mark.parametrize("length", [300, 100_000])
def test_a_word_without_end_is_one_short_line(word: str, length: int, distillctl, tmp_path: Path):
    if length == 300 and word.startswith("tracker"):
        return  # a name like any other
    finished = distillctl("train", word.format("a" * length), "pretrain.epochs=0", cwd=tmp_path)
    assert finished.code == (4 if word.startswith("resume") and length == 300 else 2)
    assert len(finished.err.splitlines()) == 1
    assert len(finished.err) < 1000
