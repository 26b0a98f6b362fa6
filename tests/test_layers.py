"""Imports point down only, and nothing reads files or configs in an unsafe way."""

import ast
import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "distillctl"
# lowest first; a module may import from its own layer and from those below
LAYERS = (
    ("errors", "trust", "files", "extras"),
    (
        *("averages", "draws", "locks", "modes", "rank", "types", "config", "build", "schedules", "optimizers", "state"),
        *("interruption", "invocation", "repository", "requeue", "terminal", "paths", "entries"),
    ),
    ("data", "formats", "inputs", "losses", "models", "teachers", "batchnorm"),
    ("methods",),
    ("strategies",),
    ("feed", "runtime", "training", "loop", "metrics", "compress", "export", "outputs", "ranks"),
    ("compose", "report", "runs"),
    ("commands",),
    ("cli", "flags", "job", "manual", "__main__"),
    ("api", "__init__"),  # the package itself hands on what `api` holds, as it is asked for
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
    r"\.expanduser\(\)",  # `~` of a user that there is not raises: `paths.as_path`
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


def place(file: Path) -> str:
    return str(file.relative_to(PACKAGE))


def test_imports_point_down():
    upward = []
    for file in FILES:
        own = layer("distillctl." + place(file).removesuffix(".py").replace("/", "."))
        names = [name for name in imports(ast.parse(file.read_text())) if name != "distillctl.__version__"]
        upward += [f"{place(file)} imports {name} from a layer above" for name in names if layer(name) > own]
    assert FILES
    assert not upward


def test_nothing_unsafe_is_called():
    unsafe = []
    for file in FILES:
        text = file.read_text()
        unsafe += [f"{place(file)}: {pattern}" for pattern in FORBIDDEN if re.search(pattern, text)]
        unsafe += [f"{place(file)}: {call}" for call in re.findall(r"torch\.load\(.*", text) if "weights_only=True" not in call]
    assert not unsafe


def test_a_file_says_what_it_does():
    texts = {place(file): file.read_text() for file in FILES}
    assert not [name for name, text in texts.items() if text.strip() and not ast.get_docstring(ast.parse(text))]


def test_what_answers_at_once_does_not_import_torch():
    code = (
        "import sys, distillctl.cli as cli\n"
        "from distillctl import compose\n"
        "compose.prepare()\n"
        "cli.overview(); cli.manual('train'); compose.known_keys('train')\n"
        "assert not {'torch', 'timm', 'torchvision', 'sklearn'} & set(sys.modules), 'slow import'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_yaml_of_others_is_read_within_limits():
    """What ships is read as it is; anything else through `yaml_files`, which refuses aliases that double, depth and size."""
    calls = {place(file): re.findall(r"(?:safe_load|yaml\.compose|OmegaConf\.load)\(.*", file.read_text()) for file in FILES}
    ours = ("compose/yaml_files.py", "compose/groups.py", "compose/reference.py")  # the reader; files of conf/ and recipes/ alone
    unlimited = [f"{name}: {call}" for name, found in calls.items() if name not in ours for call in found if "yaml_files.read(" not in call]
    assert unlimited == ['compose/own.py: yaml.compose(text, Loader=yaml.SafeLoader), "")']
