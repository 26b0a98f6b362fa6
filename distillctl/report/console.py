"""What is seen while a run runs: a live line per stage in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from rich import box
from rich import table as rich_table
from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.rule import Rule
from rich.segment import Segment
from rich.text import Text

from distillctl.terminal import ACTING, Stream, visible

if TYPE_CHECKING:  # what only shows something starts without torch
    from distillctl.loop import Report


class Terminal(RichConsole):
    """A console to which every word is text: it knows no markup, and spells what a terminal would act on."""

    def __init__(self, stream: Stream, **options: Any):
        super().__init__(file=cast(Any, stream), markup=False, emoji=False, highlight=False, soft_wrap=not stream.isatty(), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control or not ACTING.search(segment.text) else Segment(visible(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """Left to `Stream`, and where that is not patient to the command line."""
        raise BrokenPipeError


class Table(rich_table.Table):
    """A table of text, as all of ours look: what a cell holds stays in its line."""

    def __init__(self, title: str | None = None, **options: Any):
        look: dict[str, Any] = {"box": box.SIMPLE_HEAD, "title_justify": "left", "title_style": "bold", "pad_edge": False}
        super().__init__(title=visible(title, lines=False) if title else None, **(look | options))

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        super().add_row(*(visible(cell, lines=False) if isinstance(cell, str) else cell for cell in cells), **options)


class Console:
    """Prints for rank 0; made with `silent` it says nothing, for the other ranks.

    patient: the work goes on when nobody reads any more; else it ends there, as that of commands which only show something.
    """

    def __init__(self, silent: bool = False, patient: bool = False):
        self.rich = Terminal(Stream("stdout", patient), quiet=silent)
        self.live = self.rich.is_terminal and not silent
        self.progress: Progress | None = None
        self.last_report: Report | None = None

    def say(self, text: str) -> None:
        self.rich.print(Text(visible(text)))

    def line(self, text: str) -> None:
        """As much of it as a line of the terminal takes; all of it where there is none."""
        cut = self.rich.is_terminal
        self.rich.print(Text(visible(text, lines=False)), no_wrap=True, overflow="ellipsis" if cut else "ignore", soft_wrap=not cut)

    def warn(self, text: str) -> None:
        self.rich.print(Text(visible(f"warning: {text}"), style="yellow"))

    def table(self, table: Table) -> None:
        self.rich.print(table)

    def start_stage(
        self, name: str, what: str, epochs: int, batches_per_epoch: int, done: int, unit: str = "epoch", rate: str = "img/s"
    ) -> None:
        """Announce a stage; `done` batches of it were taken before, by the run that this one resumes. `unit` is what epochs are called, `rate` samples a second."""
        if self.live:
            self.rich.print(Rule(Text.assemble((name, "bold"), visible(f"  {what}")), align="left", style="dim"))
        else:
            self.say(f"{name}: {what}")
        self.name, self.epochs, self.batches_per_epoch, self.rate = name, epochs, batches_per_epoch, rate
        self.started, self.done_before = time.monotonic(), done
        if self.live:
            self.progress = Progress(
                SpinnerColumn(),
                TextColumn(f"{unit} {{task.fields[epoch]}}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                Remaining(self),
                TextColumn("{task.fields[parts]}"),
                console=self.rich,
                transient=True,
                refresh_per_second=5,
            )
            self.progress.start()
            self.task = self.progress.add_task("", total=epochs * batches_per_epoch, completed=done, epoch=f"1/{epochs}", parts="")

    def step(self, report: Report) -> None:
        self.last_report = report
        if self.progress is None:
            return
        parts = "  ".join(f"{name} {value:.3f}" for name, value in report.parts.items())
        self.progress.update(
            self.task,
            completed=report.epoch * self.batches_per_epoch + report.batch,
            epoch=f"{report.epoch + 1}/{self.epochs}",
            parts=f"{report.images_per_s:,.0f} {self.rate}  {parts}",
        )

    def epoch(self, epoch: int, parts: dict[str, float], score: str, images_per_s: float, best: bool) -> None:
        """One line for an epoch that is done."""
        shown = "  ".join(f"{name} {value:.4f}" for name, value in parts.items())
        text = f"  epoch {epoch:>3}/{self.epochs}  {shown}  {score}{' *' if best else '  '} {images_per_s:>8,.0f} {self.rate}  eta {self.eta(epoch)}"
        if self.live:
            self.rich.print(Text(text, style="" if best else "dim"))
        else:
            self.say(text)

    def eta(self, epoch: int) -> str:
        """Time left in this stage, from what this process has measured."""
        done = epoch * self.batches_per_epoch - self.done_before
        left = (self.epochs - epoch) * self.batches_per_epoch
        return clock((time.monotonic() - self.started) / done * left) if done > 0 else "-"

    def end_stage(self) -> None:
        if self.progress is not None:
            self.progress.stop()
            self.progress = None


class Remaining(ProgressColumn):
    """Time left, from the rate since this process started and not since the run did."""

    def __init__(self, console: Console):
        super().__init__()
        self.console = console

    def render(self, task: Task) -> Text:
        done = task.completed - self.console.done_before
        if done <= 0 or task.total is None:
            return Text("eta -")
        return Text(f"eta {clock((time.monotonic() - self.console.started) / done * (task.total - task.completed))}", style="cyan")


def clock(seconds: float) -> str:
    """`1:02:03`, or `2:03` under an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def in_time(seconds: float) -> str:
    """For people."""
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.1f} min"


def in_bytes(count: float) -> str:
    """Bytes for people."""
    unit, name = next((2**power, name) for power, name in ((30, "GiB"), (20, "MiB"), (10, "KiB")) if count >= 2**power or power == 10)
    return f"{count / unit:,.1f} {name}"
