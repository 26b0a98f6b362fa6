"""Streams of digits that tests share: as files with dates, as a table, and as words of a run of seconds."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

FAST = ("trainer.device=cpu", "trainer.threads=1", "trainer.precision=fp32", "trainer.log_every=1")
FILES = (*FAST, "stream.holdout=0.2", "stream.release_every=null", "stream.beside=[]")


def digits(count: int, classes: int = 3) -> list[tuple[np.ndarray, int]]:
    """The first images of some classes, uint8 [8, 8], with their labels."""
    images, labels = load_digits(return_X_y=True)
    found = [(image, int(label)) for image, label in zip(images, labels, strict=True) if label < classes][:count]
    return [((image.reshape(8, 8) * 255 / 16).astype(np.uint8), label) for image, label in found]


def write(file: Path, image: np.ndarray) -> None:
    """Elsewhere first, then renamed, as a watched folder is filled."""
    file.parent.mkdir(parents=True, exist_ok=True)
    hidden = file.with_name(f".{file.name}.tmp")
    Image.fromarray(image).save(hidden, format="PNG")
    os.replace(hidden, file)


def dated(root: Path, days: int = 3, a_day: int = 20) -> Path:
    """2026-01-01/CLASS/*.png and so on."""
    for place, (image, label) in enumerate(digits(days * a_day)):
        write(root / f"2026-01-{place // a_day + 1:02d}" / str(label) / f"{place:04d}.png", image)
    return root


def table(root: Path, count: int = 60, labelled: bool = True) -> Path:
    """A CSV beside its images, a minute a row."""
    rows = ["path,label,time" if labelled else "path,time"]
    for place, (image, label) in enumerate(digits(count)):
        write(root / f"{place:04d}.png", image)
        time = f"2026-01-01T{place // 60:02d}:{place % 60:02d}:00"
        rows.append(f"{place:04d}.png,{label},{time}" if labelled else f"{place:04d}.png,{time}")
    (root / "stream.csv").write_text("\n".join(rows) + "\n")
    return root / "stream.csv"


def folder(root: Path, count: int = 60) -> Path:
    """CLASS/*.png with times a second apart."""
    for place, (image, label) in enumerate(digits(count)):
        file = root / str(label) / f"{place:04d}.png"
        write(file, image)
        os.utime(file, (1_700_000_000 + place, 1_700_000_000 + place))
    return root


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "stream" / "metrics.jsonl").read_text().splitlines()]


def summary(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text())


def history(run: Path) -> list[dict]:
    return json.loads((run / "deployed" / "history.json").read_text())
