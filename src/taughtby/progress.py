"""A console that prints strings literally, and progress bars with rate and remaining time.

No bar is drawn if the output is piped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.util import find_spec
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

ProgressCallback = Callable[[int, int | None], Any]  # (done, total or None if unknown)


class Terminal(Console):
    """A Rich console that prints strings literally: no markup, no emoji names, no control or hidden characters.

    A `rich.text.Text` is printed unchanged: build it from strings returned by `make_visible`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Render a string, on its own or in a table."""
        plain: dict[str, Any] = {**options, "markup": False, "emoji": False, "highlight": False}
        return super().render_str(make_visible(text), **plain)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Units per second, once known."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.1f}/s" if speed else "", style="progress.data.speed")


class ProgressBar:
    """A bar that is called with (done, total), where total is None if unknown."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar, self._task = bar, task

    def __call__(self, done: int, total: int | None) -> None:
        """Report how much is done, and of how much if known."""
        self._bar.update(self._task, completed=done, total=total)

    def set_note(self, text: str) -> None:
        """Show a short text at the end of the bar."""
        self._bar.update(self._task, note=text)


@contextmanager
def progress_bar(console: Console, title: str, *, steps: bool = True) -> Generator[ProgressBar]:
    """Show a bar while the block runs, then a line with its duration.

    Args:
        console: Where to show it.
        title: The title; any text, such as a path.
        steps: Whether the work reports how much is done; False shows a spinner.
    """
    title = collapse_whitespace(make_visible(title))
    begin = time.monotonic()
    with _bar(console, title, steps) as bar:
        yield bar
    duration = f"{time.monotonic() - begin:.1f} s"
    console.print(Text.assemble(("✓", "green"), f" {title} ", (duration, "dim")))


@contextmanager
def reported(progress: bool | ProgressCallback | None, title: str) -> Generator[ProgressCallback | None]:
    """Yield the callback for a public function's `progress` argument.

    A callable is yielded unchanged. True shows a bar on a terminal or in a notebook; elsewhere, and for False or None,
    the callback is None.
    """
    if callable(progress):
        yield progress
        return
    console = Terminal(stderr=True)
    if not progress or not (console.is_terminal or console.is_jupyter):
        yield None
        return
    with _bar(console, collapse_whitespace(make_visible(title)), True) as bar:
        yield bar


@contextmanager
def _bar(console: Console, title: str, steps: bool) -> Generator[ProgressBar]:
    columns: list[ProgressColumn] = [SpinnerColumn(), TextColumn("{task.description}", markup=False)]
    if steps:
        columns += [BarColumn(), MofNCompleteColumn(), _Rate(), TextColumn("left"), TimeRemainingColumn()]
    columns += [TimeElapsedColumn(), TextColumn("{task.fields[note]}", style="dim", markup=False)]
    # in a notebook Rich needs ipywidgets; without it, it prints a warning at each refresh
    quiet = not (find_spec("ipywidgets") if console.is_jupyter else console.is_terminal)
    with Progress(*columns, console=console, transient=True, disable=quiet) as bar:
        yield ProgressBar(bar, bar.add_task(title, total=None, note=""))
