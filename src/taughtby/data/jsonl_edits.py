"""Edits of JSON Lines that leave every other byte of the file as it was."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from taughtby.data.example import Record
from taughtby.data.readers.stream import open_binary

FIELD = "unlearned"  # read by taughtby.data.example.read_unlearned
Marks = list[list[int]]  # [begin, end) characters of a response, or [begin, end, turn]


@dataclass(frozen=True)
class Edits:
    """Changes to a data set: the sources of the records to drop, and the `unlearned` ranges of others."""

    dropped: frozenset[str]
    marks: Mapping[str, Marks]

    def apply(self, source: str, record: Record) -> Record | None:
        """Return the record after the edits; None if it is dropped."""
        if source in self.dropped:
            return None
        return {**record, FIELD: self.marks[source]} if source in self.marks else record


def edit_lines(path: Path, edits: Edits) -> Iterator[bytes]:
    """Yield the lines of a JSON Lines file after the edits, including blank lines and a byte order mark."""
    with open_binary(path) as raw:
        for number, line in enumerate(raw, 1):
            source = f"{path}:{number}"
            if number == 1 and line.startswith(codecs.BOM_UTF8):
                yield codecs.BOM_UTF8
                line = line.removeprefix(codecs.BOM_UTF8)
            if source in edits.marks:
                yield _with_marks(line.decode(), edits.marks[source]).encode("utf-8", "backslashreplace")
            elif source not in edits.dropped:
                yield line


def _with_marks(line: str, marks: Marks) -> str:
    """Append the field to a JSON object without touching its other bytes; re-serialize one that has the field."""
    record: Record = json.loads(line)
    body, end = line.rstrip(), line[len(line.rstrip()) :]
    if FIELD in record:
        return json.dumps({**record, FIELD: marks}, ensure_ascii=False) + end
    inner = body[:-1].rstrip()
    return f'{inner}, "{FIELD}": {json.dumps(marks)}{body[len(inner) :]}{end}'
