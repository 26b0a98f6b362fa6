"""The flags of a command line, apart from its overrides. No torch here."""

from __future__ import annotations

from pathlib import Path

from distillctl.errors import ConfigError, did_you_mean

CONFIG_DIR = ("--config-dir", "-cd")
CONFIG = "--config"
PLAN = "--plan"
LONGEST = 4096  # characters of a path
SWEEP = ("-m", "--multirun")
SHOW = ("--cfg", "-c")
# that one and Hydra's that make sense here, and whether a value follows. It has others, which would load pickled configs or replace ours.
FLAGS = {
    **dict.fromkeys((PLAN, *SWEEP, "--run", "--resolve", "--hydra-help"), False),
    **dict.fromkeys((*SHOW, "--package", "-p", *CONFIG_DIR, CONFIG, "--info", "-i"), True),
}


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
            if len(name) > LONGEST or (len(value) > LONGEST and not {",", "[", "{"} & set(value)):
                raise ConfigError(f"{word[:60]}...: {len(word):,} characters; no name and no path has more than {LONGEST:,}")
            overrides.append(word)
        elif name not in FLAGS:
            raise ConfigError(f"{word}: unknown flag; {did_you_mean(name, FLAGS)}")
        elif FLAGS[name]:
            value = value or next(words, "")
            if not value or value.startswith("-"):
                raise ConfigError(f"{name}: a value has to follow, as in {name} {'job' if name in SHOW else '...'}")
            if name in SHOW and value not in ("job", "hydra", "all"):
                raise ConfigError(f"{name} {value}: expected job, hydra or all")
            if name in CONFIG_DIR and not Path(value).is_dir():
                raise ConfigError(f"{name} {value}: no such folder")
            flags += [name, value]
        else:
            flags.append(word)
    check_flags(flags)
    return flags, overrides


def check_flags(flags: list[str]) -> None:
    """Which go together. Raises ConfigError."""
    kinds = [kind for kind in (SWEEP, ("--run",), SHOW, ("--info", "-i")) if any(flag in kind for flag in flags)]
    if len(kinds) > 1 and kinds != [SWEEP, SHOW]:
        raise ConfigError(f"{' and '.join(kind[0] for kind in kinds)}: one of them, or -m with --cfg")
    if "--resolve" in flags and SHOW not in kinds:
        raise ConfigError("--resolve: it belongs to --cfg, as in --cfg job --resolve")


def taken(flags: list[str], *names: str) -> tuple[list[str], list[str]]:
    """The values of a flag that may be there several times, and the other flags."""
    places = [place for place, flag in enumerate(flags) if flag in names]
    rest = [flag for place, flag in enumerate(flags) if place not in places and place - 1 not in places]
    return [value for place in places for value in flags[place + 1 : place + 2]], rest


def shows_config(flags: list[str]) -> bool:
    return any(flag in SHOW for flag in flags)


def places(flags: list[str]) -> list[str]:
    """The folders of one's own configs among flags, as they are from anywhere."""
    pairs = zip(flags, flags[1:], strict=False)
    return [word for name, value in pairs if name in CONFIG_DIR for word in ("--config-dir", str(Path(value).absolute()))]
