"""The exported files that these tests share."""

import pytest
from export_stub import CLASSES, Stub, write_stub


@pytest.fixture(scope="session")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Stub:
    """A file that cuts and normalises images itself."""
    return stub(tmp_path_factory, True)


@pytest.fixture(scope="session")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Stub:
    """A file that takes normalised pixels."""
    return stub(tmp_path_factory, False)


def stub(folders: pytest.TempPathFactory, inside: bool) -> Stub:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    file = folders.mktemp("exported") / "student.onnx"
    return Stub(file, write_stub(file, CLASSES, inside=inside), CLASSES)
