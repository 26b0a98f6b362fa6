"""A finished run on texts that tests of its parts share."""

from pathlib import Path

import pytest
from commands import call
from text_runs import WORDS, without, written


@pytest.fixture(scope="session")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run, beside the `t.csv` that it learned from and `printed`, what it said."""
    place = written(tmp_path_factory.mktemp("texts"))
    finished = call("train", *without(WORDS, "distill.epochs"), "distill.epochs=8", "hydra.run.dir=run", cwd=place)
    assert finished.code == 0, finished.err + finished.out
    (place / "printed").write_text(finished.out)
    return place / "run"


@pytest.fixture(scope="session")
def taught(text_run: Path) -> tuple[str, ...]:
    """Words of a `distill` by the teacher of that run, on the same texts."""
    kept = without(WORDS, "teacher", "pretrain", "finetune", "baseline", "distill.epochs", "dataset.root")
    return (*kept, f"dataset.root={text_run.parent / 't.csv'}", f"teacher.checkpoint={text_run / 'pretrain'}")
