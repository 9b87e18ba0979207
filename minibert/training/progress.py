"""What a person sees while a model trains: a bar where there is a terminal, lines where not.

All of it goes to stderr; stdout is for results.
"""

import datetime
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

LINE_EVERY = 30  # seconds between two lines where there is no terminal for a bar


class _Rate(ProgressColumn):
    """Steps per second, over the last moments."""

    def render(self, task: Task) -> Text:
        return Text(_rate(task))


def _rate(task: Task) -> str:
    return f"{task.speed:.1f} steps/s" if task.speed else ""


def _numbers(values: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())


class Bar:
    """One phase of training on the screen, or as lines of a log."""

    def __init__(self, display: "Display", progress: Progress, task_id: TaskID) -> None:
        self.display, self.progress, self.task_id = display, progress, task_id
        self.task = progress.tasks[0]
        self.last_line = time.monotonic()

    def advance(self, means: dict[str, float]) -> None:
        """One step is done; these are the means of the epoch so far."""
        self.progress.update(self.task_id, advance=1, terms=_numbers(means))
        if not self.display.on_terminal and time.monotonic() - self.last_line > LINE_EVERY:
            self._line(_numbers(means))

    def measured(self, row: dict[str, Any]) -> None:
        """Leave a line behind: the epoch's means, and the metrics on the development set."""
        dev = f"  dev: {_numbers(row['dev'])}" if "dev" in row else ""
        self._line(f"epoch {row['epoch']}: {_numbers(row['train'])}{dev}")

    def _line(self, text: str) -> None:
        done, left = f"{self.task.completed:.0f}/{self.task.total:.0f}", ""
        if self.task.time_remaining:
            left = f", {datetime.timedelta(seconds=int(self.task.time_remaining))} left"
        rate = f", {_rate(self.task)}" if self.task.speed else ""
        self.display.say(f"{self.task.description} {done}{rate}{left}  {text}")
        self.last_line = time.monotonic()


class Display:
    """Where progress goes; `quiet` shows nothing at all."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet)
        self.on_terminal = self.console.is_terminal and not quiet

    def say(self, text: str) -> None:
        """One line for the reader."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def phase(self, name: str, total: int, done: int = 0) -> Iterator[Bar]:
        """A bar with the loss terms, the rate and the time left, while a phase runs."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[terms]}"),
        )
        with Progress(
            *columns, console=self.console, disable=not self.on_terminal, transient=True
        ) as shown:
            yield Bar(self, shown, shown.add_task(name, total=total, completed=done, terms=""))
