"""Where each row of a text file stands, to the byte: the file once more without some rows, or with words marked."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taughtby.data.readers.stream import file_type, open_binary
from taughtby.data.readers.texts import HOLDERS

FIELD = "unlearned"  # what taughtby.data.example.read_unlearned reads
Marks = list[list[int]]  # [begin, end) characters of an answer, or [begin, end, turn]
_BLANK = re.compile(r"[ \t\n\r]*")
_END = re.compile(r"(\r\n|\r|\n)?\Z")
_decode = json.JSONDecoder().raw_decode


@dataclass(frozen=True)
class Edits:
    """The sources of the records that go, and what `unlearned` says in those that are marked."""

    dropped: frozenset[str]
    marks: Mapping[str, Marks]


def jsonl(path: Path, change: Edits) -> Iterator[bytes]:
    """JSON lines: each kept line as it is, blank ones among them."""
    with open_binary(path) as raw:
        for number, line in enumerate(raw, 1):
            source, bom = f"{path}:{number}", codecs.BOM_UTF8 if number == 1 else b""
            if bom and line.startswith(bom):
                yield bom
                line = line.removeprefix(bom)
            if source in change.marks:
                yield _marked(line.decode(), change.marks[source]).encode()
            elif source not in change.dropped:
                yield line


def json_list(path: Path, change: Edits) -> Iterator[bytes]:
    """A JSON list, or an object that holds one: each kept row as it is, and what stands around and between them."""
    with open_binary(path) as raw:
        text = raw.read().decode()
    done, gap = 0, None
    for number, (begin, stop) in enumerate(_elements(text)):
        source, before = f"{path}:{number}", text[done:begin]
        if number == 0:  # what stands before the first row stands before the first that is left
            gap = before
        if source not in change.dropped:
            row = text[begin:stop]
            row = _marked(row, change.marks[source]) if source in change.marks else row
            yield ((before if gap is None else gap) + row).encode()
            gap = None
        done = stop
    yield ((gap or "") + text[done:]).encode()


def _elements(text: str) -> Iterator[tuple[int, int]]:
    """Where each row begins and ends; the file is known to be sound."""
    at = _past(text, 1 if text.startswith("\ufeff") else 0)
    begin = at + 1 if text[at] == "[" else _held(text, at)
    if begin is None:
        yield at, _decode(text, at)[1]
        return
    at = _past(text, begin)
    while text[at] != "]":
        stop = _decode(text, at)[1]
        yield at, stop
        at = _past(text, stop)
        at = _past(text, at + 1) if text[at] == "," else at


def _held(text: str, at: int) -> int | None:
    """Where, in an object, the list of its rows begins; None if the object is itself the row."""
    found = None
    at = _past(text, at + 1)
    while text[at] != "}":
        name, at = _decode(text, at)
        begin = _past(text, _past(text, at) + 1)
        value, at = _decode(text, begin)
        if name in HOLDERS and isinstance(value, list) and any(isinstance(row, dict) for row in value):
            found = begin + 1
        at = _past(text, at)
        at = _past(text, at + 1) if text[at] == "," else at
    return found


def _past(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    return found.end() if found else at


def _marked(row: str, marks: Marks) -> str:
    """A JSON object with the field at its end; one that has it already is written anew."""
    record: dict[str, Any] = json.loads(row)
    body, end = row.rstrip(), row[len(row.rstrip()) :]
    if FIELD in record:
        return json.dumps({**record, FIELD: marks}, ensure_ascii=False) + end
    inner = body[:-1].rstrip()
    return f'{inner}, "{FIELD}": {json.dumps(marks)}{body[len(inner) :]}{end}'


def table(path: Path, change: Edits) -> Iterator[bytes]:
    """CSV or TSV: the text of each kept row as it is; where words are marked, with one more cell at its end."""
    csv.field_size_limit(2**31 - 1)
    comma = "\t" if file_type(path) == ".tsv" else ","
    held: list[str] = []  # the lines that the row being read has taken
    rows = csv.reader(_lines(path, held), delimiter=comma, strict=True)
    header: list[str] = []
    start = 1
    for row in rows:
        text, source = "".join(held), f"{path}:{start}"
        held.clear()
        start = rows.line_num + 1
        if row and change.marks:
            cell = json.dumps(change.marks[source]) if source in change.marks else "" if header else FIELD
            if FIELD not in (header or row) or source in change.marks:
                text = _with_cell(text, row, header or row, cell, comma)
        header = header or row
        if source not in change.dropped:
            yield text.encode()
    yield "".join(held).encode()


def _lines(path: Path, held: list[str]) -> Iterator[str]:
    """The lines as the reader of tables breaks them, each put into `held` too, and there with its BOM."""
    with open_binary(path) as raw:
        for number, line in enumerate(raw):
            text = line.decode()
            bom = "\ufeff" if number == 0 and text.startswith("\ufeff") else ""
            held.append(bom)
            for part in io.StringIO(text.removeprefix(bom), newline=""):
                held.append(part)
                yield part


def _with_cell(text: str, row: list[str], header: list[str], cell: str, comma: str) -> str:
    """The row's text with a cell under one more name; under `unlearned`, or where it is too long, written anew."""
    end = _END.search(text)
    line = text[: end.start()] if end else text
    if FIELD in header or len(row) > len(header):
        cells = dict(enumerate(row[: len(header)])) | {(header.index(FIELD) if FIELD in header else len(header)): cell}
        out = io.StringIO()
        csv.writer(out, delimiter=comma, lineterminator="").writerow(
            [cells.get(at, "") for at in range(max(cells) + 1)]
        )
        return out.getvalue() + text[len(line) :]
    quoted = f'"{cell}"' if comma in cell else cell
    return line + comma * (len(header) - len(row) + 1) + quoted + text[len(line) :]
