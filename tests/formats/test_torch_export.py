"""A .pt2 file answers as the net does, and no file of this kind, whoever made it, runs code when it is read."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from nets import CLASSES, METADATA, NETS, SIZE, error_of, program, samples, written
from torch import Tensor, nn

from distillctl.errors import CheckpointError, ConfigError
from distillctl.formats import by_file, format_of
from distillctl.formats.format import Form, Takes

FORMAT = format_of("torch_export")
MODEL, CONFIG = "models/model.json", "data/weights/model_weights_config.json"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written("torch_export", tmp_path_factory.mktemp("pt2"))


@pytest.mark.parametrize("preprocess", ["inside", "beside"])
@pytest.mark.parametrize("net", sorted(NETS))
def test_a_file_answers_as_the_net_does_for_any_number_of_images_of_any_size(net: str, preprocess: str, tmp_path: Path):
    made = NETS[net]()
    runner = FORMAT.open(written("torch_export", tmp_path, made, Form(preprocess)))
    for count, size in ((1, (SIZE, SIZE)), (5, (40, 31)), (3, (7, 50))):
        assert error_of(runner, program(made, preprocess), samples(count, preprocess, size)) == 0


def test_what_it_takes_is_read_from_the_graph(file: Path, tmp_path: Path):
    assert FORMAT.open(file).takes == Takes("image")
    assert FORMAT.open(written("torch_export", tmp_path, form=Form("beside"))).takes == Takes("pixels", None, SIZE)


def test_metadata_comes_back_without_torch(file: Path):
    assert dict(FORMAT.metadata(file)) == METADATA
    code = f"import sys; from pathlib import Path; from distillctl.formats import by_file; by_file(p := Path({str(file)!r})).metadata(p); "
    subprocess.run([sys.executable, "-c", code + "assert 'torch' not in sys.modules"], check=True)


def test_torch_itself_reads_it(file: Path):
    images = samples(3)
    loaded = torch.export.load(file).module()
    with torch.no_grad():
        assert torch.equal(loaded(images)[1], torch.from_numpy(FORMAT.open(file)(images.numpy())))
        assert torch.allclose(loaded(images)[0], (loaded(images)[1] / 1.7).softmax(-1))


def test_the_same_weights_give_the_same_bytes_and_no_path_of_this_machine(file: Path, tmp_path: Path):
    assert written("torch_export", tmp_path).read_bytes() == file.read_bytes()
    assert b"program.py" not in file.read_bytes()
    assert str(Path(__file__).parent.parent).encode() not in file.read_bytes()


def test_what_torch_export_saves_of_a_net_is_read_too(tmp_path: Path):
    net = NETS["attention"]()
    batch = torch.export.Dim("batch", min=1)
    torch.export.save(torch.export.export(net, (samples(2, "beside"),), dynamic_shapes=({0: batch},)), tmp_path / "other.pt2")
    runner = FORMAT.open(tmp_path / "other.pt2")
    assert runner.takes == Takes("pixels", None, SIZE)
    assert error_of(runner, program(net, "beside"), samples(4, "beside")) == 0
    assert not FORMAT.metadata(tmp_path / "other.pt2")


def test_a_file_for_one_number_of_samples_is_given_so_many_at_a_time(tmp_path: Path):
    net = NETS["convolutional"]()
    torch.export.save(torch.export.export(net, (samples(2, "beside"),)), tmp_path / "two.pt2")
    runner = FORMAT.open(tmp_path / "two.pt2")
    assert runner.takes == Takes("pixels", 2, SIZE)
    assert error_of(runner, program(net, "beside"), samples(5, "beside")) < 1e-6


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + bytes(18), b"no archive", bytes(5000)])
def test_what_is_no_archive_is_one_line(content: bytes, tmp_path: Path):
    (tmp_path / "student.pt2").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"student\.pt2: no file of torch\.export") as error:
        FORMAT.open(tmp_path / "student.pt2")
    assert "\n" not in str(error.value)


def test_what_is_cut_off_or_missing_is_one_line(file: Path, tmp_path: Path):
    (tmp_path / "student.pt2").write_bytes(file.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match="no whole archive"):
        FORMAT.open(tmp_path / "student.pt2")
    with pytest.raises(CheckpointError, match="No such file"):
        FORMAT.open(tmp_path / "none.pt2")


def test_weights_of_torch_under_this_name_are_no_graph(tmp_path: Path):
    torch.save({"a": torch.ones(2)}, tmp_path / "student.pt2")
    with pytest.raises(CheckpointError, match="no file of torch.export"):
        FORMAT.open(tmp_path / "student.pt2")


# What a stranger may put into a file


class Touch:
    """Pickled, it makes a file where it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def changed(file: Path, to: Path, edit: Callable[[dict[str, bytes]], None], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(file) as archive:
        content = {each.filename.partition("/")[2]: archive.read(each) for each in archive.infolist()}
    edit(content)
    with zipfile.ZipFile(to, "w", compression) as archive:
        for name, value in content.items():
            archive.writestr(f"archive/{name}", value)
    return to


def edited(content: dict[str, bytes], edit: Callable[[dict[str, Any]], None], name: str = MODEL) -> None:
    told = json.loads(content[name])
    edit(told)
    content[name] = json.dumps(told).encode()


def graph_of(told: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = told["graph_module"]["graph"]
    return found


def pickled_weight(content: dict[str, bytes], trace: Path) -> None:
    buffer = io.BytesIO()
    torch.save(Touch(trace), buffer)
    content["data/weights/weight_0"] = buffer.getvalue()
    edited(content, lambda told: next(iter(told["config"].values())).update(use_pickle=True), CONFIG)


def pickled_constant(content: dict[str, bytes], trace: Path) -> None:
    content["data/constants/opaque_obj_0"] = pickle.dumps(Touch(trace))
    entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    edited(content, lambda told: told["config"].update(thing=entry), "data/constants/model_constants_config.json")


def operator_of_torch(content: dict[str, bytes], trace: Path) -> None:
    edited(content, lambda told: graph_of(told)["nodes"][0].update(target="torch.os.system"))


def operator_that_writes(content: dict[str, bytes], trace: Path) -> None:
    edited(content, lambda told: graph_of(told)["nodes"][0].update(target="torch.ops.aten.from_file.default"))


def operator_of_a_library(content: dict[str, bytes], trace: Path) -> None:
    edited(content, lambda told: graph_of(told)["nodes"][0].update(target="torch.ops.load_library"))


def operator_that_is_none(content: dict[str, bytes], trace: Path) -> None:
    edited(content, lambda told: graph_of(told)["nodes"][0].update(target="torch.ops.aten.__class__.mro"))


def name_of_a_node(content: dict[str, bytes], trace: Path) -> None:
    code = f"x = __import__('pathlib').Path({str(trace)!r}).touch(); y"
    edited(content, lambda told: graph_of(told)["nodes"][0].update(name=code))


def name_that_is_a_place(content: dict[str, bytes], trace: Path) -> None:
    """Compiled, it would be `torch.load = ...`."""
    edited(content, lambda told: graph_of(told)["nodes"][0].update(name="torch.load"))


def operator_without_bounds(content: dict[str, bytes], trace: Path) -> None:
    edited(content, lambda told: graph_of(told)["nodes"][0].update(target="torch.ops.aten._index_put_impl_.default"))


def operator_as_an_argument(content: dict[str, bytes], trace: Path) -> None:
    edited(content, lambda told: graph_of(told)["nodes"][0]["inputs"][0].update(arg={"as_operator": "torch.os.system"}))


def expression(content: dict[str, bytes], trace: Path) -> None:
    code = f"__import__('pathlib').Path({str(trace)!r}).touch()"

    def edit(told: dict[str, Any]) -> None:
        for meta in graph_of(told)["tensor_values"].values():
            meta["sizes"] = [
                {"as_expr": {"expr_str": code, "hint": {"as_int": 2}}} if "as_expr" in size else size for size in meta["sizes"]
            ]

    edited(content, edit)


def nesting(content: dict[str, bytes], trace: Path) -> None:
    spec = json.dumps([1, {"type": "os.system", "context": "null", "children_spec": []}])
    edited(content, lambda told: told["graph_module"]["module_call_graph"][0]["signature"].update(in_spec=spec))


def name_of_a_weight(content: dict[str, bytes], trace: Path) -> None:
    edited(content, lambda told: told["config"].update({"a = 1; b": told["config"].popitem()[1]}), CONFIG)


REFUSED = {
    pickled_weight: "is pickled",
    pickled_constant: "is pickled",
    operator_of_torch: "'torch.os.system' is no operator of a net",
    operator_that_writes: "takes no tensor",
    operator_of_a_library: "no operator of a net",
    operator_that_is_none: "is for the inside of torch",
    name_of_a_node: "is no name of a part of a net",
    name_that_is_a_place: "'torch.load' is no name of a node",
    operator_without_bounds: "is for the inside of torch",
    operator_as_an_argument: "as_operator is an argument",
    expression: "is no size",
    nesting: "holds its inputs or outputs",
    name_of_a_weight: "is no name of a part of a net",
}


@pytest.mark.parametrize("attack", REFUSED, ids=lambda attack: attack.__name__)
def test_what_could_run_code_is_refused(attack: Callable[..., None], file: Path, tmp_path: Path):
    trace = tmp_path / "trace"
    hostile = changed(file, tmp_path / "hostile.pt2", lambda content: attack(content, trace))
    with pytest.raises(CheckpointError, match=REFUSED[attack]) as error:
        FORMAT.open(hostile)
    assert "\n" not in str(error.value)
    assert not trace.exists()


@pytest.mark.parametrize("attack", [pickled_weight, pickled_constant, expression], ids=lambda attack: attack.__name__)
def test_torch_would_run_it(attack: Callable[..., None], file: Path, tmp_path: Path):
    """Else the test above would prove nothing."""
    trace = tmp_path / "trace"
    hostile = changed(file, tmp_path / "hostile.pt2", lambda content: attack(content, trace))
    code = f"import torch, contextlib\nwith contextlib.suppress(BaseException):\n    torch.export.load({str(hostile)!r})"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert trace.exists()


def test_what_no_net_needs_is_not_looked_at(file: Path, tmp_path: Path):
    trace = tmp_path / "trace"

    def edit(content: dict[str, bytes]) -> None:
        content["data/sample_inputs/model.pt"] = content["data/sample_inputs/evil.pt"] = pickle.dumps(Touch(trace))
        content["data/weights/model.pt"] = content["data/constants/model.pt"] = pickle.dumps(Touch(trace))
        content["data/aotinductor/model/model.so"] = b"\x7fELF"
        edited(content, lambda told: told.update(guards_code=[f"__import__('pathlib').Path({str(trace)!r}).touch()"]))
        edited(content, lambda told: graph_of(told)["nodes"][0].update(metadata={"stack_trace": "import os"}))

    runner = FORMAT.open(changed(file, tmp_path / "more.pt2", edit))
    assert error_of(runner, program(NETS["convolutional"]()), samples(2)) == 0
    assert not trace.exists()


def test_an_archive_that_grows_when_it_is_read_is_refused(file: Path, tmp_path: Path):
    bomb = changed(file, tmp_path / "bomb.pt2", lambda content: content.update(zeros=bytes(10**6)), zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="compressed"):
        FORMAT.open(bomb)


def test_a_tensor_without_its_values_is_refused(file: Path, tmp_path: Path):
    hollow = changed(file, tmp_path / "hollow.pt2", lambda content: content.update({"data/weights/weight_0": b""}))
    with pytest.raises(CheckpointError, match="has no values"):
        FORMAT.open(hollow)
    short = changed(file, tmp_path / "short.pt2", lambda content: content.update({"data/weights/weight_0": bytes(8)}))
    with pytest.raises(CheckpointError, match="short.pt2"):
        FORMAT.open(short)


def test_a_graph_that_does_not_hang_together_is_one_line(file: Path, tmp_path: Path):
    torn = changed(file, tmp_path / "torn.pt2", lambda content: edited(content, lambda told: graph_of(told)["nodes"].pop(3)))
    with pytest.raises(CheckpointError, match="torn.pt2") as error:
        FORMAT.open(torn)
    assert "\n" not in str(error.value)


class Branching(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)).repeat(1, CLASSES) if images.sum() > 0 else images.amax((2, 3)).repeat(1, CLASSES)


def test_a_net_whose_path_depends_on_values_is_one_line(tmp_path: Path):
    with pytest.raises(ConfigError, match="export.format=torch_export: the net cannot be exported") as error:
        written("torch_export", tmp_path, Branching().eval(), Form("beside"))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


class Counting(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.reshape(len(pixels), -1)[:, :CLASSES]


def test_a_net_that_counts_its_images_is_exported_all_the_same(tmp_path: Path):
    runner = FORMAT.open(written("torch_export", tmp_path, Counting().eval(), Form("beside")))
    assert error_of(runner, program(Counting(), "beside"), samples(5, "beside")) == 0


def test_its_suffix_is_its_own():
    assert by_file(Path("a/STUDENT.PT2")) is FORMAT
