"""The runtime of a page is taken as npm made it, or refused in a line that says what to install."""

from pathlib import Path

import pytest

from distillctl.errors import ConfigError
from distillctl.export.web.runtime import BINARY, GLUE, INSTALL, MODULE, runtime_files


def npm(folder: Path, version: str = "1.30.0", binary: str | None = None) -> Path:
    """What npm would make, in small."""
    dist = folder / "node_modules/onnxruntime-web/dist"
    dist.mkdir(parents=True)
    (dist / MODULE).write_text(f"/*!\n * ONNX Runtime Web v{version}\n */\nexport {{}};\n")
    (dist / GLUE).write_text("export default 0;\n")
    (dist / BINARY).write_bytes(b"\0asm" + (binary or version).encode())
    return folder


@pytest.mark.parametrize("named", [".", "node_modules", "node_modules/onnxruntime-web", "node_modules/onnxruntime-web/dist"])
def test_the_folder_may_be_any_on_the_way(named: str, tmp_path: Path):
    assert list(runtime_files(npm(tmp_path) / named)) == [MODULE, GLUE, BINARY]


def refusal(folder: Path) -> str:
    with pytest.raises(ConfigError) as refused:
        runtime_files(folder)
    [problem] = refused.value.problems
    assert "\n" not in problem
    assert INSTALL in problem
    assert problem.startswith(f"export.web_runtime={folder}: ")
    return problem


def test_no_folder(tmp_path: Path):
    assert "no such folder" in refusal(tmp_path / "missing")


def test_a_folder_of_something_else(tmp_path: Path):
    assert f"no {MODULE}" in refusal(tmp_path)


def test_a_file_is_missing(tmp_path: Path):
    (npm(tmp_path) / "node_modules/onnxruntime-web/dist" / BINARY).unlink()
    assert f"{BINARY} cannot be read (No such file or directory)" in refusal(tmp_path)


@pytest.mark.parametrize("version", ["1.19.2", "2.0.0", "0.30.0"])
def test_another_version(version: str, tmp_path: Path):
    assert f"onnxruntime-web {version}, and the page needs 1.20 or a later 1.x" in refusal(npm(tmp_path, version))


def test_files_of_two_versions(tmp_path: Path):
    assert f"{BINARY} is not of version 1.30.0" in refusal(npm(tmp_path, binary="1.29.1"))


def test_a_module_without_a_banner(tmp_path: Path):
    (npm(tmp_path) / "node_modules/onnxruntime-web/dist" / MODULE).write_text("export {};")
    assert "does not say that it is of onnxruntime-web" in refusal(tmp_path)
