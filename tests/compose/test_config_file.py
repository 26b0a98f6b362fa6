"""A config file of one's own says what could be typed; the config that a run keeps is one too."""

from pathlib import Path

import pytest
import yaml

from distillctl.compose import yaml_files
from distillctl.compose.config_file import is_config_file, words_of
from distillctl.errors import ConfigError

MINE = """
# a comment
student: resnet8
dataset:
  subset: 300
  root: 2024_11_27
trainer.batch_size: 32
optimizer:
  lr: 1e-2
teacher:
  cache: {mode: off}
"""


def shown(distillctl, cwd: Path, *words: str) -> dict:
    finished = distillctl(*words, "--cfg", "job", cwd=cwd)
    assert (finished.code, finished.err) == (0, ""), words
    return yaml.safe_load(finished.out)


def test_a_file_says_what_could_be_typed(distillctl, tmp_path: Path):
    (tmp_path / "mine.yaml").write_text(MINE)
    config = shown(distillctl, tmp_path, "train", "mine.yaml", "trainer.log_every=3")
    assert config["student"]["name"] == "resnet8"
    assert config["dataset"] | {"subset": 300, "root": "2024_11_27", "name": "image_folder"} == config["dataset"]
    assert config["trainer"]["batch_size"] == 32
    assert config["trainer"]["log_every"] == 3
    assert config["optimizer"]["lr"] == 0.01
    assert config["optimizer"]["_target_"] == "torch.optim.SGD"
    assert config["teacher"]["cache"]["mode"] == "off"
    assert config == shown(distillctl, tmp_path, "train", "--config", "mine.yaml", "trainer.log_every=3")


def test_what_is_typed_wins(distillctl, tmp_path: Path):
    (tmp_path / "mine.yaml").write_text(MINE + "schedule: {_target_: distillctl.schedules.Steps, milestones: [1]}\n")
    config = shown(distillctl, tmp_path, "train", "mine.yaml", "student=resnet20", "optimizer.lr=3", "schedule=constant")
    assert config["student"]["name"] == "resnet20"
    assert config["optimizer"]["lr"] == 3
    assert "Constant" in config["schedule"]["_target_"]
    assert "milestones" not in config["schedule"]


@pytest.mark.parametrize(
    "words",
    [
        ("train",),
        ("train", "loss=crd", "optimizer=adamw", "schedule=steps", "method=mutual", "attack=pgd", "tracker=wandb", "trainer=laptop"),
        ("train", "loss=[kd,at]", "~loss.kd", "student=own", "student._target_=mine.Net", "+student.args.width=32"),
        ("train", "dataset=image_folder", "dataset.root=a b/~c=3,(1)", "teacher.cache.mode=off", "+student.args.x=[1,2.5,{a: b},true]"),
        ("distill", "teacher=ensemble", "teacher.members.a=resnet20", "teacher.weights.a=2", "assistants=[resnet14]"),
        ("finetune", "student.checkpoint=1e5", "tracker.project='null'"),
        ("pretrain", "seed=3", "dataset.root=3.10"),
    ],
    ids=lambda words: " ".join(words)[:40],
)
def test_the_config_of_a_run_gives_the_same_again(words: tuple[str, ...], distillctl, tmp_path: Path):
    (tmp_path / "run/.hydra").mkdir(parents=True)
    first = distillctl(*words, "--cfg", "job", cwd=tmp_path)
    (tmp_path / "run/.hydra/config.yaml").write_text(first.out)
    for again in ("run", "run/.hydra/config.yaml"):
        assert distillctl(words[0], again, "--cfg", "job", cwd=tmp_path).out == first.out


def test_a_recipe_that_was_copied_is_a_config(distillctl, tmp_path: Path):
    recipe = Path(yaml_files.__file__).parents[2] / "recipes/cifar10_folder_small.yaml"
    (tmp_path / "copied.yaml").write_text(recipe.read_text())
    words = ("dataset.root=images", "seed=2")
    assert shown(distillctl, tmp_path, "train", "copied.yaml", *words) == shown(
        distillctl, tmp_path, "train", "recipe=cifar10_folder_small", *words
    )


REFUSED = {
    "hydra: {run: {dir: x}}": "hydra: Hydra's own keys come from the command line alone",
    "hydra.run.dir: x": "hydra.run.dir: Hydra's own keys come from the command line alone",
    "hydra: {sweeper: {params: {seed: '0,1', loss: 'kd,at'}}}": "as in -m seed=0,1 loss=kd,at",
    "trainer@hydra.callbacks: laptop": "is no key",
    "+seed: 1": "is no key",
    "~loss: kd": "is no key",
    "hydra/callbacks: e": "is no key",
    "defaults: [override /hydra/launcher: joblib]": "expected the choice of a group",
    "defaults: [../../x]": "expected the choice of a group",
    "defaults: x": "expected the choice of a group",
    "optimizer: ../../x": "no name of an option",
    "loss: [kd, /etc/passwd]": "no name of an option",
    "seed: !!python/object/apply:os.system ['touch marker']": "holds the tag",
    "a: &a [1]\nb: *a": "holds aliases",
    "seed: 1\nseed: 2": "seed stands there twice",
    "[1, 2]": "expected keys with values",
    "word": "expected keys with values",
    "[" * 100_000: "nested too deeply",
    "x: " + "y" * 2_000_000: "larger than",
    "\x00": "no YAML",
    "a: [1": "no YAML",
    "student: {args: {'a=b': 1}}": "is no key",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:30])
def test_a_file_that_says_more_is_refused_in_one_line(text: str, tmp_path: Path):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError) as refused:
        words_of("train", str(tmp_path / "mine.yaml"), [])
    assert str(refused.value).startswith(f"{tmp_path / 'mine.yaml'}: ")
    assert REFUSED[text] in str(refused.value)
    assert "\n" not in str(refused.value)


def test_no_file_a_folder_and_a_pipe(distillctl, tmp_path: Path):
    (tmp_path / "pipe.yaml").parent.mkdir(exist_ok=True)
    import os

    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    assert distillctl("train", "nowhere.yaml", cwd=tmp_path).err == "error: nowhere.yaml: no such file\n"
    assert distillctl("train", "pipe.yaml", cwd=tmp_path).err == "error: pipe.yaml: a named pipe, not a regular file\n"
    assert distillctl("train", "folder.yaml", cwd=tmp_path).code == 2
    assert distillctl("train", "--config", cwd=tmp_path).code == 2


def test_a_mistyped_key_is_named(distillctl, tmp_path: Path):
    (tmp_path / "mine.yaml").write_text("trainer: {batchsize: 3}\n")
    assert "did you mean trainer.batch_size?" in distillctl("train", "mine.yaml", cwd=tmp_path).err


def test_words_with_an_equals_sign_are_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert is_config_file("mine.yml")
    assert not is_config_file("teacher.checkpoint=a.yaml")
    assert not is_config_file("run")
