"""A reviewer's verdicts on training rows: whether each is the cause, with a note. They are stored next to the index."""

from __future__ import annotations

import csv
import io
import json
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import FileLock

from taughtby.data.example import shorten
from taughtby.errors import DataError
from taughtby.index.storage import StoragePath, storage_errors, storage_path
from taughtby.reporting.files import save_json, to_json_text

Verdict = Literal["cause", "not the cause", "unsure"]
VERDICTS: tuple[str, ...] = get_args(Verdict)
COLUMNS: tuple[str, ...] = ("id", "source", "label", "verdict", "note")


@dataclass(frozen=True)
class RowVerdict:
    """The verdict on one row.

    Attributes:
        id: The row's id.
        source: Where the row was read from.
        label: The row's label.
        verdict: One of `VERDICTS`; None if there is only a note.
        note: Free text.
    """

    id: str
    source: str
    label: str | None
    verdict: str | None
    note: str = ""


class RowVerdicts:
    """The verdicts on the rows of one index, in the file `INDEX.verdicts.json`.

    Every change reads the file again and rewrites it atomically, under a lock: a killed process loses no verdict, and
    two servers of one index keep each other's (on a local disk).

    Args:
        index: The path of the index.

    Raises:
        DataError: The file has other content.
    """

    def __init__(self, index: str | StoragePath) -> None:
        self.path = storage_path(f"{index}.verdicts.json")
        self._lock = FileLock(f"{self.path}.lock") if isinstance(self.path, Path) else threading.Lock()
        _read(self.path)

    def to_json(self) -> list[dict[str, Any]]:
        """Return the verdicts in the order in which they were given."""
        return [asdict(verdict) for verdict in _read(self.path)]

    def to_csv(self) -> str:
        """Return the verdicts as CSV; no cell is read as a formula by a spreadsheet."""
        out = io.StringIO()
        writer = csv.DictWriter(out, COLUMNS, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in self.to_json())
        return out.getvalue()

    def set(self, verdict: RowVerdict) -> None:
        """Record a verdict and save; a record with neither verdict nor note is removed.

        Raises:
            TaughtbyError: The file cannot be written; the verdict is then not recorded.
        """
        with storage_errors(self.path), self._lock:
            verdicts = {other.id: other for other in _read(self.path) if other.id != verdict.id}
            if verdict.verdict or verdict.note:
                verdicts[verdict.id] = verdict
            document = {"version": 1, "verdicts": [asdict(each) for each in verdicts.values()]}
            if isinstance(self.path, Path):
                save_json(document, self.path)
            else:
                self.path.write_text(to_json_text(document))


def read_causes(text: str) -> list[str] | None:
    """Return the ids of the rows with the verdict `cause` in an export.

    Args:
        text: The content of the file.

    Returns:
        The ids; None if the text is not an export of verdicts, in CSV or JSON.

    Raises:
        DataError: No row has the verdict `cause`.
    """
    if text.lstrip()[:1] in ("[", "{"):
        try:
            document = json.loads(text)
        except ValueError:
            return None
        records: Iterable[Any] = document.get("verdicts", []) if isinstance(document, dict) else document
    elif set(next(csv.reader([text.partition("\n")[0]]), [])) >= {"id", "verdict"}:
        records = csv.DictReader(io.StringIO(text, newline=""))
    else:
        return None
    rows = [record for record in records if isinstance(record, dict) and "verdict" in record]
    causes = [str(row.get("id")) for row in rows if row["verdict"] == "cause"]
    if not causes:
        others = ", ".join(sorted({shorten(row["verdict"]) or "nothing" for row in rows})[:5]) or "no rows"
        raise DataError("no row has the verdict “cause”", got=others, do="give that verdict to the rows to remove")
    return causes


def _read(path: StoragePath) -> list[RowVerdict]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return [RowVerdict(**{name: record.get(name) for name in COLUMNS}) for record in document["verdicts"]]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise DataError(f"{path} is not a verdicts file", got=shorten(str(error)), do="move or repair it") from None


def _cell(value: str | None) -> str:
    """Put an apostrophe before a cell that starts like a formula, so that spreadsheets read it as text."""
    text = (value or "").encode("utf-8", "backslashreplace").decode()
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
