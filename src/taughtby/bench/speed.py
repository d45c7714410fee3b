"""Both races of speed as tables: indexing beside a plain forward pass, queries beside faiss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich import box
from rich.table import Table

from taughtby.bench import speed_capture, speed_query
from taughtby.index.build import ACCELERATOR_FACTOR, TOKEN_BUDGET
from taughtby.models.model import Model

SHARED = speed_capture.SHARED


def indexing(
    model: Model, rows: int, shared: int, progress: Callable[[int, int], object] | None = None
) -> list[dict[str, Any]]:
    """A line for each side, over drawn rows that have their first `shared` tokens in common."""
    drawn = speed_capture.drawn(rows, model.lm.get_input_embeddings().weight.shape[0], shared=shared)
    budget = TOKEN_BUDGET * (1 if model.device.type == "cpu" else ACCELERATOR_FACTOR)
    return speed_capture.race(model, drawn, budget=budget, progress=progress)


def queries() -> list[dict[str, Any]]:
    """A line for each way to answer 100 queries of 1,000,000 rows."""
    return speed_query.queries()


def index_table(lines: list[dict[str, Any]], shared: int) -> Table:
    """Times beside a plain forward pass."""
    common = f"the first {shared} tokens common to all rows" if shared else "no token common to all rows"
    table = Table(title=f"Indexing, {common}", title_justify="left", box=box.SIMPLE)
    for name in ("", "× forward", "of turns", "floor ×", "of peak", "tokens/s", "MB"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for line in lines:
        spread = f"{line['from']:.2f}-{line['to']:.2f}"
        memory = "" if line["peak_mb"] is None else f"{line['peak_mb']:,.0f}"
        table.add_row(line["side"], f"{line['times']:.2f}", spread, f"{line['floor_times']:.2f}",
                      f"{line['share_of_peak']:.0%}", f"{line['tokens_a_second']:,.0f}", memory)  # fmt: skip
    return table


def query_table(lines: list[dict[str, Any]]) -> Table:
    """Seconds beside taughtby's."""
    table = Table(title="100 queries of 1,000,000 rows", title_justify="left", box=box.SIMPLE)
    for name in ("", "seconds", "× taughtby", "MB", "bytes a row", "same rows"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for line in lines:
        memory = "" if line["memory"] is None else f"{line['memory']:,.0f}"
        same = "" if line["same"] is None else f"{line['same']:.1%}"
        scaled = " (a slice, scaled)" if line["scaled"] else ""
        table.add_row(line["name"] + scaled, f"{line['seconds']:,.2f}", f"{line['times']:,.1f}", memory,
                      f"{line['bytes']:,.0f}", same)  # fmt: skip
    return table
