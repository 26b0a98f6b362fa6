"""What every option of the groups loss and method does in a real run: it learns, resumes to the bit, leaves the teacher alone, ships."""

import hashlib
import importlib.util
import json
from pathlib import Path

import pytest
import torch
import yaml
from processes import StopAfter, checkpoint, configured, copied_at, same_stage

from distillctl.errors import ConfigError
from distillctl.runs.check import check_settings
from distillctl.runs.execute import execute, train_steps
from distillctl.runs.plan import plan
from distillctl.runs.session import session

CONF = Path(__file__).parent.parent / "conf"
OF_TEXTS = ("minilmv2", "pkd", "tinybert")  # they read layers of text transformers, which these nets have not got
LOSSES = sorted(
    file.stem for file in (CONF / "loss").glob("*.yaml") if file.stem not in ("ard", "rslad", *OF_TEXTS)
)  # methods of the first two names bring them
METHODS = sorted(file.stem for file in (CONF / "method").glob("*.yaml"))
# a hundred and more digits, four steps an epoch, nets of some ten thousand parameters
QUICK = ["dataset.subset=160", "trainer.batch_size=32", "trainer.device=cpu", "trainer.threads=1", "trainer.precision=fp32"]
STUDENT = ["student=resnet8", "distill.epochs=3", "optimizer.lr=0.01", "schedule=constant", "trainer.log_every=1"]
TOKEN = ["student=deit_tiny_distilled_patch16_224", "+student.args.depth=1", "+student.args.embed_dim=24"]
# what an option needs besides itself
MORE = {
    "method/mutual": ["method.peers=[resnet8]"],
    "method/students": ["method.peers=[resnet8,resnet14]"],
    "method/token": TOKEN,
    "loss/crd": ["loss.crd.negatives=64"],
    "method/ard": ["attack.steps=2", "attack.eval_steps=1"],
    "method/rslad": ["attack.steps=2", "attack.eval_steps=1"],
    "method/adversarial": ["attack.steps=2", "attack.eval_steps=1"],
}
STOP_AT = 6  # in the middle of the second epoch, where it has been asked before each of the steps so far
BATCHES = 5  # an epoch of 144 images has, all of about the same size


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """A stage's folder with a teacher of a few epochs."""
    folder = tmp_path_factory.mktemp("options") / "teacher"
    config = configured("pretrain", folder, "teacher=resnet14", "pretrain.epochs=4", "optimizer.lr=0.02", "dataset.subset=400", *QUICK[1:])
    with session(config, folder, StopAfter(10**9)) as running:
        execute(running)
    return folder / "pretrain"


def distill(folder: Path, teacher: Path, option: str, copy: Path | None = None) -> Path:
    """`distillctl distill` in this process; returns the stage's folder.

    `copy` gets the run's folder as it would be if the run had been stopped at the n-th time that it asks. What a stop does besides
    is the loop's, the same for every option, and tested in `test_resume.py`.
    """
    group, _, name = option.partition("/")
    overrides = [f"{group}={name}", f"teacher.checkpoint={teacher}", *QUICK, *STUDENT, *MORE.get(option, [])]
    config = configured("distill", folder, *overrides)
    check_settings(config)
    with copied_at(STOP_AT, folder, copy), session(config, folder, StopAfter(10**9)) as running:
        train_steps(running, plan(config))  # the final table is another test's, and takes as long
    return folder / "distill"


def losses(stage: Path) -> list[float]:
    """The total at each step."""
    lines = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "step"]


def alone(stage: Path):
    """The student by the script that ships with it."""
    specification = importlib.util.spec_from_file_location("load_student", stage / "load_student.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize("option", [*(f"loss/{name}" for name in LOSSES), *(f"method/{name}" for name in METHODS)])
def test_it_learns_resumes_to_the_bit_leaves_the_teacher_alone_and_ships(option, teacher, tmp_path):
    before = hashlib.sha256((teacher / "teacher.safetensors").read_bytes()).hexdigest()
    stopped = tmp_path / "stopped"
    whole = distill(tmp_path / "whole", teacher, option, copy=stopped)

    totals = losses(whole)
    assert all(torch.isfinite(torch.tensor(totals)))
    first, last = totals[:4], totals[-4:]
    if option not in DUELS:
        assert sum(last) < sum(first), totals

    assert (checkpoint(stopped / "distill")["step"], checkpoint(stopped / "distill")["batch"]) == (STOP_AT, STOP_AT % BATCHES)
    assert same_stage(whole, distill(stopped, teacher, option)) == []

    assert hashlib.sha256((teacher / "teacher.safetensors").read_bytes()).hexdigest() == before

    student = alone(whole)
    net = student.load()
    images = torch.rand(3, 3, 8, 8)
    with torch.no_grad():
        assert net.eval()(images).shape == (3, 10)
    record = json.loads((whole / "student.json").read_text())
    assert sum(value.numel() for value in net.parameters()) > 0
    assert record["metrics"]["val_top1"] >= 0


# their total need not fall in so few steps: two players fight over it, (crd) it begins against a memory of noise, or a weight warms up
DUELS = ("method/critic", "method/data_free", "method/self", "loss/consistency", "loss/ctkd", "loss/crd")


@pytest.mark.parametrize("name", OF_TEXTS)
def test_a_loss_of_texts_is_told_that_a_net_of_images_has_no_such_layers(name, teacher, tmp_path):
    with pytest.raises(ConfigError, match="it is no net of the transformers library; take a loss on logits, or on pooled") as caught:
        distill(tmp_path / "run", teacher, f"loss/{name}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [*LOSSES, *OF_TEXTS, *METHODS])
def test_its_file_says_in_a_line_what_it_is(name):
    group = "method" if name in METHODS else "loss"
    lines = [line for line in (CONF / group / f"{name}.yaml").read_text().splitlines() if not line.startswith("# @package")]
    assert lines[0].startswith("# ")
    assert len(lines[0]) > 20
    assert yaml.safe_load("\n".join(lines))
