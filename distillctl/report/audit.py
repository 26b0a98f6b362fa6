"""Show how far a teacher's labels agree with people's."""

from __future__ import annotations

from distillctl.report.console import Console, Table
from distillctl.teachers.api.audit import Audit, Share

MOST_CONFUSIONS = 10


def show(audit: Audit, console: Console) -> None:
    """Agreement in all, a table of classes, and one of what is confused most."""
    low, high = audit.agreement.interval
    left_out = f"; {audit.given_up:,} more have no label of the teacher" if audit.given_up else ""
    console.say(
        f"agreement with people: {spelled(audit.agreement)} of {audit.agreement.n:,} texts (95 %: {100 * low:.1f} to {100 * high:.1f}), "
        f"kappa {audit.kappa:.2f}{left_out}"
    )
    console.table(of_classes(audit))
    if audit.confusions:
        console.table(of_confusions(audit))


def of_classes(audit: Audit) -> Table:
    table = Table("by class")
    table.add_column("class")
    for heading in ("texts", "recall %", "labelled so", "precision %"):
        table.add_column(heading, justify="right")
    for each in audit.classes:
        table.add_row(each.name, f"{each.recall.n:,}", spelled(each.recall), f"{each.precision.n:,}", spelled(each.precision))
    return table


def of_confusions(audit: Audit) -> Table:
    shown, more = audit.confusions[:MOST_CONFUSIONS], len(audit.confusions) - MOST_CONFUSIONS
    table = Table(f"confused, the {MOST_CONFUSIONS} most frequent of {len(audit.confusions)}" if more > 0 else "confused")
    for heading in ("people say", "the teacher says"):
        table.add_column(heading)
    table.add_column("texts", justify="right")
    table.add_column("as")
    for each in shown:
        table.add_row(each.human, each.teacher, f"{each.count:,}", ", ".join(each.examples))
    return table


def spelled(share: Share) -> str:
    return f"{100 * share.value:.1f}" if share.n else "-"
