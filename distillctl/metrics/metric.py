"""What is measured of a model, each declared once: its key, its heading in tables, how it is shown, and which way is better."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

REPEATS = 0.10  # the share of a figure up to which its rounds may lie apart
WITHHELD = "not stable"  # in the place of one whose rounds lie further apart
VALIDATION = "val_"  # before a metric's key: as it was on the validation split


Row = Mapping[str, Any]  # what was measured of a model
OF_TASKS = ("task_il", "incremental_accuracy", "forgetting", "memory_mb")  # of a model that learnt a sequence of them
OF_STREAMS = ("prequential", "windowed", "fading")  # before a sample is learnt, of a model that learns a stream


def always(rows: Sequence[Row]) -> bool:
    return True


def never(rows: Sequence[Row]) -> bool:
    """For want of room; JSON has it."""
    return False


def tells_nets_apart(rows: Sequence[Row]) -> bool:
    """Top-5 of 10 classes or more, where somebody misses one in a hundred; of a sequence of tasks other figures tell more."""
    return not any(key in row for row in rows for key in OF_TASKS) and any(
        row.get("classes", 0) >= 10 and (row.get("top5") or 1) < 0.99 for row in rows
    )


def classes_are_uneven(rows: Sequence[Row]) -> bool:
    return any(row.get("uneven") for row in rows)


@dataclass(frozen=True)
class Metric:
    """better: "high" or "low", or empty of what costs rather than counts. over_seeds: whether a sweep gives its mean and spread.

    on_validation: whether the validation split says it too, so that choices may be made by it.
    spread: the key of how far the measurements lay apart, as a share of the value, which is withheld where that is more than 10 %. matters: whether a table of these rows is better with it.
    """

    key: str
    heading: str
    show: Callable[[float], str]
    better: str = ""
    over_seeds: bool = False
    on_validation: bool = True
    spread: str = ""
    matters: Callable[[Sequence[Row]], bool] = always

    def cell(self, row: Row) -> str:
        """The value as a table shows it; empty where a row has none."""
        value, around = row.get(self.key), row.get(self.spread)
        if value is None:
            return ""
        if around is not None and around > REPEATS:
            return WITHHELD
        return self.show(value) + (f" ±{around:.0%}" if around is not None else "")


def percent(value: float) -> str:
    return f"{100 * value:.2f}"


def count(value: float) -> str:
    """1234567 as 1.23 M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"


def decimals(places: int) -> Callable[[float], str]:
    return lambda value: f"{value:.{places}f}"


METRICS = (  # in the order of a table's columns
    Metric("top1", "top-1 %", percent, better="high", over_seeds=True),
    Metric("task_il", "task-IL %", percent, better="high", over_seeds=True, on_validation=False),
    Metric("incremental_accuracy", "avg %", percent, better="high", over_seeds=True, on_validation=False),
    Metric("forgetting", "forgets %", percent, better="low", over_seeds=True, on_validation=False),
    Metric("prequential", "stream %", percent, better="high", over_seeds=True, on_validation=False),
    Metric("windowed", "window %", percent, better="high", over_seeds=True, on_validation=False),
    Metric("fading", "fading %", percent, better="high", over_seeds=True, on_validation=False),
    Metric("memory_mb", "kept MB", decimals(2)),
    Metric("top5", "top-5 %", percent, better="high", over_seeds=True, matters=tells_nets_apart),
    Metric("macro_f1", "macro-F1", percent, better="high", over_seeds=True, matters=classes_are_uneven),
    Metric("macro_precision", "precision", percent, better="high", matters=never),
    Metric("macro_recall", "recall", percent, better="high", matters=never),
    Metric("robust_top1", "robust %", percent, better="high", on_validation=False),  # an attack costs many times what plain answers do
    Metric("agreement", "agree %", percent, better="high", over_seeds=True),
    Metric("nll", "NLL", decimals(3), better="low", over_seeds=True),
    Metric("ece", "ECE", decimals(3), better="low", over_seeds=True),
    Metric("brier", "Brier", decimals(4), better="low", matters=never),
    # the temperature is fitted on the validation split: what that then says of it is nothing to choose by
    Metric("nll_scaled", "NLL scaled", decimals(3), better="low", on_validation=False, matters=never),
    Metric("ece_scaled", "ECE scaled", decimals(3), better="low", on_validation=False, matters=never),
    Metric("kl", "KL", decimals(4), better="low", matters=never),
    Metric("cka", "CKA", decimals(3), better="high", on_validation=False, matters=never),
    Metric("negative_flips", "flips %", percent, better="low", on_validation=False, matters=never),
    Metric("positive_flips", "gains %", percent, better="high", on_validation=False, matters=never),
    Metric("parameters", "params", count),
    Metric("macs", "MACs", count),
    Metric("size_mb", "MB", decimals(2)),
    Metric("latency_p50_ms", "p50 ms", decimals(2), spread="latency_spread"),
)
FIRST_TO_GO = ("size_mb", "ece", "macs", "nll", "agreement")  # where a table would be wider than a terminal
WITH_FILES = ("ece", "nll", "macs", "agreement", "top5", "size_mb")  # of a table with files, which are about their size


def on_validation() -> tuple[str, ...]:
    """The keys of what the validation split says: what choices may be made by."""
    return tuple(VALIDATION + metric.key for metric in METRICS if metric.better and metric.on_validation)


def costs() -> tuple[str, ...]:
    """The keys of what a model costs, whatever the samples are."""
    return tuple(metric.key for metric in METRICS if not metric.better)


def by_key(key: str) -> Metric:
    """The metric of a key, with or without the mark of the validation split."""
    name = key.removeprefix(VALIDATION)
    return next(metric for metric in METRICS if metric.key == name)
