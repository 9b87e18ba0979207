"""What a person sees while a model trains: a bar where there is a terminal, lines where not.

All of it goes to stderr; stdout is for results.
"""

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
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class _Rate(ProgressColumn):
    """Steps per second, over the last moments."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} steps/s" if task.speed else "")


def _numbers(values: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())


class Bar:
    """One phase of training on the screen."""

    def __init__(self, console: Console, progress: Progress, task: Any, phase: str) -> None:
        self.console, self.progress, self.task, self.label = console, progress, task, phase

    def advance(self, means: dict[str, float]) -> None:
        """One step is done; these are the means of the epoch so far."""
        self.progress.update(self.task, advance=1, terms=_numbers(means))

    def measured(self, row: dict[str, Any]) -> None:
        """Leave a line behind: the epoch's means, and the metrics on the development set."""
        dev = f"  dev: {_numbers(row['dev'])}" if "dev" in row else ""
        self.console.print(
            f"{self.label}, epoch {row['epoch']}: {_numbers(row['train'])}{dev}"
            f"  ({row['seconds']:.0f} s)",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


class Display:
    """Where progress goes; `quiet` shows nothing at all."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet)

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
        visible = self.console.is_terminal and not self.console.quiet
        with Progress(*columns, console=self.console, disable=not visible, transient=True) as shown:
            task = shown.add_task(name, total=total, completed=done, terms="")
            yield Bar(self.console, shown, task, name)
