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


@contextmanager
def stage(console: Console, title: str, *, steps: bool = True) -> Generator[Tell]:
    """Show a bar while the block runs, then one line with how long it took.

    `steps=False` is for work that cannot say how far it is.
    """
    begun = time.monotonic()
    columns: list[ProgressColumn] = [SpinnerColumn(), TextColumn(title)]
    if steps:
        columns += [BarColumn(), MofNCompleteColumn(), _Rate(), TextColumn("left"), TimeRemainingColumn()]
    quiet = not console.is_terminal
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=quiet) as bar:
        task = bar.add_task(title, total=None)

        def tell(done: int, of: int | None) -> None:
            bar.update(task, completed=done, total=of)

        yield tell
    console.print(f"[green]✓[/] {title} [dim]{time.monotonic() - begun:.1f} s[/]", highlight=False)
