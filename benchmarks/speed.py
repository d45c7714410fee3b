"""Compare the speed of indexing with a plain forward pass, and of queries over 1,000,000 rows with NumPy and faiss.

`python benchmarks/speed.py` writes speed.json.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from rich import box
from rich.table import Table

import speed_capture
import speed_query
from common import command, load, parse, parser, print_table
from taughtby.capture.budget import token_budget
from taughtby.models.model import Model
from taughtby.progress import Terminal, progress_bar
from taughtby.reporting.html import save_json


def main() -> None:
    """Run both comparisons; print and save each when it ends."""
    arguments = parser("Time indexing beside a plain forward pass, and queries beside NumPy and faiss.")
    arguments.add_argument("--rows", type=int, default=200, help="rows to index")
    options = parse(arguments)
    model, console = load(options), Terminal(stderr=True)
    results: dict[str, Any] = {"command": command(), "threads": torch.get_num_threads(), "dtype": str(model.dtype)}
    for name, num_shared in (("index", 0), ("index_chat", speed_capture.NUM_SHARED)):
        with progress_bar(console, f"{options.rows} rows, the first {num_shared} tokens common to all") as progress:
            results[name] = race_indexing(model, options.rows, num_shared, progress)
        save_json(results, options.out / "speed.json")
        print_table(index_table(results[name], num_shared))
    with progress_bar(console, "100 queries of 1,000,000 rows", steps=False):
        results["queries"] = speed_query.race()
    save_json(results, options.out / "speed.json")
    print_table(query_table(results["queries"]))


def race_indexing(
    model: Model, num_rows: int, num_shared: int, progress: Callable[[int, int], object] | None = None
) -> list[dict[str, Any]]:
    """A line for each way to process random rows that have their first `num_shared` tokens in common."""
    vocabulary = model.lm.get_input_embeddings().weight.shape[0]
    rows = speed_capture.random_rows(num_rows, vocabulary, num_shared=num_shared)
    return speed_capture.race(model, rows, budget=token_budget(model, model.depth), progress=progress)


def index_table(lines: list[dict[str, Any]], num_shared: int) -> Table:
    """Times relative to a plain forward pass."""
    common = f"the first {num_shared} tokens common to all rows" if num_shared else "no token common to all rows"
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
    """Seconds, and the ratio to taughtby's."""
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


if __name__ == "__main__":
    main()
