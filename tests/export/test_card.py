"""The model card says what is known, and words from outside stay words in it."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from export_stub import CLASSES, record_of
from hypothesis import given
from hypothesis import strategies as st

from distillctl.export.card import Facts, Teacher, card
from distillctl.export.labels import labels_text
from distillctl.export.licences import Origin, licence_note, timm_licence
from distillctl.export.markdown import code_block, plain, table

HOSTILE = (
    "<script>alert(1)</script>",
    "![x](http://evil.example/a.png)",
    "[click](javascript:alert(1))",
    "<https://evil.example>",
    "https://evil.example www.evil.example someone@evil.example",
    "a | b | c",
    "| a |\n| --- |\n<b>x</b>",
    "```\n</code><img src=x onerror=alert(1)>\n```",
    "&lt;script&gt; &#60;b&#62;",
    "# head",
    "- item",
    "1. item",
    "> quote",
    "**bold** _it_ ~~no~~ `code`",
    "@somebody #12 $x^2$",
    "\\<b>",
    "a\x1b[2J\u202eb",
    "---",
    "[ref]: http://evil.example",
)
FORM = {"format": "onnx", "preprocess": "inside", "precision": "int8", "parameters": 78042, "macs": 12_463_744, "opset": 20}
RECORD = replace(
    record_of(CLASSES, 32, 36),
    dataset={"name": "cifar10", "root": "/home/somebody/secret", "fingerprint": "ab12"},
    seed=3,
    versions={"distillctl": "0.9.0", "torch": "2.14.1"},
    sha256="f" * 64,
)
FACTS = Facts(
    file="student.onnx",
    form=FORM,
    size_bytes=312_345,
    temperature=1.25,
    counts={"train": 45_000, "val": 5_000, "test": 400},
    teacher=Teacher("resnet56", 0.75, 400, Origin("timm", "resnet18.a1_in1k")),
    origin=Origin("scratch"),
    measured={"top1": 0.5, "nll": 1.25, "agreement": 1.0},
    before={"top1": 0.51, "nll": 1.2},
    n=400,
    verified={"n": 256, "max_error": 0.00012, "agreement": 1.0, "top1": 0.5, "top1_before": 0.51, "tolerance": 1e-3},
    runtime="ONNX Runtime 1.32.0",
    beside=("predict.py", "labels.txt"),
    command="distillctl export format=onnx checkpoint=outputs/run",
)


def rendered(text: str) -> Any:
    """The tokens of Markdown with HTML, tables and links let, flat."""
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    tokens = markdown.parse(text)
    return [inner for token in tokens for inner in (token, *(token.children or ()))]


def kinds(text: str) -> set[str]:
    return {token.type for token in rendered(text)}


def words(text: str) -> str:
    return "".join(token.content for token in rendered(text) if token.type in ("text", "code_inline", "fence", "text_special", "softbreak"))


def test_it_says_what_was_measured():
    text = card(RECORD, FACTS)
    assert text.startswith("# resnet8 for the 10 classes of cifar10\n\nAn image classifier ")
    assert "distilled from resnet56" in text
    assert "| top-1 % | 50.00 ± 2.50 | 51.00 ± 2.50 |" in text  # sqrt(0.5 * 0.5 / 400)
    assert "| agree % | 100.00 |  |" in text
    assert "| NLL | 1.250 | 1.200 |" in text
    assert "on 400 test images; ± is one standard error" in text
    assert "45,000 training, 5,000 validation, 400 test" in text
    assert "resnet56: top-1 75.00 ± 2.17 % on 400 images." in text
    assert "softmax of the logits divided by 1.25" in text
    assert "largest difference of a logit is 0.00012, of 0.001 that were allowed" in text
    assert "0.31 MB" in text
    assert "78,042" in text
    assert "distillctl export format=onnx checkpoint=outputs/run" in text
    assert "Versions: distillctl 0\\.9\\.0, torch 2\\.14\\.1." in text


def test_it_says_nothing_of_where_its_maker_keeps_files():
    assert "secret" not in card(RECORD, FACTS)


def test_what_is_not_known_is_not_said():
    text = card(record_of(("a", "b"), 32, 32), Facts("student.onnx", {"format": "onnx", "preprocess": "beside"}))
    assert re.findall("^## (.*)$", text, re.MULTILINE) == ["Inputs and outputs", "Preprocessing", "Limits"]
    assert not re.search("None|nan|null|teacher|distilled|licen[cs]e|measured|verified|±|standard error", text)
    assert "`pixels` | float32 | [N, 3, 32, 32]" in text
    assert "the square in the middle, as wide as the short edge" in text


def test_a_section_comes_of_what_is_known_and_no_other():
    for change, head in (
        ({"teacher": None}, "Teacher"),
        ({"measured": {}}, "Figures"),
        ({"verified": {}}, "How it was verified"),
        ({"command": ""}, "Reproduce"),
        ({"beside": ()}, "Use"),
    ):
        assert f"## {head}\n" in card(RECORD, FACTS)
        assert f"## {head}\n" not in card(RECORD, replace(FACTS, **change))


@pytest.mark.parametrize("name", HOSTILE)
def test_no_word_becomes_markup(name: str):
    usual = card(RECORD, FACTS)
    record = replace(
        RECORD, classes=(name, *RECORD.classes[1:]), dataset={"name": name, "fingerprint": name}, versions={name: name}, sha256=name
    )
    record = replace(record, architecture=replace(record.architecture, name=name))
    teacher = Teacher(name, 0.5, 400, Origin("timm", name))
    form = {**FORM, "precision": name, "opset": name}
    facts = replace(
        FACTS, file=name, form=form, teacher=teacher, runtime=name, hardware=name, command=name, origin=Origin("torchvision", name)
    )
    text = card(record, facts)
    assert kinds(text) <= kinds(usual)
    assert "html_inline" not in kinds(text)
    assert "html_block" not in kinds(text)
    assert "link_open" not in kinds(text)
    assert not re.search(r"https?://|www\.|\w@\w", re.sub(r"```+sh\n.*?\n```+\n", "", text, flags=re.DOTALL))
    assert len(re.findall("^## ", text, re.MULTILINE)) == len(re.findall("^## ", usual, re.MULTILINE))


@given(st.text(max_size=60))
def test_any_text_is_read_as_itself(name: str):
    from distillctl.terminal import visible

    text = f"begin {plain(name)} end"
    assert "\n" not in text
    found = rendered(text)
    assert {token.type for token in found} <= {"paragraph_open", "inline", "paragraph_close", "text", "text_special", "softbreak"}
    assert " ".join(words(text).split()) == " ".join(f"begin {visible(name, lines=False)} end".split())


@given(st.lists(st.text(max_size=20), min_size=2, max_size=4))
def test_any_text_is_a_cell(names: list[str]):
    cells = [plain(name) or "x" for name in names]
    found = [token.type for token in rendered(table(cells, [cells]))]
    assert found.count("th_open") == found.count("td_open") == len(names)


@given(st.text("`~\n a<", max_size=30))
def test_any_command_stays_in_its_block(command: str):
    [block] = rendered(code_block(command, "sh"))
    assert (block.type, block.info) == ("fence", "sh")


def test_labels_are_a_line_each():
    assert labels_text(("a", "b\nc", "\x1bd", "猫")) == "a\nb\\nc\n\\x1bd\n猫\n"
    assert len(labels_text(CLASSES).splitlines()) == len(CLASSES)


def test_licences_are_what_the_libraries_say():
    assert "random weights" in licence_note(Origin("scratch"), "The model", "")
    torchvision = licence_note(Origin("torchvision", "resnet18"), "The model", "resnet18")
    assert "user's responsibility" in torchvision
    assert "CC-BY-NC" not in torchvision
    assert "CC-BY-NC" in licence_note(Origin("torchvision", "ViT_H_14_Weights.IMAGENET1K_SWAG_E2E_V1"), "The model", "x")
    assert timm_licence("resnet18.a1_in1k") == "apache-2.0"
    assert "states the licence apache-2.0" in licence_note(Origin("timm", "resnet18.a1_in1k"), "The teacher", "x")
    assert timm_licence("no such net") is None
    assert "states no licence" in licence_note(Origin("timm", "no such net"), "The teacher", "x")


def test_json_of_a_record_makes_the_same_card():
    again = type(RECORD).from_json(json.loads(json.dumps(RECORD.to_json())))
    assert card(again, FACTS) == card(RECORD, FACTS)
