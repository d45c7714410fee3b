"""A terminal on which text stays text, and a bar with rate and time left for whatever takes more than two seconds.

No bar is drawn where output is piped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

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

from taughtby.text import collapse_whitespace, make_visible

ProgressCallback = Callable[[int, int | None], None]  # (done, in all where that is known)


class Terminal(Console):
    """A Rich console on which every string is text: no markup, no emoji names, no character that acts or hides.

    A `Text` is printed as it is, so what it is made of must be `visible`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Every string that is printed, or stands in a table, comes by here."""
        plain: dict[str, Any] = {**options, "markup": False, "emoji": False, "highlight": False}
        return super().render_str(make_visible(text), **plain)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Units a second, once there are some."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.1f}/s" if speed else "", style="progress.data.speed")


class ProgressBar:
    """What a stage is told: how far it is, and what else there is to say of it."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar, self._task = bar, task

    def __call__(self, done: int, of: int | None) -> None:
        """How much is done, of how much where that is known."""
        self._bar.update(self._task, completed=done, total=of)

    def set_note(self, text: str) -> None:
        """A few words at the bar's end."""
        self._bar.update(self._task, aside=text)


@contextmanager
def progress_bar(console: Console, title: str, *, steps: bool = True) -> Generator[ProgressBar]:
    """Show a bar while the block runs, then one line with how long it took.

    `steps=False` is for work that cannot say how far it is. The title may hold any text, such as a path.
    """
    title = collapse_whitespace(make_visible(title))
    begun = time.monotonic()
    columns: list[ProgressColumn] = [SpinnerColumn(), TextColumn("{task.description}", markup=False)]
    if steps:
        columns += [BarColumn(), MofNCompleteColumn(), _Rate(), TextColumn("left"), TimeRemainingColumn()]
    quiet = not console.is_terminal
    columns += [TimeElapsedColumn(), TextColumn("{task.fields[aside]}", style="dim", markup=False)]
    with Progress(*columns, console=console, transient=True, disable=quiet) as bar:
        yield ProgressBar(bar, bar.add_task(title, total=None, aside=""))
    took = f"{time.monotonic() - begun:.1f} s"
    console.print(Text.assemble(("✓", "green"), f" {title} ", (took, "dim")))
