"""The folder of a page holds all that it needs, and what comes from outside is text in it."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from export_stub import Stub
from test_web_runtime import npm

from distillctl.errors import CheckpointError, ConfigError, MachineError
from distillctl.export.web import folder as web
from distillctl.export.web import write_web

HOSTILE = "</title><script>alert(1)</script>{{DESCRIPTION}}\x1b\u202e"


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    return npm(tmp_path / "npm")


class Tags(HTMLParser):
    """The tags of a page with their attributes, and the text in them."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_it_holds_the_page_the_model_its_labels_and_the_runtime(inside: Stub, runtime: Path, tmp_path: Path):
    written = write_web(tmp_path / "new/site", inside.file, inside.classes, runtime)
    assert sorted(written) == sorted((tmp_path / "new/site").iterdir())
    assert {"index.html", "model.onnx", "labels.json", "ort.wasm.min.mjs"} < {each.name for each in written}
    assert (tmp_path / "new/site/model.onnx").read_bytes() == inside.file.read_bytes()
    labels = json.loads((tmp_path / "new/site/labels.json").read_text())
    assert labels["classes"][:3] == ["<script>alert(1)</script>", "traffic_light", "zwei\\nZeilen"]
    assert labels["preprocessing"] == {"image_size": 32, "resize": 36}


def test_words_from_outside_are_text(inside: Stub, runtime: Path, tmp_path: Path):
    write_web(tmp_path, inside.file, inside.classes, runtime, title=HOSTILE, description=HOSTILE)
    page = Tags((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert page.text.count("</title><script>alert(1)</script>{{DESCRIPTION}}\\x1b\\u202e") == 3  # title, heading, description
    assert [attributes for tag, attributes in page.tags if tag == "script"] == [{"type": "module", "src": "app.js"}]


def test_nothing_is_inline_and_nothing_comes_from_elsewhere():
    files = {name: (Path(web.__file__).parent / "page" / name).read_text(encoding="utf-8") for name in web.PAGE}
    page = Tags(files["index.html"])
    [policy] = [attributes["content"] for tag, attributes in page.tags if attributes.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'self'; script-src 'self' 'wasm-unsafe-eval';")
    assert "unsafe-inline" not in policy
    assert not [
        tag for tag, attributes in page.tags if tag == "style" or any(name == "style" or name.startswith("on") for name in attributes)
    ]
    text = "".join(files.values()).replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.findall(r"https?://|innerHTML|insertAdjacentHTML|document\.write|\beval\(", text)


def changed(stub: Stub, file: Path, how: str) -> Path:
    import onnx

    model = onnx.load(stub.file)
    if how == "metadata":
        del model.metadata_props[:]
    elif how == "preprocessing":
        model.metadata_props[0].value = json.dumps({"preprocessing": {"image_size": "large", "resize": 3}})
    elif how == "output":
        model.graph.output[0].name = "scores"
    elif how == "external":
        for each in model.graph.initializer:
            if each.raw_data:
                onnx.external_data_helper.set_external_data(each, "weights.data")
    file.write_bytes(model.SerializeToString())
    return file


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("metadata", "does not say how it cuts images"),
        ("preprocessing", "preprocessing.image_size has to be a whole number"),
        ("output", "no output `probabilities`"),
        ("external", "its weights lie in another file"),
    ],
)
def test_a_model_that_the_page_cannot_run_is_refused(how: str, words: str, inside: Stub, runtime: Path, tmp_path: Path):
    file = changed(inside, tmp_path / "changed.onnx", how)
    with pytest.raises(CheckpointError, match=re.escape(words)):
        write_web(tmp_path / "site", file, inside.classes, runtime)
    assert not (tmp_path / "site").exists()


def test_other_classes_no_onnx_and_no_file_are_refused(inside: Stub, runtime: Path, tmp_path: Path):
    with pytest.raises(CheckpointError, match="9 classes are named"):
        write_web(tmp_path / "site", inside.file, inside.classes[1:], runtime)
    (tmp_path / "words.onnx").write_bytes(b"no model at all")
    with pytest.raises(CheckpointError, match="no ONNX file, or a damaged one"):
        write_web(tmp_path / "site", tmp_path / "words.onnx", inside.classes, runtime)
    with pytest.raises(CheckpointError, match="No such file"):
        write_web(tmp_path / "site", tmp_path / "missing.onnx", inside.classes, runtime)


def test_a_model_that_takes_normalised_pixels_is_refused(beside: Stub, runtime: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="set export.preprocess=inside"):
        write_web(tmp_path / "site", beside.file, beside.classes, runtime)


def test_a_place_that_is_a_file_is_refused(inside: Stub, runtime: Path, tmp_path: Path):
    (tmp_path / "site").write_text("")
    with pytest.raises(MachineError, match="cannot be made"):
        write_web(tmp_path / "site", inside.file, inside.classes, runtime)
