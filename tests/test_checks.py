"""What is found before anything is trained: losses that leave a classifier random, lessons that nobody gives, caches that cannot be."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from distillctl.runtime import Runtime

DEIT = "student=deit_tiny_distilled_patch16_224"
WRONG = [
    (
        "loss=at loss.ce.weight=0",
        "loss=at: no term of it reads the student's answer, so its classifier would not learn; add one, as loss=[at,kd]",
    ),
    ("method=mutual generations=2", "generations=2: neither method nor loss reads a teacher here; take method=distill"),
    ("method=self assistants=[resnet14]", "assistants=['resnet14']: neither method nor loss reads a teacher here"),
    (f"method=token {DEIT} loss.ce.weight=0", "method=token: the loss (hard) must have a term for each token"),
    ("loss=at teacher.cache.mode=require", "teacher.cache.mode=require: its feature maps are read (stage1, stage2, stage3)"),
    ("loss=rkd teacher.cache.mode=require teacher.cache.features=none", "teacher.cache.mode=require: its features are read (pooled)"),
    ("method=simkd teacher.cache.mode=require", "teacher.cache.mode=require: the method asks it about other images than the views"),
    ("method=critic method.weight=0", "method.weight=0 must be > 0"),
    ("method=self method.decay=2", "method.decay=2 must be in [0, 1]"),
    ("method=students method.mutual=-1", "method.mutual=-1 must be >= 0"),
    ("method=rslad loss=kd", "method.attacked=rslad: the loss has no such term"),
    ("method=ard attack=none", "attack=none: this method trains against an attack; choose attack=pgd"),
]


@pytest.mark.parametrize(("words", "line"), WRONG)
def test_it_is_one_line_before_the_teacher_trains(words, line, distillctl, tmp_path):
    finished = distillctl("train", *words.split(), "hydra.run.dir=run", cwd=tmp_path)
    assert finished.code == 2
    assert f"error: {line}" in finished.err
    assert not (tmp_path / "run/pretrain").exists()


def test_an_assistant_without_a_distillation_token(distillctl, tmp_path):
    finished = distillctl("train", "method=token", DEIT, "assistants=[resnet14]", "hydra.run.dir=run", cwd=tmp_path)
    assert finished.code == 2
    assert "error: method=token: assistants.0=ResNet has no distillation token" in finished.err


def test_a_tap_on_a_batch_norm_survives_sharing_it(monkeypatch):
    """Over several ranks another module takes its place."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    seen = []
    net[1].register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
    shared = Runtime(torch.device("cpu"), torch.float32, world=2).share_statistics(net)
    assert type(shared[1]) is not nn.BatchNorm2d
    shared.eval()(torch.zeros(2, 3, 5, 5))
    assert seen == [(2, 4, 5, 5)]


SINGLES = "dataset=digits dataset.subset=40 trainer.batch_size=4 trainer.accumulate=4 trainer.threads=1 pretrain.epochs=1"


@pytest.mark.parametrize(
    ("words", "who"),
    [
        ("pretrain teacher=resnet8", "resnet8"),
        ("train teacher=vit_tiny_patch16_224 teacher.image_size=32 student=resnet8 distill.epochs=1", "resnet8"),
    ],
)
def test_batch_norm_needs_two_images_at_a_time(words, who, distillctl, tmp_path):
    finished = distillctl(*words.split()[:1], *SINGLES.split(), *words.split()[1:], cwd=tmp_path)
    assert finished.code == 2
    assert f"the batch norm of {who} needs 2: lower trainer.accumulate or devices" in finished.err


def test_a_net_without_batch_norm_takes_images_one_by_one(distillctl, tmp_path):
    net = "teacher=vit_tiny_patch16_224 teacher.image_size=8 +teacher.args.patch_size=4 +teacher.args.depth=1 +teacher.args.embed_dim=24"
    finished = distillctl("pretrain", *SINGLES.split(), *net.split(), cwd=tmp_path)
    assert finished.code == 0, finished.err


# ------------------------------------------------------------------------------------------------ before anything is read
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("dataset=cifar10 trainer.batch_size=60000", "trainer.batch_size=60000 is more than the 50,000 training images that there can be"),
        ("dataset=image_folder dataset.root=photos trainer.batch_size=7", "is more than the 6 training images that there can be"),
        ("dataset=image_folder dataset.root=photos/train trainer.batch_size=7", "is more than the 6 training images that there can be"),
        ("dataset.subset=100 trainer.batch_size=128", "trainer.batch_size=128 is more than dataset.subset=100"),
    ],
)
def test_a_batch_that_is_larger_than_the_data_is_found_by_names_alone(words, said, distillctl, tmp_path):
    for name in ("train/a/1", "train/a/2", "train/a/3", "train/b/4", "train/b/5", "train/b/6", "test/a/7", "test/b/8"):
        file = tmp_path / f"photos/{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("no image: whoever reads it says so")
    finished = distillctl("train", *words.split(), cwd=tmp_path)
    assert finished.code == 2
    assert finished.err.strip().endswith(f"{said}; lower it")
    assert finished.err.count("\n") == 1
    assert finished.out == ""


def test_an_image_alone_on_a_map_of_one_pixel_is_a_line(distillctl, tmp_path):
    words = ("teacher=resnet18", "teacher.source=torchvision", "teacher.stem=large", "dataset.subset=41", "dataset.image_size=32")
    more = ("trainer.batch_size=1", "pretrain.epochs=1", "trainer.device=cpu", "trainer.threads=1", "hydra.run.dir=run")
    finished = distillctl("pretrain", *words, *more, cwd=tmp_path)
    assert finished.code == 2
    (line,) = finished.err.splitlines()
    assert line.startswith("error: trainer.batch_size: batch norm has one value a channel to go by")
