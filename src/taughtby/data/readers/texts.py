"""Reads rows from text files: JSON Lines, JSON lists, CSV and TSV."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from taughtby.data.content import UntypedText
from taughtby.data.example import Record, shorten
from taughtby.data.readers.stream import CHUNK, Rows, file_type, numbered_lines, text_chunks
from taughtby.errors import DataError

HOLDERS = {"data", "rows", "train", "examples", "instances", "items", "records", "samples"}  # keys of a list of rows
_FIX = "fix it, or rename the file to .jsonl if each line is a row"
# a message or a list of messages, as JSON or as Python prints it, which is how pandas writes it
_MESSAGES = re.compile(r"""\s*\[?\s*\{(?=.*["'](?:role|from)["']\s*:).*\}\s*\]?\s*\Z""", re.DOTALL)
_BLANK = re.compile(r"[ \t\n\r]*")
_decode = json.JSONDecoder().raw_decode


def jsonl(path: Path) -> Rows:
    """Read one object per line; blank lines are skipped, but counted."""
    for source, line in numbered_lines(path):
        if line.strip():
            yield source, _object(_parse(line, source, "fix or remove that line"), source)


def _parse(text: str, source: str, do: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as fault:
        raise DataError(f"{source}: invalid JSON", got=f"{fault} in {shorten(text.strip())}", do=do) from None


def _object(row: Any, source: str) -> Record:
    if isinstance(row, dict):
        return row
    do = 'write {"messages": […]}'
    if isinstance(row, list) and source.endswith(":1"):
        do += ", or rename the file to .json if it is one list"
    raise DataError(f"{source}: a row must be a JSON object", got=shorten(row), do=do)


def json_file(path: Path) -> Rows:
    """Read a list of rows, an object that contains one, or JSON Lines, which are often named .json."""
    opening = next((part.lstrip()[0] for part in text_chunks(path) if part.strip()), "[")
    if opening == "[":
        rows = _elements(path)
    else:
        filled = (line for _, line in numbered_lines(path) if line.strip())
        if _is_object(next(filled)) and next(filled, None):
            yield from jsonl(path)
            return
        rows = listed_rows(path)[1]
    for number, row in enumerate(rows):
        yield f"{path}:{number}", _object(row, f"{path}, row {number}")


def listed_rows(path: Path) -> tuple[Any, list[Any]]:
    """Parse a JSON file that is not JSON Lines; return its value, and the list of rows in it."""
    whole = _parse("".join(text_chunks(path)), str(path), _FIX)
    return whole, whole if isinstance(whole, list) else _rows_in_object(path, whole)


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _rows_in_object(path: Path, whole: Any) -> list[Any]:
    """Return the list of rows in an object, under one of the usual keys; an object without them is itself a row."""
    fields: dict[str, Any] = whole if isinstance(whole, dict) else {}
    lists = [name for name, rows in fields.items() if isinstance(rows, list) and any(isinstance(r, dict) for r in rows)]
    if len(lists) == 1 and lists[0] in HOLDERS:
        return fields[lists[0]]
    if fields and not HOLDERS & set(fields):
        return [whole]
    got = shorten(whole) if len(lists) < 2 else f"several lists: {', '.join(lists)}"
    do = 'write [ {…}, {…} ] or {"data": [ {…}, {…} ]}, or use .jsonl'
    raise DataError(f"{path}: the file is not a list of rows", got=got, do=do)


def _elements(path: Path) -> Iterator[Any]:
    """Yield the elements of a JSON list, without ever holding the whole list in memory.

    Uses Python's own decoder: ijson replaces lone surrogates by question marks, and rejects NaN.
    """
    more = text_chunks(path)
    text = next((part for part in more if part.strip()), "[]")
    position, line, finished = text.index("[") + 1, 1, False
    if text.startswith("]", _skip_blanks(text, position)):
        position, finished = _skip_blanks(text, position) + 1, True
    while not finished:
        try:
            element, position, finished = _element(text, position)
        except (ValueError, RecursionError) as fault:
            place = getattr(fault, "pos", position)
            # a row that the chunk cuts fails near the end of the chunk, or at the start of an unterminated string
            cut = place > len(text) - 16 or "Unterminated" in str(fault)
            if cut and (added := "".join(islice(more, 1 + (len(text) - position) // CHUNK))):
                line += text.count("\n", 0, position)
                text, position = text[position:] + added, 0
                continue
            raise _broken(path, line, text, place, str(fault).partition(": line")[0]) from None
        yield element
    position = _skip_blanks(text, position)
    if text[position:] or "".join(more).strip():
        raise _broken(path, line, text, position, "there is more after the list")


def _element(text: str, position: int) -> tuple[Any, int, bool]:
    """Return an element, the position after the comma or bracket that follows it, and whether it was the last."""
    element, stop = _decode(text, _skip_blanks(text, position))
    stop = _skip_blanks(text, stop)
    if text[stop : stop + 1] not in {",", "]"}:
        raise json.JSONDecodeError("Expecting ',' or ']' after a row", text, stop)
    return element, stop + 1, text[stop] == "]"


def _skip_blanks(text: str, position: int) -> int:
    match = _BLANK.match(text, position)
    return match.end() if match else position


def _broken(path: Path, line: int, text: str, place: int, fault: str) -> DataError:
    line += text.count("\n", 0, place)
    return DataError(f"{path}:{line}: invalid JSON", got=f"{fault} in {shorten(text[place : place + 81])}", do=_FIX)


def csv_delimiter(path: Path) -> str:
    """Return the delimiter of a CSV or TSV file."""
    return "\t" if file_type(path) == ".tsv" else ","


def csv_rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield pairs (source, cells) of a CSV or TSV file, header first, blank lines skipped.

    Cells may contain line breaks.
    """
    csv.field_size_limit(2**31 - 1)
    # StringIO with newline="" also splits at a lone carriage return, and leaves line endings to the CSV reader
    broken = (part for _, line in numbered_lines(path) for part in io.StringIO(line, newline=""))
    rows = csv.reader(broken, delimiter=csv_delimiter(path), strict=True)
    start = 1  # the line on which a row begins
    try:
        for row in rows:
            if row:
                yield f"{path}:{start}", row
            start = rows.line_num + 1
    except csv.Error as fault:
        do = "save the file as UTF-8 CSV with a header line, and double the quotes within a quoted cell"
        raise DataError(f"{path}:{start}: not a CSV row", got=str(fault), do=do) from None


def table(path: Path) -> Rows:
    """Read the rows of a CSV or TSV file as records."""
    header: list[str] = []
    for source, row in csv_rows(path):
        if header:
            yield source, _row(header, row, source)
        else:
            header = _header(row, source)


def _header(row: list[str], source: str) -> list[str]:
    if twice := sorted({name for name in row if name and row.count(name) > 1}):
        do = "give each column a unique name"
        raise DataError(f"{source}: the header names a column twice", got=", ".join(twice), do=do)
    if len(row) == 1 and set(row[0]) & set(",;\t"):  # such as the CSV that spreadsheets write in half of Europe
        do = "separate the cells by commas, or by tabs in a file named .tsv"
        raise DataError(f"{source}: the header has one cell with several names", got=shorten(row[0]), do=do)
    return row


def _row(header: list[str], row: list[str], source: str) -> Record:
    if any(row[len(header) :]):
        got = f"{len(row)} cells, {len(header)} columns; the last cell: {shorten(row[-1])}"
        raise DataError(f"{source}: the row is longer than the header", got=got,
                        do="quote a text that contains commas, or add the column to the header")  # fmt: skip
    return {name: _cell(text) for name, text in zip_longest(header, row[: len(header)])}


def _cell(text: str | None) -> str | None:
    """Return a cell, as `UntypedText` if it may be a list of messages, since CSV has no types."""
    return UntypedText(text) if text and _MESSAGES.match(text) else text
