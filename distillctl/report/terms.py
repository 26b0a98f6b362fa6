"""How large the terms of a loss are beside each other, and which is so small that it teaches nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from distillctl.report.console import Console

TOO_SMALL = 0.01  # of the total: most often its weight is a mistake


def of_student(parts: Mapping[str, float], players: Iterable[str]) -> dict[str, float]:
    """The parts of the loss without those that other players minimise, which begin with their names."""
    others = [player for player in players if player != "student"]
    return {name: value for name, value in parts.items() if name.partition(".")[0] not in others}


def say_sizes(parts: Mapping[str, float], terms: Iterable[str], console: Console, chosen: Iterable[str]) -> None:
    """The parts by their share of the total; `terms` are the names that the config has for them.

    chosen: those whose weight is the user's own, which may be a slip; of the others it is what their papers give.
    """
    total = sum(parts.values()) or 1.0
    shown = ", ".join(f"{name} {value:.4f} ({value / total:.0%})" for name, value in parts.items())
    console.say(f"  loss terms at step 1: {shown}")
    for term in terms:
        found = [value for name, value in parts.items() if name.rpartition(".")[2] == term]
        if found and max(found) < TOO_SMALL * total:
            small = f"loss.{term} is under {TOO_SMALL:.0%} of the total at step 1"
            if term in chosen:
                console.warn(f"{small}; is loss.{term}.weight meant so?")
            else:
                console.say(f"  {small}, at the weight that its loss comes with; loss.{term}.weight=N gives it more")
