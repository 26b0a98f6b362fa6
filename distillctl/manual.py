"""What the command line says of itself: all commands, one of them, and what can be set. No torch here."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from distillctl import __version__
from distillctl.commands import COMMANDS
from distillctl.errors import ConfigError, did_you_mean
from distillctl.terminal import say

if TYPE_CHECKING:
    from distillctl.compose.reference import Key

WIDTH = 100
# what people set; each command shows those that it has
USUAL = (
    *("teacher", "student", "dataset", "loss", "method", "recipe", "teacher.checkpoint", "teacher.pretrained", "student.checkpoint"),
    *("checkpoint", "inputs", "format", "split", "search", "dataset.root", "dataset.subset", "dataset.views", "pretrain.epochs"),
    *("prune.target_macs", "quantize.max_drop", "export.preprocess", "export.tolerance", "verify", "budget.size_mb", "budget.latency_ms"),
    *("distill.epochs", "finetune.epochs", "optimizer.lr", "trainer.batch_size", "trainer.device", "trainer.precision", "seed", "resume"),
)


def overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            f"distillctl {__version__}: when a big model must become a small one",
            "",
            "usage: distillctl COMMAND [key=value ...] [--help] [--cfg job] [-m]",
            "",
            *lines,
            "",
            "start here:",
            *(f"  {example}" for example in COMMANDS["train"].examples),
            "",
            "every key and option: distillctl COMMAND --help=all",
            'completion: eval "$(distillctl -sc install=bash)"',
        ]
    )


def manual(command: str, folders: Iterable[str] = ()) -> str:
    """What `distillctl COMMAND --help` prints. folders: where configs of one's own are, whose options are listed first."""
    from distillctl import compose

    groups = compose.group_names(command, [Path(folder) for folder in folders])
    lines = [
        f"distillctl {command}: {COMMANDS[command].summary}",
        "",
        f"usage: distillctl {command} [FILE.yaml] [group=option ...] [key=value ...] [-m] [--cfg job] [--trust PACKAGE]",
        "",
        "examples:",
        *(f"  {example}" for example in COMMANDS[command].examples),
    ]
    if groups:
        width = max(map(len, groups), default=0)
        lines += ["", "groups:"]
        lines += [hanging(f"  {group:<{width}}  ", shortened(options)) for group, options in groups.items()]
    lines += ["", "keys that people use:", *usual(command)]
    lines += ["", "flags:", "  --help=all         every key, with its default, range and meaning"]
    if groups:
        lines.append(f"  --help={next(iter(groups)):<12}those below one name, or the options of a group")
    lines += ["  --cfg job          print every key with its value", "  -m                 sweep: key=a,b runs both"]
    if COMMANDS[command].is_run:
        what = (
            "who learns what, by what it is let out" if COMMANDS[command].learns else "the steps, what is reused and how long it will take"
        )
        lines.append(f"  --plan             print {what}; train nothing")
    lines.append("  --config FILE      what could be typed, in a file; a name that ends in .yaml, or the folder of a run, needs no flag")
    lines += [
        "  --config-dir DIR   add your own config groups: DIR/recipe/mine.yaml is recipe=mine",
        "  --trust PACKAGE    allow _target_ to name classes of your package",
    ]
    return "\n".join(lines)


def shortened(options: list[str]) -> str:
    more = f", ... ({len(options)} named, any timm or torchvision name works)" if len(options) > 8 and "own" in options else ""
    return ", ".join(options[:8] if more else options) + more


def usual(command: str) -> list[str]:
    from distillctl.compose import reference

    keys = {key.name: key for key in reference.keys_of(command)}
    shown = [keys[name] for name in USUAL if name in keys]
    return [hanging(f"  {key.name + '=' + key.default:<30}  ", key.meaning) for key in shown]


def chapter(command: str, topic: str) -> str:
    """What `--help=TOPIC` prints: a branch of keys, the options of a group, one key, or all. Raises ConfigError."""
    from distillctl.compose import reference
    from distillctl.compose.groups import groups_of

    keys = reference.keys_of(command)
    found = keys if topic == "all" else [key for key in keys if key.name == topic or key.name.startswith(f"{topic}.")]
    lines = [line for key in found for line in entry(key)]
    if topic in groups_of(command):
        lines += ["", *options(topic)]
    elif not found and topic.partition(".")[0] in groups_of(command):
        lines += one_option(*topic.split(".", 1))
    if not lines:
        known = dict.fromkeys([*reference.branches_of(command), *(key.name for key in keys), "all"])
        raise ConfigError(f"--help={topic}: distillctl {command} has no such key; {did_you_mean(topic, known)}")
    return "\n".join(lines).lstrip("\n")


def entry(key: Key) -> list[str]:
    """A key, what it takes, and below it what it means."""
    return [f"{key.name}={key.default}  ({key.takes})", hanging("    ", key.meaning)]


def options(group: str) -> list[str]:
    """The options of a group, a line each."""
    from distillctl import compose
    from distillctl.compose import reference

    found = reference.options_of(group)
    if not found:
        return [hanging(f"{group}: ", ", ".join(compose.options(group)) or "none ships; your own come by --config-dir")]
    width = max(len(option.name) for option in found)
    return [hanging(f"{group}={option.name:<{width}}  ", option.summary) for option in found]


def one_option(group: str, name: str) -> list[str]:
    """The file of an option, which names its keys and their defaults."""
    from distillctl.compose import reference
    from distillctl.compose.groups import files_of

    return reference.text_of(group, name).splitlines() if name in files_of(group) else []


def hanging(start: str, text: str) -> str:
    """A paragraph whose later lines stand below its first word."""
    return textwrap.fill(text, WIDTH, initial_indent=start, subsequent_indent=" " * len(start), break_on_hyphens=False) or start.rstrip()


def keys_document() -> str:
    """docs/keys.md: every key of every command, once."""
    from distillctl.compose import reference

    lines = ["# Every key", "", *introduction()]
    seen: set[str] = set()
    for command in COMMANDS:
        keys = [key for key in reference.keys_of(command) if key.name not in seen]
        seen |= {key.name for key in keys}
        if keys:
            lines += ["", f"## distillctl {command}", "", sentence(COMMANDS[command].summary), ""]
            lines += ["| key | default | takes | what it is |", "|---|---|---|---|", *map(row, keys)]
    return "\n".join(lines) + "\n"


def sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def introduction() -> Iterable[str]:
    return (
        "Made from the schema by `make docs`; `distillctl COMMAND --help=KEY` says the same at a terminal. A key that several commands have stands under",
        "the first. What a value may be is checked before anything runs. `teacher`, `student`, `dataset`, `loss`, `method`, `optimizer`, `schedule`,",
        "`attack`, `trainer`, `tracker` and `recipe` are groups too: `loss=dkd` takes the file `conf/loss/dkd.yaml`, whose keys are then `loss.dkd.weight` and the like.",
    )


def row(key: Key) -> str:
    takes, meaning = (text.replace("|", "\\|") for text in (key.takes, key.meaning))
    return f"| `{key.name}` | `{key.default}` | {takes} | {meaning} |"


if __name__ == "__main__":
    say(keys_document().rstrip("\n"))
