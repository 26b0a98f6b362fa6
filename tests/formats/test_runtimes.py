"""Each format whose runtime is installed here writes files that answer as the net does, and says in one line what is no such file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from nets import METADATA, NETS, SIZE, error_of, program, samples, written

from distillctl import extras, formats
from distillctl.errors import CheckpointError, ConfigError, MachineError
from distillctl.formats import HOMES, SUFFIXES, by_file, bytes_of, format_of
from distillctl.formats.format import Form, Format, Takes
from distillctl.formats.trailer import metadata_at_end, with_metadata
from distillctl.models.record import Architecture, Record
from distillctl.models.shipping import read_record

RUNTIMES = {
    "openvino": ("openvino",),
    "litert": ("litert_torch", "ai_edge_litert"),
    "executorch": ("executorch",),
    "coreml": ("coremltools",),
}


@pytest.fixture(params=sorted(RUNTIMES))
def installed(request: pytest.FixtureRequest) -> Format:
    """A format that can be written here."""
    for module in RUNTIMES[request.param]:
        pytest.importorskip(module, reason=f"{request.param}: {module} is not installed")
    return format_of(request.param)


@pytest.fixture
def runs(installed: Format) -> Format:
    """One that can be run too."""
    if installed.elsewhere:
        pytest.skip(f"{installed.name}: {installed.elsewhere}")
    return installed


def form_of(found: Format, precision: str = "fp32") -> Form:
    return Form("inside" if found.inside else "beside", precision=precision)


# What runs where it is installed


@pytest.mark.parametrize("net", sorted(NETS))
def test_a_file_answers_as_the_net_does_for_any_number_of_samples(runs: Format, net: str, tmp_path: Path):
    made = NETS[net]()
    for preprocess in ("inside", "beside") if runs.inside else ("beside",):
        file = written(runs.name, tmp_path, made, Form(preprocess))
        runner = runs.open(file)
        assert runner.takes == Takes("image" if preprocess == "inside" else "pixels", None if runs.batch else 1, SIZE)
        for count in (1, 2, 5):
            inputs = samples(count, preprocess, (SIZE, SIZE))
            assert error_of(runner, program(made, preprocess, fixed=True), inputs) < 1e-4


def test_both_outputs_come_in_their_order(runs: Format, tmp_path: Path):
    form = form_of(runs)
    runner = runs.open(written(runs.name, tmp_path, form=form))
    probabilities, logits = runner.once(samples(1, form.preprocess, (SIZE, SIZE)).numpy())
    scores = np.exp(logits / 1.7)
    assert np.allclose(probabilities, scores / scores.sum(1, keepdims=True), atol=1e-5)


def test_metadata_and_digest(installed: Format, tmp_path: Path):
    file = written(installed.name, tmp_path, form=form_of(installed))
    assert dict(installed.metadata(file)) == METADATA
    before = installed.digest(file)
    assert len(before) == 64
    part = installed.files(file)[-1]
    part.write_bytes(part.read_bytes()[:-1] + b"!")
    assert installed.digest(file) != before


def test_the_same_weights_give_the_same_file_without_a_path_of_this_machine(installed: Format, tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first, second = (written(installed.name, tmp_path / name, form=form_of(installed)) for name in ("a", "b"))
    assert installed.digest(first) == installed.digest(second)
    content = b"".join(path.read_bytes() for path in installed.files(first))
    assert str(Path(__file__).parents[2]).encode() not in content
    assert b"site-packages" not in content


def test_weights_of_eight_bits(runs: Format, tmp_path: Path):
    if "int8" not in runs.precisions:
        pytest.skip(f"{runs.name} writes {', '.join(runs.precisions)} by itself")
    made = NETS["attention"]()
    error = error_of(
        runs.open(written(runs.name, tmp_path, made, form_of(runs, "int8"))), program(made, fixed=True), samples(3, size=(SIZE, SIZE))
    )
    assert 0 < error < 0.1


@pytest.mark.parametrize("content", [b"", b"a text\n", bytes(4096)])
def test_what_is_no_such_file_is_one_line(runs: Format, content: bytes, tmp_path: Path):
    file = tmp_path / f"a{runs.suffix}"
    file.write_bytes(content)
    file.with_suffix(".bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=f"a{runs.suffix}: no ") as error:
        runs.open(file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.8])
def test_a_truncated_file_is_one_line(runs: Format, share: float, tmp_path: Path):
    """In a process of its own: a runtime that reads past the end would take the tests with it."""
    file = written(runs.name, tmp_path, form=form_of(runs))
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    code = (
        "from pathlib import Path; from distillctl.errors import CheckpointError; from distillctl.formats import by_file\n"
        f"file = Path({str(file)!r})\n"
        "try:\n    by_file(file).open(file)\nexcept CheckpointError as error:\n    print('refused:', error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.startswith(f"refused: {file}: ")
    assert done.stdout.count("\n") == 1


def test_a_missing_file_is_one_line(runs: Format, tmp_path: Path):
    with pytest.raises(CheckpointError, match="No such file"):
        runs.open(tmp_path / f"a{runs.suffix}")


def test_another_size_is_one_line(runs: Format, tmp_path: Path):
    form = form_of(runs)
    runner = runs.open(written(runs.name, tmp_path, form=form))
    with pytest.raises(CheckpointError, match=rf"student\{runs.suffix}: ") as error:
        runner(samples(1, "inside", (SIZE + 1, SIZE)).numpy())
    assert "\n" not in str(error.value)


# OpenVINO's two files


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    pytest.importorskip("openvino", reason="openvino is not installed")
    return written("openvino", tmp_path)


def test_a_graph_without_its_weights_is_refused(pair: Path):
    pair.with_suffix(".bin").unlink()
    with pytest.raises(CheckpointError, match=r"student\.bin, which holds its weights, does not lie beside it"):
        format_of("openvino").open(pair)
    with pytest.raises(CheckpointError, match="student.bin: cannot be read"):
        format_of("openvino").digest(pair)


def test_a_graph_with_the_weights_of_another_is_refused(pair: Path):
    weights = pair.with_suffix(".bin")
    content = bytearray(weights.read_bytes())
    content[100] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match="not the weights that student.xml was written with"):
        format_of("openvino").open(pair)


@pytest.mark.parametrize("net", sorted(NETS))
def test_int8_by_nncf(net: str, tmp_path: Path):
    pytest.importorskip("openvino", reason="openvino is not installed")
    pytest.importorskip("nncf", reason="nncf is not installed")
    from distillctl.compress.quantize.openvino import has_attention, is_quantized, write_openvino
    from distillctl.formats.openvino import read

    made, metadata = NETS[net](), {"distillctl": json.dumps({"exported": {"precision": "fp32"}})}
    file = written("openvino", tmp_path, made, metadata=metadata)
    assert has_attention(read(file)) == (net == "attention")
    small = write_openvino(file, tmp_path / "int8.xml", [each[None] for each in samples(16, size=(SIZE, SIZE)).numpy()])
    assert is_quantized(read(small))
    assert not is_quantized(read(file))
    found = format_of("openvino")
    assert json.loads(found.metadata(small)["distillctl"]) == {"exported": {"precision": "int8"}}
    assert 0 < error_of(found.open(small), program(made, fixed=True), samples(5, size=(SIZE, SIZE), seed=3)) < 0.2
    with pytest.raises(CheckpointError, match="quantized already"):
        write_openvino(small, tmp_path / "again.xml", [samples(1).numpy()])
    with pytest.raises(ConfigError, match="no training sample"):
        write_openvino(file, tmp_path / "none.xml", [])


def test_nncf_that_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from distillctl.compress.quantize import openvino

    monkeypatch.setattr(extras, "is_installed", lambda module: False)
    with pytest.raises(MachineError, match=r"quantize=openvino needs openvino and nncf: pip install 'distillctl\[openvino\]'"):
        openvino.write_openvino(tmp_path / "a.xml", tmp_path / "b.xml", [])


# What can be said without any of them


def test_every_format_has_its_file_its_class_and_its_suffix():
    assert set(HOMES) == set(SUFFIXES.values())
    for suffix, name in SUFFIXES.items():
        assert format_of(name).name == name
        assert format_of(name).suffix == suffix
        assert by_file(Path(f"a{suffix.upper()}")) is format_of(name)
    assert by_file(Path("a.safetensors")) is None


def test_asking_for_a_suffix_imports_nothing_heavy():
    code = (
        "import sys; from pathlib import Path; from distillctl.formats import SUFFIXES, by_file\n"
        "assert by_file(Path('a.safetensors')) is None and 'distillctl.formats.onnx' not in sys.modules\n"
        "[by_file(Path('a' + suffix)) for suffix in SUFFIXES]\n"
        "assert not {'torch', 'onnx', 'onnxruntime', 'openvino', 'litert_torch', 'executorch', 'coremltools'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", sorted(set(HOMES) - {"torch_export"}))
def test_an_extra_that_is_missing_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    found = format_of(name)
    monkeypatch.setattr(extras, "is_installed", lambda module: False)
    monkeypatch.setattr("sys.platform", "darwin")
    needs = " and ".join(found.writes_by)
    with pytest.raises(MachineError, match=rf"^export\.format={name} needs {needs}: pip install 'distillctl\[{found.extra}\]'$"):
        written(name, tmp_path, form=form_of(found))
    with pytest.raises(MachineError, match=rf"student\{found.suffix} needs .*: pip install 'distillctl\[{found.extra}\]'$"):
        found.open(tmp_path / f"student{found.suffix}")


@pytest.mark.parametrize("torch", ["2.15.0", "2.15.1+cpu", "3.0.0"])
def test_litert_says_which_torch_it_works_with(torch: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("distillctl.formats.litert.version", lambda name: torch)
    with pytest.raises(MachineError, match=r"^export.format=litert: litert-torch works with torch below 2.15, and this is \d") as error:
        written("litert", tmp_path)
    assert torch in str(error.value)


def test_core_ml_says_that_it_runs_on_a_mac(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(MachineError, match="runs on a Mac alone, so it was not run here and is not verified"):
        format_of("coreml").open(tmp_path / "a.mlpackage")
    monkeypatch.setattr("sys.platform", "darwin")
    assert not format_of("coreml").elsewhere


def test_a_digest_of_several_files_holds_all_of_them_and_their_names(tmp_path: Path):
    found, graph = format_of("openvino"), tmp_path / "a.xml"
    for name, content in (("a.xml", b"graph"), ("a.bin", b"weights")):
        (tmp_path / name).write_bytes(content)
    listed = subprocess.run(["sha256sum", "a.xml", "a.bin"], cwd=tmp_path, capture_output=True, check=True).stdout
    again = subprocess.run(["sha256sum"], input=listed, capture_output=True, check=True).stdout
    assert found.digest(graph) == again.split()[0].decode()
    assert bytes_of(graph) == len(b"graph" + b"weights")
    (tmp_path / "a.bin").unlink()
    with pytest.raises(
        CheckpointError, match=r"a\.xml: a\.bin: cannot be read \(No such file or directory\); copy all that belongs to it$"
    ):
        found.digest(graph)


def test_a_part_that_lacks_is_named_behind_the_key(tmp_path: Path):
    file = tmp_path / "a.xml"
    file.write_bytes(b"graph")
    seen = {"kind": "images", "image_size": 8, "mean": [0.5] * 3, "std": [0.25] * 3, "resize": 8}
    record = Record(Architecture("cifar", "resnet8", "small"), ("a", "b"), seen)
    file.with_suffix(".json").write_text(json.dumps(record.to_json()))
    with pytest.raises(CheckpointError, match=r"^checkpoint=.*a\.xml: a\.bin: cannot be read"):
        read_record(file, "checkpoint")


def test_metadata_at_the_end_of_a_file(tmp_path: Path):
    file = tmp_path / "a.pte"
    file.write_bytes(with_metadata(b"whatever a runtime reads", METADATA))
    assert file.read_bytes().startswith(b"whatever a runtime reads")
    assert metadata_at_end(file) == METADATA
    for content in (b"", b"PK", b"none", with_metadata(b"", METADATA)[:-5], b"PK\x05\x06" + bytes(18)):
        file.write_bytes(content)
        assert not metadata_at_end(file)
    with pytest.raises(CheckpointError, match="No such file"):
        metadata_at_end(tmp_path / "b.pte")


def test_the_list_of_formats_is_that_of_the_folder():
    there = {path.stem for path in Path(formats.__file__).parent.glob("*.py")}
    assert set(HOMES) <= there
