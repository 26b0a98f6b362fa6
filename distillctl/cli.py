"""The command line: argv -> command -> Hydra -> one line and an exit code where something is wrong. No torch here."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from distillctl import __version__, trust
from distillctl.commands import COMMANDS
from distillctl.errors import INTERNAL_ERROR, ConfigError, UserError, did_you_mean, first_line
from distillctl.manual import manual, overview
from distillctl.rank import Rank
from distillctl.terminal import Stream, abandon, complain, complain_of, say

HELP_FLAGS = ("--help", "-h")
COMPLETION_FLAGS = ("--shell-completion", "-sc")
CONFIG_DIR = ("--config-dir", "-cd")
PLAN = "--plan"
# that one and Hydra's that make sense here, and whether a value follows. It has others, which would load pickled configs or replace ours.
FLAGS = {
    **dict.fromkeys((PLAN, "-m", "--multirun", "--run", "--resolve", "--hydra-help"), False),
    **dict.fromkeys(("--cfg", "-c", "--package", "-p", *CONFIG_DIR, "--info", "-i"), True),
}


def main() -> None:
    """Entry point of the `distillctl` script."""
    trust.leave_working_directory()
    try:
        dispatch(sys.argv[1:])
        Stream().flush()
    except BrokenPipeError:  # the reader has seen enough, as in `distillctl train --help | head`
        abandon(sys.stdout.fileno())
        raise SystemExit(141) from None
    except KeyboardInterrupt:  # before a run has handlers of its own: there is nothing to save yet
        complain("error: interrupted")
        raise SystemExit(130) from None


def dispatch(arguments: list[str]) -> None:
    """One command, or what is said about them."""
    if not arguments or arguments[0] in HELP_FLAGS:
        say(overview())
    elif arguments[0] in ("--version", "-V"):
        say(f"distillctl {__version__}")
    elif arguments[0] in COMPLETION_FLAGS:
        complete(arguments)
    elif arguments[0] not in COMMANDS:
        fail(ConfigError(f"{arguments[0]}: no such command; {did_you_mean(arguments[0], COMMANDS)}"))
    elif any(flag in arguments[1:] for flag in HELP_FLAGS):
        say(manual(arguments[0]))
    else:
        try:
            flags, overrides = split(trusting(arguments[1:]))
        except UserError as error:
            fail(error)
        run(arguments[0], flags, overrides)


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Flags with their values, and overrides, in whatever order they were typed. Raises ConfigError."""
    flags: list[str] = []
    overrides: list[str] = []
    words = iter(arguments)
    for word in words:
        name, _, value = word.partition("=")
        if not word.startswith("-"):
            if not name.lstrip("+~"):
                raise ConfigError(f"{word}: there is no key before the =")
            overrides.append(word)
        elif name not in FLAGS:
            raise ConfigError(f"{word}: unknown flag; {did_you_mean(name, FLAGS)}")
        elif FLAGS[name]:
            value = value or next(words, "")
            if not value or value.startswith("-"):
                raise ConfigError(f"{name}: a value has to follow, as in {name} {'job' if name in ('--cfg', '-c') else '...'}")
            if name in ("--cfg", "-c") and value not in ("job", "hydra", "all"):
                raise ConfigError(f"{name} {value}: expected job, hydra or all")
            if name in CONFIG_DIR and not Path(value).is_dir():
                raise ConfigError(f"{name} {value}: no such folder")
            flags += [name, value]
        else:
            flags.append(word)
    return flags, overrides


def run(command: str, flags: list[str], overrides: list[str]) -> None:
    """Hand one command to Hydra, which composes the config and calls `task`, once or once a job of a sweep."""
    from distillctl import compose

    compose.prepare()
    sweep = any(flag in ("-m", "--multirun") for flag in flags)
    overrides = compose.as_typed(command, compose.with_members(overrides), sweep)
    plan = PLAN in flags
    flags = [flag for flag in flags if flag != PLAN]
    try:
        if plan:
            check_planned(command, flags)
        if any(word.startswith("resume=") for word in overrides):
            from distillctl.compose import resume

            overrides = resume.overrides(command, flags, overrides)
            if not overrides:
                return  # it was finished already, and its result is printed
        else:
            check_new(overrides)
            if sweep:
                overrides = compose.shared(command, overrides)
        start(command, flags, overrides, plan)
    except UserError as error:
        fail(error)
    except Exception as error:
        explained = compose.explain(error, command, overrides)
        if explained is None:
            raise
        fail(explained)


def check_planned(command: str, flags: list[str]) -> None:
    """What `--plan` can be said with. Raises ConfigError."""
    if COMMANDS[command].home != "runs":
        planned = [name for name, known in COMMANDS.items() if known.home == "runs"]
        raise ConfigError(f"{PLAN}: {command} trains nothing; it works with {', '.join(planned)}")
    if Rank.is_given():
        raise ConfigError(f"{PLAN} is for one process; leave out torchrun")
    if any(flag in ("-m", "--multirun") for flag in flags):
        raise ConfigError(f"{PLAN} shows one run at a time; leave out -m")


def check_new(overrides: list[str]) -> None:
    """A folder that holds a run already is not written into: Hydra would replace the config that it was made with."""
    from distillctl import compose

    for word in overrides:
        key, _, value = word.partition("=")
        if key in compose.FOLDERS:
            value = compose.unquoted(value)
            folder = Path(value)
            if not value or value == "null":
                raise ConfigError(f"{word}: a folder is needed")
            if (folder / "run.json").exists() or (folder / "sweep.json").exists() or any(folder.glob("[0-9]*/run.json")):
                raise ConfigError(f"{word}: this folder holds a run already; choose another, or go on with resume={value}")


def start(command: str, flags: list[str], overrides: list[str], plan: bool = False) -> None:
    """Run under Hydra; as a later rank of torchrun without it, since each rank would make its own folder."""
    from distillctl import compose

    if Rank.here().number > 0:
        from hydra import compose as hydra_compose
        from hydra import initialize_config_dir

        with initialize_config_dir(str(compose.conf_dir()), version_base="1.3"):
            dirs = [f"file://{Path(value).resolve()}" for name, value in zip(flags, flags[1:], strict=False) if name in CONFIG_DIR]
            perform(command, hydra_compose(command, [*overrides, f"hydra.searchpath=[{','.join(dirs)}]"]), None)
        return

    import hydra

    os.environ["HYDRA_FULL_ERROR"] = "1"  # hand us the exception instead of printing advice that does not fit here
    nowhere = ["hydra.run.dir=.", "hydra.output_subdir=null"] if plan else []  # of a plan nothing is left behind
    sys.argv = [sys.argv[0], *flags, *overrides, *nowhere]

    def job(composed: Any) -> float | None:
        check_trust()
        return perform(command, composed, None, "show_plan") if plan else task(composed)

    hydra.main(version_base="1.3", config_path=str(compose.conf_dir()), config_name=command)(job)()


def check_trust() -> None:
    """No file gives trust."""
    from hydra.core.hydra_config import HydraConfig

    if "DISTILLCTL_TRUST" in HydraConfig.get().job.env_set:
        fail(ConfigError("hydra.job.env_set.DISTILLCTL_TRUST: trust is given by --trust PACKAGE on the command line alone"))


def task(composed: Any) -> float | None:
    """One job: of a single run its failure ends the process, of a sweep it is recorded and the others go on."""
    from hydra.core.hydra_config import HydraConfig

    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    try:
        return perform(str(hydra_config.job.config_name), composed, folder)
    except SystemExit as leaving:
        interrupted = isinstance(leaving.code, int) and leaving.code > 128
        if not in_sweep() or interrupted:
            raise
        return float("nan")


def perform(command: str, composed: Any, folder: Path | None, entry: str = "run") -> float | None:
    """Check the config and run the command, or another `entry` of its module; every failure becomes one line and an exit code."""
    from distillctl import compose

    try:
        config = compose.typed(composed)
        if composed.get("resume") and (folder is not None or entry != "run"):
            from distillctl.compose import resume

            resume.check_unchanged(folder or Path(composed.resume), composed)
        module = importlib.import_module(f"distillctl.commands.{COMMANDS[command].home or command}")
        return getattr(module, entry)(config, *([folder] if entry == "run" else []))
    except UserError as error:
        record(folder, error, error.exit_code)
        fail(error)
    except Exception as error:
        explained = compose.explain(error, command, compose.typed_words()) or machine_trouble(error)
        if explained is not None:
            record(folder, explained, explained.exit_code)
            fail(explained)
        if folder is None or composed.get("debug"):
            raise
        record(folder, error, INTERNAL_ERROR)
        log = folder / "error.log"
        log.write_text(traceback.format_exc())
        complain(f"error: internal: {type(error).__name__}: {first_line(error)}; the traceback is in {log}")
        raise SystemExit(INTERNAL_ERROR) from None


def machine_trouble(error: Exception) -> UserError | None:
    """Memory, disk and workers that gave out, whoever noticed."""
    from distillctl import runtime

    return runtime.explain(error)


def record(folder: Path | None, error: Exception, exit_code: int) -> None:
    """Write into run.json why a run ended, if it had begun: what an earlier attempt left is not ours to change."""
    if folder is None:
        return
    with contextlib.suppress(UserError):
        if (folder / "run.json").is_file():
            from distillctl import outputs

            if outputs.read_run(folder).get("status") == "running":
                outputs.record_failure(folder, first_line(error), exit_code)
        elif in_sweep():
            from distillctl import state
            from distillctl.runs import sweep

            state.write_json(folder / sweep.FAILURE_FILE, {"error": first_line(error), "exit_code": exit_code})


def in_sweep() -> bool:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def fail(error: UserError) -> NoReturn:
    """Print the problem, one line each, and leave with its exit code."""
    complain_of(error)
    raise SystemExit(error.exit_code)


def trusting(arguments: list[str]) -> list[str]:
    """Take `--trust PACKAGE` out of the arguments: classes of that package may be named in `_target_`."""
    rest, trusted = [], []
    words = iter(arguments)
    for word in words:
        if word == "--trust":
            trusted.append(next(words, ""))
        elif word.startswith("--trust="):
            trusted.append(word.removeprefix("--trust="))
        else:
            rest.append(word)
    os.environ.pop(trust.VARIABLE, None)  # this flag alone gives trust
    if trusted:
        for name in trusted:
            if not all(part.isidentifier() for part in name.split(".")):
                raise ConfigError(f"--trust {name or '(nothing)'}: expected the name of a Python package")
        os.environ[trust.VARIABLE] = ",".join(trusted)
        trust.let_in()
        for name in trusted:
            if importlib.util.find_spec(name.partition(".")[0]) is None:
                raise ConfigError(f"--trust {name}: no such package, here or among the installed ones")
    return rest


def complete(arguments: list[str]) -> None:
    """Shell completion. The shell asks without the command, so take it out of the line that is being typed."""
    query = any(word.startswith("query=") for word in arguments)
    if not query:
        start_completion("train", arguments)
        return
    words = os.environ.get("COMP_LINE", "").split(" ")
    if len(words) <= 2:
        say(" ".join(COMMANDS))
    elif words[1] in COMMANDS:
        os.environ["COMP_LINE"] = " ".join([words[0], *words[2:]])
        start_completion(words[1], arguments)


def start_completion(command: str, arguments: list[str]) -> None:
    from distillctl import compose

    compose.prepare()
    start(command, arguments, [])
