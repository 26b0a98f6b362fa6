"""`distillctl stream`: learn a stream once, in the order of time; put an older model back; show what was deployed when."""

from __future__ import annotations

from pathlib import Path

from distillctl.config import StreamConfig
from distillctl.errors import CheckpointError, ConfigError
from distillctl.invocation import Invocation
from distillctl.outputs import read_run
from distillctl.paths import as_path
from distillctl.report.console import Console, Table
from distillctl.runs.stream.releases import Releases, pruned


def run(config: StreamConfig, folder: Path | None, asked: Invocation | None = None) -> float | None:
    """Without `action` a run of its own; the others are about a run that is there, and may be running. Returns what a sweeper is told."""
    if config.action == "run":
        for key in ("folder", "version"):
            if getattr(config, key) is not None:
                raise ConfigError(f"{key}={getattr(config, key)} is about a run that is there: pass action=rollback or action=history")
        return learn(config, folder, asked)
    releases = releases_of(config)
    if config.action == "rollback":
        line = releases.roll_back(config.version)
        Console().say(f"deployed again: version {line['version']}, in the place of {line['from']}: {releases.folder}")
    else:
        show(releases)
    return None


def show_plan(config: StreamConfig) -> None:
    """`--plan`: what is there by now, who learns and teaches, what is kept and written. Nothing is learnt or written."""
    from distillctl.interruption import StopRequest
    from distillctl.runs.session import session
    from distillctl.runs.stream.check import check_stream
    from distillctl.runs.stream.plan import plan
    from distillctl.runs.stream.preview import preview

    if config.action != "run":
        raise ConfigError(f"--plan: action={config.action} learns nothing; leave one of them out")
    check_stream(config)
    todo = plan(config)
    with StopRequest() as stop, session(config, None, stop) as running:
        preview(running, todo)


def learn(config: StreamConfig, folder: Path | None, asked: Invocation | None) -> float | None:
    """Returns the student's accuracy before learning, over all samples; None without labels."""
    from distillctl.interruption import StopRequest
    from distillctl.rank import Rank
    from distillctl.runs.session import session
    from distillctl.runs.stream.check import check_stream
    from distillctl.runs.stream.driver import STUDENT, Pass
    from distillctl.runs.stream.results import conclude

    if Rank.is_given() and Rank.here().world > 1:
        raise ConfigError("a stream is learnt by one process, in its order; leave out torchrun")
    check_stream(config)
    with StopRequest() as stop, session(config, folder, stop, asked) as running:
        stream = Pass(running, running.bundle(config.dataset))
        stream.run()
        conclude(stream)
        return stream.scores[STUDENT].figures()["prequential"]


def releases_of(config: StreamConfig) -> Releases:
    """Raises ConfigError and CheckpointError where no run of a stream is named."""
    if config.folder is None:
        raise ConfigError(f"action={config.action}: folder is not set: pass folder=<the folder of a run>")
    folder = as_path(config.folder)
    if not folder.is_dir():
        raise CheckpointError(f"folder={config.folder}: no such folder")
    if (command := read_run(folder).get("command")) != "stream":
        raise CheckpointError(f"folder={config.folder}: that was distillctl {command}; give the folder of a stream")
    return Releases(folder)


def show(releases: Releases) -> None:
    console, history, now = Console(), releases.history(), releases.current
    if not history:
        console.say(f"{releases.run}: nothing was released or refused yet")
        return
    table, gone = Table(), pruned(history)
    tested = any("p" in line for line in history)
    for heading in ("what", "version", "sample", "held out", "accuracy", "deployed had", *(["p"] if tested else []), "when"):
        table.add_column(heading, justify="left" if heading in ("what", "when") else "right")
    for line in history:
        table.add_row(
            str(line["what"]),
            named(line.get("version"), gone),
            *(str(line.get(key, "")) for key in ("position", "held_out")),
            *(f"{line[key]:.2%}" if isinstance(line.get(key), float) else "" for key in ("accuracy", "deployed_accuracy")),
            *([f"{line['p']:.3f}" if isinstance(line.get("p"), float) else ""] if tested else []),
            str(line.get("when", line.get("time", "")))[:40],
        )
    console.table(table)
    console.say(f"deployed: version {now}, {releases.folder}")


def named(version: object, gone: set[int]) -> str:
    """As the table shows it."""
    if isinstance(version, int) and version in gone:
        return f"{version} (pruned)"
    return "" if version is None else str(version)
