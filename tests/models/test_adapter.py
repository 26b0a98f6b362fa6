"""Stored images in, `Output` out."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from distillctl.models.adapter import Classifier

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)


class Channels(nn.Module):
    """Answers with the mean of each channel, and remembers what it saw."""

    def forward(self, images):
        self.seen = images
        return images.mean((2, 3))


def test_bytes_and_fractions_mean_the_same():
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    classifier = Classifier(Channels(), MEAN, STD)
    torch.testing.assert_close(classifier(images).logits, classifier(images / 255).logits)


def test_images_are_normalised_by_the_statistics_given():
    images = torch.full((1, 3, 2, 2), 0.9)
    expected = [[(0.9 - 0.5) / 0.2, (0.9 - 0.4) / 0.25, (0.9 - 0.3) / 0.5]]
    torch.testing.assert_close(Classifier(Channels(), MEAN, STD)(images).logits, torch.tensor(expected))


def test_the_answer_has_no_features_of_its_own():
    assert Classifier(Channels(), MEAN, STD)(torch.rand(1, 3, 2, 2)).features == {}


def test_images_of_another_size_are_resized_and_others_are_not():
    classifier = Classifier(Channels(), (0, 0, 0), (1, 1, 1), resolution=16)
    images = torch.rand(2, 3, 32, 32)
    classifier(images)
    torch.testing.assert_close(classifier.net.seen, F.interpolate(images, (16, 16), mode="bilinear", antialias=True))
    same = torch.rand(2, 3, 16, 16)
    classifier(same)
    assert torch.equal(classifier.net.seen, same)


def test_what_ships_is_the_net_under_its_own_names():
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten())
    classifier = Classifier(net, MEAN, STD)
    assert list(classifier.plain_state()) == ["0.weight", "0.bias"]
    assert list(classifier.state_dict()) == ["net.0.weight", "net.0.bias"]


@pytest.mark.parametrize("when", ["before", "after", "through a parent"])
def test_inputs_take_the_memory_layout_of_the_net(when):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    if when == "before":
        net.to(memory_format=torch.channels_last)
    classifier = Classifier(net, MEAN, STD)
    if when == "after":
        classifier.to(memory_format=torch.channels_last)
    if when == "through a parent":
        nn.ModuleList([classifier]).to(memory_format=torch.channels_last)
    assert classifier.prepare(torch.rand(2, 3, 8, 8)).is_contiguous(memory_format=torch.channels_last)
    assert not Classifier(Channels(), MEAN, STD).channels_last


def test_normalisation_stays_in_full_precision():
    classifier = Classifier(Channels(), MEAN, STD).to(torch.bfloat16)
    assert classifier.prepare(torch.randint(0, 256, (1, 3, 2, 2), dtype=torch.uint8)).dtype == torch.float32


def test_inputs_get_gradients_so_that_they_can_be_attacked():
    images = torch.rand(1, 3, 8, 8, requires_grad=True)
    Classifier(Channels(), MEAN, STD, resolution=4)(images).logits.sum().backward()
    assert images.grad is not None
