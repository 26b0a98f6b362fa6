"""Several losses at once: what the files say together, as `distillctl distill loss=[...]` composes them."""

from itertools import permutations
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml

from distillctl import compose
from distillctl.errors import ConfigError
from distillctl.losses.logits import BinaryCrossEntropy, CrossEntropy
from distillctl.losses.weighted import build_loss

CONF = Path(__file__).parents[2] / "conf"


pytestmark = pytest.mark.usefixtures("composing")


def composed(*overrides: str) -> dict[str, Any]:
    return compose.typed(hydra.compose("distill", ["teacher.checkpoint=x", *overrides])).loss


def label_weight(name: str) -> float | None:
    return yaml.safe_load((CONF / "loss" / f"{name}.yaml").read_text()).get("ce", {}).get("weight")


@pytest.mark.parametrize(
    ("names", "weights"),
    [
        ("ce,kd", {"ce": 0.1, "kd": 0.9}),
        ("kd,ce", {"ce": 1.0, "kd": 0.9}),
        ("ce,kd,at", {"ce": 1.0, "kd": 0.9, "at": 1000.0}),
        ("at,kd", {"ce": 0.1, "kd": 0.9, "at": 1000.0}),
        ("kd,funmatch", {"ce": 0.1, "kd": 0.9, "funmatch": 1.0}),
    ],
)
def test_the_labels_weigh_what_the_last_file_with_labels_says(names, weights):
    assert {name: term["weight"] for name, term in composed(f"loss=[{names}]").items()} == weights


@pytest.mark.parametrize("names", list(permutations(("kd", "at", "funmatch"))), ids="+".join)
def test_that_is_so_in_any_order(names):
    found = composed(f"loss=[{','.join(names)}]")
    said = [label_weight(name) for name in names if label_weight(name) is not None]
    assert found["ce"]["weight"] == said[-1]
    assert set(found) == {"ce", *names}


def test_what_is_typed_wins():
    assert composed("loss=[ce,kd]", "loss.ce.weight=0.7")["ce"]["weight"] == 0.7


@pytest.mark.parametrize("name", ["ce", "kd", "funmatch", "at", "crd"])
def test_every_loss_goes_with_the_binary_one(name):
    """Whose label term is another one, with the same arguments: the last named says which of the two it is."""
    for names, kind in ((f"{name},binary_kl", BinaryCrossEntropy), (f"binary_kl,{name}", CrossEntropy)):
        loss = composed(f"loss=[{names}]", "loss.ce.label_smoothing=0.1", "loss.ce.weight=1")
        term = build_loss(loss).terms["ce"]
        assert type(term) is (BinaryCrossEntropy if label_weight(name) is None else kind)
        assert term.label_smoothing == 0.1


def test_the_seed_of_the_negatives_is_that_of_the_run():
    assert composed("loss=crd")["crd"]["seed"] == 0
    assert composed("loss=crd", "seed=3")["crd"]["seed"] == 3
    assert composed("loss=crd", "seed=3", "loss.crd.seed=7")["crd"]["seed"] == 7


NUMBERS = [
    (path.stem, term, key)
    for path in sorted((CONF / "loss").glob("*.yaml"))
    for term, node in yaml.safe_load(path.read_text()).items()
    for key, value in node.items()
    if (isinstance(value, (int, float)) or key == "seed") and term != "ce"
]


@pytest.mark.parametrize(("name", "term", "key"), [*NUMBERS, ("ce", "ce", "weight"), ("ce", "ce", "label_smoothing")])
def test_a_number_out_of_its_range_is_answered_by_its_key(name, term, key):
    content = yaml.safe_load((CONF / "loss" / f"{name}.yaml").read_text())
    if key != "seed" and "seed" in content[term]:
        del content[term]["seed"]
    for value in (-1, float("nan"), float("inf"), "much", True, None):
        with pytest.raises(ConfigError) as error:
            build_loss({term: content[term] | {key: value}})
        assert str(error.value).startswith(f"loss.{term}.{key}={value}")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("values", ["[]", "[2,-1]", "[2,nan]", "[x]", "4"])
def test_temperatures_of_several_levels_are_checked_one_by_one(values):
    with pytest.raises(ConfigError, match=r"^loss\.mlkd\.temperatures="):
        build_loss(composed("loss=mlkd", f"loss.mlkd.temperatures={values}"))


@pytest.mark.parametrize(
    ("override", "way_out"), [("loss.dynamic.by=both", "must be student or teacher"), ("loss.ctkd.high=0.5", "must be > low=1.0")]
)
def test_other_arguments_say_what_they_can_be(override, way_out):
    name = override.split(".")[1]
    with pytest.raises(ConfigError, match=way_out):
        build_loss(composed(f"loss={name}", override))
