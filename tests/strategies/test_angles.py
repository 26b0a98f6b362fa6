"""Strategies that answer by angles, in double precision against plain loops; and the classifier that they give a net."""

import json
import math
import runpy

import pytest
import torch
from lessons import (
    FIRST,
    LATER,
    Angled,
    answering,
    apart,
    batch,
    cross_entropy,
    herded,
    loss,
    memory,
    neighbours,
    ranked,
    similarities,
    turned,
)

from distillctl.config import ModelConfig
from distillctl.data.split import whole
from distillctl.errors import ConfigError
from distillctl.inputs.image import Images
from distillctl.models.cosine import CosineHead
from distillctl.models.edits import apply_edits, change_of
from distillctl.models.net import plan_net, rebuild
from distillctl.models.obtain import obtain
from distillctl.strategies.angles import imprinted
from distillctl.strategies.lucir import Lucir, margin_ranking
from distillctl.strategies.podnet import Podnet, nca
from distillctl.strategies.task import Samples, Task
from distillctl.types import Batch

IMAGES = Images(tuple("abcde"), 8, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
NEW = {"low": 3, "high": 5}
SCALE = 1.7


def close(value: float):
    return pytest.approx(value, rel=1e-9, abs=1e-12)


def asked(net, inputs):
    with torch.no_grad():
        return net(inputs)


def directions(student) -> torch.Tensor:
    return student.net[2].weight.detach()


def weighted(student, kept, came):
    """New and drawn samples together, and how many are new."""
    replay = kept.draw(came).batch
    return torch.cat([came.inputs, replay.inputs]), torch.cat([came.targets, replay.targets]), replay


# ------------------------------------------------------------------------------------------------- formulas


@pytest.mark.parametrize("proxies", [1, 4])
def test_a_cosine_classifier_answers_scaled_similarities_whatever_the_lengths(proxies):
    student, came = Angled(proxies=proxies), batch(1)
    answer = asked(student, came.inputs)
    expected = similarities(answer.features["pooled"], directions(student))
    for row, wanted in zip(answer.logits.tolist(), expected, strict=True):
        assert row == [close(SCALE * value) for value in wanted]
    with torch.no_grad():
        student.net[2].weight.mul_(torch.rand(5, proxies, 1, dtype=torch.float64) + 0.5)
    torch.testing.assert_close(asked(student, came.inputs).logits, answer.logits, rtol=1e-9, atol=1e-12)


def test_lucir_is_labels_less_forget_and_the_ranking_of_exemplars():
    student, before, came, kept = Angled(), Angled(3), batch(1, **NEW), herded()
    inputs, targets, replay = weighted(student, kept, came)
    terms = Lucir(student, loss(), task=LATER, old=answering(before), memory=kept, weight=5.0, ranking=0.7, margin=0.5, hardest=1)(came)
    ours, theirs = asked(student, inputs), asked(before, inputs)
    labels = cross_entropy(ours.logits, targets)
    turn = 5.0 * (3 / 2) ** 0.5 * turned(ours.features["pooled"], theirs.features["pooled"])
    cosines = similarities(asked(student, replay.inputs).features["pooled"], directions(student))
    ranking = 0.7 * ranked(cosines, replay.targets, 3, 1, 0.5)
    assert ranking > 0
    assert terms.loss.item() == close(labels + turn + ranking)
    assert terms.parts["ranking"].item() == close(ranking)
    assert terms.parts["less forget"].item() + terms.parts["memory less forget"].item() == close(turn)
    assert sum(part.item() for part in terms.parts.values()) == close(terms.loss.item())
    assert student.asked[0] == 17  # in one pass


@pytest.mark.parametrize("hardest", [1, 2, 5])
def test_the_ranking_looks_at_the_nearest_new_classes_and_at_all_where_there_are_fewer(hardest):
    generator = torch.Generator().manual_seed(4)
    cosines = torch.rand(9, 6, generator=generator, dtype=torch.float64) * 2 - 1
    targets = torch.randint(0, 2, (9,), generator=generator)
    assert margin_ranking(cosines, targets, 2, hardest, 0.5).item() == close(ranked(cosines.tolist(), targets, 2, hardest, 0.5))


@pytest.mark.parametrize("proxies", [1, 4])
def test_podnet_is_nca_and_the_distances_of_pooled_maps_and_features(proxies):
    student, before, came, kept = Angled(proxies=proxies), Angled(3, proxies=proxies), batch(1, **NEW), herded()
    inputs, targets, _ = weighted(student, kept, came)
    stages = ["stage1", "stage3"]
    given = {"stages": stages, "spatial": 3.0, "flat": 0.8, "margin": 0.6, "proxies": proxies}
    terms = Podnet(student, loss(), task=LATER, old=answering(before), memory=kept, **given)(came)
    ours, theirs = asked(student, inputs), asked(before, inputs)
    near = neighbours(similarities(ours.features["pooled"], directions(student)), targets, SCALE, 0.6)
    grown = (5 / 2) ** 0.5
    spatial = 3.0 * grown * sum(apart(ours.features[name], theirs.features[name]) for name in stages) / 2
    flat = 0.8 * grown * turned(ours.features["pooled"], theirs.features["pooled"])
    assert terms.loss.item() == close(near + spatial + flat)
    for name, value in (("nca", near), ("pod spatial", spatial), ("pod flat", flat)):
        assert terms.parts[name].item() + terms.parts[f"memory {name}"].item() == close(value)


def test_the_nca_loss_is_nothing_where_a_sample_is_far_enough_and_where_there_is_one_class():
    logits = torch.tensor([[9.0, 0.0, 0.0], [0.0, 0.5, 0.0]], dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 1])
    found = nca(logits, targets, 0.6)
    assert found.item() == close(neighbours([[9.0, 0.0, 0.0], [0.0, 0.5, 0.0]], targets, 1.0, 0.6))
    found.backward()
    assert not logits.grad[0].any()
    alone = torch.ones(3, 1, dtype=torch.float64, requires_grad=True)
    nca(alone, torch.zeros(3, dtype=torch.int64), 0.6).backward()
    assert not alone.grad.any()


@pytest.mark.parametrize("kind", [Lucir, Podnet])
def test_the_first_task_has_labels_alone_of_the_classes_that_came(kind):
    student, came = Angled(), batch(1, high=3)
    terms = kind(student, loss(), task=FIRST, memory=memory(select="herding"))(came)
    answer = asked(student, came.inputs)
    if kind is Lucir:
        assert terms.loss.item() == close(cross_entropy(answer.logits[:, :3], came.targets))
    else:
        near = similarities(answer.features["pooled"], directions(student)[:3])
        assert terms.loss.item() == close(neighbours(near, came.targets, SCALE, 0.6))
    terms.loss.backward()
    assert not student.net[2].weight.grad[3:].any()
    assert student.net[2].weight.grad[:3].any()


@pytest.mark.parametrize("kind", [Lucir, Podnet])
def test_directions_of_old_classes_stay_and_the_scale_is_learnt(kind):
    student = Angled()
    kind(student, loss(), task=LATER, old=answering(Angled(3)), memory=herded())(batch(1, **NEW)).loss.backward()
    gradient = student.net[2].weight.grad
    assert not gradient[:3].any()
    assert all(gradient[label].any() for label in (3, 4))
    assert student.net[2].scale.grad.item() != 0
    assert all(value.grad.any() for value in student.net[0].parameters())


def test_where_nothing_was_kept_yet_new_samples_are_held_to_the_old_net_all_the_same():
    student, before, came = Angled(), Angled(3), batch(1, **NEW)
    terms = Lucir(student, loss(), task=LATER, old=answering(before), memory=memory(select="herding"))(came)
    turn = turned(asked(student, came.inputs).features["pooled"], asked(before, came.inputs).features["pooled"])
    assert terms.parts["less forget"].item() == close(5.0 * (3 / 2) ** 0.5 * turn)


@pytest.mark.parametrize(
    ("kind", "named"),
    [(Lucir, {"weight": -1.0}), (Lucir, {"hardest": 0}), (Lucir, {"scale": 0.0}), (Podnet, {"proxies": 0}), (Podnet, {"stages": []})],
)
def test_what_cannot_be_is_refused(kind, named):
    with pytest.raises(ValueError, match=next(iter(named))):
        kind(Angled(), loss(), task=FIRST, memory=memory(select="herding"), **named)


def test_a_direction_begins_in_the_middle_of_its_samples_and_several_in_those_of_their_clusters():
    generator = torch.Generator().manual_seed(2)
    middles = torch.tensor([[4.0, 0, 0], [0, 4.0, 0], [0, 0, 4.0]], dtype=torch.float64)
    features = (middles[:, None] + 0.2 * torch.randn(3, 20, 3, generator=generator, dtype=torch.float64)).flatten(0, 1)
    features = features[[0, 20, 40, *range(1, 20), *range(21, 40), *range(41, 60)]] * torch.rand(60, 1, generator=generator).double().add(
        0.5
    )
    unit = [[value / sum(other**2 for other in row) ** 0.5 for value in row] for row in features.tolist()]

    def middle(rows: list) -> list:
        sums = [sum(column) for column in zip(*rows, strict=True)]
        return [close(value / sum(other**2 for other in sums) ** 0.5) for value in sums]

    assert imprinted(features, 1)[0].tolist() == middle(unit)
    found = imprinted(features, 3)
    for place in range(3):
        assert found[place].tolist() == middle([row for row in unit if max(range(3), key=row.__getitem__) == place])
    few = imprinted(features[:2], 5)
    assert few.norm(dim=1).tolist() == [close(1.0)] * 5


def test_new_classes_begin_where_their_samples_are_and_old_ones_where_they_were():
    student, came = Angled(), batch(1, 40, **NEW)
    with torch.no_grad():
        student.net[2].weight.mul_(3.0)
    before = directions(student).clone()
    samples = Samples(whole(came.plain, came.targets), lambda split: [Batch(split.inputs, split.targets, split.index, -1)])
    Lucir(student, loss(), task=LATER, old=answering(student), memory=memory(select="herding"), samples=samples)
    assert torch.equal(directions(student)[:3], before[:3])
    features = asked(student, came.plain).features["pooled"]
    length = before[:3].norm(dim=-1).mean().item()
    for label in (3, 4):
        [wanted] = imprinted(features[came.targets == label], 1).tolist()
        assert directions(student)[label, 0].tolist() == [close(length * value) for value in wanted]
    Lucir(student, loss(), task=FIRST, memory=memory(select="herding"), samples=samples)
    assert torch.equal(directions(student)[:3], before[:3])  # in the first task as they are drawn


def test_the_margin_does_not_turn_the_scale():
    """Of which it is a multiple: where no feature could reach it, all answers would turn round."""
    student, came = Angled(), batch(1, high=3)
    Podnet(student, loss(), task=FIRST, memory=memory(select="herding"), proxies=1, margin=9.0)(came).loss.backward()
    similar = similarities(asked(student, came.inputs).features["pooled"], directions(student)[:3])
    slopes = []
    for row, label in zip(similar, came.targets.tolist(), strict=True):
        others = {place: math.exp(SCALE * value) for place, value in enumerate(row) if place != label}
        slopes.append(sum(share * row[place] for place, share in others.items()) / sum(others.values()) - row[label])
    assert student.net[2].scale.grad.item() == close(sum(slopes) / len(slopes))


# ------------------------------------------------------------------------------------------------- the classifier of a net


def adapted(node: dict, kind=Lucir, **config):
    given = obtain(ModelConfig(name="resnet8", **config), IMAGES, "student", 3, taps=("pooled",))
    return kind.adapt(node, given, None, IMAGES, 3)


def test_a_net_gets_a_cosine_classifier_that_its_taps_see_and_that_is_an_edit():
    made = adapted({"scale": 2.5})
    head = made.net.module.classifier
    assert isinstance(head, CosineHead)
    assert [tuple(edit) for edit in made.net.edits] == [("classifier", "cosine 1")]
    images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    answer = made.classifier.eval()(images)
    torch.testing.assert_close(answer.logits, 2.5 * head.similarities(answer.features["pooled"]))
    again = rebuild(made.net.source, made.net.name, 5, made.net.args, json.loads(json.dumps(made.net.edits)))
    again.load_state_dict(made.net.module.state_dict())
    torch.testing.assert_close(again.eval()(made.classifier.prepare(images)), answer.logits)


def test_a_net_that_has_one_already_stays_as_it_is():
    made = adapted({})
    assert Lucir.adapt({}, made, None, IMAGES, 9) is made
    with pytest.raises(ConfigError, match="1 directions a class, and strategy=podnet has 10"):
        Podnet.adapt({}, made, None, IMAGES, 9)


def test_with_one_direction_a_class_it_begins_with_those_of_the_linear_layer():
    linear = obtain(ModelConfig(name="resnet8"), IMAGES, "student", 3).net.module.classifier
    assert torch.equal(adapted({}).net.module.classifier.weight[:, 0], linear.weight)


@pytest.mark.parametrize("kind", [Lucir, Podnet])
def test_a_net_without_a_linear_classifier_is_refused(kind):
    with pytest.raises(ConfigError, match=f"student=squeezenet1_1: {kind.name} answers by angles"):
        kind.check_net(lambda: plan_net(ModelConfig(name="squeezenet1_1"), 5, 32), "student", IMAGES)


@pytest.mark.parametrize("proxies", [1, 3])
def test_the_loading_scripts_classifier_is_ours(proxies, tmp_path):
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 5))
    apply_edits(net, [("1", f"cosine {proxies}")])
    change = change_of(f"cosine {proxies}")
    line = change.source(net, "1").strip()
    (tmp_path / "made.py").write_text(f"import torch\n\ndef replace(net, path, part):\n    setattr(net, path, part)\n{change.needs}\n")
    found = runpy.run_path(str(tmp_path / "made.py"))
    plain = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 5))
    exec(line, {**found, "net": plain})
    plain.load_state_dict(net.state_dict())
    values = torch.randn(7, 6)
    torch.testing.assert_close(plain(values), net(values))


def test_the_task_says_how_strongly_old_features_are_held():
    """The more old classes there are to a new one."""
    student, before, came = Angled(classes=5), Angled(3), batch(1, **NEW)
    for old in (1, 3):
        task = Task(2, 2, old, 5, 5)
        terms = Lucir(student, loss(), task=task, old=answering(before), memory=memory(select="herding"))(came)
        turn = turned(asked(student, came.inputs).features["pooled"], asked(before, came.inputs).features["pooled"])
        assert terms.parts["less forget"].item() == close(5.0 * (old / (5 - old)) ** 0.5 * turn)
