"""The results of a run, in a form for all trackers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from taughtby.text import make_visible

PREFIX = "taughtby/"  # of all names, since a trainer's run has its own names
MAX_VALUE = 500  # maximum characters of a setting: the lowest limit of MLflow servers
Cell = str | int | float | bool | None


@dataclass(frozen=True)
class Table:
    """Rows of cells under column names."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class RunRecord:
    """The results of a run.

    Attributes:
        settings: What was run, and verdicts as text.
        metrics: Numbers by name.
        tables: Tables by name.
        page: A self-contained HTML page.
        files: Files and folders to store with the run; those that do not exist are left out.
    """

    settings: Mapping[str, str] = field(default_factory=dict[str, str])
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    tables: Mapping[str, Table] = field(default_factory=dict[str, Table])
    page: Path | None = None
    files: tuple[Path, ...] = ()


Log = Callable[[RunRecord], None]


def make_record(
    settings: Mapping[str, object],
    metrics: Mapping[str, float | None],
    tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[Cell]]]] | None = None,
    page: Path | None = None,
    files: Sequence[Path] = (),
) -> RunRecord:
    """Create a record with names that every tracker accepts, and texts without control characters.

    Settings and metrics that are None are left out, as are metrics that are not finite.
    """
    return RunRecord(
        {_name(name): make_visible(value)[:MAX_VALUE] for name, value in settings.items() if value is not None},
        {_name(name): float(value) for name, value in metrics.items() if value is not None and math.isfinite(value)},
        {_name(name): _table(*content) for name, content in (tables or {}).items()},
        page if page and page.exists() else None,
        tuple(file for file in files if file.exists()),
    )


def _name(name: str) -> str:
    return PREFIX + re.sub(r"[^A-Za-z0-9_./-]+", "_", name)


def _table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Table:
    def cell(value: Cell) -> Cell:
        if isinstance(value, float) and not math.isfinite(value):
            return None
        return make_visible(value) if isinstance(value, str) else value

    return Table(tuple(columns), tuple(tuple(map(cell, row)) for row in rows))
