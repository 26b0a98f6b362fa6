"""Runs of seconds on small sets of texts: their words, and the data that they learn from."""

from __future__ import annotations

import json
from pathlib import Path

from texts import sentences, write_csv

MACHINE = ("trainer.batch_size=16", "trainer.device=cpu", "trainer.precision=fp32", "trainer.threads=1", "pretrain.reuse=false")
DATA = ("dataset=text", "dataset.root=t.csv", "dataset.vocab_size=300", "dataset.max_tokens=24")
TEACHER = (
    *("teacher=bert_tiny", "+teacher.args.hidden_size=32", "+teacher.args.intermediate_size=64", "+teacher.args.num_attention_heads=2"),
    "+teacher.args.max_position_embeddings=64",
)
STUDENT = ("student=bilstm", "+student.args.width=16", "+student.args.states=8", "+student.args.hidden=8")
RATE = ("optimizer.lr=0.005", "schedule=constant")
SHORT = ("pretrain.epochs=4", "distill.epochs=4", "finetune.epochs=1", "baseline=false")
WORDS = (*DATA, *TEACHER, *STUDENT, *RATE, *SHORT, *MACHINE)


def without(words: tuple[str, ...], *groups: str) -> tuple[str, ...]:
    """Words that say nothing of these groups of keys."""
    return tuple(word for word in words if not word.lstrip("+").startswith(groups))


def written(place: Path, count: int = 240) -> Path:
    """A folder with `t.csv`, where runs are begun."""
    place.mkdir(parents=True, exist_ok=True)
    write_csv(place / "t.csv", sentences(count))
    return place


def rows(folder: Path) -> dict[str, dict]:
    """The lines of a run's final table, by their models."""
    return {row["model"]: row for row in json.loads((folder / "summary.json").read_text())["rows"]}
