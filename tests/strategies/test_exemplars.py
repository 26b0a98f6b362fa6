"""iCaRL's exemplars: herding, class means in the place of a classifier, and what becomes of them from task to task."""

import pytest
import torch
import torch.nn.functional as F
from lessons import loss
from torch import Tensor

from distillctl.config import ModelConfig
from distillctl.data.split import Split
from distillctl.errors import ConfigError
from distillctl.inputs.image import Images
from distillctl.models.net import plan_net
from distillctl.models.obtain import obtain
from distillctl.strategies.exemplars import herding
from distillctl.strategies.icarl import Icarl, class_means
from distillctl.strategies.memory import Memory
from distillctl.strategies.task import Samples, Task
from distillctl.types import Batch

IMAGES = Images(tuple("abcde"), 8, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
FIRST, LATER = Task(1, 2, 0, 3, 5), Task(2, 2, 3, 5, 5)


def greedy(features: list[list[float]], count: int) -> list[int]:
    """Algorithm 4 of iCaRL on features of length one, each time trying all that are left."""
    unit = [[value / sum(other**2 for other in row) ** 0.5 for value in row] for row in features]
    wide = len(unit[0])
    middle = [sum(row[d] for row in unit) / len(unit) for d in range(wide)]
    taken: list[int] = []
    while len(taken) < min(count, len(unit)):
        distances = {}
        for candidate in range(len(unit)):
            if candidate not in taken:
                members = [unit[place] for place in [*taken, candidate]]
                distances[candidate] = sum((middle[d] - sum(row[d] for row in members) / len(members)) ** 2 for d in range(wide))
        taken.append(min(distances, key=distances.__getitem__))
    return taken


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [1, 6, 15, 40])
def test_herding_takes_what_brings_the_mean_closest_each_time(seed, count):
    features = torch.randn(15, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.5
    assert herding(features, count).tolist() == greedy(features.tolist(), count)


def test_herding_does_not_look_at_lengths():
    features = torch.randn(15, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    lengths = torch.rand(15, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 0.5
    assert torch.equal(herding(features, 8), herding(features * lengths, 8))


def test_fewer_exemplars_are_the_first_of_more():
    features = torch.randn(15, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(herding(features, 9)[:4], herding(features, 4))


def test_class_means_are_normalised_means_of_normalised_features():
    features = torch.randn(12, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    targets = torch.tensor([0, 2] * 6)
    found = class_means(features, targets, 3)
    for label in (0, 2):
        rows = [row for row, own in zip(features.tolist(), targets.tolist(), strict=True) if own == label]
        unit = [[value / sum(other**2 for other in row) ** 0.5 for value in row] for row in rows]
        mean = [sum(row[d] for row in unit) / len(unit) for d in range(4)]
        length = sum(value**2 for value in mean) ** 0.5
        assert found[label].tolist() == pytest.approx([value / length for value in mean], rel=1e-9)
    assert not found[1].any()


# ------------------------------------------------------------------------------------------------- the end of a task


def images(count: int, seed: int) -> Tensor:
    return torch.randint(256, (count, 3, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def samples_of(low: int, high: int, each: int = 9) -> Samples:
    targets = torch.arange(low, high).repeat(each)
    split = Split(images(len(targets), low), targets, 1000 * low + torch.arange(len(targets)))

    def plain(split):
        for part in torch.arange(len(split)).split(7):
            yield Batch(split.inputs[part], split.targets[part], split.index[part], -1)

    return Samples(split, plain)


def memory(size: int = 12) -> Memory:
    return Memory(size, 4, torch.zeros(1, 3, 8, 8, dtype=torch.uint8), 5, 0, lambda inputs, index, view: inputs, "herding")


def student(seed: int = 0):
    return obtain(ModelConfig(name="resnet8"), IMAGES, "student", seed, taps=("pooled",)).classifier


def features(net, inputs: Tensor) -> Tensor:
    net.eval()
    with torch.no_grad():
        return F.normalize(net(inputs).features["pooled"].double(), dim=1)


def after_two_tasks():
    net = student()
    one = Icarl(net, loss(), task=FIRST, memory=memory())
    one.after_task(net, samples_of(0, 3))
    head = net.net.classifier.weight.detach().clone()
    other = Icarl(net, loss(), task=LATER, memory=memory(), old=lambda batch: net(batch.inputs), past=one.carried())
    learnt = net.net.classifier.weight.detach().clone()
    other.after_task(net, samples_of(3, 5))
    return net, one, other, head, learnt


def test_what_ships_answers_by_the_nearest_mean_of_exemplars():
    net, _, strategy, _, _ = after_two_tasks()
    kept, targets, _ = strategy.memory.held()
    unit = features(net, kept)
    means = torch.stack([F.normalize(unit[targets == label].mean(0), dim=0) for label in range(5)])
    asked = images(200, 77)
    distances = torch.cdist(features(net, asked), means)
    with torch.no_grad():
        answers = net(asked).logits.argmax(1)
    nearest, second = distances.sort(dim=1).values[:, :2].T
    clear = second - nearest > 1e-5
    assert clear.sum() > 190
    assert torch.equal(answers[clear], distances.argmin(1)[clear])
    assert len(answers.unique()) > 2


def test_a_class_that_has_not_come_is_no_answer():
    net = student()
    strategy = Icarl(net, loss(), task=FIRST, memory=memory())
    strategy.after_task(net, samples_of(0, 3))
    head = net.net.classifier
    assert not head.weight[3:].any()
    assert not head.bias.any()
    assert head.weight[:3].norm(dim=1).tolist() == pytest.approx([1, 1, 1], abs=1e-5)


def test_every_class_has_as_many_exemplars_and_old_ones_keep_their_first():
    _, one, other, _, _ = after_two_tasks()
    before, after = one.memory.held(), other.memory.held()
    assert torch.bincount(before[1]).tolist() == [4, 4, 4]
    assert torch.bincount(after[1]).tolist() == [2, 2, 2, 2, 2]
    for label in range(3):
        assert torch.equal(after[2][after[1] == label], before[2][before[1] == label][:2])
        assert torch.equal(after[0][after[1] == label], before[0][before[1] == label][:2])


def test_exemplars_of_a_new_class_are_those_that_herding_takes():
    net, _, strategy, _, _ = after_two_tasks()
    samples = samples_of(3, 5)
    kept, targets, index = strategy.memory.held()
    for label in (3, 4):
        own = samples.split.targets == label
        wanted = greedy(features(net, samples.split.inputs[own]).tolist(), 2)
        assert index[targets == label].tolist() == samples.split.index[own][wanted].tolist()
        assert torch.equal(kept[targets == label], samples.split.inputs[own][wanted])


def test_learning_goes_on_with_the_classifier_that_was_learnt_not_with_the_means():
    net = student()
    learnt = net.net.classifier.weight.detach().clone(), net.net.classifier.bias.detach().clone()
    _, _, _, means, resumed = after_two_tasks()
    assert not torch.equal(means, learnt[0])
    assert torch.equal(resumed, learnt[0])
    one = Icarl(net, loss(), task=FIRST, memory=memory())
    one.after_task(net, samples_of(0, 3))
    assert torch.equal(one.carried()["head.weight"], learnt[0])
    assert torch.equal(one.carried()["head.bias"], learnt[1])


def test_a_class_with_fewer_samples_than_exemplars_gives_all():
    net = student()
    strategy = Icarl(net, loss(), task=FIRST, memory=memory(60))
    strategy.after_task(net, samples_of(0, 3, each=5))
    assert torch.bincount(strategy.memory.held()[1]).tolist() == [5, 5, 5]


def test_a_net_without_a_linear_classifier_is_refused():
    name = "squeezenet1_1"
    with pytest.raises(ConfigError, match=f"student={name}: icarl answers by class means"):
        Icarl.check_net(lambda: plan_net(ModelConfig(name=name), 5, 32), "student", IMAGES)
