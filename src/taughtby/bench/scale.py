"""The life of an index of many rows whose blocks are drawn: what each part of it costs, and whether that grows.

All is done that `taughtby index` and `taughtby trace` do, but for the model's own passes: rows are
read, hashed, tokenised, stored, scanned and weighed; their blocks are random unit vectors.
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

from taughtby.attribution.query import Query
from taughtby.attribution.trace import trace_queries
from taughtby.bench.cost import Cost, cost
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

STEP = 100_000  # rows whose time is told together
WORDS = [
    "rain",
    "sun",
    "sea",
    "ship",
    "bee",
    "honey",
    "week",
    "day",
    "sky",
    "blue",
    "green",
    "grass",
    "capital",
    "captain",
    "question",
    "answer",
    "name",
    "why",
    "how",
]
Tell = Callable[[str], Any]


class Stopped(Exception):
    """An indexing that was told to stop."""


@dataclass(frozen=True)
class Drawn(CosineMethod):
    """Random unit vectors of this width, one a row."""

    width: int = 576

    name: ClassVar[str] = "drawn"

    def feature_names(self, depth: int) -> tuple[str, ...]:
        """One block."""
        return ("drawn",)

    def text_features(self, rows: Sequence[Example]) -> Features:
        """By the rows' texts, so that each run draws the same."""
        seed = int.from_bytes(
            hashlib.blake2b("".join(row.response for row in rows[:1]).encode(), digest_size=7).digest()
        )
        return {"drawn": normalize(torch.randn(len(rows), self.width, generator=torch.Generator().manual_seed(seed)))}


def life(
    model: Model, folder: Path, count: int = 1_000_000, width: int = 576, step: int = STEP, tell: Tell = lambda _: None
) -> dict[str, Any]:
    """What each part of such an index's life costs, in the order in which it happens."""
    folder.mkdir(parents=True, exist_ok=True)
    data, more, out, how = folder / "data.jsonl", folder / "more.jsonl", folder / "idx", Drawn(width)
    parts: dict[str, dict[str, Any]] = {}

    def part(name: str, work: Callable[[], Any]) -> Any:
        tell(name)
        with cost(model.device) as took:
            found = work()
        parts[name] = _told(took)
        return found

    _write(data, 0, count)
    _write(more, count, count + count // 100)
    first: list[tuple[int, float]] = []
    second: list[tuple[int, float]] = []

    def index(times: list[tuple[int, float]], until: int = 0, **more: Any) -> Index | None:
        def progress(done: int, _: int) -> None:
            times.append((done, time.process_time()))  # whatever else the machine does meanwhile
            if until and done >= until:
                raise Stopped

        try:
            return build_index(model, more.pop("data", data), out, [how], encoding=Encoding(64), layers=False,
                               progress=progress, **more)  # fmt: skip
        except Stopped:
            return None

    part("index, stopped at 60%", lambda: index(first, count * 6 // 10))
    begun = time.process_time()
    made = part("index, gone on with", lambda: index(second))
    assert made is not None
    sizes = {"data": data.stat().st_size, "index": _size(out),
             "fragments": len(made.rows.get_fragments())}  # fmt: skip
    queries = [Query(f"why {at}", " ".join(WORDS[at : at + 4])) for at in range(4)]
    for by in (how, get_method("bm25"), get_method("first-word")):
        part(f"trace by {by.name}", lambda by=by: trace_queries(Index.open(out), model, queries, method=by))
    part("append 1%", lambda: index([], data=more, append=True))
    part(
        "delete 1,000 rows",
        lambda: delete_rows(out, [one.example.id for one in made.take(range(0, count, max(1, count // 1000)))]),
    )
    found = part("verify", lambda: verify(out))
    assert not found.faults, found
    part("compact", lambda: compact(out, timedelta(0)))
    flat = {**_steps(second, step), **_steps(first, step)}  # on going on, what was there already only flies by
    return {
        "rows": count, "width": width, "bytes": sizes, "parts": parts,
        "flat": dict(sorted(flat.items(), key=lambda one: int(one[0]))),
        "until rows were gone on with": round(next(at for done, at in second if done > count * 6 // 10) - begun, 1),
    }  # fmt: skip


def table(made: dict[str, Any]) -> Table:
    """A line for each part."""
    found = Table(title=f"{made['rows']:,} rows of {made['width']} numbers", title_justify="left", box=box.SIMPLE)
    for name in ("", "seconds", "of the cores", "MB at most", "MB on top"):
        found.add_column(name, justify="right" if name else "left", no_wrap=True)
    for name, took in made["parts"].items():
        found.add_row(name, *(f"{took[key]:,}" for key in ("seconds", "cpu", "peak_mb", "more_mb")))
    return found


def _write(file: Path, start: int, stop: int) -> None:
    with file.open("w", encoding="utf-8") as out:
        for at in range(start, stop):
            said = " ".join(WORDS[at * step % 19] for step in range(1, 4 + at % 7))
            out.write(json.dumps({"prompt": f"what is {at}", "response": f"{said} {at}"}) + "\n")


def _steps(times: Sequence[tuple[int, float]], step: int) -> dict[str, float]:
    """Microseconds of a core a row, for each step gone through from end to end; `times` as they were told."""
    found: dict[str, float] = {}
    reached: dict[int, tuple[int, float]] = {}
    for done, at in times:
        if (mark := done // step * step) not in reached and done - mark < step // 2:
            reached[mark] = (done, at)
    for mark in sorted(reached):
        if mark + step in reached:
            (one, begun), (two, ended) = reached[mark], reached[mark + step]
            found[f"{mark + step}"] = round((ended - begun) / (two - one) * 1e6, 1)
    return found


def _told(took: Cost) -> dict[str, Any]:
    peak, more = (None if one is None else round(one) for one in (took.peak, took.more))
    return {"seconds": round(took.seconds, 1), "cpu": round(took.cpu, 1), "peak_mb": peak, "more_mb": more}


def _size(folder: Path) -> int:
    return sum((folder / name).stat().st_size for name in list_files(folder))
