"""A bar with rate and time left, for whatever takes more than two seconds. Nothing is drawn where output is piped."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

Tell = Callable[[int, int | None], None]  # (done, in all where that is known)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Units a second, once there are some."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.1f}/s" if speed else "", style="progress.data.speed")


class Bar:
    """What a stage is told: how far it is, and what else there is to say of it."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar, self._task = bar, task

    def __call__(self, done: int, of: int | None) -> None:
        """How much is done, of how much where that is known."""
        self._bar.update(self._task, completed=done, total=of)

    def aside(self, text: str) -> None:
        """A few words at the bar's end."""
        self._bar.update(self._task, aside=text)


@contextmanager
def stage(console: Console, title: str, *, steps: bool = True) -> Generator[Bar]:
    """Show a bar while the block runs, then one line with how long it took.

    `steps=False` is for work that cannot say how far it is.
    """
    begun = time.monotonic()
    columns: list[ProgressColumn] = [SpinnerColumn(), TextColumn(title)]
    if steps:
        columns += [BarColumn(), MofNCompleteColumn(), _Rate(), TextColumn("left"), TimeRemainingColumn()]
    quiet = not console.is_terminal
    columns += [TimeElapsedColumn(), TextColumn("{task.fields[aside]}", style="dim")]
    with Progress(*columns, console=console, transient=True, disable=quiet) as bar:
        yield Bar(bar, bar.add_task(title, total=None, aside=""))
    console.print(f"[green]✓[/] {title} [dim]{time.monotonic() - begun:.1f} s[/]", highlight=False)
