"""Text stays what was typed, whatever Hydra would make of it."""

from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from distillctl.compose.literal import as_typed, kind_of, quoted, unquoted

NUMBERS = ("2024_11_27", "3.10", "1e5", "010", "0x10", "-5", "1_000", "inf", "nan", ".5", "1:30")
WORDS = ("true", "False", "yes", "NULL", "Null", "~")
PATHS = (
    *(
        "~/photos",
        "été/漢字",
        "a=b",
        "a b",
        " a",
        "photos (1)",
        "[x",
        "a]b",
        "x{1}",
        "it's",
        'say "cheese"',
        "a#b",
        "a;b",
        "a&b",
        "50%",
        "a\\b",
    ),
    *("a\\", "a\\'b", "$HOME", "a|b", "a*?", "!x", "`x`", "@x", "+x", "C:/x", "a:b", "a\tb", "x'", "'x", "\u202ex", "a,b", "a, b"),
)


def read_back(word: str) -> object:
    return OverridesParser.create().parse_override(word).value()


@pytest.mark.parametrize("value", [*NUMBERS, *WORDS, *PATHS])
def test_text_comes_out_as_it_went_in(value: str):
    (word,) = as_typed("train", [f"dataset.root={value}"])
    assert read_back(word) == value
    assert as_typed("train", [word]) == [word], "what was spelled once stays"


@given(st.text(st.characters(exclude_characters="$", exclude_categories=("Cs",)), min_size=1))
def test_any_text_can_be_quoted_and_read_back(value: str):
    assert read_back(f"key={quoted(value)}") == value
    assert unquoted(quoted(value)) == value


@pytest.mark.parametrize("value", [*NUMBERS, *WORDS, *(path for path in PATHS if "," not in path and path != " a")])
def test_texts_of_a_list_stay_too(value: str):
    (word,) = as_typed("predict", [f"inputs=[{value},b.png]"])
    assert read_back(word) == [value, "b.png"]


def test_a_list_of_one_needs_no_brackets():
    assert read_back(*as_typed("predict", ["inputs=photo (1).jpg"])) == ["photo (1).jpg"]


def test_what_is_quoted_for_hydra_is_hydras():
    assert as_typed("train", ["dataset.root='a, b'", 'dataset.root="c"']) == ["dataset.root='a, b'", 'dataset.root="c"']
    assert as_typed("predict", ["inputs=['a,b',c]"]) == ["inputs=['a,b',c]"]


def test_null_and_interpolations_keep_their_meaning():
    words = ["dataset.root=null", "dataset.root=${oc.env:HOME}/x", "inputs=${x}", "seed=1", "seed=1,2", "loss.kd.temperature=1e1"]
    assert as_typed("train", words) == words


@pytest.mark.parametrize(
    ("value", "jobs"),
    [
        ("a,b", ["a", "b"]),
        ("2024_11,3.10", ["2024_11", "3.10"]),
        ("'a,b',~/x", ["a,b", "~/x"]),
        ("it's,b", ["it's", "b"]),
        ("a(1,2),b", ["a(1,2)", "b"]),
        ("a(1,b", ["a(1", "b"]),
        ("choice(a,b)", ["a", "b"]),
    ],
)
def test_in_a_sweep_a_comma_separates_jobs(value: str, jobs: list[str]):
    (word,) = as_typed("train", [f"dataset.root={value}"], sweep=True)
    override = OverridesParser.create().parse_override(word)
    assert [read_back(f"key={job}") for job in override.sweep_string_iterator()] == jobs


@pytest.mark.parametrize(
    ("command", "key", "kind"),
    [
        ("train", "dataset.root", str),
        ("train", "teacher.checkpoint", str),
        ("train", "teacher.cache.dir", str),
        ("train", "teacher.members.a.checkpoint", str),
        ("train", "tracker.project", str),
        ("train", "assistants", list),
        ("train", "resume", str),
        ("predict", "inputs", list),
        ("evaluate", "checkpoint", str),
        ("models", "search", str),
        ("train", "seed", None),
        ("train", "trainer.precision", None),
        ("train", "student.args.depth", None),
        ("train", "dataset.augment.policy", None),
        ("train", "loss.kd.temperature", None),
        ("train", "nothing.like.it", None),
    ],
)
def test_which_keys_are_text_is_said_by_the_schema(command: str, key: str, kind: type | None):
    assert kind_of(command, key) is kind


def test_hydras_folders_know_the_home(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/some one")
    assert as_typed("train", ["hydra.run.dir=~/r=1", "hydra.sweep.dir='~/s'"]) == [
        "hydra.run.dir='/home/some one/r=1'",
        "hydra.sweep.dir='/home/some one/s'",
    ]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("seed=é", "seed='é': expected a whole number"),
        ("student=résnet", "student=résnet: no such model"),
        ("student.args={a:é}", "given one by one, as in +student.args.name=value"),
        ("student.args=[a", "given one by one, as in +student.args.name=value"),
        ("=x", "=x: there is no key before the ="),
        ("+=x", "+=x: there is no key before the ="),
        ("some words", "some words: cannot be read as key=value"),
        ("dataset.root=a,b", "dataset.root=a,b: no such folder"),
        ("dataset.root=2024_11_27", "dataset.root=2024_11_27: no such folder"),
    ],
)
def test_what_cannot_be_read_is_one_line(word: str, said: str, distillctl, tmp_path: Path):
    finished = distillctl("train", "dataset=image_folder", word, cwd=tmp_path)
    assert finished.code in (2, 3)
    (line,) = finished.err.splitlines()
    assert said in line


def test_text_in_a_file_of_ones_own_stays_what_is_written(distillctl, tmp_path: Path):
    for group, text in {
        "dataset": "defaults: [image_folder]\nroot: 2024_11_27\n",
        "recipe": "# @package _global_\nteacher: {checkpoint: 3.10}\ntracker:\n  project: yes\nassistants: [1_0, on, resnet14]\nseed: 0x10\n",
    }.items():
        (tmp_path / "own" / group).mkdir(parents=True)
        (tmp_path / "own" / group / "mine.yaml").write_text(text)
    words = ("--config-dir", "own", "dataset=mine", "recipe=mine", "--cfg", "job")
    finished = distillctl("train", *words, cwd=tmp_path)
    assert finished.code == 0, finished.err
    said = yaml.safe_load(finished.out)
    assert (said["dataset"]["root"], said["teacher"]["checkpoint"], said["tracker"]["project"]) == ("2024_11_27", "3.10", "yes")
    assert (said["assistants"], said["seed"]) == (["1_0", "on", "resnet14"], 16)


@pytest.mark.parametrize("name", ["2024_11_27", "~é (1), [x]=it's"])
def test_a_run_lives_among_odd_names(name: str, distillctl, tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Data, run folder, cache, resume, evaluate and predict below a folder that Hydra could not spell; `~` is the home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    place = tmp_path / name
    for kind in ("a", "b"):
        (place / "photos" / kind).mkdir(parents=True)
        for number in range(12):
            Image.new("RGB", (16, 16), (20 * number, 10, 7)).save(place / "photos" / kind / f"{number} ({name[:3]}).png")
    words = (
        *tiny,
        "trainer.batch_size=8",
        "baseline=false",
        "dataset=image_folder",
        "dataset.image_size=16",
        f"dataset.root=~/{name}/photos",
    )
    done = distillctl("train", *words, f"hydra.run.dir=~/{name}/run", f"teacher.cache.dir={name}/kept", cwd=tmp_path)
    assert done.code == 0, done.err
    assert (place / "run" / "summary.json").is_file()
    for path in (f"{name}/run", f"~/{name}/run", str(place / "run")):
        again = distillctl("train", f"resume={path}", cwd=tmp_path)
        assert again.code == 0, again.err
    assert distillctl("evaluate", f"checkpoint=~/{name}/run", cwd=tmp_path).code == 0
    found = distillctl("predict", f"checkpoint={name}/run", f"inputs={name}/photos/a/0 ({name[:3]}).png", "format=jsonl", cwd=tmp_path)
    assert found.code == 0, found.err
    assert len(found.out.splitlines()) == 1
