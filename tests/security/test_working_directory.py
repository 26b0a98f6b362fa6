"""The folder that a command is started in may be a stranger's: none of its modules is imported, nothing of its git config acts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from distillctl import repository

TRAP = "import pathlib; pathlib.Path({marker!r}).touch()\n"
# what Python, Hydra and we import early, late, or if it is there
SHADOWED = ("__future__", "typing", "traceback", "difflib", "yaml", "omegaconf", "socket", "pickle", "tempfile", "wandb", "distillctl_conf")
HOME = str(Path(repository.__file__).parents[1])


@pytest.fixture
def hostile(tmp_path: Path) -> tuple[Path, Path]:
    """A folder full of modules that leave a marker, and the marker."""
    marker, work = tmp_path / "marker", tmp_path / "work"
    (work / "hydra_plugins" / "evil").mkdir(parents=True)
    for name in (*(f"{name}.py" for name in SHADOWED), "hydra_plugins/evil/__init__.py", "hydra_plugins/loose.py"):
        (work / name).write_text(TRAP.format(marker=str(marker)))
    return work, marker


SCRIPT = ("-c", "import sys; sys.path.remove(''); from distillctl.cli import main; sys.exit(main())")  # as the installed one begins


def shell(*words: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": HOME, **variables}
    return subprocess.run([sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("start", [("-m", "distillctl"), SCRIPT], ids=["module", "script"])
def test_no_module_of_the_working_folder_is_imported(start: tuple[str, ...], hostile: tuple[Path, Path]):
    work, marker = hostile
    (work / "mine.py").write_text("class Net:\n    pass\n")
    for words in (["models", "search=zzz", "--cfg", "job"], ["train", "--trust", "mine", "seed=1", "--cfg", "job"]):
        finished = shell(*start, *words, cwd=work)
        assert finished.returncode == 0, finished.stderr
        assert not marker.exists(), words


def test_an_empty_entry_of_the_import_path_is_the_working_folder_and_goes(hostile: tuple[Path, Path]):
    work, marker = hostile
    for name in SHADOWED[:8]:
        (work / f"{name}.py").unlink()  # Python itself would take these before any program begins
    finished = shell(*SCRIPT, "models", "search=zzz", "--cfg", "job", cwd=work, PYTHONPATH=f":{HOME}")
    assert finished.returncode == 0, finished.stderr
    assert not marker.exists()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="before 3.11 a process that Python starts looks in its folder first")
def test_processes_that_are_started_look_there_neither(hostile: tuple[Path, Path]):
    work, marker = hostile
    code = (
        "import sys, multiprocessing as m; from distillctl import trust; trust.leave_working_directory(); from operator import add\n"
        "if __name__ == '__main__':\n"
        "    p = m.get_context('spawn').Process(target=add, args=(1, 2)); p.start(); p.join(); sys.exit(p.exitcode)\n"
    )
    (work.parent / "start.py").write_text(code)
    finished = shell(str(work.parent / "start.py"), cwd=work)
    assert finished.returncode == 0, finished.stderr
    assert not marker.exists()


def test_a_trusted_package_is_found_here_with_what_it_imports_beside_it(tmp_path: Path):
    (tmp_path / "mine.py").write_text("import helper_of_mine\nimport torch\nclass Sgd(torch.optim.SGD):\n    kept = helper_of_mine.KEPT\n")
    (tmp_path / "helper_of_mine.py").write_text("KEPT = 1\n")
    code = "import os; os.environ['DISTILLCTL_TRUST'] = 'mine'\nimport torch\nfrom distillctl import build\n"
    code += "print(build.find_class({'_target_': 'mine.Sgd'}, torch.optim.Optimizer, 'optimizer').kept)\n"
    code += "try:\n    import helper_of_mine_too\nexcept ImportError:\n    print('not found')\n"
    (tmp_path / "helper_of_mine_too.py").write_text("")
    (tmp_path.parent / "look.py").write_text(code)
    finished = shell(str(tmp_path.parent / "look.py"), cwd=tmp_path, PYTHONSAFEPATH="1")
    assert finished.stdout.split("\n")[:2] == ["1", "not found"], finished.stderr


# ------------------------------------------------------------------------------------------------ git
def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    (folder / "a.txt").write_text("one\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


def test_the_commit_and_whether_files_changed(checkout: Path):
    first = git(checkout, "rev-parse", "HEAD")[:12]
    (checkout / "below").mkdir()
    (checkout / "new.txt").write_text("not tracked")
    assert repository.commit(checkout) == first
    assert repository.commit(checkout / "below") == first
    os.utime(checkout / "a.txt", (1, 1))  # another time is no change
    assert repository.commit(checkout) == first
    (checkout / "a.txt").write_text("two\n")
    assert repository.commit(checkout) == f"{first}+"
    git(checkout, "commit", "-qam", "second")
    assert repository.commit(checkout) == git(checkout, "rev-parse", "HEAD")[:12] != first
    git(checkout, "checkout", "-q", first)
    git(checkout, "pack-refs", "--all")
    assert repository.commit(checkout) == first
    git(checkout, "checkout", "-q", "main")
    assert repository.commit(checkout) == git(checkout, "rev-parse", "HEAD")[:12]
    git(checkout, "worktree", "add", "-q", "../linked", first)
    assert repository.commit(checkout.parent / "linked") == first


def test_where_there_is_no_commit(tmp_path: Path):
    assert repository.commit(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert repository.commit(tmp_path) is None
    (tmp_path / ".git/HEAD").write_text("ref: refs/../../outside")
    (tmp_path / "outside").write_text("0" * 40)
    assert repository.commit(tmp_path) is None
    (tmp_path / ".git/HEAD").unlink()
    os.mkfifo(tmp_path / ".git/HEAD")
    assert repository.commit(tmp_path) is None


@pytest.mark.parametrize(
    "what", ["monitor", "clean filter", "process filter", "hooks", "pager", "include", "submodule", "untracked cache", "diff"]
)
def test_nothing_of_a_folders_git_config_acts(what: str, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """And the trap is one: git itself, asked there, runs it where it can."""
    marker = tmp_path / "marker"
    program = tmp_path / "program.sh"
    program.write_text(f"#!/bin/sh\ntouch {marker}\ncat\n")
    program.chmod(0o755)
    (checkout / ".gitattributes").write_text("*.txt filter=evil diff=evil\n")
    config = {
        "monitor": [("core.fsmonitor", program)],
        "clean filter": [("filter.evil.clean", program), ("filter.evil.required", "true")],
        "process filter": [("filter.evil.process", program)],
        "hooks": [("core.hooksPath", tmp_path / "hooks")],
        "pager": [("core.pager", program), ("pager.status", program), ("core.editor", program)],
        "include": [("include.path", tmp_path / "included")],
        "submodule": [],
        "untracked cache": [("core.untrackedCache", "true"), ("core.fsmonitor", program)],
        "diff": [("diff.evil.textconv", program), ("diff.external", program), ("diff.evil.command", program)],
    }[what]
    (tmp_path / "hooks").mkdir()
    (tmp_path / "hooks/post-index-change").symlink_to(program)
    (tmp_path / "included").write_text(f"[core]\nfsmonitor = {program}\n")
    if what == "submodule":
        git(checkout, "init", "-q", "inner")
        git(checkout / "inner", "commit", "-q", "--allow-empty", "-m", "x")
        git(checkout, "add", "inner")
        git(checkout, "commit", "-qm", "inner")
        git(checkout / "inner", "config", "core.fsmonitor", str(program))
    for key, value in config:
        git(checkout, "config", key, str(value))
    marker.unlink(missing_ok=True)
    (checkout / "a.txt").write_text("two\n")
    monkeypatch.chdir(checkout)
    assert str(repository.commit(checkout)).endswith("+")
    assert not marker.exists()
    if what in ("monitor", "clean filter", "include", "untracked cache"):
        subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=checkout, check=False, capture_output=True)
        assert marker.exists(), "no trap"
