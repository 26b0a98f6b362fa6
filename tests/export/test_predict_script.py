"""The script beside an exported file answers as PyTorch does, where neither PyTorch nor this package is."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from export_stub import Stub, eager
from PIL import Image

from distillctl.data.image import upright
from distillctl.export.predict_script import predict_script
from distillctl.terminal import visible

Answer = subprocess.CompletedProcess


@pytest.fixture
def bare(tmp_path: Path) -> Callable[..., Answer]:
    """`bare(folder, *arguments)` runs the script of a folder where torch and distillctl cannot be imported."""
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    for name in ("torch", "distillctl"):
        (blocked / f"{name}.py").write_text(f"raise ImportError('{name} is not there')\n")

    def run(folder: Path, *arguments: object) -> Answer:
        environment = {**os.environ, "PYTHONPATH": str(blocked), "PYTHONIOENCODING": "utf-8", "PYTHONWARNINGS": "error"}
        command = [sys.executable, str(folder / "predict.py"), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, check=False)

    return run


def shipped(stub: Stub, folder: Path) -> Path:
    """A folder as it is given away: the file and the script alone."""
    folder.mkdir(exist_ok=True)
    (folder / "student.onnx").write_bytes(stub.file.read_bytes())
    (folder / "predict.py").write_text(predict_script("student.onnx"), encoding="utf-8")
    return folder


def images(folder: Path) -> list[Path]:
    """Of every kind that is made upright in a way of its own, in odd sizes."""
    rng = np.random.default_rng(5)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8))
    photo = coarse.resize((211, 157), Image.Resampling.BICUBIC)
    turned = Image.Exif()
    turned[upright.ORIENTATION] = 6
    photo.save(folder / "photo.jpg", quality=95)
    photo.save(folder / "turned.jpg", quality=95, exif=turned)
    photo.convert("L").save(folder / "gray.png")
    photo.resize((32, 32)).save(folder / "as it is.png")
    photo.resize((20, 90)).save(folder / "small.png")
    Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257).save(folder / "deep.png")
    photo.putalpha(Image.linear_gradient("L").resize(photo.size))
    photo.save(folder / "transparent.png")
    photo.convert("RGB").quantize(16).save(folder / "palette.gif")
    return sorted(folder.glob("*.*"))


@pytest.mark.parametrize("preprocess", ["inside", "beside"])
def test_it_answers_as_pytorch_does(preprocess: str, bare: Callable[..., Answer], tmp_path: Path, request: pytest.FixtureRequest):
    stub: Stub = request.getfixturevalue(preprocess)
    (tmp_path / "images").mkdir()
    files = images(tmp_path / "images")
    answer = bare(shipped(stub, tmp_path / "given"), "--top", 10, *files)
    assert (answer.returncode, answer.stderr) == (0, "")
    lines = [line.split("\t") for line in answer.stdout.splitlines()]
    assert len(files) == 8
    assert [line[0] for line in lines] == [str(file) for file in files for _ in range(10)]
    names = [visible(name, lines=False) for name in stub.classes]
    for file in files:
        with Image.open(file) as image:
            expected = eager(stub.net, image)
        told = {name: float(p) for path, name, p in lines if path == str(file)}
        assert list(told.values()) == sorted(told.values(), reverse=True)
        assert [told[name] for name in names] == pytest.approx(expected, abs=1e-3)


def test_it_says_the_likeliest_class_alone_unless_it_is_asked_for_more(inside: Stub, bare: Callable[..., Answer], tmp_path: Path):
    [file, *_] = images(tmp_path)
    assert bare(shipped(inside, tmp_path / "given"), file).stdout.count("\n") == 1
    assert bare(tmp_path / "given", "--top=3", file).stdout.count("\n") == 3
    assert bare(tmp_path / "given", "--top=0", file).stderr == "error: --top 0: 1 or more\n"


def test_what_cannot_be_read_is_a_line_and_the_others_are_answered(inside: Stub, bare: Callable[..., Answer], tmp_path: Path):
    [file, *_] = images(tmp_path)
    (tmp_path / "words\x1b.jpg").write_text("no image")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "photo.jpg").read_bytes()[:900])
    Image.fromarray(np.zeros((8, 8), dtype=np.float32)).save(tmp_path / "floats.tif")
    names = ("missing.png", "words\x1b.jpg", "cut.jpg", "floats.tif")
    answer = bare(shipped(inside, tmp_path / "given"), *(tmp_path / name for name in names), tmp_path, file)
    assert answer.returncode == 3
    missing, words, cut, floats, folder = answer.stderr.splitlines()
    assert missing == f"error: {tmp_path}/missing.png: No such file or directory"
    assert words == f"error: {tmp_path}/words\\x1b.jpg: not an image that can be read"
    assert "truncated" in cut
    assert "floating-point pixels" in floats
    assert folder.endswith("Is a directory")
    assert answer.stdout.startswith(f"{file}\t")


def test_a_model_that_is_missing_or_another_is_a_line(inside: Stub, bare: Callable[..., Answer], tmp_path: Path):
    folder = shipped(inside, tmp_path / "given")
    (folder / "student.onnx").write_bytes(b"none")
    damaged = bare(folder, "a.png")
    (folder / "student.onnx").unlink()
    missing = bare(folder, "a.png")
    assert missing.stderr == f"error: {folder}/student.onnx: the model has to lie beside this script\n"
    assert damaged.returncode == missing.returncode == 1
    assert damaged.stderr.startswith(f"error: {folder}/student.onnx: ")
    assert damaged.stderr.count("\n") == 1


def test_images_are_made_upright_by_the_one_definition():
    source = Path(upright.__file__).read_text(encoding="utf-8")
    assert source.partition("from PIL import Image\n")[2].strip() in predict_script("student.onnx")
