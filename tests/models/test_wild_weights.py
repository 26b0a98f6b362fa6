"""Weight files as people have them: wrapped, prefixed, with heads, counters and settings beside the weights. What fits is taken, the rest named."""

import argparse
import collections
import datetime
import pathlib
import sys
import types
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from distillctl.errors import CheckpointError
from distillctl.models.cifar.resnet import resnet8, resnet14
from distillctl.models.fitting import left_over, load_weights
from distillctl.models.pickles import StandIn, names_in, stand_in
from distillctl.models.weights import read_weights

KEY = "student.checkpoint"


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(1)
    return resnet8(10)


def equal(module: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(tensor, theirs[entry]) for entry, tensor in module.state_dict().items())


def taken(path, net, content, new_head=False) -> str:
    """Save, read into another net, and what was left over."""
    torch.save(content, path)
    other = resnet8(10)
    weights = read_weights(path, KEY, other.state_dict())
    left = load_weights(other, weights, KEY, path, new_head=new_head)
    head = other.classifier.weight.clone()
    if new_head:
        other.classifier.load_state_dict(net.classifier.state_dict())
        assert not torch.equal(other.classifier.weight, head)
    assert equal(net, other)
    return left_over(left)


def prefixed(state, prefix):
    return OrderedDict((prefix + entry, tensor) for entry, tensor in state.items())


@pytest.mark.parametrize("wrapper", ["params", "model_state_dict", "netG", "weights", "whatever I called it", "module"])
def test_weights_are_found_under_any_key(net, tmp_path, wrapper):
    state = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    assert taken(tmp_path / "x.pt", net, {"epoch": 3, "best": torch.tensor(0.5), wrapper: net.state_dict(), "optimizer": state}) == ""
    assert taken(tmp_path / "x.pt", net, {"a": {"b": {wrapper: net.state_dict()}}}) == ""


def test_of_two_nets_in_a_file_the_one_that_fits_is_taken(net, tmp_path):
    content = {"discriminator": resnet14(3).state_dict() | {"more": torch.ones(1)}, "generator": net.state_dict()}
    assert taken(tmp_path / "x.pt", net, content) == ""
    content = {"model": nn.Linear(2, 2).state_dict(), "classifier": prefixed(net.state_dict(), "module.")}
    assert taken(tmp_path / "x.pt", net, content) == ""


@pytest.mark.parametrize(
    "prefix", ["module.", "backbone.", "encoder.", "model.", "_orig_mod.", "module.encoder_q.", "module.backbone.", "student._orig_mod.", "x.y.z."]
)  # fmt: skip
def test_a_prefix_beside_entries_that_are_not_the_net_s(net, tmp_path, prefix):
    beside = {"decode_head.conv.weight": torch.ones(2, 2), "decode_head.conv.bias": torch.ones(2), "queue": torch.ones(3)}
    assert taken(tmp_path / "x.pt", net, {**beside, **prefixed(net.state_dict(), prefix)}) == "2 of decode_head, queue"


def test_an_averaged_model(net, tmp_path):
    averaged = torch.optim.swa_utils.AveragedModel(net)
    assert taken(tmp_path / "x.pt", net, averaged.state_dict()) == "n_averaged"


def test_of_a_net_and_its_momentum_copy_one_is_taken_and_the_other_named(net, tmp_path):
    state = net.state_dict()
    copy = {entry: tensor + 1 for entry, tensor in state.items()}
    left = taken(tmp_path / "x.pt", net, {**prefixed(state, "student."), **prefixed(copy, "teacher.")})
    assert left == f"{len(state)} of teacher"


@pytest.mark.parametrize("where", ["aux1.", "AuxLogits.", "aux_head.0.", "deep_supervision.1.fc.", "head_dist."])
def test_auxiliary_heads_are_left_over(net, tmp_path, where):
    extra = {f"{where}weight": torch.ones(2, 2), f"{where}bias": torch.ones(2)}
    assert taken(tmp_path / "x.pt", net, {**net.state_dict(), **extra}) == f"2 of {where.partition('.')[0]}"


def test_counters_of_profilers_and_extra_state_are_left_over(net, tmp_path):
    counters = {f"{name}{counter}": torch.zeros(1) for counter in ("total_ops", "total_params") for name in ("", "conv.", "stage1.0.")}
    extra = {"conv._extra_state": torch.zeros(2), "stage1._extra_state": None, "bn._extra_state": {"scale": 1}}
    left = taken(tmp_path / "x.pt", net, {**net.state_dict(), **counters, **extra})
    assert left == "3 total_ops, 3 total_params, _extra_state"


class WithState(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)

    def get_extra_state(self):
        return {"calls": 3}

    def set_extra_state(self, state):
        raise AssertionError("what a file says of it is not asked for")


def test_a_net_with_state_of_its_own_takes_its_weights(tmp_path):
    net, other = WithState(), WithState()
    torch.save(net.state_dict(), tmp_path / "x.pt")
    load_weights(other, read_weights(tmp_path / "x.pt", KEY, other.state_dict()), KEY, "x.pt")
    assert torch.equal(net.fc.weight, other.fc.weight)


@pytest.mark.parametrize("name", ["fc", "head.fc", "last_linear", "classifier.1"])
def test_a_head_of_another_name_with_a_new_head(net, tmp_path, name):
    state = {entry: tensor for entry, tensor in net.state_dict().items() if not entry.startswith("classifier")}
    content = {**state, f"{name}.weight": torch.ones(1000, 64), f"{name}.bias": torch.ones(1000)}
    assert taken(tmp_path / "x.pt", net, content, new_head=True) == f"2 of {name.partition('.')[0]}"
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"classifier of that name: for a new one .* set student\.new_head=true|not in the model"):
        load_weights(resnet8(10), read_weights(tmp_path / "x.pt", KEY), KEY, "x.pt")
    assert taken(tmp_path / "x.pt", net, state, new_head=True) == ""  # a backbone has none


@pytest.mark.parametrize("new_head", [False, True])
def test_a_deeper_net_is_still_another_one(net, new_head):
    with pytest.raises(CheckpointError, match="not in the model"):
        load_weights(net, resnet14(10).state_dict(), KEY, "x.pt", new_head=new_head)
    deeper = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).state_dict()
    with pytest.raises(CheckpointError, match="not in the model"):
        load_weights(nn.Sequential(nn.Linear(2, 2)), deeper, KEY, "x.pt", new_head=new_head)
    longer = nn.ModuleDict({"layer1": nn.Linear(2, 2), "layer2": nn.Linear(2, 2)}).state_dict()
    with pytest.raises(CheckpointError, match=r"2 entries are not in the model \(first: layer2\.weight\)"):
        load_weights(nn.ModuleDict({"layer1": nn.Linear(2, 2)}), longer, KEY, "x.pt", new_head=False)


def test_left_over_entries_are_counted_by_where_they_belong():
    assert left_over(["a.b.weight", "a.bias", "c", "d.total_ops", "total_ops", "n_averaged"]) == "2 of a, c, 2 total_ops, n_averaged"
    assert left_over([]) == ""


# --- what training scripts keep beside weights


class Harmful:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path(self.marker),)


def library(name, base=object):
    """A class of a library, which is not there when its object is read."""
    home, _, last = name.rpartition(".")
    made = type(last, (base,), {"__module__": home})
    sys.modules[home] = types.ModuleType(home)
    setattr(sys.modules[home], last, made)
    return made


SETTINGS = {
    "timm": lambda: {"args": argparse.Namespace(lr=0.1, model="resnet8"), "metric": np.float64(76.4), "arch": "resnet8", "version": 2},
    "DeiT": lambda: {"args": argparse.Namespace(output_dir=pathlib.PosixPath("/x"), eps=np.float32(1)), "scaler": {"scale": 1.0}},
    "torchvision": lambda: {"lr_scheduler": {"milestones": collections.Counter([30, 60])}, "args": argparse.Namespace(data=[1])},
    "numpy": lambda: {"accuracy": np.int64(3), "history": np.arange(4.0), "confusion": np.ones((2, 2), dtype=np.int32)},
    "namespaces": lambda: {"args": types.SimpleNamespace(a=1), "when": datetime.datetime(2026, 1, 1), "d": datetime.timedelta(3)},
    "Lightning": lambda: {"hyper_parameters": library("lightx.AttributeDict", dict)(lr=0.1, wd=0.2)},
    "a library's own class": lambda: {"meta": library("mmx.HistoryBuffer")(), "log": [library("mmxcfg.ConfigNode")()]},
}


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("zipped", [True, False])
def test_settings_beside_weights_are_read_past(net, tmp_path, kind, zipped):
    beside = SETTINGS[kind]()
    torch.save({"epoch": 3, "state_dict": net.state_dict(), **beside}, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    for home in [name for name in sys.modules if name.startswith(("light", "mmx"))]:
        del sys.modules[home]
    other = resnet8(10)
    load_weights(other, read_weights(tmp_path / "x.pt", KEY, other.state_dict()), KEY, "x.pt")
    assert equal(net, other)


def test_what_stands_in_does_nothing_with_what_it_is_given():
    made = stand_in("a.b.Thing")(1, x=2)
    made.__setstate__({"name": "os.system"})
    assert isinstance(made, StandIn)
    assert vars(made) == {}
    assert made.name == "a.b.Thing"


@pytest.mark.parametrize(
    "function", ["os.system", "posix.system", "subprocess.Popen", "builtins.eval", "builtins.getattr", "runpy.run_path", "pickle.loads",
                 "importlib.import_module", "torch.load", "torch.hub.load", "timm.create_model", "numpy.load", "pathlib.Path.touch"]
)  # fmt: skip
def test_no_file_calls_anything(tmp_path, function, monkeypatch):
    """A pickle by hand, weights beside what it would call: refused, or read past; either way nothing is called."""
    home, _, name = function.rpartition(".")
    called = f"c{home}\n{name}\n(S'touch {tmp_path / 'marker'}'\ntR."
    (tmp_path / "x.pt").write_bytes(b"\x80\x02" + called.encode())
    assert names_in(tmp_path / "x.pt") == [function]
    with pytest.raises(CheckpointError):
        read_weights(tmp_path / "x.pt", KEY)
    assert not (tmp_path / "marker").exists()


def test_a_value_s_method_is_not_called(net, tmp_path):
    torch.save({"state_dict": net.state_dict(), "x": Harmful(tmp_path / "marker")}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="refused: it holds code"):
        read_weights(tmp_path / "x.pt", KEY)
    assert not (tmp_path / "marker").exists()


def test_a_mapping_that_hides_its_methods_is_read_all_the_same(net, tmp_path):
    state = OrderedDict(net.state_dict())
    state.get = state.values = state.keys = 7
    assert taken(tmp_path / "x.pt", net, {"state_dict": state}) == ""


def test_safetensors_of_a_whole_training_module(net, tmp_path):
    save_file({**prefixed(net.state_dict(), "model."), "criterion.weight": torch.ones(10)}, tmp_path / "x.safetensors")
    other = resnet8(10)
    left = load_weights(other, read_weights(tmp_path / "x.safetensors", KEY, other.state_dict()), KEY, "x")
    assert (equal(net, other), left_over(left)) == (True, "1 of criterion")
