"""What the command line says of itself: all commands, and one of them. No torch here."""

from __future__ import annotations

from distillctl import __version__
from distillctl.commands import COMMANDS


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
            'completion: eval "$(distillctl -sc install=bash)"',
        ]
    )


def manual(command: str) -> str:
    """What `distillctl COMMAND --help` prints."""
    from distillctl import compose

    groups = compose.group_names(command)
    width = max(map(len, groups), default=0)
    lines = [
        f"distillctl {command}: {COMMANDS[command].summary}",
        "",
        f"usage: distillctl {command} [group=option ...] [key=value ...] [-m] [--cfg job] [--trust PACKAGE]",
        "",
        "examples:",
        *(f"  {example}" for example in COMMANDS[command].examples),
    ]
    if groups:
        lines += ["", "groups:"]
        for group, options in groups.items():
            shown = ", ".join(options[:8]) + (
                f", ... ({len(options)} named, any timm or torchvision name works)" if len(options) > 8 else ""
            )
            lines.append(f"  {group:<{width}}  {shown}")
    lines += ["", "flags:", "  --cfg job          print every key with its value", "  -m                 sweep: key=a,b runs both"]
    if COMMANDS[command].home == "runs":
        lines.append("  --plan             print the steps, what is reused and how long it will take; train nothing")
    lines += ["  --config-dir DIR   add your own config groups", "  --trust PACKAGE    allow _target_ to name classes of your package"]
    return "\n".join(lines)
