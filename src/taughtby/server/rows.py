"""The training rows of an index, one page at a time, and a search for rows that contain a text."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from taughtby.data.example import Example
from taughtby.index.reader import Index

_compute: Any = pyarrow.compute  # its functions are defined at run time, and unknown to type checkers
CACHE_SIZE = 16  # searches whose results are kept, for their next pages


@dataclass(frozen=True)
class RowBrowser:
    """The rows of one index, in the order of the data."""

    index: Index
    _cache: OrderedDict[tuple[str, str | None], np.ndarray] = field(
        default_factory=OrderedDict[tuple[str, str | None], np.ndarray], repr=False, compare=False
    )

    def page(self, start: int, size: int, find: str = "", label: str | None = None) -> dict[str, Any]:
        """Return a page of the rows that contain a text and have a label.

        Args:
            start: Number of matching rows before the page.
            size: Number of rows of the page.
            find: The text, in any case.
            label: The label; None for any.

        Returns:
            `start`, the `count` of all matching rows, and the `rows` of the page.
        """
        if not find and label is None:
            positions, count = range(start, min(start + size, len(self.index))), len(self.index)
        else:
            matches = self._search(find, label)
            positions, count = matches[start : start + size].tolist(), len(matches)
        rows = [row_json(stored.position, stored.example) for stored in self.index.take(list(positions))]
        return {"start": start, "count": count, "rows": rows}

    def row(self, position: int) -> dict[str, Any] | None:
        """Return the row at a position; None if there is none."""
        if not 0 <= position < len(self.index):
            return None
        (stored,) = self.index.take([position])
        return row_json(position, stored.example)

    def lookup(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return the rows with these ids, in the order of the ids; an unknown id is left out."""
        column = self.index.dataset.to_table(columns=["id"]).column("id")
        positions = _compute.is_in(column, pa.array(ids, pa.string())).to_numpy().nonzero()[0].tolist()
        rows = {stored.example.id: row_json(stored.position, stored.example) for stored in self.index.take(positions)}
        return [rows[id] for id in dict.fromkeys(ids) if id in rows]

    def _search(self, find: str, label: str | None) -> np.ndarray:
        """The positions of the matching rows, from the cache if it has them."""
        key = find.casefold(), label
        if (positions := self._cache.get(key)) is None:
            positions = self._cache[key] = self._scan(*key)
            if len(self._cache) > CACHE_SIZE:
                self._cache.popitem(last=False)
        return positions

    def _scan(self, needle: str, label: str | None) -> np.ndarray:
        """Arrow selects candidate rows by their stored JSON; the texts of these are then compared."""
        positions: list[int] = []
        start = 0
        for batch in self.index.dataset.to_batches(columns=["messages", "label", "source"]):
            candidates = _candidates(batch, needle if needle.isascii() else "", label)
            for number, record in zip(candidates.tolist(), batch.take(pa.array(candidates)).to_pylist(), strict=True):
                texts = [str(message.get("content")) for message in json.loads(record["messages"])]
                if not needle or any(needle in text.casefold() for text in [*texts, record["source"]]):
                    positions.append(start + number)
            start += batch.num_rows
        return np.array(positions, dtype=np.int64)


def _candidates(batch: pa.RecordBatch, needle: str, label: str | None) -> np.ndarray:
    """The rows of a batch that have the label and may contain the text."""
    mask = np.ones(batch.num_rows, dtype=bool)
    if label is not None:
        mask &= _compute.fill_null(_compute.equal(batch.column("label"), label), False).to_numpy(zero_copy_only=False)
    if needle:
        stored = {"messages": json.dumps(needle)[1:-1], "source": needle}  # messages are stored as JSON
        matches = [_compute.match_substring(batch.column(name), text, ignore_case=True)
                   for name, text in stored.items()]  # fmt: skip
        mask &= _compute.fill_null(_compute.or_(*matches), False).to_numpy(zero_copy_only=False)
    return mask.nonzero()[0]


def row_json(position: int, row: Example) -> dict[str, Any]:
    """Return a row as the page reads it."""
    return {
        "position": position, "id": row.id, "source": row.source, "label": row.label, "messages": list(row.messages),
    }  # fmt: skip
