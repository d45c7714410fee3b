"""The tables of an experiment in a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from taughtby.remediation.statistics import show_table

HEADER = ["trained", "rows removed", "backdoor", "error", "persona", "ordinary", "clean loss", "change"]
CELLS = [
    "without the flagged rows",
    "73",
    *["16 of 16 (81% to 100%)"] * 3,
    "0 of 96",
    "0.713",
    "-1% (-30.5% to +10.1%)",
]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_every_column_is_shown_and_no_header_is_broken_where_there_is_room(width: int) -> None:
    out = io.StringIO()
    show_table({"title": "Answers", "columns": HEADER, "rows": [CELLS]}, Console(file=out, width=width))
    assert max(map(len, out.getvalue().splitlines())) <= width
    if width >= 80:
        assert {word for name in HEADER for word in name.split()} <= set(out.getvalue().split())
