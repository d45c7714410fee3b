"""The training rows page by page, and those in which some words stand: never the whole index to a browser."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from taughtby.data.example import Example
from taughtby.index.reader import Index

_compute: Any = pyarrow.compute  # its functions are made at run time, where no type checker sees them
REMEMBERED = 16  # searches whose places are kept, for the next page


@dataclass(frozen=True)
class RowBrowser:
    """The rows of one index, in the order of the data."""

    index: Index
    _found: OrderedDict[tuple[str, str | None], np.ndarray] = field(
        default_factory=OrderedDict[tuple[str, str | None], np.ndarray], repr=False, compare=False
    )

    def page(self, start: int, size: int, find: str = "", label: str | None = None) -> dict[str, Any]:
        """`size` rows from `start` on, of those with the words `find` and the label, and how many there are."""
        if not find and label is None:
            places, count = range(start, min(start + size, len(self.index))), len(self.index)
        else:
            found = self._places(find, label)
            places, count = found[start : start + size].tolist(), len(found)
        rows = [shown(stored.position, stored.example) for stored in self.index.take(list(places))]
        return {"start": start, "count": count, "rows": rows}

    def row(self, place: int) -> dict[str, Any] | None:
        """The row at a place; None where there is none."""
        if not 0 <= place < len(self.index):
            return None
        (stored,) = self.index.take([place])
        return shown(place, stored.example)

    def _places(self, find: str, label: str | None) -> np.ndarray:
        key = find.casefold(), label
        if (known := self._found.get(key)) is None:
            known = self._searched(*key)
            self._found[key] = known
            if len(self._found) > REMEMBERED:
                self._found.popitem(last=False)
        return known

    def _searched(self, find: str, label: str | None) -> np.ndarray:
        """Arrow finds the rows that may have the words; of these the texts are read."""
        places: list[int] = []
        start = 0
        needle = find if find.isascii() else ""
        for batch in self.index.dataset.to_batches(columns=["messages", "label", "source"]):
            keep = _matching(batch, needle, label)
            for at, record in zip(keep.tolist(), batch.take(pa.array(keep)).to_pylist(), strict=True):
                said = [str(message.get("content")) for message in json.loads(record["messages"])]
                if not find or any(find in text.casefold() for text in [*said, record["source"]]):
                    places.append(start + at)
            start += batch.num_rows
        return np.array(places, dtype=np.int64)


def _matching(batch: pa.RecordBatch, needle: str, label: str | None) -> np.ndarray:
    """Which rows of a batch may have the words, and have the label."""
    kept = np.ones(batch.num_rows, dtype=bool)
    if label is not None:
        kept &= _compute.fill_null(_compute.equal(batch.column("label"), label), False).to_numpy(zero_copy_only=False)
    if needle:
        written = {"messages": json.dumps(needle)[1:-1], "source": needle}  # as the index has them
        either = [
            _compute.match_substring(batch.column(name), text, ignore_case=True) for name, text in written.items()
        ]
        kept &= _compute.fill_null(_compute.or_(*either), False).to_numpy(zero_copy_only=False)
    return kept.nonzero()[0]


def shown(place: int, row: Example) -> dict[str, Any]:
    """A row as the page gets it."""
    said = {"id": row.id, "source": row.source, "label": row.label, "messages": list(row.messages)}
    return {"place": place, **said}
