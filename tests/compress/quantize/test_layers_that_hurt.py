"""Which layers stay in float: by made-up harm, and of a real net with one layer that int8 spoils."""

import copy
from dataclasses import replace

import pytest

from distillctl.compress.quantize.figures import Quality
from distillctl.compress.quantize.graph import read, weighted_nodes
from distillctl.compress.quantize.sensitivity import find_kept, search

NAMES = [f"layer{number}" for number in range(10)]
REFERENCE = Quality(100, 0.9, 1.0, 0.0)


def judging(harm, asked):
    """Agreement falls by each harmful layer that is in int8."""

    def judge(keep_float):
        asked.append(frozenset(keep_float))
        lost = sum(amount for name, amount in harm.items() if name not in keep_float)
        return Quality(100, 0.9, 1 - lost, lost)

    return judge


def found(harm, evaluations=40):
    asked = []
    kept = search(NAMES, judging(harm, asked), REFERENCE, 0.01, 0.99, evaluations)
    assert len(asked) == kept.evaluations <= evaluations
    assert len(set(asked)) == len(asked)
    return kept


def test_nothing_is_kept_where_nothing_hurts():
    kept = found({"layer3": 0.005})
    assert (kept.nodes, kept.problem, kept.evaluations) == ((), None, 1)
    assert kept.sentence == "all 10 layers in int8: agreement 0.995 on 100 validation images"


def test_the_one_that_hurts_is_kept():
    kept = found({"layer3": 0.2, "layer7": 0.005})
    assert (kept.nodes, kept.problem) == (("layer3",), None)
    assert kept.sentence == "1 of 10 layers stay in float (layer3): agreement 0.995 on 100 validation images"
    assert kept.hurts[0].nodes == ("layer3",)
    assert kept.hurts[0].quality.agreement == pytest.approx(0.8)


def test_as_many_as_are_needed_and_in_the_order_of_the_net():
    assert found({"layer8": 0.1, "layer1": 0.2, "layer4": 0.05, "layer5": 0.002}).nodes == ("layer1", "layer4", "layer8")


def test_neighbours_are_judged_together_where_asking_each_would_be_too_much():
    kept = found({"layer3": 0.2}, evaluations=10)
    assert "layer3" in kept.nodes
    assert len(kept.nodes) == 2
    assert kept.problem is None


def test_where_all_would_have_to_stay_that_is_said():
    kept = found(dict.fromkeys(NAMES, 0.02))
    assert kept.problem == "agreement 0.980 on 100 validation images is under quantize.min_agreement=0.99"
    assert kept.sentence.startswith("no set of layers in float is enough, short of all: agreement 0.980")


def test_a_real_layer_that_int8_spoils_is_found(resnet_file, ranges, digits):
    """One image in calibration made a layer's range a thousand times too wide: all that it says is rounded to nothing."""
    model = read(resnet_file)
    before = copy.deepcopy(model)
    layer = weighted_nodes(model)[1]
    wide = replace(ranges, bounds={**ranges.bounds, layer.output[0]: (-5000.0, 5000.0)})
    kept = find_kept(model, wide, digits.val[:200], digits.val_targets[:200], max_drop=0.02, min_agreement=0.97)
    assert kept.nodes == (layer.name,)
    assert kept.problem is None
    assert kept.layers == 4
    assert kept.hurts[0].nodes == (layer.name,)
    assert kept.hurts[0].quality.agreement < 0.9 < 0.97 <= kept.quality.agreement
    assert model.SerializeToString(deterministic=True) == before.SerializeToString(deterministic=True)
