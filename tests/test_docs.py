"""What docs/first-loss.md and docs/first-method.md tell a newcomer to write works as it stands, in a package of one's own."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
FILE = re.compile(r"^`([\w/]+\.(?:py|yaml))`:\n\n```\w+\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# the document, the option that it makes, a setting of that option, and one that it refuses
EXAMPLES = [
    ("first-loss", "loss=hellinger", "loss.hellinger.temperature=2", "loss.hellinger.temperature=0"),
    ("first-method", "method=noisy", "method.amount=0.2", "method.amount=2"),
]


def written(document: str, folder: Path) -> dict[str, str]:
    """The document's files in a folder: modules of a package `newcomer`, options below `configs`. Returns them by the names it gives them."""
    files = dict(FILE.findall((DOCS / f"{document}.md").read_text()))
    (folder / "newcomer").mkdir()
    (folder / "newcomer/__init__.py").touch()
    for name, text in files.items():
        path = Path(name)
        home = folder / "newcomer" if path.suffix == ".py" else folder / "configs" / path.parent.name
        home.mkdir(parents=True, exist_ok=True)
        (home / path.name).write_text(re.sub(r"distillctl\.\w+\.(hellinger|noisy)\b", r"newcomer.\1", text))
    return files


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch):
    """No module of an earlier test's package is found again."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "newcomer"]:
        monkeypatch.delitem(sys.modules, name)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "newcomer"]:
        del sys.modules[name]


@pytest.mark.parametrize(("document", "option", "setting", "refused"), EXAMPLES, ids=lambda value: value.partition("=")[0])
def test_the_code_of_the_document_trains(document, option, setting, refused, tmp_path, monkeypatch, tiny, tiny_run, distillctl, forgotten):
    files = written(document, tmp_path)
    assert sorted(Path(name).suffix for name in files) == [".py", ".py", ".yaml"]
    teacher = [f"teacher.checkpoint={tiny_run / 'pretrain'}", "dataset.subset=320", "distill.epochs=2", "hydra.run.dir=run"]
    quick = [word for word in tiny if not word.startswith(("teacher=", "pretrain", "finetune", "distill"))]
    own = ["--trust", "newcomer", "--config-dir", "configs", option]

    finished = distillctl("distill", *own, refused, *quick, *teacher, cwd=tmp_path)
    assert finished.code == 2
    assert f"error: {refused} must be" in finished.err

    finished = distillctl("distill", *own, setting, *quick, *teacher, cwd=tmp_path)
    assert finished.code == 0, finished.err
    assert (tmp_path / "run/distill/student.safetensors").is_file()
    steps = [json.loads(line) for line in (tmp_path / "run/distill/metrics.jsonl").read_text().splitlines()]
    assert all(line["loss"] > 0 for line in steps if line["kind"] == "step")

    monkeypatch.syspath_prepend(tmp_path)
    module = next(Path(name).stem for name in files if name.startswith("tests/"))
    tests = [test for name, test in vars(importlib.import_module(f"newcomer.{module}")).items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()


def test_links_between_documents_lead_somewhere():
    broken = []
    for document in [*DOCS.glob("*.md"), *DOCS.parent.glob("*.md"), *(DOCS.parent / "distillctl").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            if not (document.parent / target).exists():
                broken.append(f"{document.name}: {target}")
    assert not broken


@pytest.mark.parametrize("document", ["docs/architecture.md", "CONTRIBUTING.md", "docs/caching.md"])
def test_every_file_that_is_named_exists(document):
    root = Path(__file__).parent.parent
    named = set(re.findall(r"`((?:[\w.-]+/)*[\w-]+\.(?:py|md|yaml))", (root / document).read_text()))
    known = {str(path.relative_to(root)) for path in root.rglob("*") if ".venv" not in path.parts}
    named -= {"load_student.py"}  # a run writes it
    assert named
    assert [name for name in sorted(named) if not any(path == name or path.endswith(f"/{name}") for path in known)] == []
