"""Imports point down only, and nothing reads files or configs in an unsafe way."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "distillctl"
# lowest first; a module may import from its own layer and from those below
LAYERS = (
    ("__init__", "errors"),
    ("averages", "draws", "locks", "modes", "rank", "types", "config", "build", "schedules", "optimizers", "state", "interruption"),
    ("data", "inputs", "losses", "models", "teachers", "batchnorm"),
    ("methods",),
    ("runtime", "loop", "metrics", "outputs", "ranks"),
    ("compose", "report", "runs"),
    ("commands",),
    ("cli", "__main__"),
)
FILES = sorted(PACKAGE.rglob("*.py"))
FORBIDDEN = (
    r"\bpickle\.loads?\(",
    r"(?<![.\w])eval\(",
    r"(?<![.\w])exec\(",
    r"allow_pickle\s*=\s*True",
    r"weights_only\s*=\s*False",
    r"yaml\.load\(",
    r"hydra\.utils\.instantiate",
    r"torch\.hub\.load\(",
    r"os\.system",
)


def layer(module: str) -> int:
    name = module.removeprefix("distillctl").lstrip(".").partition(".")[0] or "__init__"
    return next(number for number, names in enumerate(LAYERS) if name in names)


def imports(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found += [f"{node.module}.{alias.name}" if node.module == "distillctl" else node.module for alias in node.names]
    return [name for name in found if name == "distillctl" or name.startswith("distillctl.")]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_down(file: Path):
    own = layer("distillctl." + str(file.relative_to(PACKAGE).with_suffix("")).replace("/", "."))
    for name in imports(ast.parse(file.read_text())):
        if name == "distillctl.__version__":
            continue
        assert layer(name) <= own, f"{file.name} imports {name} from a layer above"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_nothing_unsafe_is_called(file: Path):
    text = file.read_text()
    for pattern in FORBIDDEN:
        assert not re.search(pattern, text), f"{file.name}: {pattern}"
    for call in re.findall(r"torch\.load\(.*", text):
        assert "weights_only=True" in call, f"{file.name}: {call}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_file_says_what_it_does(file: Path):
    text = file.read_text()
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), f"{file.name} has no docstring"


def test_what_answers_at_once_does_not_import_torch():
    code = (
        "import sys, distillctl.cli as cli\n"
        "from distillctl import compose\n"
        "compose.prepare()\n"
        "cli.overview(); cli.manual('train'); compose.known_keys('train')\n"
        "assert not {'torch', 'timm', 'torchvision', 'sklearn'} & set(sys.modules), 'slow import'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
