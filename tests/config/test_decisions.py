"""What a key decides is said at the key, and the lists of what may change, be shared or be reused follow from that."""

import dataclasses
from dataclasses import dataclass, fields, is_dataclass

import pytest

from distillctl import config
from distillctl.compose import resume, sharing
from distillctl.config import (
    ModelConfig,
    StageConfig,
    TrainConfig,
    TrainerConfig,
    branch,
    data,
    decides,
    deploy,
    keys_that_decide,
    lifelong,
    listings,
    models,
    schema,
    stream,
    training,
    value,
)
from distillctl.config.keys import said_about, values_that_decide
from distillctl.runs import reuse

DATACLASSES = [
    found
    for module in (data, deploy, lifelong, listings, models, schema, stream, training)
    for found in vars(module).values()
    if isinstance(found, type) and is_dataclass(found) and found.__module__ == module.__name__
]
TRAINING = ("train", "pretrain", "distill", "finetune")


# ------------------------------------------------------------------------------------------------ every field says it
def silent(kind: type) -> list[str]:
    """The fields that do not say what they decide."""
    return [entry.name for entry in fields(kind) if entry.metadata.get("decides") not in config.DECISIONS]


@pytest.mark.parametrize("kind", DATACLASSES, ids=lambda kind: kind.__name__)
def test_every_field_says_what_it_decides(kind: type):
    assert not silent(kind)


def test_a_field_that_says_nothing_is_seen():
    @dataclass
    class Careless(TrainerConfig):
        warmup: int = 0
        odd: int = value(0, decides="everything")

    assert silent(Careless) == ["warmup", "odd"]


def test_all_schemas_are_looked_at():
    assert {*config.SCHEMAS.values(), *config.DATA_KINDS.values()} <= set(DATACLASSES)


# ------------------------------------------------------------------------------------------------ what follows at a key
@pytest.mark.parametrize(
    ("key", "word"),
    [
        ("seed", "answers"),
        ("teacher", "answers"),
        ("teacher.name", "answers"),  # the field says weights, its branch more
        ("teacher.args.drop_rate", "answers"),
        ("teacher.members.a.checkpoint", "answers"),
        ("teacher.cache.mode", "answers"),
        ("teacher.cache.dir", "cost"),
        ("student.name", "weights"),
        ("student.args.drop_rate", "weights"),
        ("loss.kd.temperature", "weights"),
        ("optimizer", "weights"),
        ("assistants", "weights"),
        ("trainer.batch_size", "answers"),  # its branch says weights, the field more
        ("trainer.select", "weights"),
        ("trainer.threads", "rounding"),
        ("trainer", "weights"),
        ("tracker", "words"),
        ("tracker.project", "words"),
        ("dataset.root", "cost"),
        ("dataset.augment.flip", "answers"),  # of a kind that is not known here
        ("recipe", "answers"),
        ("hydra.run.dir", "answers"),
        ("dataset/kind", "answers"),
        ("no.such.key", "answers"),
        ("seed.more", "answers"),
    ],
)
def test_a_key_decides_the_strongest_of_its_own_and_its_branches(key: str, word: str):
    assert decides(TrainConfig, key) == word


def test_a_dataclass_an_object_and_a_composed_config_say_the_same():
    for key in config.key_names(TrainConfig):
        assert decides(TrainConfig, key) == decides(TrainConfig(), key)


def test_the_object_knows_which_kind_of_data_was_chosen():
    @dataclass
    class Sentences(config.DatasetConfig):
        length: int = value(64, decides="answers")
        spool: str = value("", decides="cost")

    chosen = TrainConfig(dataset=Sentences())
    assert decides(chosen, "dataset.spool") == "cost"
    assert decides(TrainConfig, "dataset.spool") == "answers"
    assert "dataset.length" in keys_that_decide(chosen, "answers")


def test_what_is_said_about_a_key_is_said_above_it_and_below_it_too():
    assert said_about(TrainConfig, "trainer.ema_decay") == {"weights"}
    assert said_about(TrainConfig, "trainer") == {"answers", "weights", "rounding", "cost", "words"}
    assert said_about(TrainConfig, "dataset.workers") == {"answers", "cost"}


# ------------------------------------------------------------------------------------------------ the lists of today
MAY_CHANGE = [
    "objective",
    "resume",
    "debug",
    "tracker.name",
    "tracker.project",
    "dataset.root",
    "dataset.download",
    "dataset.on_bad_image",
    "dataset.max_pixels",
    "dataset.workers",
    "dataset.timeout_s",
    "trainer.device",
    "trainer.devices",
    "trainer.threads",
    "trainer.log_every",
    "trainer.save_every_s",
    "trainer.timeout_s",
]
OF_API = (
    "key_variable",
    "insecure_http",
    "concurrency",
    "requests_per_minute",
    "tokens_per_minute",
    "retries",
    "timeout_s",
    "give_up_share",
)
OF_TEACHER = [
    *(f"teacher.{name}" for name in (*OF_API, "budget", "prices", "ledger")),
    *("teacher.cache.dir", "teacher.cache.trust_group"),
]
OWN = {
    "train": [*OF_TEACHER, "pretrain.reuse", "export.web_runtime"],
    "pretrain": OF_TEACHER,
    "distill": OF_TEACHER,
    "finetune": [],
}


@pytest.mark.parametrize("command", TRAINING)
def test_what_a_resumed_run_may_change(command: str):
    kind = config.SCHEMAS[command]
    chosen = kind(dataset=config.ImageSetConfig())
    assert sorted(keys_that_decide(chosen, *resume.MAY_CHANGE)) == sorted([*MAY_CHANGE, *OWN[command]])
    assert resume.free(kind, "tracker")
    assert not any(resume.free(kind, key) for key in ("trainer", "dataset", "teacher", "student", "hydra.run.dir", "recipe"))


OF_ANSWERS = ("seed", "dataset", "teacher", "recipe") + tuple(
    f"trainer.{name}" for name in ("batch_size", "device", "devices", "precision", "channels_last", "compile", "threads")
)


@pytest.mark.parametrize("command", ["distill", "train"])
def test_what_decides_views_or_answers_in_a_sweep(command: str):
    listed = (*OF_ANSWERS, *sharing.OF_PRETRAINING) if command == "train" else OF_ANSWERS
    keys = [*config.key_names(config.SCHEMAS[command]), "recipe", "dataset.augment.flip", "loss.ce", "loss.kd.temperature", "optimizer.lr"]
    for key in keys:
        assert sharing.decides_answers(command, key) == any(sharing.overlap(key, name) for name in listed), key


def test_what_decides_a_trained_teacher():
    assert set(keys_that_decide(TrainerConfig, *reuse.OF_WEIGHTS)) == {
        "max_minutes",
        "max_steps",
        *("batch_size", "precision", "accumulate", "clip_norm", "ema_decay", "compile", "channels_last", "sync_batchnorm", "select"),
        *("select_by", "early_stopping_epochs"),
    }
    left_out = set(keys_that_decide(config.ImageSetConfig, *config.DECISIONS)) - set(
        keys_that_decide(config.ImageSetConfig, *reuse.OF_WEIGHTS)
    )
    assert left_out == {"root", "download", "on_bad_image", "max_pixels", "workers", "timeout_s"}  # the fingerprint has what is read
    assert set(values_that_decide(config.PretrainStageConfig(epochs=3), *reuse.OF_WEIGHTS)) == {"epochs", "lr_scale"}


def test_values_that_decide_are_those_of_the_config():
    found = values_that_decide(config.ImageSetConfig(name="digits", augment=config.AugmentConfig(flip=0.25)), "answers")
    assert found["name"] == "digits"
    assert found["augment.flip"] == 0.25
    assert "augment" not in found
    assert "root" not in found


def test_components_are_whole_values():
    assert values_that_decide(ModelConfig(args={"drop_rate": 0.1}), "weights")["args"] == {"drop_rate": 0.1}


# ------------------------------------------------------------------------------------------------ a new key
def with_field(base: type, name: str, decides: str) -> type:
    return dataclasses.make_dataclass(base.__name__, [(name, int, value(0, decides=decides))], bases=(base,))


@pytest.mark.parametrize("decides", config.DECISIONS)
def test_a_new_key_of_the_trainer_is_in_every_list_that_it_belongs_to(decides: str):
    trainer = with_field(TrainerConfig, "novelty", decides)
    train = dataclasses.make_dataclass("Train", [("trainer", trainer, branch(trainer, decides="weights"))], bases=(TrainConfig,))
    assert ("novelty" in values_that_decide(trainer(), *reuse.OF_WEIGHTS)) == (decides in ("answers", "weights"))
    assert resume.free(train, "trainer.novelty") == (decides in ("rounding", "cost", "words"))


def test_a_new_key_of_a_stage_is_in_the_key_of_its_teacher():
    assert values_that_decide(with_field(StageConfig, "warmup_epochs", "weights")(), *reuse.OF_WEIGHTS)["warmup_epochs"] == 0
