"""The command line: argv -> command -> Hydra -> one line and an exit code where something is wrong. No torch here."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sys
from typing import Any

from distillctl import __version__, job, requeue, trust
from distillctl.commands import COMMANDS
from distillctl.errors import ConfigError, UserError, did_you_mean
from distillctl.flags import CONFIG, CONFIG_DIR, PLAN, SHOW, SWEEP, places, shows_config, split, taken
from distillctl.interruption import pass_on
from distillctl.job import fail
from distillctl.manual import chapter, manual, overview
from distillctl.rank import Rank
from distillctl.terminal import Stream, complain, leave_the_pipe, say

HELP_FLAGS = ("--help", "-h")
COMPLETION_FLAGS = ("--shell-completion", "-sc")
COMPLETION = "(install|uninstall|query)=(bash|zsh|fish)"  # what follows


def main() -> None:
    """Entry point of the `distillctl` script."""
    trust.leave_working_directory()
    try:
        dispatch(sys.argv[1:])
        Stream().flush()
    except BrokenPipeError:
        leave_the_pipe()
    except KeyboardInterrupt:  # before a run has handlers of its own: there is nothing to save yet
        complain("error: interrupted")
        raise SystemExit(130) from None
    if Rank.is_given():
        from distillctl import ranks

        ranks.leave()


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
        words = [part for word in arguments for part in (word.split("=", 1) if word.startswith(CONFIG_DIR) else [word])]
        say(manual(arguments[0], taken(words, *CONFIG_DIR)[0]))
    elif topics := [word.partition("=")[2] for word in arguments[1:] if word.startswith("--help=")]:
        tell(arguments[0], topics)
    else:
        try:
            flags, overrides = split(trusting(arguments[1:]))
        except UserError as error:
            fail(error)
        run(arguments[0], flags, overrides)


def tell(command: str, topics: list[str]) -> None:
    """`--help=TOPIC`: the keys of a branch, the options of a group, one key, or all."""
    try:
        say("\n\n".join(chapter(command, topic) for topic in topics))
    except UserError as error:
        fail(error)


def run(command: str, flags: list[str], overrides: list[str]) -> None:
    """Hand one command to Hydra, which composes the config and calls `task`, once or once a job of a sweep."""
    from distillctl import compose

    compose.prepare()
    sweep = any(flag in SWEEP for flag in flags)
    again = [*trust_words(), *places(flags)]
    plan = PLAN in flags
    flags = [flag for flag in flags if flag != PLAN]
    folders, flags = taken(flags, *CONFIG_DIR)
    files, flags = taken(flags, CONFIG)
    try:
        typed, overrides = overrides, compose.written(command, overrides, sweep, files)
        built = compose.check_typed(command, overrides)
        if plan:
            check_planned(command, flags)
        if any(word.startswith("resume=") for word in overrides):
            from distillctl.compose import resume

            again += [word for word in typed if not word.startswith("resume=")]
            of_sweep = resume.sweep_overrides(command, overrides)
            if of_sweep is not None:
                sweep, overrides = True, of_sweep
                flags = [*(flag for flag in flags if flag not in SWEEP), SWEEP[0]]
            else:
                overrides = resume.overrides(command, flags, overrides)
                if not overrides:
                    return  # it was finished already, and its result is printed
        else:
            check_new(overrides)
            overrides = compose.with_data(command, overrides, folders)
            again += [word for word in typed if sweep and word.startswith("hydra") and not word.startswith("hydra.sweep.dir=")]
        if sweep:
            overrides = compose.shared(command, overrides)
        if not plan and not shows_config(flags):
            overrides = in_the_same_folder(command, overrides, sweep)
        overrides = [*overrides, *compose.search_words(folders)]
        if built:
            compose.check_built(command, overrides)
        if sweep and shows_config(flags):
            show_jobs(command, flags, overrides)
        else:
            start(command, flags, overrides, plan, tuple(again))
    except UserError as error:
        fail(error)
    except Exception as error:
        explained = compose.explain(error, command, overrides) or job.machine_trouble(error)
        if explained is None:
            raise
        fail(explained)


def in_the_same_folder(command: str, overrides: list[str], sweep: bool) -> list[str]:
    """A job that its scheduler starts again by the same command goes on where it was; a folder of its own would be another run."""
    from distillctl import compose

    key, name = ("hydra.sweep.dir", "jobs.json") if sweep else ("hydra.run.dir", "run.json")
    if any(word.startswith((f"{key}=", "resume=")) for word in overrides):
        return overrides
    folder = requeue.find(command, name, [word for word in overrides if not word.startswith("hydra")])
    return overrides if folder is None else [*overrides, f"{key}={compose.quoted(str(folder))}"]


def check_planned(command: str, flags: list[str]) -> None:
    """What `--plan` can be said with. Raises ConfigError."""
    if not COMMANDS[command].is_run:
        planned = [name for name, known in COMMANDS.items() if known.is_run]
        raise ConfigError(f"{PLAN}: {command} trains nothing; it works with {', '.join(planned)}")
    if Rank.is_given():
        raise ConfigError(f"{PLAN} is for one process; leave out torchrun")
    if any(flag in SWEEP for flag in flags):
        raise ConfigError(f"{PLAN} shows one run at a time; leave out -m")


def check_new(overrides: list[str]) -> None:
    """What can be said of a folder before anything is composed; the folder itself is looked at once it is locked."""
    from distillctl import compose

    for word in overrides:
        key, _, value = word.partition("=")
        if key in compose.FOLDERS:
            value = compose.unquoted(value)
            if not value or value == "null":
                raise ConfigError(f"{word}: a folder is needed")


def start(command: str, flags: list[str], overrides: list[str], plan: bool = False, again: tuple[str, ...] = ()) -> None:
    """Run under Hydra; as a later rank of torchrun without it, since each rank would make its own folder.

    again: words that going on with this run needs.
    """
    from distillctl import compose

    if Rank.here().number > 0:
        from hydra import compose as hydra_compose
        from hydra import initialize_config_dir

        with initialize_config_dir(str(compose.conf_dir()), version_base="1.3"):
            job.perform(command, hydra_compose(command, overrides), None)
        return

    import hydra

    os.environ["HYDRA_FULL_ERROR"] = "1"  # hand us the exception instead of printing advice that does not fit here
    # Hydra would write into a folder before anybody knows whose it is; of a plan nothing is left behind
    nothing = ["hydra.output_subdir=null", *(["hydra.run.dir=."] if plan else [])]
    sys.argv = [sys.argv[0], *flags, *overrides, *nothing]

    def work(composed: Any) -> float | None:
        return job.perform(command, composed, None, "show_plan") if plan else job.task(composed, again)

    main = hydra.main(version_base="1.3", config_path=str(compose.conf_dir()), config_name=command)(work)
    if not any(flag in SWEEP for flag in flags):
        main()
        return
    elsewhere = any(word.startswith("hydra/launcher=") and word != "hydra/launcher=basic" for word in overrides)
    with pass_on() if elsewhere else contextlib.nullcontext():
        try:
            main()
        except (KeyboardInterrupt, Exception) as error:
            job.broken_off(error, command, again)


def show_jobs(command: str, flags: list[str], overrides: list[str]) -> None:
    """`-m ... --cfg job`: the config of each job, as YAML documents one after another. Nothing is begun."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from distillctl import compose

    given = dict(zip(flags, flags[1:], strict=False))
    kind = next(given[name] for name in SHOW if name in given)
    package = given.get("--package") or given.get("-p")
    with initialize_config_dir(str(compose.conf_dir()), version_base="1.3"):
        jobs = compose.expanded(overrides)
        for number, words in enumerate(jobs):
            said = [word for word in words if not word.startswith("hydra")]
            say(("---\n" if number else "") + f"# job {number + 1} of {len(jobs)}: {' '.join(said)}")
            shown = GlobalHydra.instance().hydra
            assert shown is not None
            shown.show_cfg(command, words, kind, package, resolve="--resolve" in flags)


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


def trust_words() -> list[str]:
    return [word for name in trust.given() for word in ("--trust", name)]


def complete(arguments: list[str]) -> None:
    """Shell completion. The shell asks without the command, so take it out of the line that is being typed.

    Nothing besides the one word goes on to Hydra, which has flags that load pickles; of a line that cannot be read it is silent.
    """
    if not re.fullmatch(COMPLETION, " ".join(arguments[1:])):
        fail(ConfigError(f"{arguments[0]}: expected install=bash, uninstall=bash or query=bash, or so for zsh or fish"))
    if not arguments[1].startswith("query="):
        start_completion("train", arguments)
        return
    words = os.environ.get("COMP_LINE", "").split(" ")
    if len(words) <= 2:
        say(" ".join(COMMANDS))
    elif words[1] in COMMANDS:
        os.environ["COMP_LINE"] = " ".join([words[0], *words[2:]])
        with contextlib.suppress(Exception):
            start_completion(words[1], arguments)


def start_completion(command: str, arguments: list[str]) -> None:
    from distillctl import compose

    compose.prepare()
    start(command, arguments, [])
