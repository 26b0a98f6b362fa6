"""A student becomes a file that is run back and compared, as the command line does it; a wrong file is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from distillctl.config import ExportStepConfig
from distillctl.errors import CheckpointError
from distillctl.export.verify import check_classes, verify
from distillctl.formats import format_of
from distillctl.formats.engine import Whole, engine
from distillctl.formats.format import Form
from distillctl.formats.program import Preprocess, Program
from distillctl.models.shipping import METADATA, read_record

KEYS = ExportStepConfig()


@pytest.fixture(scope="module")
def exported(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory, distillctl) -> Path:
    """The folder of a finished `distillctl export`."""
    place = tmp_path_factory.mktemp("exported")
    shutil.copytree(tiny_run, place / "run")
    finished = distillctl("export", "checkpoint=run", "hydra.run.dir=out", cwd=place)
    assert finished.code == 0, finished.err
    return place


def test_an_export_leaves_a_file_its_record_and_a_table_of_both(exported: Path):
    out = exported / "out"
    record = json.loads((out / "export/student.json").read_text())
    assert record["exported"]["format"] == "onnx"
    assert record["exported"]["parameters"] == 78042
    assert record["classes"] == list("0123456789")
    summary = json.loads((out / "summary.json").read_text())
    assert [row["model"] for row in summary["rows"]] == ["fp32 (PyTorch)", "fp32 (ONNX Runtime)"]
    assert summary["final"] == "fp32 (ONNX Runtime)"
    before, after = summary["rows"]
    assert before["top1"] == after["top1"]
    assert after["size_mb"] == (out / "export/student.onnx").stat().st_size / 1e6
    stage = json.loads((out / "run.json").read_text())["stages"]["export"]
    assert stage["verified"]["agreement"] == 1.0
    assert stage["verified"]["max_error"] < 1e-4


def test_equal_weights_give_equal_bytes(exported: Path, distillctl):
    assert distillctl("export", "checkpoint=run", "hydra.run.dir=again", cwd=exported).code == 0
    assert (exported / "out/export/student.onnx").read_bytes() == (exported / "again/export/student.onnx").read_bytes()


def test_an_exported_file_is_evaluated_as_any_other(exported: Path, distillctl):
    for checkpoint in ("run", "out/export/student.onnx"):
        done = distillctl(
            "evaluate", f"checkpoint={checkpoint}", f"hydra.run.dir=eval-{Path(checkpoint).name}", "trainer.precision=fp32", cwd=exported
        )
        assert done.code == 0, done.err
    measured = [json.loads((exported / f"eval-{name}/evaluation.json").read_text())["measured"] for name in ("run", "student.onnx")]
    assert measured[0]["top1"] == measured[1]["top1"]
    assert measured[0]["nll"] == pytest.approx(measured[1]["nll"], abs=1e-5)


def test_verify_says_that_a_file_is_right_and_leaves_it(exported: Path, distillctl):
    before = (exported / "out/export/student.onnx").read_bytes()
    done = distillctl("export", "checkpoint=run", "verify=out/export/student.onnx", "hydra.run.dir=right", cwd=exported)
    assert done.code == 0, done.err
    assert "right; largest difference of a logit" in done.out
    assert (exported / "out/export/student.onnx").read_bytes() == before


# ------------------------------------------------------------------------------------------------ wrong files
def changed_weights(model: onnx.ModelProto) -> None:
    tensor = max(model.graph.initializer, key=lambda entry: len(entry.raw_data))
    values = np.frombuffer(tensor.raw_data, np.float32).copy()
    values[: len(values) // 2] *= 1.05
    tensor.raw_data = values.tobytes()


def swapped_classes(model: onnx.ModelProto) -> None:
    [entry] = [entry for entry in model.metadata_props if entry.key == METADATA]
    record = json.loads(entry.value)
    record["classes"][0], record["classes"][1] = record["classes"][1], record["classes"][0]
    entry.value = json.dumps(record)


def weights_beside(model: onnx.ModelProto) -> None:
    onnx.external_data_helper.convert_model_to_external_data(model, location="student.onnx.data", size_threshold=0)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (changed_weights, "it does not answer as the model does (largest difference of a logit"),
        (swapped_classes, "its class 0 is '1', the model's is '0'; the file is refused"),
        (weights_beside, "its weights lie in another file"),
    ],
)
def test_a_file_that_was_changed_is_refused(exported: Path, tmp_path: Path, distillctl, spoil, words: str):
    model = onnx.load(exported / "out/export/student.onnx")
    spoil(model)
    onnx.save(model, tmp_path / "student.onnx")
    done = distillctl("export", f"checkpoint={exported / 'run'}", "verify=student.onnx", "hydra.run.dir=v", cwd=tmp_path)
    assert done.code == 4, done.out
    assert words in done.err
    assert done.err.count("\n") == 1
    assert (tmp_path / "student.onnx").exists()


@pytest.fixture(scope="module")
def student(exported: Path):
    """The eager student and its parts, and a few validation batches."""
    import distillctl as package
    from distillctl.config import ImageSetConfig
    from distillctl.data.loader import Place
    from distillctl.runs.bundle import load

    adapter = package.load(exported / "run")
    found = load(ImageSetConfig(name="digits"), 64, Place(torch.device("cpu")))
    return adapter, found, read_record(exported / "out/export/student.onnx", "x")


def written(student, place: Path, **changes) -> Whole:
    """The student exported with a mistake."""
    adapter, found, record = student
    told = {"mean": adapter.mean.flatten().tolist(), "std": adapter.std.flatten().tolist(), "order": (0, 1, 2), **changes}
    before = Preprocess(found.inputs.image_size, found.inputs.image_size, told["mean"], told["std"])
    if told["order"] != (0, 1, 2):
        before = torch.nn.Sequential(Reordered(told["order"]), before)
    file = place / "student.onnx"
    format_of("onnx").write(Program(adapter.net, before, 1.0).eval(), found.inputs.file_example(adapter, True, False), file, Form(), {})
    return Whole(engine(file, "00" * 32))


class Reordered(torch.nn.Module):
    def __init__(self, order):
        super().__init__()
        self.order = list(order)

    def forward(self, image):
        return image[..., self.order]


def compare(student, file: Whole):
    adapter, found, _ = student
    return verify(adapter, file, found.plain_batches(found.data.val), True, KEYS.tolerance, "student.onnx")


def test_a_file_that_is_right_passes(student, tmp_path: Path):
    found = compare(student, written(student, tmp_path))
    assert found.agreement == 1.0
    assert found.max_error < 1e-4
    assert found.top1 == found.top1_before


def test_a_wrong_mean_is_refused(student, tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"does not answer as the model does .* export.tolerance=0.001; the file is refused"):
        compare(student, written(student, tmp_path, mean=[0.9, 0.9, 0.9]))


def test_blue_before_red_is_refused(student, tmp_path: Path):
    adapter, found, record = student
    [batch, *_] = found.plain_batches(found.data.val)
    coloured = batch.inputs.clone()
    coloured[:, 0], coloured[:, 2] = coloured[:, 0] // 2, 255 - coloured[:, 2]  # digits are gray, and gray has no order
    file = written(student, tmp_path, order=(2, 1, 0))
    with pytest.raises(CheckpointError, match="does not answer as the model does"):
        verify(adapter, file, [batch._replace(inputs=coloured)], True, KEYS.tolerance, "student.onnx")


def test_names_of_classes_are_compared_one_by_one():
    check_classes(("a", "b"), ["a", "b"], "x")
    with pytest.raises(CheckpointError, match="x: its class 1 is 'c', the model's is 'b'"):
        check_classes(("a", "b"), ("a", "c"), "x")
    with pytest.raises(CheckpointError, match=r"its class 1 is '\(none\)'"):
        check_classes(("a", "b"), ("a",), "x")


def test_a_file_whose_answer_depends_on_its_neighbours_is_refused(student):
    adapter, found, _ = student

    class Neighbours(torch.nn.Module):
        def forward(self, images):
            logits = adapter(images).logits
            return replace_logits(logits + 0.1 * (len(images) == 1))

    def replace_logits(logits):
        from distillctl.types import Output

        return Output(logits, {})

    with pytest.raises(CheckpointError, match="answers a sample alone otherwise than among others"):
        verify(adapter, Neighbours().eval(), found.plain_batches(found.data.val), True, 1e-3, "x")


def test_a_record_keeps_what_is_exported(student):
    _, _, record = student
    assert type(record).from_json(record.to_json()) == record
    assert "exported" in record.essence()
    assert replace(record, exported=None).essence().keys() < record.essence().keys()
