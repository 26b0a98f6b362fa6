"""What every option of the groups loss and method does on texts: it learns, resumes to the bit, ships; or it is refused in a line before anything is trained."""

import json
from pathlib import Path

import pytest
import torch
from processes import StopAfter, checkpoint, configured, copied_at, same_stage

from distillctl.data.text.reader import TextReader
from distillctl.errors import ConfigError
from distillctl.inputs import from_record
from distillctl.models.shipping import read_record
from distillctl.runs.check import check_settings
from distillctl.runs.execute import train_steps
from distillctl.runs.plan import plan
from distillctl.runs.preflight import preflight
from distillctl.runs.session import session

CONF = Path(__file__).parents[2] / "conf"
LOSSES = sorted(file.stem for file in (CONF / "loss").glob("*.yaml") if file.stem not in ("ard", "rslad"))
METHODS = sorted(file.stem for file in (CONF / "method").glob("*.yaml"))
OF_MAPS = ("at", "fitnet", "fsp", "nst", "ofd", "reviewkd", "sp", "vid")  # these read maps of images
OF_IMAGES = ("adversarial", "ard", "rslad", "data_free", "simkd", "token")
OF_LAYERS = ("tinybert", "pkd", "minilmv2")  # of nets of the transformers library
REFUSED = {*(f"loss/{name}" for name in OF_LAYERS), *(f"loss/{name}" for name in OF_MAPS), *(f"method/{name}" for name in OF_IMAGES)}
# what an option needs besides itself, as for images
MORE = {
    "method/mutual": ["method.peers=[bag]"],
    "method/students": ["method.peers=[bag,textcnn]"],
    "loss/crd": ["loss.crd.negatives=64"],
}
FEW = ["dataset.subset=96", "optimizer=adamw_text", "optimizer.lr=0.01", "distill.epochs=3", "trainer.log_every=1"]
STOP_AT = 7  # in the middle of the second epoch


def distill(folder: Path, words: tuple[str, ...], option: str, copy: Path | None = None) -> Path:
    """The stage's folder. `copy` gets the run's folder as it is when it has been asked to stop so many times."""
    group, _, name = option.partition("/")
    config = configured("distill", folder, *words, f"{group}={name}", *FEW, *MORE.get(option, []))
    check_settings(config)
    with copied_at(STOP_AT, folder, copy), session(config, folder, StopAfter(10**9)) as running:
        preflight(running, plan(config))
        train_steps(running, plan(config))
    return folder / "distill"


def totals(stage: Path) -> list[float]:
    lines = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "step"]


@pytest.mark.parametrize("option", [*(f"loss/{name}" for name in LOSSES), *(f"method/{name}" for name in METHODS)])
def test_it_learns_resumes_to_the_bit_and_ships_or_is_refused_before_training(option, taught, tmp_path):
    stopped = tmp_path / "stopped"
    if option in REFUSED:
        with pytest.raises(ConfigError) as caught:
            distill(tmp_path / "whole", taught, option)
        assert all("\n" not in problem for problem in caught.value.problems)
        assert not (tmp_path / "whole/distill").exists()
        return
    whole = distill(tmp_path / "whole", taught, option, copy=stopped)
    losses = totals(whole)
    assert all(torch.isfinite(torch.tensor(losses)))
    assert (checkpoint(stopped / "distill")["step"], checkpoint(stopped / "distill")["epoch"]) == (STOP_AT, 1)
    assert same_stage(whole, distill(stopped, taught, option)) == []
    record = read_record(whole / "student.safetensors", "student.checkpoint")
    content = (whole / "tokenizer.json").read_text()
    assert record.preprocessing["tokenizer"] == TextReader(content, 0, 1).tokenizer_mark
    assert from_record(record).classes == ("bad", "good")


def test_an_option_that_is_refused_names_the_texts_or_the_net(taught, tmp_path):
    for option, text in (("method/data_free", "and the data set has texts"), ("loss/at", "student: it has no tap 'stage1'")):
        with pytest.raises(ConfigError) as caught:
            distill(tmp_path / option.replace("/", "_"), taught, option)
        assert text in str(caught.value)
