"""The training data of an index without some rows, as `taughtby clean` writes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from taughtby.data.readers.stream import COMPRESSED
from taughtby.errors import DataError
from taughtby.index.reader import Index
from taughtby.index.storage import storage_path
from taughtby.remediation.clean import CleaningPlan, manifest_path, plan_cleaning, write_cleaned
from taughtby.remediation.selection import select_rows
from taughtby.remediation.trace_file import read_options_of
from taughtby.server.jobs import ReportProgress

USE_COMMAND = "download the list, and give it to taughtby clean --rows"


def plan(
    index: Index,
    data: Path | None,
    ids: Sequence[str],
    document: dict[str, Any] | None = None,
    progress: Callable[[int], object] | None = None,
) -> CleaningPlan:
    """Find the rows in the data.

    Raises:
        DataError: The data is not one existing file, or a row is not in it.
    """
    data = require_data(index, data)
    trace = _trace(index, document)
    removals = select_rows(trace, rows=ids)
    return plan_cleaning(trace, str(data), removals, read_options=read_options_of(trace), progress=progress)


def require_data(index: Index, data: Path | None) -> Path:
    """Return the file of the data, which exists."""
    if data is None:
        raise DataError("the training data is not a single local file", got=", ".join(index.data), do=USE_COMMAND)
    return data


def clean_beside(
    index: Index, data: Path | None, ids: Sequence[str], document: dict[str, Any] | None, report: ReportProgress
) -> dict[str, Any]:
    """Write the data without the rows, and the manifest, beside the index; an earlier result is replaced.

    Returns:
        The paths of `data` and `manifest`, the number of `records` in the data, and how many were `removed`.

    Raises:
        DataError: The data is not one existing file, a row is not in it, or the index is not on this machine.
    """
    total = len(index)
    report("reading the data", 0, total)
    planned = plan(index, data, ids, document, lambda done: report("reading the data", min(done, total), total))
    out = cleaned_path(index, Path(planned.data))
    report("writing the cleaned data", 0, None)
    written = write_cleaned(planned, _trace(index, document), out)["output"]
    removed = planned.num_records - planned.num_remaining
    return {"data": str(out), "manifest": str(manifest_path(out)), "records": written["records"], "removed": removed}


def cleaned_path(index: Index, data: Path) -> Path:
    """Return `INDEX.cleaned.jsonl` beside the index, with the suffix of the data: no request decides a path."""
    suffix = Path(data.stem).suffix + data.suffix if data.suffix.lower() in COMPRESSED else data.suffix
    return beside(index, f"cleaned{suffix}")


def beside(index: Index, name: str) -> Path:
    """Return `INDEX.name` beside the index.

    Raises:
        DataError: The index is not on this machine.
    """
    path = storage_path(str(index.path))
    if not isinstance(path, Path):
        raise DataError("the index is not on this machine", got=str(index.path), do=USE_COMMAND)
    return path.with_name(f"{path.name}.{name}")


def _trace(index: Index, document: dict[str, Any] | None) -> dict[str, Any]:
    return {"version": 2, "queries": [], **(document or {}), "index": str(index.path)}
