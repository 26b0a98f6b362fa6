"""Whether jobs of a sweep see the same views by the same teacher, so that its answers are worth keeping. No torch here."""

from __future__ import annotations

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException

from distillctl.config import SCHEMAS, said_about

OF_PRETRAINING = ("pretrain", "optimizer", "schedule", "loss.ce", "trainer")  # what a teacher is trained by that `train` trains first


def shared(command: str, overrides: list[str]) -> list[str]:
    """The overrides of a sweep, and where some of its jobs see the same views by the same teacher, that its answers are worth keeping.

    The jobs are a product of the values: where a key that decides neither has several, jobs differ in it alone.
    """
    try:
        words = OverridesParser.create().parse_overrides(overrides)
    except (HydraException, ValueError):
        return overrides  # Hydra says what is wrong
    given = {word.key_or_group: word.value() for word in words if not word.is_delete()}
    if command not in ("distill", "train") or given.keys() & {"teacher.cache.shared", "hydra/sweeper"}:
        return overrides
    if command == "train" and given.get("pretrain.reuse") is False:
        return overrides  # each job has a teacher of its own
    free = [word for word in words if not word.is_hydra_override() and not decides_answers(command, word.key_or_group)]
    return [*overrides, "teacher.cache.shared=true"] if any(map(takes_several, free)) else overrides


def decides_answers(command: str, key: str) -> bool:
    """Whether views or a teacher's answers to them differ where a key does; bits that differ are other answers."""
    if command == "train" and any(overlap(key, name) for name in OF_PRETRAINING):
        return True
    return not said_about(SCHEMAS[command], key).isdisjoint(("answers", "rounding"))


def overlap(key: str, other: str) -> bool:
    """Whether one of two keys is the other, or holds it."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def takes_several(word: Override) -> bool:
    """Whether an override is a sweep over more than one value."""
    if not word.is_discrete_sweep():
        return False
    if isinstance(word.value(), Glob):
        return True
    return len(list(word.sweep_string_iterator())) > 1
