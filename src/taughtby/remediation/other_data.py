"""Finds the selected rows that an index has from other files than the one that is cleaned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath

from taughtby.errors import StoreError
from taughtby.index.reader import Index
from taughtby.models.paths import absolute_name
from taughtby.remediation.selection import Removal
from taughtby.remediation.trace_file import Document


def rows_of_other_data(trace: Document, data: str, rows: Sequence[Removal]) -> dict[str, list[Removal]]:
    """The rows that were indexed from other data than `data`, by its name; empty if the index is of one file."""
    if not rows:
        return {}
    try:
        index = Index.open(str(trace.get("index")))
    except StoreError:
        return {}
    others = [name for name in index.data if absolute_name(name) != absolute_name(data)]
    if len(others) == len(index.data):  # the file was moved, or it is not of this index
        return {}
    table = index.dataset.to_table(columns=["id", "source"]).to_pydict()
    sources = dict(zip(table["id"], table["source"], strict=True))
    result: dict[str, list[Removal]] = {}
    for row in rows:
        source = sources.get(row.id, row.source)
        name = next((name for name in others if _is_of(source, name)), None)
        if name and not _is_of(source, data):
            result.setdefault(name, []).append(row)
    return result


def _is_of(source: str, data: str) -> bool:
    """Whether a row's source, which may be relative, begins with the name of a file, folder or hub data set."""
    whole, path = absolute_name(data), PurePath(source.rpartition(":")[0])
    names = [str(part) for part in (path, *path.parents) if part.name]
    return any(whole in (name, str(Path(name).absolute())) or whole.endswith(f"/{name}") for name in names)
