"""The wheel holds all that a run needs: conf and recipes inside, found from any folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel in it and nothing of the checkout."""
    built, target = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(built), str(ROOT)], check=True)
    [wheel] = built.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)], check=True)
    return target


def run(installed: Path, folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    code = "import runpy, sys; sys.argv[0] = 'distillctl'; runpy.run_module('distillctl', run_name='__main__')"
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_package_that_runs_is_the_installed_one(installed: Path, tmp_path: Path):
    code = "import distillctl, distillctl.compose as c; print(distillctl.__file__, c.conf_dir(), c.recipes_dir())"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert all(Path(place).is_relative_to(installed) for place in found.stdout.split())


def test_configs_and_recipes_are_inside(installed: Path, tmp_path: Path):
    assert "temperature: 4.0" in run(installed, tmp_path, "train", "--cfg", "job")
    assert "image_size: 224" in run(installed, tmp_path, "train", "recipe=imagenet_resnet152_mobilenetv2", "--cfg", "job")


def test_the_web_page_is_inside(installed: Path):
    page, shipped = (folder / "distillctl/export/web/page" for folder in (ROOT, installed))
    assert (shipped / "index.html").is_file()
    assert {file.name: file.read_bytes() for file in shipped.iterdir()} == {file.name: file.read_bytes() for file in page.iterdir()}


def test_a_run_works_from_another_folder(installed: Path, tmp_path: Path):
    budget = ["pretrain.epochs=1", "distill.epochs=1", "finetune.epochs=0", "teacher=resnet8", "baseline=false"]
    assert "distilled" in run(installed, tmp_path, "train", *budget)
    assert list(tmp_path.glob("outputs/train/*/distill/student.safetensors"))
