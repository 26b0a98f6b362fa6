"""Files of weights: good ones, foreign ones, damaged ones and dangerous ones."""

import io
import os
import pickle
import zipfile
from collections import OrderedDict

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from distillctl.errors import CheckpointError
from distillctl.models.cifar.resnet import resnet8, resnet14
from distillctl.models.cifar.vgg import vgg8
from distillctl.models.fitting import load_weights
from distillctl.models.weights import read_weights

KEY = "teacher.checkpoint"


@pytest.fixture
def net():
    torch.manual_seed(0)
    return resnet8(10)


def equal(module: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(tensor, theirs[entry]) for entry, tensor in module.state_dict().items())


def refusal(path, content: bytes | None = None) -> str:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        read_weights(path, KEY)
    message = str(error.value)
    assert message.startswith(f"{KEY}={path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{KEY}={path}: ")


# --- good files


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_weights_come_back_equal(net, tmp_path, kind):
    path = tmp_path / "weights"
    if kind == "safetensors":
        save_file(net.state_dict(), path)
    else:
        torch.save(net.state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
    other = resnet8(10)
    assert not equal(net, other)
    load_weights(other, read_weights(path, KEY), KEY, path)
    assert equal(net, other)


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state", "ema", "state_dict_ema", "net", "model_ema"])
def test_a_wrapped_state_dict_is_unwrapped(net, tmp_path, wrapper):
    torch.save({"epoch": 3, wrapper: net.state_dict(), "optimizer": {"lr": 0.1}}, tmp_path / "w.pt")
    other = resnet8(10)
    load_weights(other, read_weights(tmp_path / "w.pt", KEY), KEY, "w.pt")
    assert equal(net, other)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module.", "net."])
def test_the_prefixes_of_wrappers_are_stripped(net, tmp_path, prefix):
    torch.save({"state_dict": OrderedDict((prefix + entry, tensor) for entry, tensor in net.state_dict().items())}, tmp_path / "w.pt")
    other = resnet8(10)
    load_weights(other, read_weights(tmp_path / "w.pt", KEY), KEY, "w.pt")
    assert equal(net, other)


def test_a_prefix_that_belongs_to_the_model_stays():
    module = nn.ModuleDict({"model": nn.Linear(2, 2)})
    load_weights(module, {"model.weight": torch.ones(2, 2), "model.bias": torch.ones(2)}, KEY, "x")
    assert module["model"].weight.sum() == 4


def test_a_compiled_part_is_recognised():
    module = nn.Sequential(nn.Linear(2, 2))
    load_weights(module, {"0._orig_mod.weight": torch.ones(2, 2), "0._orig_mod.bias": torch.ones(2)}, KEY, "x")
    assert module[0].weight.sum() == 4


def test_files_from_before_batch_counters_load(net):
    state = {entry: tensor for entry, tensor in net.state_dict().items() if not entry.endswith("num_batches_tracked")}
    other = resnet8(10)
    load_weights(other, state, KEY, "x")
    assert equal(net, other)


def test_half_precision_is_widened(net):
    other = resnet8(10)
    load_weights(
        other, {entry: tensor.half() if tensor.is_floating_point() else tensor for entry, tensor in net.state_dict().items()}, KEY, "x"
    )
    assert other.conv.weight.dtype == torch.float32
    torch.testing.assert_close(other.conv.weight, net.conv.weight, atol=1e-3, rtol=1e-3)


# --- weights that do not fit


def test_another_architecture_is_named_with_the_first_of_each_problem(net):
    with pytest.raises(CheckpointError) as error:
        load_weights(net, vgg8(10).state_dict(), KEY, "x.pt", name="resnet8")
    message = str(error.value)
    assert message.startswith("teacher.checkpoint=x.pt does not fit resnet8: ")
    assert "are not in the model (first: stage1.0.weight)" in message
    assert "are missing (first: conv.weight)" in message


def test_a_deeper_net_has_entries_too_many(net):
    extra = len(resnet14(10).state_dict()) - len(net.state_dict())
    with pytest.raises(CheckpointError, match=rf"{extra} entries are not in the model \(first: stage1\.1\.conv1\.weight\)"):
        load_weights(net, resnet14(10).state_dict(), KEY, "x.pt")


def test_one_missing_entry_is_in_the_singular(net):
    state = net.state_dict()
    del state["classifier.bias"]
    with pytest.raises(CheckpointError, match=r"1 entry is missing \(first: classifier\.bias\)"):
        load_weights(net, state, KEY, "x.pt")


def test_other_classes_are_counted(net):
    with pytest.raises(
        CheckpointError, match=r"^teacher\.checkpoint=x\.pt holds 100 classes, the data set has 10; .*teacher\.new_head=true"
    ):
        load_weights(net, resnet8(100).state_dict(), KEY, "x.pt")


@pytest.mark.parametrize("classes", [10, 100])
def test_a_new_head_keeps_all_but_the_classifier(net, classes):
    given, head = resnet8(classes).state_dict(), net.classifier.weight.clone()
    load_weights(net, given, KEY, "x.pt", new_head=True)
    assert torch.equal(net.conv.weight, given["conv.weight"])
    assert torch.equal(net.classifier.weight, head)


def test_a_new_head_forgives_nothing_else(net):
    with pytest.raises(CheckpointError, match="not in the model"):
        load_weights(net, resnet14(100).state_dict(), KEY, "x.pt", new_head=True)


def test_another_kernel_hints_at_the_stem():
    net, given = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(2, 2)), nn.Sequential(nn.Conv2d(3, 4, 7), nn.Linear(2, 2)).state_dict()
    with pytest.raises(
        CheckpointError, match=r"0\.weight is \(4, 3, 7, 7\) in the file, \(4, 3, 3, 3\) in the model.*teacher\.stem=large or small"
    ):
        load_weights(net, given, KEY, "x.pt")


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (float("inf"), "infinity")])
def test_weights_that_are_not_finite_are_refused_and_nothing_is_loaded(net, value, word):
    state = {entry: tensor.clone() for entry, tensor in resnet8(10).state_dict().items()}
    state["stage2.0.conv1.weight"][0, 0, 0, 0] = value
    before = net.conv.weight.clone()
    with pytest.raises(CheckpointError, match=rf"{word} in stage2\.0\.conv1\.weight"):
        load_weights(net, state, KEY, "x.pt")
    assert torch.equal(net.conv.weight, before)


def test_integers_in_place_of_weights_are_refused(net):
    state = {**net.state_dict(), "conv.weight": torch.zeros_like(net.conv.weight, dtype=torch.int8)}
    with pytest.raises(CheckpointError, match="conv.weight holds int8, .* needs float32"):
        load_weights(net, state, KEY, "x.pt")


def test_weights_can_be_checked_against_a_plan(net):
    with torch.device("meta"):
        plan = resnet8(10)
    load_weights(plan, net.state_dict(), KEY, "x.pt")
    with pytest.raises(CheckpointError, match="holds 100 classes"):
        load_weights(plan, resnet8(100).state_dict(), KEY, "x.pt")


# --- files that are no weights


def test_missing_empty_and_folder(tmp_path):
    assert refusal(tmp_path / "nothing") == "no such file"
    assert refusal(tmp_path / "empty", b"") == "an empty file (0 bytes)"
    assert refusal(tmp_path) == "a folder, not a file of weights"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"x")
    path.chmod(0)
    assert refusal(path).startswith("cannot be read (")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "PNG"),
        (b"\xff\xd8\xff\xe0" + bytes(50), "JPEG"),
        (b"\n<!DOCTYPE html><html>404</html>", "HTML"),
        (b'{"error": "not found"}', "JSON"),
        (b'{"a":[[{"b": 1}]]}', "JSON"),
        (b"\x1f\x8b" + bytes(50), "gzip"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer"),
        (b"epoch,loss\n1,2.5\n", "text"),
        (bytes(range(130, 160)), "an unknown format"),
    ],
)
def test_what_a_file_looks_like_is_said(tmp_path, content, kind):
    assert refusal(tmp_path / "x.pt", content).startswith(f"not a checkpoint (looks like {kind}")


def test_archives_that_are_no_checkpoints(net, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme.txt", "x")
    assert refusal(tmp_path / "a.zip") == "not a checkpoint (looks like a zip archive)"
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(2**20))
    assert "compressed" in refusal(tmp_path / "b.zip")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), "holds one tensor"),
        ([1, 2], "holds a list"),
        ({"epoch": 3, "lr": 0.1}, r"holds no weights of a model (its keys: epoch, lr)"),
        ({}, "holds no weights of a model (its keys: none)"),
        ({"state_dict": {"a": 1}}, "holds no weights of a model (its keys: a)"),
    ],
)
def test_torch_files_without_weights(tmp_path, content, message):
    torch.save(content, tmp_path / "x.pt")
    assert refusal(tmp_path / "x.pt").startswith(message)


# --- files that hold code


class Harmful:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle 2", "pickle 4", "wrapped"])
def test_code_is_named_and_never_run(tmp_path, kind):
    marker, path = tmp_path / "marker", tmp_path / "x.pt"
    harmful = Harmful(marker)
    if kind in ("zip", "legacy"):
        torch.save(harmful, path, _use_new_zipfile_serialization=kind == "zip")
    elif kind == "wrapped":
        torch.save({"state_dict": {"w": torch.zeros(2)}, "hook": harmful}, path)
    else:
        path.write_bytes(pickle.dumps(harmful, protocol=int(kind[-1])))
    message = refusal(path)
    assert message.startswith(f"refused: it holds code ({os.system.__module__}.system); only plain weights are read")
    assert not marker.exists()


def test_a_whole_module_is_code_too(net, tmp_path):
    torch.save(net, tmp_path / "x.pt")
    assert "refused: it holds code (distillctl.models.cifar.resnet.ResNet)" in refusal(tmp_path / "x.pt")
    torch.save({"epoch": 3, "model": net}, tmp_path / "y.pt")
    assert "refused: it holds code (distillctl.models.cifar.resnet.ResNet)" in refusal(tmp_path / "y.pt")


# --- damaged files


def samples() -> dict[str, bytes]:
    torch.manual_seed(0)
    state = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).state_dict()
    found = {}
    for kind in (True, False):
        buffer = io.BytesIO()
        torch.save({"state_dict": state}, buffer, _use_new_zipfile_serialization=kind)
        found["zip" if kind else "legacy"] = buffer.getvalue()
    from safetensors.torch import save

    found["safetensors"] = save(state)
    return found


SAMPLES = samples()


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_truncated_file_is_damaged(tmp_path, kind):
    content = SAMPLES[kind]
    assert "truncated or damaged" in refusal(tmp_path / "x", content[: len(content) // 2])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(sorted(SAMPLES)),
    length=st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4),
)
def test_a_damaged_file_loads_or_is_refused_and_nothing_else(tmp_path, kind, length, flips):
    content = bytearray(SAMPLES[kind])
    for place, byte in flips:
        content[int(place * (len(content) - 1))] = byte
    if not flips:
        content = content[: int(length * len(content))]
    (tmp_path / "x").write_bytes(content)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    try:
        load_weights(module, read_weights(tmp_path / "x", KEY), KEY, tmp_path / "x")
    except CheckpointError as error:
        message = str(error)
        assert "\n" not in message


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200), start=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x04", b"\x10" + bytes(7) + b"{"]))
def test_noise_is_refused(tmp_path, content, start):
    (tmp_path / "x").write_bytes(start + content)
    with pytest.raises(CheckpointError):
        read_weights(tmp_path / "x", KEY)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda value: value.to_sparse(), "sparse"),
        (lambda value: value.to("meta"), "without values"),
        (lambda value: torch.nested.nested_tensor([value]), "nested"),
        (lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.quint8), "quantized"),
        (lambda value: value.to(torch.float8_e4m3fn), "float8_e4m3fn"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_tensor_of_an_odd_kind_is_one_line(make, kind, tmp_path):
    state = resnet8(10).state_dict()
    torch.save({name: make(value) if value.dim() == 2 else value for name, value in state.items()}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=rf"student.checkpoint=.*x.pt: \w+.weight is .*{kind}.*; save it as a plain tensor"):
        read_weights(tmp_path / "x.pt", "student.checkpoint")
