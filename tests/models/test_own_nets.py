"""Whatever a net of one's own wraps its logits in, they are found; where that cannot be told, one line says so before any training."""

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from distillctl.config import ModelConfig
from distillctl.errors import ConfigError
from distillctl.inputs.image import Images
from distillctl.models import obtain as obtaining
from distillctl.models.logits import logits_of

LOGITS, FEATURES, AUX = torch.rand(2, 10), torch.rand(2, 64), torch.rand(2, 10)


@dataclass
class Answer:
    features: Tensor
    prediction: Tensor


class Object:
    logits = LOGITS


Pair = namedtuple("Pair", ["features", "logits"])


@pytest.mark.parametrize(
    "answer",
    [
        LOGITS, (LOGITS, AUX), (LOGITS, FEATURES), (FEATURES, LOGITS), [FEATURES, LOGITS], Object(), [Object()], {"logits": LOGITS, "aux": AUX},
        {"features": FEATURES, "out": LOGITS}, {"out": LOGITS, "aux": AUX}, Answer(FEATURES, LOGITS), Pair(AUX, LOGITS), (LOGITS, None), (None, LOGITS),
        (torch.rand(2, 3, 10), LOGITS), (torch.ones(2, 10, dtype=torch.int64), LOGITS),
    ],
)  # fmt: skip
def test_logits_are_found(answer):
    assert logits_of(answer, 10) is LOGITS


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (torch.rand(2, 7), r"\[B, 10\], one number a class of the data set, and it answers with \[2, 7\]"),
        (torch.rand(2, 10, 1, 1), r"answers with \[2, 10, 1, 1\]"),
        (torch.rand(10), r"answers with \[10\]"),
        ({"logits": torch.rand(2, 7)}, r"answers with \[2, 7\]"),
        ((FEATURES, LOGITS, AUX), r"\{0: \[2, 64\], 1: \[2, 10\], 2: \[2, 10\]\}, where 2 tensors in it may be they"),
        ((FEATURES,), "nothing in it is"),
        ({}, "answers with dict, where nothing in it is"),
        (None, "answers with NoneType"),
        ("x", "answers with str"),
    ],
)
def test_what_cannot_be_told_is_one_line(answer, said):
    with pytest.raises(ConfigError, match=said) as error:
        logits_of(answer, 10)
    assert "\n" not in str(error.value)


class Own(nn.Module):
    """Answers as `form` says."""

    def __init__(self, num_classes: int, form: str = "tensor"):
        super().__init__()
        self.net, self.form = nn.Sequential(nn.Flatten(), nn.Linear(192, num_classes)), form

    def forward(self, images: Tensor):
        logits = self.net(images)
        if self.form == "train only" and self.training:
            return logits[:, :1]
        return {
            "more": logits.repeat(1, 2),
            "nan": logits / 0 * 0,
            "dict": {"features": images, "out": logits},
            "rows": logits[:1],
            "none": None,
        }.get(self.form, logits)


def check(form: str) -> None:
    config = ModelConfig(name="own", source="own", _target_=f"{__name__}.Own", args={"form": form})
    samples = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    obtaining.check_answers(config, Images(tuple("abc"), 8, (0.5,) * 3, (0.25,) * 3), samples, "student")


@pytest.fixture
def trusted(monkeypatch):
    monkeypatch.setattr(obtaining, "build", lambda node, kind, key, num_classes: Own(num_classes, node["form"]))


@pytest.mark.parametrize("form", ["tensor", "dict"])
def test_an_own_net_that_answers_passes(trusted, form):
    check(form)


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("more", r"\[B, 3\], one number a class of the data set, and it answers with \[2, 6\]"),
        ("nan", "not finite numbers before any training"),
        ("rows", "it answers 2 samples with 1 rows"),
        ("none", "answers with NoneType"),
        ("train only", r"answers with \[2, 1\]"),
    ],
)
def test_an_own_net_that_does_not_answer_is_named_before_training(trusted, form, said):
    with pytest.raises(ConfigError, match=rf"^student\._target_=.*Own: .*{said}") as error:
        check(form)
    assert "\n" not in str(error.value)
