"""The files that docs/answers.md shows are read as it says."""

import re
from pathlib import Path

import numpy as np
import pytest
from test_answer_files import CALLED, PETS, answers, split

DOCUMENT = (Path(__file__).parents[2] / "docs" / "answers.md").read_text()
NAMES = ["train/001.png", "train/002.png"]
# the first line of each file, and the probabilities that its samples have: cat, dog, owl
SHOWN = {
    "path,cat,dog,owl": [[0.7, 0.25, 0.05], [0.1, 0.1, 0.8]],
    "path,label,confidence": [[0.9, 0.05, 0.05], [0.0, 0.0, 1.0]],
    '{"path"': [[np.exp(-0.36), np.exp(-1.39), 1 - np.exp(-0.36) - np.exp(-1.39)], [(1 - np.exp(-0.22)) / 2] * 2 + [np.exp(-0.22)]],
}


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", DOCUMENT, re.DOTALL)


@pytest.mark.parametrize("first", SHOWN)
def test_a_file_that_is_shown_means_what_is_said(first, tmp_path):
    from dataclasses import replace

    [(kind, text)] = [(kind, text) for kind in ("csv", "jsonl") for text in blocks(kind) if text.startswith(first)]
    file = tmp_path / f"answers.{kind}"
    file.write_text(text)
    data = replace(CALLED, train=split(0, 1, names=NAMES))
    assert answers(file, data).of("train").softmax(1).numpy() == pytest.approx(np.array(SHOWN[first]), abs=1e-6)


def test_the_lines_of_python_write_a_file_that_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    [code] = blocks("python")
    held: dict = {}
    exec(compile(code, "answers.md", "exec"), held)
    found = answers(tmp_path / "answers.npz", PETS)
    assert found.logits.numpy() == pytest.approx(held["logits"][:, [1, 2, 0]])
    assert found.places["train"].tolist() == [0, 1, -1, -1]
