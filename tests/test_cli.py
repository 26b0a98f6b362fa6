"""The commands as a shell sees them: help, completion, one tiny run looked at from all sides, and sweeps."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from sklearn.datasets import load_digits

from distillctl import compose
from distillctl.commands import COMMANDS

SCRIPT = Path(sys.executable).with_name("distillctl")
WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from distillctl.cli import main; sys.argv[0] = 'distillctl'; main()"
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def shell(*argv: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, where an import of torch fails."""
    command = [sys.executable, "-c", WITHOUT_TORCH, *argv]
    return subprocess.run(command, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False)


# ------------------------------------------------------------------------------------------------ help and completion
@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_three_examples(command: str, distillctl, tmp_path: Path):
    for flag in ("--help", "-h"):
        finished = distillctl(command, flag, cwd=tmp_path)
        assert (finished.code, finished.err) == (0, "")
    assert COMMANDS[command].summary in finished.out
    assert len(COMMANDS[command].examples) == 3
    for example in COMMANDS[command].examples:
        assert example in finished.out
        assert f"distillctl {command}" in example


def test_the_overview_names_every_command(distillctl, tmp_path: Path):
    for words in ([], ["--help"], ["-h"]):
        finished = distillctl(*words, cwd=tmp_path)
        assert finished.code == 0
        assert all(f"  {command} " in finished.out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_of_the_help_compose(command: str, distillctl, tmp_path: Path):
    for example in COMMANDS[command].examples:
        words = [
            word
            for word in example.partition(f"distillctl {command}")[2].split()
            if "resume=" not in word and word not in ("-m", "--cfg", "job")
        ]
        single = [word.split(",")[0] if "[" not in word else word for word in words]
        finished = distillctl(command, *single, "--cfg", "job", cwd=tmp_path)
        assert (finished.code, finished.err) == (0, ""), example


def test_nothing_but_training_needs_torch(tmp_path: Path):
    """And all of it is quick: seconds of the processor, since a clock on a busy machine says nothing."""
    before = os.times()
    version = shell("--version", cwd=tmp_path)
    overview = shell("--help", cwd=tmp_path)
    manual = shell("train", "--help", cwd=tmp_path)
    config = shell("train", "teacher=resnet50", "--cfg", "job", cwd=tmp_path)
    mistake = shell("train", "teachr=resnet50", cwd=tmp_path)
    after = os.times()
    assert version.stdout.startswith("distillctl 0")
    assert "usage: distillctl COMMAND" in overview.stdout
    assert "--trust PACKAGE" in manual.stdout
    assert "name: resnet50" in config.stdout
    assert mistake.stderr == "error: teachr=resnet50: unknown group or key; did you mean teacher?\n"
    assert [item.returncode for item in (version, overview, manual, config, mistake)] == [0, 0, 0, 0, 2]
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    assert spent < 5 * 1.0


def completed(line: str, cwd: Path) -> list[str]:
    return shell("-sc", "query=bash", cwd=cwd, env={"COMP_LINE": line, "COMP_POINT": str(len(line))}).stdout.split()


def test_completion(tmp_path: Path):
    assert "train" in completed("distillctl tr", tmp_path)
    names = completed("distillctl train teacher=res", tmp_path)
    assert {"teacher=resnet20", "teacher=resnet152"} <= set(names)
    assert not [name for name in names if not name.startswith("teacher=res")]
    assert "optimizer.lr=" in completed("distillctl pretrain optimizer.l", tmp_path)
    assert completed("distillctl nonsense x", tmp_path) == []


def test_the_completion_script_is_for_this_command(tmp_path: Path):
    finished = shell("-sc", "install=bash", cwd=tmp_path)
    assert finished.returncode == 0
    assert "complete" in finished.stdout
    assert "distillctl" in finished.stdout


@pytest.mark.skipif(not SCRIPT.exists(), reason="not installed with its script")
def test_the_installed_script(tmp_path: Path):
    finished = subprocess.run([SCRIPT, "--version"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert finished.returncode == 0
    assert finished.stdout.startswith("distillctl ")


# ------------------------------------------------------------------------------------------------ one run
@pytest.fixture(scope="module")
def digit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A handwritten digit as a PNG, of the size that the nets were trained on."""
    file = tmp_path_factory.mktemp("digit") / "digit.png"
    pixels = (load_digits().images[7] * 255 / 16).round().astype("uint8")
    Image.fromarray(pixels).convert("RGB").save(file)
    return file


@pytest.mark.quick
def test_evaluate_writes_what_it_prints(distillctl, tiny_run: Path, tmp_path: Path):
    options = [f"checkpoint={tiny_run}", f"teacher.checkpoint={tiny_run}", "trainer.device=cpu", "trainer.precision=fp32"]
    finished = distillctl("evaluate", *options, "hydra.run.dir=out", cwd=tmp_path)
    assert (finished.code, finished.err) == (0, "")
    report = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert report["architecture"] == "resnet8"
    assert report["measured"]["n"] == sum(map(sum, report["confusion"]))
    assert f"{100 * report['measured']['top1']:.2f}" in finished.out
    summary = json.loads((tiny_run / "summary.json").read_text())
    distilled = next(row for row in summary["rows"] if row["model"] == "distilled")
    assert report["measured"]["top1"] == pytest.approx(distilled["top1"])
    assert report["measured"]["agreement"] == pytest.approx(distilled["agreement"])


@pytest.mark.parametrize("given", ["", "distill", "distill/student.safetensors"])
def test_predict_takes_a_run_a_stage_and_a_file(given: str, distillctl, tiny_run: Path, digit: Path, tmp_path: Path):
    options = [f"checkpoint={tiny_run / given}", f"inputs=[{digit}]", "trainer.device=cpu", "trainer.precision=fp32"]
    finished = distillctl("predict", *options, "format=jsonl", "top_k=99", cwd=tmp_path)
    assert (finished.code, finished.err) == (0, "")
    [line] = finished.out.splitlines()
    answer = json.loads(line)
    assert answer["image"] == str(digit)
    assert len(answer["answers"]) == 10
    assert sum(item["p"] for item in answer["answers"]) == pytest.approx(1, abs=1e-5)


def test_predict_takes_a_file_that_came_alone_and_answers_in_csv(distillctl, tiny_run: Path, digit: Path, tmp_path: Path):
    alone = Path(shutil.copy(tiny_run / "distill/student.safetensors", tmp_path / "mine.safetensors"))
    image = shutil.copy(digit, tmp_path / 'a, "b".png')
    options = [f"inputs=[{str(image)!r}]", "trainer.device=cpu", "top_k=2"]
    finished = distillctl("predict", f"checkpoint={alone}", *options, "format=csv", cwd=tmp_path)
    assert (finished.code, finished.err) == (0, "")
    heading, row = csv.reader(finished.out.splitlines())
    assert heading == ["image", "class", "p", "class_2", "p_2"]
    whole = json.loads(distillctl("predict", f"checkpoint={tiny_run / 'distill'}", *options, "format=jsonl", cwd=tmp_path).out)
    first, second = whole["answers"]
    assert row == [str(image), first["class"], f"{first['p']:.6f}", second["class"], f"{second['p']:.6f}"]


def test_predict_as_a_table(distillctl, tiny_run: Path, digit: Path, tmp_path: Path):
    finished = distillctl("predict", f"checkpoint={tiny_run}", f"inputs=[{digit.parent}]", "trainer.device=cpu", cwd=tmp_path)
    assert finished.code == 0
    assert "class" in finished.out


def test_predict_answers_for_every_kind_of_image_in_a_folder(distillctl, tiny_run: Path, digit: Path, tmp_path: Path):
    for name in ("a.jfif", "b.png"):
        Image.open(digit).save(tmp_path / name, format="JPEG" if name == "a.jfif" else "PNG")
    (tmp_path / "c.txt").write_text("no image")
    finished = distillctl("predict", f"checkpoint={tiny_run}", f"inputs=[{tmp_path}]", "trainer.device=cpu", "format=jsonl", cwd=tmp_path)
    assert (finished.code, finished.err) == (0, "")
    assert [Path(json.loads(line)["image"]).name for line in finished.out.splitlines()] == ["a.jfif", "b.png"]


def test_a_file_that_cannot_be_read_costs_predict_its_own_row(distillctl, tiny_run: Path, digit: Path, tmp_path: Path):
    photos = tmp_path / "photos"
    for name in ("a.png", "c.png", "__MACOSX/._a.png", ".thumbs/a.png"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(digit, photos / name)
    (photos / "b.jpg").write_bytes(b"\0\0\0\x18ftypheic")
    words = ("predict", f"checkpoint={tiny_run}", f"inputs=[{photos}]", "trainer.device=cpu", "top_k=2")
    found = distillctl(*words, "format=jsonl", cwd=tmp_path)
    rows = [json.loads(line) for line in found.out.splitlines()]
    assert [(Path(row["image"]).name, len(row["answers"]), row.get("error")) for row in rows] == [
        ("a.png", 2, None),
        ("b.jpg", 0, "HEIC, which is not read here; convert it to JPEG or PNG"),
        ("c.png", 2, None),
    ]
    assert (found.code, found.err) == (3, f"error: 1 of 3 images cannot be read; the first: {photos}/b.jpg: {rows[1]['error']}\n")
    table = distillctl(*words, cwd=tmp_path)
    assert (table.code, table.out.count(".png"), "HEIC" in table.out) == (3, 2, True)
    lines = distillctl(*words, "format=csv", cwd=tmp_path).out.splitlines()
    assert lines[0] == "image,class,p,class_2,p_2,error"
    assert lines[2] == f'{photos}/b.jpg,,,,,"{rows[1]["error"]}"' or lines[2] == f"{photos}/b.jpg,,,,,{rows[1]['error']}"
    assert {line.count(",") for line in lines[:2]} == {5}
    alone = distillctl(*words[:2], f"inputs=[{photos}/b.jpg]", "trainer.device=cpu", cwd=tmp_path)
    assert (alone.code, alone.out, alone.err) == (3, "", f"error: {photos}/b.jpg: {rows[1]['error']}\n")


BLOCKED = """
import json, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "distillctl":
            raise ImportError("blocked")
sys.meta_path.insert(0, Block())
sys.path.insert(0, {folder!r})
import torch
from PIL import Image
import load_student
with torch.inference_mode():
    p = load_student.load()(load_student.preprocess(Image.open({image!r}))).softmax(-1)[0]
assert not [name for name in sys.modules if name.partition(".")[0] == "distillctl"]
print(json.dumps(dict(zip(load_student.CLASSES, p.tolist()))))
"""


def test_the_shipped_script_needs_nothing_of_ours(distillctl, tiny_run: Path, digit: Path, tmp_path: Path):
    code = BLOCKED.format(folder=str(tiny_run / "distill"), image=str(digit))
    alone = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=ONE_THREAD, capture_output=True, text=True, check=False)
    assert alone.returncode == 0, alone.stderr
    options = [f"checkpoint={tiny_run}", f"inputs=[{digit}]", "trainer.device=cpu", "trainer.precision=fp32"]
    ours = json.loads(distillctl("predict", *options, "format=jsonl", "top_k=10", cwd=tmp_path).out)
    theirs = json.loads(alone.stdout)
    assert {item["class"]: item["p"] for item in ours["answers"]} == pytest.approx(theirs, abs=1e-5)


def test_models_lists_names_with_their_costs(distillctl, tmp_path: Path):
    finished = distillctl("models", "search=wrn", cwd=tmp_path)
    assert (finished.code, finished.err) == (0, "")
    assert "wrn_16_2" in finished.out
    assert "cifar" in finished.out
    assert "costs=true" in finished.out
    finished = distillctl("models", "search=wrn_16_2", "costs=true", cwd=tmp_path)
    assert (finished.code, finished.err) == (0, "")
    assert ["wrn_16_2", "cifar", "692", "k"] in [line.split()[:4] for line in finished.out.splitlines()]


def test_doctor_says_where_it_stands(distillctl, tmp_path: Path):
    finished = distillctl("doctor", cwd=tmp_path)
    assert (finished.code, finished.err) == (0, "")
    for word in ("versions", "torch", "device", "digits", "can be written", "GiB free"):
        assert word in finished.out


def test_models_and_doctor_leave_no_folder(distillctl, tmp_path: Path):
    distillctl("models", "search=wrn", cwd=tmp_path)
    distillctl("doctor", cwd=tmp_path)
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and ".hydra" not in file.parts]


def test_flags_and_overrides_in_any_order(distillctl, tmp_path: Path):
    for words in (["--cfg", "job", "seed=3"], ["seed=3", "--cfg", "job"], ["seed=3", "--cfg=job", "debug=true"], ["-c", "job", "seed=3"]):
        finished = distillctl("train", *words, cwd=tmp_path)
        assert (finished.code, finished.err) == (0, "")
        assert "seed: 3" in finished.out


def test_a_later_rank_composes_without_a_folder_of_its_own(distillctl, tmp_path: Path):
    """As torchrun starts it. A mistake stands for the run, since there is no rank 0 to join."""
    (tmp_path / "mine/optimizer").mkdir(parents=True)
    (tmp_path / "mine/optimizer/mine.yaml").write_text("_target_: torch.optim.SGD\nlr: -7\n")
    place = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    finished = distillctl("train", "--config-dir", "mine", "optimizer=mine", cwd=tmp_path, env=place)
    assert finished.code == 2
    assert finished.err == "error: optimizer.lr=-7: Invalid learning rate: -7\n"
    assert not (tmp_path / "outputs").exists()


def test_an_error_of_our_own_is_one_line_and_a_log(distillctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> None:
        raise RuntimeError("a bug\nof two lines")

    monkeypatch.setattr("distillctl.commands.models.matching", broken)
    finished = distillctl("models", "hydra.run.dir=out", cwd=tmp_path)
    assert finished.code == 70
    assert finished.err == f"error: internal: RuntimeError: a bug; the traceback is in {tmp_path}/out/error.log\n"
    assert "Traceback" in (tmp_path / "out/error.log").read_text()


# ------------------------------------------------------------------------------------------------ sweeps
def read(folder: Path) -> tuple[dict, list[dict[str, str]]]:
    with open(folder / "sweep.csv") as file:
        return json.loads((folder / "sweep.json").read_text()), list(csv.DictReader(file))


ONE_STAGE = ("distill.epochs=0", "baseline=false", "dataset.subset=200")


def test_a_sweep_over_seeds_gives_mean_and_deviation(distillctl, tiny: tuple[str, ...], tmp_path: Path):
    finished = distillctl("train", *tiny, *ONE_STAGE, "-m", "seed=0,1", "hydra.sweep.dir=out", cwd=tmp_path)
    assert (finished.code, finished.err) == (0, "")
    report, lines = read(tmp_path / "out")
    [row] = report["rows"]
    singles = [json.loads((tmp_path / "out" / job / "summary.json").read_text())["rows"][0]["top1"] for job in "01"]
    assert row["seeds"] == [0, 1]
    assert row["n"] == 2
    assert row["models"]["teacher"]["top1"]["mean"] == pytest.approx(sum(singles) / 2)
    assert row["models"]["teacher"]["top1"]["std"] == pytest.approx(abs(singles[0] - singles[1]) / 2**0.5)
    assert [line["model"] for line in lines] == ["teacher"]
    assert float(lines[0]["top1_mean"]) == pytest.approx(sum(singles) / 2)
    again = distillctl("train", *tiny, "-m", "seed=0,1", "hydra.sweep.dir=out", cwd=tmp_path)
    assert again.code == 2
    assert f"hydra.sweep.dir={tmp_path}/out: this folder holds another" in again.err


def test_a_job_that_fails_is_named_and_the_others_finish(distillctl, tiny: tuple[str, ...], tmp_path: Path):
    """That the subset is too large is known only when the data is there. The exit code is the worst."""
    words = ["train", *tiny, *ONE_STAGE[:2], "-m", "dataset.subset=200,99999", "hydra.sweep.dir=out"]
    code, out, err = distillctl(*words, cwd=tmp_path)
    assert code == 3, err
    assert "Traceback" not in err
    report, _ = read(tmp_path / "out")
    good, bad = report["jobs"]
    assert good["error"] is None
    assert good["rows"]
    assert "dataset.subset=99999" in bad["error"]
    assert bad["exit_code"] == 3
    assert "failed: job 2" in out
    assert "dataset.subset=99999" in out


def test_jobs_side_by_side_ask_their_teacher_once_and_finish_where_others_fail(distillctl, tiny_run: Path, tmp_path: Path):
    """Live, two jobs of two epochs of four batches of 64 would ask about 1,024 images. Two more fail as soon as there is data."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = ["distill", f"teacher.checkpoint={tiny_run / 'pretrain'}", "distill.epochs=2", "trainer.batch_size=64"]
    words += ["trainer.device=cpu", "trainer.precision=fp32", "trainer.threads=1", "teacher.cache.dir=kept"]
    sweep = ["-m", "dataset.subset=300,99999", "loss.kd.temperature=1,4", "hydra.sweep.dir=out"]
    command = [sys.executable, "-m", "distillctl", *words, *sweep, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    finished = subprocess.run(command, cwd=tmp_path, env=ONE_THREAD, capture_output=True, text=True, check=False)
    assert finished.returncode == 3, finished.stderr
    assert "Traceback" not in finished.stderr
    report, _ = read(tmp_path / "out")
    good, bad = report["jobs"][:2], report["jobs"][2:]
    assert [job["error"] for job in good] == [None, None]
    assert all(job["rows"] for job in good)
    assert [job["exit_code"] for job in bad] == [3, 3]
    for number, job in enumerate(bad, start=3):
        assert "dataset.subset=99999" in job["error"]
        assert f"failed: job {number}" in finished.stdout
    assert all("teacher.cache.shared=True" in job["overrides"] for job in report["jobs"])
    asked = [int(count) for count in re.findall(r"answers were read, (\d+) asked for", finished.stdout)]
    assert len(asked) == 2
    assert 540 <= sum(asked) < 700
    assert len(re.findall("teacher: about .* for the answers to be asked for, where every step would take ", finished.stdout)) == 2
    assert len(list((tmp_path / "kept").glob("*/cache.json"))) == 1
    verified = distillctl("cache", "action=verify", "dir=kept", cwd=tmp_path)
    assert (verified.code, verified.err) == (0, "")
    assert "540 records are whole, 0 are damaged" in verified.out


def test_a_sweep_of_measurements_has_no_report_of_training(distillctl, tiny_run: Path, tmp_path: Path):
    options = [f"checkpoint={tiny_run}", "trainer.device=cpu", "-m", "split=val,test", "hydra.sweep.dir=out"]
    finished = distillctl("evaluate", *options, cwd=tmp_path)
    assert (finished.code, finished.err) == (0, "")
    assert (tmp_path / "out/1/evaluation.json").exists()
    assert not (tmp_path / "out/sweep.json").exists()


def test_a_measurement_that_fails_in_a_sweep_is_named(distillctl, tiny_run: Path, tmp_path: Path):
    options = [f"checkpoint={tiny_run},nowhere", "trainer.device=cpu", "-m", "hydra.sweep.dir=out"]
    finished = distillctl("evaluate", *options, cwd=tmp_path)
    assert finished.code == 4
    assert finished.err == "error: checkpoint=nowhere: no such file\n"
    assert "failed: job 2" in finished.out
    assert (tmp_path / "out/0/evaluation.json").exists()


def test_a_circle_of_causes_ends():
    """Hydra raises errors from what they have caused; looking through them must not go round for ever."""
    first, second = ValueError("one"), KeyError("other")
    first.__cause__, second.__context__ = second, first
    assert compose.causes(first) == [first, second]
    assert compose.explain(first, "train", []) is None


def test_a_reader_that_has_seen_enough_is_no_fault():
    shown = subprocess.run(f"{sys.executable} -m distillctl train --help | true", shell=True, capture_output=True, text=True, check=False)
    assert shown.stderr == ""
