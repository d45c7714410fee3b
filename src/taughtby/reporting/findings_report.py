"""The faults of a training set in the terminal: each kind with its rows, the largest groups first."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from taughtby.data.quality import KINDS, Finding, FindingGroup
from taughtby.text import collapse_whitespace, make_visible


def print_findings(findings: Sequence[Finding], console: Console) -> None:
    """Print each finding with the first rows of its largest groups."""
    console.print("")
    if not findings:
        console.print("no faults: " + ", ".join(KINDS), style="green")
    for finding in findings:
        rows = "1 row" if finding.count == 1 else f"{finding.count:,} rows"
        groups = f" in {finding.num_groups:,} groups" if finding.num_groups > 1 else ""
        console.print(Text(f"{finding.kind}: {rows}{groups} ({KINDS[finding.kind]})", "yellow"))
        for group in finding.groups:
            _print_group(group, console)
        if left := finding.num_groups - len(finding.groups):
            console.print(Text(f"  … {left:,} more groups", "dim"))


def _print_group(group: FindingGroup, console: Console) -> None:
    detail = f"{collapse_whitespace(group.detail)[:200]}: " if group.detail else ""
    console.print(Text(make_visible(f"  {detail}{group.count:,} row{'' if group.count == 1 else 's'}")))
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for row in group.rows:
        place = f"    {row.source}  {row.id}".rstrip()
        grid.add_row(Text(make_visible(place), "dim"), Text(make_visible(f"{row.prompt} → {row.answer}")))
    console.print(grid)
