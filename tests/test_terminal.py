"""What is printed is text, and a closed, narrow or poor terminal stops nothing."""

import ast
import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from rich.text import Text

from distillctl import terminal
from distillctl.errors import ConfigError
from distillctl.report.console import Console, Table, Terminal
from distillctl.terminal import Stream, as_encoded, cell, complain_of, visible

PACKAGE = Path(terminal.__file__).parent
ODD = ("[red]x", "a\x1b[31mb", "[", ":smile: \u202egnp", "tab\tand\nline")  # each could be the name of a folder, and so of a class


class Failing(io.StringIO):
    """A stream that takes nothing."""

    def __init__(self, problem: Exception):
        super().__init__()
        self.problem = problem

    def write(self, text: str) -> int:
        raise self.problem

    def fileno(self) -> int:
        raise io.UnsupportedOperation


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("plain ± → é 漢字 👩‍🔬", "plain ± → é 漢字 👩‍🔬"),
        ("\x1b[2J\x07", "\\x1b[2J\\x07"),
        ("a\rb", "a\\rb"),
        ("\x7f\x9b31m", "\\u007f\\u009b31m"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("byte \udcff", "byte \\udcff"),
        ("two\u2028lines", "two\\u2028lines"),
        ("a\n\tb", "a\n\tb"),
    ],
)
def test_what_a_terminal_would_act_on_is_spelled(word: str, shown: str):
    assert visible(word) == shown
    assert visible(shown) == shown


def test_a_word_stays_in_its_line():
    assert visible("a\nerror: b\tc", lines=False) == "a\\nerror: b\\tc"


def test_json_stays_what_it_was_when_it_is_made_visible():
    content = {"image": "\x1b[31m\u202e\x9b\udcff\n"}
    assert json.loads(visible(json.dumps(content, ensure_ascii=False))) == content


def test_of_several_problems_each_has_a_line_and_of_one_with_a_line_end_it_is_one(capsys):
    complain_of(ConfigError("a=1\nb: no", "c=2\x1b[1m: no"))
    assert capsys.readouterr().err == "error: a=1\\nb: no\nerror: c=2\\x1b[1m: no\n"


def test_a_line_about_a_name_without_end_has_an_end(capsys):
    complain_of(ConfigError(f"the file holds {'x' * 10**6}; give another"))
    said = capsys.readouterr().err
    assert len(said) < 2100
    assert said.startswith("error: the file holds xxx")
    assert said.endswith("xxx; give another\n")


@pytest.mark.parametrize(
    ("word", "kept"),
    [
        ("=cmd|calc!A1", "'=cmd|calc!A1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("-2+3", "'-2+3"),
        ("+1 cmd", "'+1 cmd"),
        ("-2.5", "-2.5"),
        ("plain = 1", "plain = 1"),
        ("", ""),
        (-0.5, -0.5),
    ],
)
def test_no_cell_of_a_table_for_spreadsheets_is_a_formula(word: object, kept: object):
    assert cell(word) == kept


@pytest.mark.parametrize("word", ODD)
def test_outside_words_neither_vanish_nor_act_in_tables_and_lines(word: str, capsys):
    console = Console()
    table = Table(f"title {word}")
    table.add_column("class")
    table.add_row(word)
    table.add_row(Text(word.partition("\t")[0]))
    console.table(table)
    console.say(f"said {word}")
    console.warn(word)
    out = capsys.readouterr().out
    assert out.count(visible(word.partition("\t")[0])) == 5
    assert not set(out) & set("\x1b\x07\u202e")
    assert f" {visible(word, lines=False)} " in out


def test_one_module_prints_and_one_module_makes_consoles_and_tables():
    found = {"print": set(), "rich.console": set(), "rich.table": set(), "sys.stdout.write": set(), "sys.stderr.write": set()}
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [f"rich.{alias.name}" for alias in node.names] if isinstance(node, ast.ImportFrom) and node.module == "rich" else []
            for said in (name, *names):
                if said in found:
                    found[said].add(str(file.relative_to(PACKAGE)))
    assert found == {
        "print": set(),
        "rich.console": {"report/console.py"},
        "rich.table": {"report/console.py"},
        "sys.stdout.write": set(),
        "sys.stderr.write": set(),
    }


@pytest.mark.parametrize(
    "problem", [BrokenPipeError(errno.EPIPE, ""), OSError(errno.EIO, ""), OSError(errno.ENOSPC, ""), ValueError("closed")]
)
def test_work_goes_on_where_nobody_reads(problem: Exception, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdout", Failing(problem))
    Console(patient=True).say("nobody reads this")
    terminal.say("nor this", patient=True)
    with pytest.raises(type(problem)):
        Stream().write("what only shows something ends here")


def test_a_stream_that_was_never_open_takes_all(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    Console(patient=True).say("text")
    Console().warn("text")
    terminal.complain("text")
    assert not Stream().isatty()


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", "+/-2 -> \\u6f22"),
        ("latin-1", "±2 -> \\u6f22"),
        ("cp1252", "±2 -> \\u6f22"),
        ("utf-8", "±2 → 漢"),
        ("strange", "\\xb12 \\u2192 \\u6f22"),
    ],
)
def test_an_encoding_without_a_character_spells_it(encoding: str, shown: str):
    assert as_encoded("±2 → 漢", encoding).replace("+/-" if encoding not in ("ascii",) else "\0", "±") == shown


def test_a_table_in_a_poor_encoding(monkeypatch: pytest.MonkeyPatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    table = Table("90.1 ± 0.3")
    table.add_column("→")
    table.add_row("é")
    Console().table(table)
    assert b"90.1 +/- 0.3" in raw.getvalue()
    assert b"\\xe9" in raw.getvalue()


@pytest.mark.parametrize("width", [1, 2, 7, 20])
def test_a_narrow_terminal_shows_what_fits(width: int, capsys):
    console = Terminal(Stream(), width=width)
    table = Table("a title")
    for name in ("model", "top-1 %", "p50 ms"):
        table.add_column(name, no_wrap=True)
    table.add_row("student", "97.21", "0.22")
    console.print(table)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= max(width, 7)


def folder_of(place: Path, classes: tuple[str, ...]) -> Path:
    for number, name in enumerate(classes):
        (place / name).mkdir(parents=True)
        for image in range(12):
            Image.new("RGB", (16, 16), (20 * number, 10 * image, 7)).save(place / name / f"{image}.png")
    return place


def test_no_command_acts_on_the_words_of_others(distillctl, tiny: tuple[str, ...], tmp_path: Path):
    folder_of(tmp_path / "odd", ODD)
    data = ("dataset=image_folder", "dataset.root=odd", "dataset.image_size=16", "trainer.batch_size=8")
    words = (*tiny, *data, "baseline=false", "tracker.project='[b]\x1b[5m'")
    seen = [distillctl("train", *words, "hydra.run.dir=run", cwd=tmp_path)]
    seen.append(distillctl("train", "-m", *words, "seed=0,1", "hydra.sweep.dir=sweep", cwd=tmp_path))
    seen.append(distillctl("evaluate", "checkpoint=run", cwd=tmp_path))
    seen.append(distillctl("predict", "checkpoint=run", f"inputs=['odd/{ODD[0]}']", cwd=tmp_path))
    seen.append(distillctl("predict", "checkpoint=run", f"inputs=['odd/{ODD[0]}']", "format=jsonl", cwd=tmp_path))
    assert [finished.code for finished in seen] == [0] * len(seen), seen[-1].err
    assert all(visible(name, lines=False) in seen[2].out for name in ODD), seen[2].out
    wrong = [
        distillctl("train", "student=[red]\x1b[5mx", cwd=tmp_path),
        distillctl("\x1b[5mtrain", cwd=tmp_path),
        distillctl("train", "--\x1b[5m", cwd=tmp_path),
        distillctl("train", "dataset=image_folder", "dataset.root='[red]\x1b[5m'", cwd=tmp_path),
        distillctl("evaluate", "checkpoint='[b]\x1b[5m'", cwd=tmp_path),
        distillctl("models", "taps='[b]\x1b[5m'", cwd=tmp_path),
        distillctl("cache", "dir='[b]\x1b[5m'", cwd=tmp_path),
    ]
    assert all("\x1b" not in finished.out + finished.err and "\u202e" not in finished.out + finished.err for finished in seen + wrong)
    assert all(finished.code in (2, 3, 4, 5) and "\\x1b[5m" in finished.err for finished in wrong[:-1]), wrong


def test_a_pipe_that_closes_costs_no_epoch(tiny: tuple[str, ...], tmp_path: Path):
    script = f"{sys.executable} -m distillctl pretrain teacher=resnet8 {' '.join(tiny[2:])} pretrain.epochs=3 hydra.run.dir=run | head -1; echo ${{PIPESTATUS[0]}}"
    words = [word for word in script.split() if not word.startswith(("distill.", "finetune."))]
    done = subprocess.run(
        ["bash", "-c", " ".join(words)], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}
    )
    assert done.stdout.splitlines()[-1] == "0", done.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "done"
    assert len((tmp_path / "run" / "pretrain" / "metrics.jsonl").read_text().splitlines()) >= 3
