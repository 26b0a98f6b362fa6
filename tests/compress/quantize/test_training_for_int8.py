"""A net that is trained for int8: it learns, resumes exactly, and its file answers as it does."""

import copy
import sys
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from small_nets import Beside, SmallResNet, SmallTransformer, export, seeded
from torch import nn

from distillctl.compress.quantize.session import answer_of, logits_of
from distillctl.errors import ConfigError, MachineError
from distillctl.modes import evaluating

pytest.importorskip("torchao")

from distillctl.compress.quantize import qat


def steps(net, optimizer, digits, first, last):
    pixels = digits.pixels(digits.train)
    for number in range(first, last):
        rows = slice(64 * number, 64 * (number + 1))
        loss = nn.functional.cross_entropy(net(pixels[rows]), digits.train_targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def optimizer_of(net):
    return torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)


NETS = {"resnet": lambda: SmallResNet(eps=1e-2), "transformer": SmallTransformer}


@pytest.fixture(scope="module", params=NETS)
def trained_net(request, digits):
    """A float net, and the same after six steps of training for int8, half of them resumed."""
    net = seeded(NETS[request.param], digits).train()
    example = digits.pixels(digits.train[:8])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = qat.prepare(net, example)
        optimizer = optimizer_of(first)
        steps(first, optimizer, digits, 0, 3)
        saved = {name: value.clone() for name, value in first.state_dict().items()}, copy.deepcopy(optimizer.state_dict())
        second = qat.prepare(net, example)
        second.load_state_dict(saved[0])
        resumed = optimizer_of(second)
        resumed.load_state_dict(saved[1])
        for one, its_optimizer in ((first, optimizer), (second, resumed)):
            steps(one, its_optimizer, digits, 3, 6)
    return net, first, second


def test_resumed_training_gives_the_same_bits(trained_net):
    _, first, second = trained_net
    expected = first.state_dict()
    assert any("activation_post_process" in name for name in expected)
    for name, value in second.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_names_of_weights_stay_and_the_given_net_is_untouched(trained_net):
    net, first, _ = trained_net
    names = {name.removeprefix("graph.") for name in first.state_dict()}
    assert set(net.state_dict()) <= names
    assert net.training
    assert not [name for name in net.state_dict() if "activation" in name]


def test_measuring_moves_no_range_and_no_statistic(trained_net, digits):
    net = trained_net[1]
    pixels = digits.pixels(digits.val)
    with evaluating(net), torch.no_grad():
        net(pixels[:8])  # scales of weights follow the last step
        before = {name: value.clone() for name, value in net.state_dict().items()}
        answers = net(10 * pixels[:8])
        assert torch.equal(answers, net(10 * pixels[:8]))
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training
    net(pixels[:8])
    assert any(not torch.equal(value, before[name]) for name, value in net.state_dict().items())
    net.load_state_dict(before)


def test_its_file_is_int8_and_answers_as_it_does(trained_net, digits, tmp_path):
    net = trained_net[1]
    pixels = digits.pixels(digits.val)
    finished = qat.finish(net)
    assert net.training
    file = export(Beside(finished), pixels[:2], "pixels", tmp_path / "int8.onnx")
    with evaluating(net), torch.no_grad():
        trained = net(pixels)
        torch.testing.assert_close(finished(pixels), trained, atol=0.02 * trained.std().item(), rtol=0)
    found = logits_of(answer_of(file), pixels.numpy())
    assert (found.argmax(1) == trained.argmax(1)).float().mean() > 0.99
    assert (found - trained).abs().mean() < 0.02 * trained.std()
    assert (trained.argmax(1) == digits.val_targets).float().mean() > 0.4  # six steps after four epochs
    tensors = [tensor for tensor in onnx.load(file).graph.initializer if np.prod(tensor.dims) >= 64 and len(tensor.dims) > 1]
    assert tensors
    assert all(tensor.data_type == onnx.TensorProto.INT8 for tensor in tensors)
    kinds = computed(file, tmp_path)
    if any(isinstance(part, nn.LayerNorm) for part in trained_net[0].modules()):
        assert (kinds["QLinearConv"], kinds["MatMulIntegerToFloat"]) == (1, 4)  # the head is a Gemm of dequantised weights
    else:
        assert (kinds["QLinearConv"], kinds["QLinearAdd"]) == (3, 1)
    assert not kinds["Conv"] + kinds["FusedConv"]


def computed(file, folder):
    """How many nodes of each kind are left when onnxruntime has made of a file what it computes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(file), options)
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


class WithFeatures(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, images):
        caught = {}
        handle = self.net.relu.register_forward_hook(lambda module, inputs, output: caught.update(last=output))
        try:
            return self.net(images), caught
        finally:
            handle.remove()


class Noisy(nn.Module):
    def forward(self, images):
        return images.mean((2, 3)) + torch.rand(1)


class Undecided(nn.Module):
    def forward(self, images):
        return images.mean((2, 3)) if images.sum() > 0 else images.amax((2, 3))


def test_features_come_along_where_the_module_gives_them(digits):
    net = qat.prepare(WithFeatures(SmallResNet()), digits.pixels(digits.train[:8]))
    logits, features = net(digits.pixels(digits.train[:5]))
    assert logits.shape == (5, 10)
    assert features["last"].shape == (5, 16, 4, 4)


def test_one_line_for_what_cannot_be_trained_so(digits, monkeypatch):
    example = digits.pixels(digits.train[:8])
    for module, words in ((Noisy(), "draws random numbers"), (Undecided(), "cannot be exported")):
        with pytest.raises(ConfigError) as caught:
            qat.prepare(module, example)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchao"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MachineError, match=r"quantize=qat needs torchao: pip install 'distillctl\[qat\]'"):
        qat.prepare(SmallResNet(), example)
