"""`predict` answers from an exported file as it does from the weights that it was made from, and without torch."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from commands import Finished, call
from exported import export, with_metadata
from PIL import Image

import distillctl
from distillctl.models.locate import locate
from distillctl.models.record import FORMAT_VERSION
from distillctl.models.shipping import METADATA

TEMPERATURE = 1.7
FORMS = ("table", "jsonl", "csv")
SIDE = 8


@pytest.fixture(scope="module")
def place(tiny_run, tmp_path_factory) -> Path:
    """A student as weights and as files, calibrated and not, and images of many kinds."""
    folder = tmp_path_factory.mktemp("predict")
    weights = tiny_run / "distill" / "student.safetensors"
    export(weights, folder / "plain" / "student.onnx")
    export(weights, folder / "soft" / "student.onnx", temperature=TEMPERATURE)
    export(weights, folder / "beside" / "student.onnx", preprocess="beside", temperature=TEMPERATURE)
    export(weights, folder / "alone" / "student.onnx", temperature=TEMPERATURE, beside=False)
    for name, temperature in (("net", None), ("soft-net", TEMPERATURE)):
        (folder / name).mkdir()
        shutil.copy(weights, folder / name)
        record = json.loads(weights.with_suffix(".json").read_text())
        record |= {} if temperature is None else {"temperature": temperature}
        (folder / name / "student.json").write_text(json.dumps(record))
    write_images(folder / "images")
    return folder


def write_images(folder: Path) -> None:
    draw = np.random.default_rng(3)

    def pixels(height, width, channels=3):
        return Image.fromarray(draw.integers(0, 256, (height, width, channels), dtype=np.uint8).squeeze())

    (folder / "other sizes").mkdir(parents=True)
    for number in range(5):
        pixels(SIDE, SIDE).save(folder / f"{number}.png")
    pixels(SIDE, SIDE, 1).save(folder / "gray.png")
    pixels(SIDE, SIDE, 4).save(folder / "transparent.png")
    pixels(SIDE, SIDE).quantize(16).save(folder / "palette.gif")
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels(40, 30).save(folder / "other sizes" / "turned.jpg", exif=exif)
    pixels(33, 90).save(folder / "other sizes" / "wide.webp", lossless=True)
    pixels(5, 5).save(folder / "other sizes" / "tiny.bmp")


def predict(place: Path, checkpoint: str, *words: str, inputs: str = "[images]") -> Finished:
    return call(
        "predict", f"checkpoint={checkpoint}", f"inputs={inputs}", "trainer.device=cpu", "trainer.precision=fp32", *words, cwd=place
    )


def probabilities(finished: Finished) -> np.ndarray:
    """[N, K] in the order of classes."""
    assert finished.code == 0, finished.err
    rows = [json.loads(line) for line in finished.out.splitlines()]
    return np.array([[p for _, p in sorted((answer["class"], answer["p"]) for answer in row["answers"])] for row in rows])


@pytest.mark.parametrize(
    ("file", "net"), [("plain", "net"), ("soft", "soft-net"), ("beside", "soft-net"), ("alone/student.onnx", "soft-net")]
)
def test_its_probabilities_are_those_of_the_net(file, net, place):
    found, expected = (probabilities(predict(place, checkpoint, "format=jsonl", "top_k=10")) for checkpoint in (file, net))
    assert found.shape == (11, 10)
    assert np.abs(found - expected).max() < 1e-4


def test_the_temperature_of_the_record_counts_for_both(place):
    sharp, soft = (probabilities(predict(place, name, "format=jsonl", "top_k=10")) for name in ("net", "soft-net"))
    expected = sharp ** (1 / TEMPERATURE)
    assert np.allclose(soft, expected / expected.sum(1, keepdims=True), atol=1e-5)


def test_they_are_what_the_file_itself_answers(place):
    import onnxruntime

    images = np.stack([np.asarray(Image.open(place / "images" / f"{number}.png")) for number in range(5)])
    session = onnxruntime.InferenceSession(place / "soft" / "student.onnx", providers=["CPUExecutionProvider"])
    [own] = session.run(["probabilities"], {"image": images})
    inputs = f"[{','.join(f'images/{number}.png' for number in range(5))}]"
    assert np.abs(probabilities(predict(place, "soft", "format=jsonl", "top_k=10", inputs=inputs)) - own).max() < 1e-5


def test_the_file_by_itself_sees_an_image_of_any_size_up_to_one_gray_level(place):
    import onnxruntime

    names = ["wide.webp", "tiny.bmp"]
    session = onnxruntime.InferenceSession(place / "soft" / "student.onnx", providers=["CPUExecutionProvider"])
    own = [
        session.run(["probabilities"], {"image": np.asarray(Image.open(place / "images" / "other sizes" / name))[None]})[0][0]
        for name in names
    ]
    inputs = f"[{','.join(f'images/other sizes/{name}' for name in names)}]"
    assert np.abs(probabilities(predict(place, "soft", "format=jsonl", "top_k=10", inputs=inputs)) - own).max() < 0.05


@pytest.mark.parametrize("form", FORMS)
def test_what_is_printed_is_the_same(form, place):
    file, net = (predict(place, checkpoint, f"format={form}") for checkpoint in ("plain", "net"))
    assert file.code == net.code == 0
    assert words_of(file.out, form) == words_of(net.out, form)


def words_of(out: str, form: str) -> list:
    """What is printed, its figures to four places."""
    if form == "table":
        return out.splitlines()
    rows = [json.loads(line) for line in out.splitlines()] if form == "jsonl" else list(csv.DictReader(io.StringIO(out)))
    return (
        json.loads(json.dumps(rows), parse_float=lambda text: round(float(text), 3))
        if form == "jsonl"
        else [{key: round(float(value), 3) if key.startswith("p") else value for key, value in row.items()} for row in rows]
    )


def test_bad_files_have_the_same_rows_and_exit_codes(place):
    shutil.copytree(place / "images", place / "mixed", dirs_exist_ok=True)
    (place / "mixed" / "broken.png").write_bytes((place / "images" / "0.png").read_bytes()[:60])
    (place / "mixed" / "page.jpg").write_text("<html>")
    (place / "mixed" / "empty.png").touch()
    for form in ("jsonl", "csv"):
        file, net = (predict(place, name, f"format={form}", inputs="[mixed]") for name in ("plain", "net"))
        assert file.code == net.code == 3
        assert file.err == net.err
        assert "3 of 14 images cannot be read" in file.err
        assert words_of(file.out, "jsonl") == words_of(net.out, "jsonl") if form == "jsonl" else file.out.count("\n") == net.out.count("\n")


@pytest.mark.parametrize(
    ("words", "inputs", "code"),
    [
        ((), "[nowhere.png]", 3),
        ((), "[]", 2),
        ((), "[nothing here]", 3),
        (("max_pixels=63",), "[images/0.png]", 3),
        (("top_k=0",), "[images/0.png]", 2),
        (("format=xml",), "[images/0.png]", 2),
        (("model.mean=[0,0,0]",), "[images/0.png]", None),
    ],
)
def test_what_goes_wrong_is_said_alike(words, inputs, code, place):
    (place / "nothing here").mkdir(exist_ok=True)
    file, net = (predict(place, name, *words, inputs=inputs) for name in ("plain", "net"))
    if code is None:
        assert file.code == 2
        assert "takes images as they are, and normalises them itself" in file.err
        return
    assert (file.code, file.err) == (net.code, net.err)
    assert file.code == code


def test_small_batches_change_nothing(place):
    whole, single = (probabilities(predict(place, "soft", "format=jsonl", "top_k=10", f"trainer.batch_size={size}")) for size in (64, 1))
    assert np.allclose(whole, single, atol=1e-6)


def test_what_is_asked_of_the_net_is_asked_of_it_built(place):
    """Where more than the file is meant, the slow way goes: it gives the same."""
    plain, built = (probabilities(predict(place, "soft", "format=jsonl", "top_k=10", *words)) for words in ((), ("model.image_size=8",)))
    assert np.abs(plain - built).max() < 1e-5


@pytest.mark.parametrize("checkpoint", ["soft", "beside", "alone/student.onnx"])
def test_no_torch_is_imported(checkpoint, place):
    code = (
        "import sys\n"
        f"sys.argv = ['distillctl', 'predict', 'checkpoint={checkpoint}', 'inputs=[images]', 'format=csv']\n"
        "from distillctl.cli import main\n"
        "try:\n    main()\nexcept SystemExit as leaving:\n    assert not leaving.code, leaving.code\n"
        "slow = {'torch', 'timm', 'torchvision', 'sklearn', 'scipy', 'onnx', 'onnxscript', 'matplotlib', 'pandas'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(distillctl.__file__).parent.parent)}
    found = subprocess.run([sys.executable, "-c", code], cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("\n") == 12


def test_it_is_loaded_from_python(place):
    images = torch.randint(0, 256, (3, 3, SIDE, SIDE), dtype=torch.uint8)
    net, file, beside = (distillctl.load(place / name) for name in ("net", "soft/student.onnx", "beside"))
    assert net.classes == file.classes == beside.classes
    for model in (file, beside):
        assert (model(images).logits - net(images).logits).abs().max() < 1e-4
        assert (model(images / 255).logits - net(images / 255).logits).abs().max() < 1e-4


def test_a_run_that_exported_stands_for_the_file_of_its_final_row(place, tmp_path):
    shutil.copytree(place / "soft", tmp_path / "run" / "export")
    shutil.copytree(place / "net", tmp_path / "run" / "distill")
    rows = [
        {"name": "student", "role": "student", "own": True, "file": "distill/student.safetensors"},
        {"name": "exported", "role": "student", "own": True, "file": "export/student.onnx"},
    ]
    for final, expected in (("exported", "export/student.onnx"), ("student", "distill/student.safetensors")):
        (tmp_path / "run" / "run.json").write_text(json.dumps({"plan": {"rows": rows, "final": final}}))
        assert locate(str(tmp_path / "run"), "model", "checkpoint") == tmp_path / "run" / expected
    rows[1] |= {"own": False}
    (tmp_path / "run" / "run.json").write_text(json.dumps({"plan": {"rows": rows, "final": "exported"}}))
    assert (
        predict(tmp_path, "run", inputs=f"[{place / 'images' / '0.png'}]").out
        == predict(tmp_path, "run/export", inputs=f"[{place / 'images' / '0.png'}]").out
    )
    shutil.copy(place / "soft" / "student.onnx", tmp_path / "run" / "export" / "other.onnx")
    refused = predict(tmp_path, "run/export")
    assert (refused.code, refused.err.count("\n")) == (4, 1)


def changed(content, **entries):
    return json.dumps(content | entries)


DEEP = "[" * 100_000 + "]" * 100_000
HOSTILE = {
    "a newer format": (lambda told: changed(told, format_version=FORMAT_VERSION + 1), "upgrade"),
    "no JSON": (lambda told: "{classes: 3", "no JSON that can be read"),
    "nested": (lambda told: DEEP, "no JSON that can be read"),
    "nested preprocessing": (lambda told: json.dumps(told).replace('"preprocessing": {', f'"preprocessing": {{"a": {"[" * 50 + "]" * 50}, '), "nested"),
    "huge": (lambda told: json.dumps(told | {"classes": ["x" * 1000] * 20_000}), "more than 16,777,216 characters"),
    "a list": (lambda told: "[1, 2]", "it has to be a mapping"),
    "a number": (lambda told: "7", "it has to be a mapping"),
    "NaN": (lambda told: json.dumps(told | {"temperature": float("nan")}), "no JSON that can be read"),
    "no classes": (lambda told: changed(told, classes=[]), "holds none"),
    "classes of numbers": (lambda told: changed(told, classes=[1, 2]), "a list of texts"),
    "temperature of text": (lambda told: changed(told, temperature="hot"), "temperature has to be a number"),
    "temperature of zero": (lambda told: changed(told, temperature=0), "temperature has to be from 0.001"),
    "a size of text": (lambda told: changed(told, preprocessing=told["preprocessing"] | {"image_size": "8"}), "image_size has to be a whole number"),
    "a huge size": (lambda told: changed(told, preprocessing=told["preprocessing"] | {"image_size": 10**9}), "image_size has to be from 1"),
    "a deviation of zero": (lambda told: changed(told, preprocessing=told["preprocessing"] | {"std": [0, 1, 1]}), "std has to be"),
    "no preprocessing": (lambda told: changed(told, preprocessing=None), "preprocessing has to be a mapping"),
    "another kind": (lambda told: changed(told, preprocessing=told["preprocessing"] | {"kind": "smells"}), "its inputs are 'smells'"),
    "preprocessed by magic": (lambda told: changed(told, exported=told["exported"] | {"preprocess": "magic"}), "exported.preprocess='magic' is none of"),
    "parameters below zero": (lambda told: changed(told, exported=told["exported"] | {"parameters": -1}), "exported.parameters has to be"),
    "architecture of nobody": (lambda told: changed(told, architecture=told["architecture"] | {"source": "elsewhere"}), "source='elsewhere' is none of"),
    "seven classes": (lambda told: changed(told, classes=told["classes"][:7]), "its record has 7 classes"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_record_within_that_is_none_is_one_line(name, place, tmp_path):
    change, line = HOSTILE[name]
    file = tmp_path / "student.onnx"
    shutil.copy(place / "soft" / "student.onnx", file)
    told = {entry.key: entry.value for entry in onnx.load(file).metadata_props}[METADATA]
    with_metadata(file, {METADATA: change(json.loads(told))})
    refused(predict(tmp_path, "student.onnx", inputs=f"[{place / 'images' / '0.png'}]"), line)


def test_edits_of_a_file_are_told_and_never_done(place, tmp_path):
    file = tmp_path / "student.onnx"
    shutil.copy(place / "soft" / "student.onnx", file)
    told = json.loads({entry.key: entry.value for entry in onnx.load(file).metadata_props}[METADATA])
    told["architecture"]["edits"] = [["conv1", "something that a later version does"]]
    with_metadata(file, {METADATA: json.dumps(told)})
    assert predict(tmp_path, "student.onnx", inputs=f"[{place / 'images' / '0.png'}]").code == 0
    told["architecture"]["edits"] = [["conv1", 3]]
    with_metadata(file, {METADATA: json.dumps(told)})
    refused(predict(tmp_path, "student.onnx", inputs=f"[{place / 'images' / '0.png'}]"), "edits has to be a list of pairs of texts")


DAMAGE = {
    "another file": (lambda file: file.write_bytes(file.read_bytes() + b"\n"), "checksum mismatch"),
    "cut": (lambda file: file.write_bytes(file.read_bytes()[:-500]), "checksum mismatch"),
    "cut, without its record": (lambda file: (file.write_bytes(file.read_bytes()[:-500]), file.with_suffix(".json").unlink()), "no ONNX model that can be run here"),
    "empty": (lambda file: file.write_bytes(b""), "checksum mismatch"),
    "empty, without its record": (lambda file: (file.write_bytes(b""), file.with_suffix(".json").unlink()), "student.onnx"),
    "text": (lambda file: (file.write_text("a text"), file.with_suffix(".json").unlink()), "no ONNX model that can be run here"),
    "gone": (lambda file: file.unlink(), "student.onnx"),
    "a folder": (lambda file: (file.unlink(), file.mkdir()), "student.onnx"),
    "a record that is none": (lambda file: file.with_suffix(".json").write_text("{"), "no JSON that can be read"),
    "of nobody": (lambda file: (with_metadata(file, {}), file.with_suffix(".json").unlink()), "no record beside it"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_one_line(name, place, tmp_path):
    change, line = DAMAGE[name]
    for suffix in (".onnx", ".json"):
        shutil.copy((place / "soft" / "student.onnx").with_suffix(suffix), tmp_path)
    change(tmp_path / "student.onnx")
    refused(predict(tmp_path, "student.onnx", inputs=f"[{place / 'images' / '0.png'}]"), line)


def refused(finished: Finished, line: str) -> None:
    assert finished.code == 4, finished.out + finished.err
    assert finished.err.count("\n") == 1, finished.err[:2000]
    assert line in finished.err
    assert len(finished.err) < 1000
