"""Write the kept answers of a cache as a file that teaches by itself (`teacher=answers`): those to one view, or the mean over all."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distillctl.config import ANSWER_SUFFIXES, CachesConfig
from distillctl.errors import ConfigError, DataError
from distillctl.files import exists
from distillctl.interruption import StopRequest
from distillctl.paths import as_path
from distillctl.runs.fill import Work, check_can_fill, prepared, views_of
from distillctl.runs.keeping import FILL
from distillctl.runs.session import first_on_main, session
from distillctl.teachers.answers.writing import write
from distillctl.teachers.cached import Cached
from distillctl.teachers.store import Store, folder_of

AT_ONCE = 4096  # records that are decoded together


def check_can_export(config: CachesConfig) -> None:
    """All that can be found without data. Raises ConfigError."""
    check_target(config)
    check_can_fill(config)
    views = views_of(config)
    assert views is not None
    if config.view is not None and config.view >= views:
        raise ConfigError(
            f"view={config.view}: of {views} view{'s' * (views > 1)} the last is {views - 1}; lower it, or raise dataset.views"
        )


def check_target(config: CachesConfig) -> None:
    """Where to, and that nothing is lost there."""
    if config.to is None:
        raise ConfigError("to is not set: pass to=<file>, as in to=answers.npz")
    file = as_path(config.to)
    if file.suffix.lower() not in ANSWER_SUFFIXES:
        raise ConfigError(f"to={config.to}: answers are written as {', '.join(ANSWER_SUFFIXES)}; end it in one of these")
    if exists(file):
        raise ConfigError(f"to={config.to}: is there already; name another file, or remove it")
    if not file.parent.is_dir():
        raise ConfigError(f"to={config.to}: there is no folder {file.parent}; make it first")


def export_rank(config: CachesConfig, folder: Path | None) -> None:
    """One process's part: the first writes. Raises DataError where answers are lacking."""
    with StopRequest() as stop, session(config, None, stop) as running:
        work = prepared(running)
        if work.batches.mixes:
            raise ConfigError(
                "action=export: the kept answers are about samples that were mixed, and a file has one answer a sample; "
                "set dataset.augment.mixup=0 dataset.augment.cutmix=0"
            )
        first_on_main(running.runtime, lambda: export(work, config))


def export(work: Work, config: CachesConfig) -> None:
    store, file = work.store(writes=False), as_path(str(config.to))
    views = [config.view] if config.view is not None else list(range(work.views))
    check_whole(work, store, views)
    teacher = work.cached(store)
    logits = mean([answers(work, teacher, store, view) for view in views])
    data, split = work.bundle.data, work.batches.split
    names = data.names_of(split)
    key, samples = ("row", split.index.tolist()) if names is None else ("path", list(names))
    write(file, key, samples, data.classes, logits.numpy())
    of_views = f"view {views[0]}" if len(views) == 1 else f"the mean over {len(views)} views"
    work.session.console.say(
        f"{file}: {len(samples):,} answers of {work.teacher.name} by {key}, {of_views}, as logits; "
        f"distillctl distill teacher=answers teacher.file={file} learns from them"
    )


def check_whole(work: Work, store: Store, views: list[int]) -> None:
    """Raises DataError where a record is missing or damaged."""
    lacking = sum(work.rows - int(store.inspected(view)[0].sum()) for view in views)
    if lacking:
        place = folder_of(work.root, work.parts)
        raise DataError(f"action=export: {place} lacks {lacking:,} of {len(views) * work.rows:,} answers; {FILL}")


def answers(work: Work, teacher: Cached, store: Store, view: int) -> Tensor:
    """The teacher's logits, float32 [N, K], to a view of each training sample; of several teachers what they answer together."""
    targets, found, device = work.batches.split.targets, [], teacher.device
    for rows in np.array_split(np.arange(work.rows), max(1, -(-work.rows // AT_ONCE))):
        kept = work.answers.layout.decode(np.ascontiguousarray(store.records(view, rows)[:, 1:-1]))
        found.append(teacher.output(kept.to(device), {}, targets[torch.from_numpy(rows)].to(device)).logits.cpu())
    return torch.cat(found)


def mean(views: list[Tensor]) -> Tensor:
    """Logits [N, K] of the mean probabilities over views, log (1/V) Σ softmax(z_v); of one view its logits as they are."""
    if len(views) == 1:
        return views[0]
    return torch.stack([logits.log_softmax(1) for logits in views]).logsumexp(0) - math.log(len(views))
