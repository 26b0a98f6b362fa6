"""`distillctl cache`: the kept answers of teachers, and the teachers that runs may share; what there is, what more would cost, and away with it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from distillctl import compose, ranks
from distillctl.config import API, CachesConfig
from distillctl.errors import ConfigError, DataError
from distillctl.paths import cache_folder
from distillctl.report.console import Console, Table, in_bytes
from distillctl.runs import fill, handing_on, registry
from distillctl.teachers.caches import Cache, caches

OF_ALL = ("action", "dir", "teacher.cache.dir", "all", "older_than_days", "debug")  # keys of what is done to all caches of a folder
ABOUT_ONE = ("plan", "fill", "export")  # actions about the answers of one teacher to one data set


def run(config: CachesConfig, folder: Path | None) -> None:
    """Lists, verifies, prunes or fills the caches of one folder, or writes one as a file. Raises DataError where damaged records are found."""
    config = with_one_folder(config)
    if config.action not in ABOUT_ONE:
        check_words(config, compose.typed_words())
    if config.action != "prune" and (config.all or config.older_than_days is not None):
        key = "all=true" if config.all else f"older_than_days={config.older_than_days:g}"
        raise ConfigError(f"{key} works with action=prune only, and action={config.action}")
    for key, given in (("to", config.to), ("view", config.view)):
        if given is not None and config.action != "export":
            raise ConfigError(f"{key}={given} works with action=export only, and action={config.action}")
    if config.action == "export":
        handing_on.check_can_export(config)
        ranks.launch(handing_on.export_rank, config, folder)
        return
    if config.action in ABOUT_ONE and config.teacher.name == API:
        fill.check_settings(config)
        ranks.launch(fill.label_rank, config, folder)
        return
    if config.action in ABOUT_ONE:
        fill.check_can_fill(config)
        ranks.launch(fill.fill_rank, config, folder)
        return
    console, root = Console(), cache_folder(config.dir)
    found = list(caches(root))
    if config.action == "prune":
        prune(config, found, console)
    elif not found:
        console.say(
            f"{root}: no answers are kept; distillctl cache action=fill, or distillctl distill dataset.views=8 ..., keeps some (docs/caching.md)"
        )
    elif config.action == "verify":
        verify(found, console)
    else:
        console.table(listing(found))
        console.say(f"{len(found)} in {root}, {in_bytes(sum(cache.bytes for cache in found))}")
    if config.action == "list" and (teachers := registry.entries(root)):
        console.say(f"trained teachers that runs may share: {len(teachers)}")


def check_words(config: CachesConfig, words: list[str]) -> None:
    """Who names a teacher or data may expect that only its answers go. Raises ConfigError."""
    for word in words:
        if word.lstrip("+~").partition("=")[0] not in OF_ALL:
            raise ConfigError(
                f"{word}: action={config.action} is about all caches of a folder; leave it out, or set action=plan, fill or export"
            )


def with_one_folder(config: CachesConfig) -> CachesConfig:
    """`dir` is the short way to say `teacher.cache.dir`."""
    short, long = config.dir, config.teacher.cache.dir
    if short and long and Path(short) != Path(long):
        raise ConfigError(f"dir={short} and teacher.cache.dir={long} differ; give one of them")
    folder = short or long
    return replace(config, dir=folder, teacher=replace(config.teacher, cache=replace(config.teacher.cache, dir=folder)))


def listing(found: list[Cache]) -> Table:
    table = Table()
    for heading in ("folder", "teacher", "data", "views", "filled", "kept as", "size", "idle d"):
        table.add_column(heading, justify="right" if heading in ("views", "filled", "size", "idle d") else "left")
    for cache in found:
        table.add_row(
            cache.folder.name[:8], *contents(cache), in_bytes(cache.bytes), "?" if cache.idle_days is None else f"{cache.idle_days:.1f}"
        )
    return table


def contents(cache: Cache) -> tuple[str, ...]:
    """Teacher, data, views, share of records filled, form; of another version, or damaged, nothing can be said."""
    store = cache.store(lambda problem: None)
    if store is None or cache.parts is None:
        return "?", "?", str(len(cache.views)), "-", f"of distillctl {cache.writer}" if cache.writer else "another version, or damaged"
    views, parts = cache.views, cache.parts
    filled = sum(int(store.begun(view).sum()) for view in views) / max(1, len(views) * store.rows)
    kept = ", ".join([parts["dtype"], *([] if parts.get("top_k") is None else [f"top {parts['top_k']}"]), *parts.get("features", {})])
    teacher = f"{parts.get('teacher', '?')} {parts.get('weights', '?')[:6]}"
    data = f"{parts.get('data_set', '?')} {parts['image_size']} px" if "image_size" in parts else str(parts.get("data_set", "?"))
    return teacher, data, str(len(views)), f"{filled:.0%}", kept


def verify(found: list[Cache], console: Console) -> None:
    """Compute every checksum again."""
    bad = 0
    for cache in found:
        store = cache.store(console.warn)
        if store is None:
            writer = f"written by distillctl {cache.writer} in another format" if cache.writer else "of another version of distillctl"
            console.warn(f"{cache.folder}: {writer}, or cache.json is damaged; nothing reads it")
            continue
        whole = damaged = 0
        for view in cache.views:
            records, worse = store.inspected(view)
            whole, damaged = whole + int(records.sum()), damaged + worse
        console.say(f"{cache.folder}: {whole:,} records are whole, {damaged:,} are damaged")
        bad += damaged
    if bad:
        raise DataError(f"{bad:,} damaged records: they are never used, and the teacher is asked again where the cache is filled")


def prune(config: CachesConfig, found: list[Cache], console: Console) -> None:
    """Remove whole caches, but none that a run holds."""
    if not config.all and config.older_than_days is None:
        raise ConfigError("action=prune: say which, older_than_days=30 or all=true")
    freed = removed = 0
    for cache in found:
        idle = cache.idle_days
        if idle is None and not config.all:
            dates = " and ".join(time.strftime("%Y-%m-%d", time.gmtime(seconds)) for seconds in (cache.newest, time.time()))
            console.warn(
                f"{cache.folder}: a clock is or was wrong (it was used on, and today is, {dates}); left as it is, all=true removes it"
            )
        elif config.all or idle is not None and idle > (config.older_than_days or 0):
            bytes_there = cache.bytes
            if cache.remove():
                freed, removed = freed + bytes_there, removed + 1
            else:
                console.warn(f"{cache.folder}: a run is using it; left as it is")
    console.say(f"{removed} of {len(found)} removed, {in_bytes(freed)} freed")
    if forgotten := registry.prune(cache_folder(config.dir), everything=config.all):
        console.say(f"trained teachers forgotten: {forgotten}; their runs are left as they are")
