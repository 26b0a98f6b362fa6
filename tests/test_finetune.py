"""`distillctl finetune` and its variants, from the command line to the shipped file; stopped and resumed, bit for bit."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from processes import StopAfter, checkpoint, configured, same_stage, step
from safetensors.torch import load_file, save_file

from distillctl.runs.session import session
from distillctl.runs.train import train

SHORT = (
    *("finetune.epochs=2", "finetune.lr_scale=1", "dataset.subset=300", "trainer.batch_size=32", "trainer.log_every=3"),
    *("trainer.device=cpu", "trainer.precision=fp32", "trainer.threads=1"),
)
VIT_ARGS = {"depth": 4, "embed_dim": 12, "num_heads": 2, "patch_size": 4, "img_size": 8}
VIT = ("dataset=digits", "student=vit_tiny_patch16_224", *(f"+student.args.{name}={value}" for name, value in VIT_ARGS.items()))
lora = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")


@pytest.fixture(scope="module")
def vit(tmp_path_factory) -> Path:
    """Plain weights of a small transformer."""
    torch.manual_seed(0)
    net = timm.create_model("vit_tiny_patch16_224", num_classes=10, **VIT_ARGS)
    file = tmp_path_factory.mktemp("vit") / "vit.safetensors"
    save_file(net.state_dict(), file)
    return file


@pytest.fixture
def finetune(distillctl, tiny_run, tmp_path):
    """Run the command on the tiny run's student, or on another; (what it said, weights before, weights after)."""

    def run(*overrides: str, start: Path | None = None):
        start = start or tiny_run / "distill/student.safetensors"
        finished = distillctl("finetune", f"student.checkpoint={start}", *SHORT, "hydra.run.dir=run", *overrides, cwd=tmp_path)
        assert finished.code == 0, finished.err
        folder = next((word.partition("=")[2] for word in overrides if word.startswith("hydra.run.dir=")), "run")
        return finished.out, load_file(start), load_file(tmp_path / folder / "finetune/student.safetensors")

    return run


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def test_on_attacked_images_the_labels_are_harder_to_learn(finetune, tmp_path):
    def losses(folder: str) -> list[float]:
        lines = [json.loads(line) for line in (tmp_path / folder / "finetune/metrics.jsonl").read_text().splitlines()]
        return [line["loss"] for line in lines if line["kind"] == "step"]

    finetune("hydra.run.dir=plain")
    out, _, _ = finetune("hydra.run.dir=attacked", "finetune.adversarial=true", "attack=pgd", "attack.steps=2", "attack.eval_steps=2")
    assert losses("attacked")[0] > losses("plain")[0]
    assert "robust" in out


# what each variant changes


def test_all_changes_all(finetune):
    out, before, after = finetune()
    assert changed(before, after) == set(before)
    assert "parameters:" not in out


@pytest.mark.parametrize("engine", [(), ("trainer.ema_decay=0.9", "trainer.precision=bf16", "trainer.accumulate=2", "trainer.clip_norm=1")])
def test_the_head_alone_leaves_all_else_bit_for_bit(finetune, engine):
    out, before, after = finetune("finetune.train=head", *engine)
    assert changed(before, after) == {"classifier.weight", "classifier.bias"}
    assert "training 650 of 78,042 parameters: head\n" in out


def test_the_last_stage_and_its_statistics(finetune):
    out, before, after = finetune("finetune.train=last")
    assert changed(before, after) == {name for name in before if name.startswith(("stage3", "classifier"))}
    assert "training 58,378 of 78,042 parameters: head and last stage\n" in out


def test_rates_fall_by_stage_and_follow_the_schedule(finetune, tmp_path):
    _, before, after = finetune("finetune.layer_decay=0.5", "schedule=constant", "optimizer.lr=0.08", "finetune.lr_scale=0.5")
    assert changed(before, after) == set(before)
    groups = checkpoint(tmp_path / "run/finetune")["optimizers"]["student"]["param_groups"]
    assert [group["initial_lr"] for group in groups] == pytest.approx([0.04, 0.02, 0.01, 0.005, 0.0025])
    assert [group["lr"] for group in groups] == [group["initial_lr"] for group in groups]
    assert sum(len(group["params"]) for group in groups) == sum(1 for name in before if name.endswith(("weight", "bias")))
    lines = [json.loads(line) for line in (tmp_path / "run/finetune/metrics.jsonl").read_text().splitlines()]
    assert {line["lr"] for line in lines if line["kind"] == "step"} == {0.04}


@lora
def test_adapters_ship_as_plain_weights(finetune, vit, tmp_path, distillctl):
    out, before, after = finetune("finetune.train=lora", "finetune.lora.rank=2", "optimizer=adamw", *VIT, start=vit)
    layers = {f"blocks.{block}.{layer}.weight" for block in range(4) for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}
    assert changed(before, after) == layers | {"head.weight", "head.bias"}
    assert "head, and adapters of rank 2 in 16 linear layers\n" in out
    timm.create_model("vit_tiny_patch16_224", num_classes=10, **VIT_ARGS).load_state_dict(after)
    while_training = json.loads((tmp_path / "run/finetune/student.json").read_text())["metrics"]
    words = ("checkpoint=run", "split=val", "trainer.device=cpu", "trainer.precision=fp32", "trainer.threads=1", "hydra.run.dir=seen")
    assert distillctl("evaluate", *words, cwd=tmp_path).code == 0
    shipped = json.loads((tmp_path / "seen/evaluation.json").read_text())
    assert shipped["measured"]["nll"] == pytest.approx(while_training["val_nll"], abs=1e-5)


def test_a_new_head_on_other_classes_is_a_linear_probe(finetune, tmp_path):
    random = np.random.default_rng(0)
    for part in ("train", "test"):
        for number, name in enumerate(("dark", "gray", "light")):
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            for image in range(20):
                pixels = random.integers(80 * number, 80 * number + 60, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{image}.png")
    out, before, after = finetune(
        *("student=resnet8", "student.new_head=true", "finetune.train=head", "trainer.batch_size=16"),
        *("dataset=image_folder", f"dataset.root={tmp_path / 'images'}", "dataset.image_size=8", "dataset.subset=null"),
    )
    assert changed(before, after) == {"classifier.weight", "classifier.bias"}
    assert after["classifier.weight"].shape == (3, 64)
    assert "training 195 of 77,587 parameters: head\n" in out


# arguments of a net whose weights are taken over


def test_dropout_reaches_a_net_that_is_fine_tuned(finetune, vit, tmp_path):
    finetune(*VIT, "+student.args.drop_rate=0.1", start=vit)
    started = tmp_path / "run/finetune/student.safetensors"
    started = started.rename(tmp_path / "student.safetensors")
    (tmp_path / "run/finetune/student.json").rename(tmp_path / "student.json")
    run = tmp_path / "run"
    run.rename(tmp_path / "first")
    finetune("+student.args.drop_path_rate=0.2", start=started)
    args = json.loads((run / "finetune/student.json").read_text())["architecture"]["args"]
    assert args == VIT_ARGS | {"drop_rate": 0.1, "drop_path_rate": 0.2}


# stopped and resumed


def attempt(folder: Path, *overrides: str, asked: int = 10**9) -> None:
    """The stage in this process, to its end or until it is asked to stop."""
    config = configured("finetune", folder, *SHORT, *overrides)
    with session(config, folder, StopAfter(asked)) as running:
        try:
            train(running, step(config, "finetune"))
        except Exception as error:
            if not str(error).startswith("interrupted"):
                raise


RESUMED = {
    "head": ("finetune.train=head", "finetune.layer_decay=0.5"),
    "last": ("finetune.train=last", "finetune.layer_decay=0.5", "trainer.ema_decay=0.9"),
    "decay": ("finetune.layer_decay=0.5", "optimizer=adamw", "optimizer.weight_decay_norm_bias=false"),
    "lora": ("finetune.train=lora", "finetune.lora.dropout=0.2", "optimizer=adamw", "trainer.ema_decay=0.9"),
}


@pytest.mark.parametrize("variant", [pytest.param(name, marks=lora if name == "lora" else ()) for name in RESUMED])
def test_an_interrupted_variant_ends_as_the_whole_one(variant, tiny_run, vit, tmp_path):
    start = vit if variant == "lora" else tiny_run / "distill/student.safetensors"
    overrides = (f"student.checkpoint={start}", *(VIT if variant == "lora" else ()), *RESUMED[variant])
    attempt(tmp_path / "whole", *overrides)
    attempt(tmp_path / "stopped", *overrides, asked=11)
    assert not (tmp_path / "stopped/finetune/student.safetensors").exists()
    attempt(tmp_path / "stopped", *overrides)
    assert same_stage(tmp_path / "whole/finetune", tmp_path / "stopped/finetune") == []


# what a user can get wrong

WRONG = [
    ("finetune.layer_decay=0", "finetune.layer_decay=0.0 must be > 0"),
    ("finetune.layer_decay=1.5", "finetune.layer_decay=1.5 must be <= 1"),
    ("finetune.train=lora finetune.lora.rank=0", "finetune.lora.rank=0 must be >= 1"),
    ("finetune.train=most", "finetune.train=most: must be one of all, head, last, lora, prompt"),
    ("finetune.stages=2", "finetune.stages=2 works with finetune.train=last only"),
    ("finetune.adversarial=true", "finetune.adversarial=true trains on attacked images: choose an attack, as attack=pgd"),
    ("finetune.lora.alpha=2", "finetune.lora.alpha=2 works with finetune.train=lora only"),
    ("finetune.train=last finetune.stages=9", "finetune.stages=9: resnet8 has 3 stages; lower it, or use finetune.train=all"),
    (
        "finetune.train=lora",
        "finetune.train=lora: resnet8 has no blocks with linear layers, as transformers have them; use finetune.train=last",
    ),
    (
        "finetune.train=head student=resnet8 student.checkpoint=null",
        "finetune.train=head freezes weights that are random: set student.checkpoint=<run folder or file> or student.pretrained=true",
    ),
    ("+student.args.drop_rate=0.1", "student.args.drop_rate=0.1: resnet8 has no such argument; it takes none"),
    ("+student.args.pretrained=true", "student.args.pretrained=True: set student.pretrained=true instead"),
]


@pytest.mark.parametrize(("words", "line"), WRONG, ids=[words for words, _ in WRONG])
def test_a_mistake_is_one_line(words, line, distillctl, tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr("distillctl.models.lora.require_peft", lambda *where: None)
    start = tiny_run / "distill/student.safetensors"
    finished = distillctl("finetune", f"student.checkpoint={start}", *SHORT, "hydra.run.dir=run", *words.split(), cwd=tmp_path)
    assert (finished.code, finished.err) == (2, f"error: {line}\n")


def test_a_wrong_argument_of_a_transformer_is_one_line(distillctl, vit, tmp_path):
    words = (f"student.checkpoint={vit}", *VIT, "+student.args.drop_rat=0.1", "hydra.run.dir=run")
    finished = distillctl("finetune", *words, *SHORT, cwd=tmp_path)
    assert finished.code == 2
    assert finished.err.startswith("error: student.args.drop_rat=0.1: vit_tiny_patch16_224 has no such argument; did you mean drop_rate")
    assert finished.err.count("\n") == 1


def test_train_finds_a_stage_too_many_before_it_trains(distillctl, tiny, tmp_path):
    words = ("finetune.train=last", "finetune.stages=9", "finetune.epochs=1", "hydra.run.dir=run")
    finished = distillctl("train", *(word for word in tiny if word != "finetune.epochs=0"), *words, cwd=tmp_path)
    assert finished.code == 2
    assert finished.err == "error: finetune.stages=9: resnet8 has 3 stages; lower it, or use finetune.train=all\n"
    assert not (tmp_path / "run/pretrain").exists()
