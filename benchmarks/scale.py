"""Measure the cost of each step in the life of an index of a million random rows, and whether it grows with the index.

Rows are read, hashed, tokenized, stored, scanned and ranked as by `taughtby index` and `taughtby trace`. Only the model
is not run: features are random unit vectors.

`python benchmarks/scale.py` writes scale.json.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import torch
from rich import box
from rich.table import Table

from common import load, parse, parser, print_table
from taughtby.attribution.query import Query
from taughtby.attribution.trace import trace_queries
from taughtby.bench.cost import Cost, measure_cost
from taughtby.data.example import Example
from taughtby.data.tokenize import Encoding
from taughtby.index.build import build_index
from taughtby.index.maintenance import compact, delete_rows
from taughtby.index.reader import Index
from taughtby.index.storage import list_files
from taughtby.index.verify import verify
from taughtby.methods import Features, get_method
from taughtby.methods.base import CosineMethod, normalize
from taughtby.models.model import Model
from taughtby.progress import Terminal
from taughtby.reporting.html import save_json

STEP = 100_000  # rows per reported time
WORDS = [
    "rain", "sun", "sea", "ship", "bee", "honey", "week", "day", "sky", "blue", "green", "grass", "capital", "captain",
    "question", "answer", "name", "why", "how",
]  # fmt: skip


def main() -> None:
    """Run every step, and print and save its cost. Of the model, only the tokenizer is used."""
    arguments = parser("Measure every step in the life of a large index.")
    arguments.add_argument("--rows", type=int, default=1_000_000, help="rows of the index")
    options = parse(arguments)
    console = Terminal(stderr=True)
    results = measure_life(load(options), options.out, options.rows, report=console.print)
    save_json(results, options.out / "scale.json")
    print_table(table(results))


class Interrupted(Exception):
    """Raised in the progress callback to interrupt indexing."""


@dataclass(frozen=True)
class RandomFeatures(CosineMethod):
    """One random unit vector of this width per row."""

    width: int = 576

    name: ClassVar[str] = "random-features"

    def feature_names(self, depth: int) -> tuple[str, ...]:
        """One feature."""
        return ("vector",)

    def text_features(self, rows: Sequence[Example]) -> Features:
        """Vectors seeded by the response of the first row."""
        text = "".join(row.response for row in rows[:1]).encode()
        seed = int.from_bytes(hashlib.blake2b(text, digest_size=7).digest())
        vectors = torch.randn(len(rows), self.width, generator=torch.Generator().manual_seed(seed))
        return {"vector": normalize(vectors)}


class _Life:
    """An index and the costs of the steps so far."""

    def __init__(self, model: Model, folder: Path, width: int, report: Callable[[str], object]) -> None:
        self.model, self.method, self.report = model, RandomFeatures(width), report
        self.data, self.more, self.out = folder / "data.jsonl", folder / "more.jsonl", folder / "idx"
        self.parts: dict[str, dict[str, Any]] = {}

    def step(self, name: str, work: Callable[[], Any]) -> Any:
        """Run one step and record its cost."""
        self.report(name)
        with measure_cost(self.model.device) as spent:
            result = work()
        self.parts[name] = _rounded(spent)
        return result

    def build(self, times: list[tuple[int, float]], stop_at: int = 0, **options: Any) -> Index | None:
        """Index the data, with CPU seconds at each progress call; None if interrupted at `stop_at` rows."""

        def progress(done: int, _: int) -> None:
            times.append((done, time.process_time()))
            if stop_at and done >= stop_at:
                raise Interrupted

        try:
            return build_index(self.model, options.pop("data", self.data), self.out, [self.method],
                               encoding=Encoding(64), layers=False, progress=progress, **options)  # fmt: skip
        except Interrupted:
            return None


def measure_life(
    model: Model,
    folder: Path,
    count: int = 1_000_000,
    width: int = 576,
    step: int = STEP,
    report: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Measure the cost of each step in the life of an index of `count` rows, in order."""
    folder.mkdir(parents=True, exist_ok=True)
    life, stop_at = _Life(model, folder, width, report), count * 6 // 10
    _write(life.data, 0, count)
    _write(life.more, count, count + count // 100)
    first: list[tuple[int, float]] = []
    second: list[tuple[int, float]] = []
    life.step("index, interrupted at 60%", lambda: life.build(first, stop_at))
    start = time.process_time()
    index = life.step("index, resumed", lambda: life.build(second))
    assert index is not None
    sizes = {
        "data": life.data.stat().st_size,
        "index": _size(life.out),
        "fragments": len(index.dataset.get_fragments()),
    }
    queries = [Query(f"why {number}", " ".join(WORDS[number : number + 4])) for number in range(4)]
    for method in (life.method, get_method("bm25"), get_method("first-word")):
        life.step(f"trace by {method.name}",
                  lambda method=method: trace_queries(Index.open(life.out), model, queries, method=method))  # fmt: skip
    life.step("append 1%", lambda: life.build([], data=life.more, append=True))
    ids = [row.example.id for row in index.take(range(0, count, max(1, count // 1000)))]
    life.step("delete 1,000 rows", lambda: delete_rows(life.out, ids))
    report_of_verify = life.step("verify", lambda: verify(life.out))
    assert not report_of_verify.faults, report_of_verify
    life.step("compact", lambda: compact(life.out, timedelta(0)))
    flat = {**_steps(second, step), **_steps(first, step)}  # a resumed run skips existing rows quickly
    return {
        "rows": count, "width": width, "bytes": sizes, "parts": life.parts,
        "flat": dict(sorted(flat.items(), key=lambda item: int(item[0]))),
        "seconds until resumed": round(next(cpu for done, cpu in second if done > stop_at) - start, 1),
    }  # fmt: skip


def table(results: dict[str, Any]) -> Table:
    """A line for each step."""
    title = f"{results['rows']:,} rows of {results['width']} numbers"
    grid = Table(title=title, title_justify="left", box=box.SIMPLE)
    for name in ("", "seconds", "CPU seconds", "peak MB", "added MB"):
        grid.add_column(name, justify="right" if name else "left", no_wrap=True)
    for name, spent in results["parts"].items():
        grid.add_row(name, *(f"{spent[key]:,}" for key in ("seconds", "cpu", "peak_mb", "more_mb")))
    return grid


def _write(file: Path, start: int, stop: int) -> None:
    with file.open("w", encoding="utf-8") as out:
        for number in range(start, stop):
            words = " ".join(WORDS[number * step % 19] for step in range(1, 4 + number % 7))
            out.write(json.dumps({"prompt": f"what is {number}", "response": f"{words} {number}"}) + "\n")


def _steps(times: Sequence[tuple[int, float]], step: int) -> dict[str, float]:
    """CPU microseconds per row, for each interval of `step` rows that was measured in full."""
    result: dict[str, float] = {}
    reached: dict[int, tuple[int, float]] = {}
    for done, cpu in times:
        if (mark := done // step * step) not in reached and done - mark < step // 2:
            reached[mark] = (done, cpu)
    for mark in sorted(reached):
        if mark + step in reached:
            (first, start), (last, stop) = reached[mark], reached[mark + step]
            result[f"{mark + step}"] = round((stop - start) / (last - first) * 1e6, 1)
    return result


def _rounded(spent: Cost) -> dict[str, Any]:
    peak, more = (None if memory is None else round(memory) for memory in (spent.peak, spent.more))
    return {"seconds": round(spent.seconds, 1), "cpu": round(spent.cpu, 1), "peak_mb": peak, "more_mb": more}


def _size(folder: Path) -> int:
    return sum((folder / name).stat().st_size for name in list_files(folder))


if __name__ == "__main__":
    main()
