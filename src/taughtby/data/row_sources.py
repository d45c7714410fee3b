"""Finds rows by their source, such as `data.jsonl:12`, or by the end of it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from taughtby.data.dataset import ReadOptions, read_examples
from taughtby.data.example import Example
from taughtby.errors import DataError


def matches_source(spec: str, source: str) -> bool:
    """Whether `spec` is the source or the last components of its path."""
    return source == spec or source.endswith(f"/{spec}")


def record_source(row: Example) -> str:
    """Return the source of a row's record, without the turn number."""
    return re.sub(r"(?<=:)(\d+)#\d+\Z", r"\1", row.source)


def resolve_sources(specs: Sequence[str], data: str, read_options: ReadOptions) -> dict[str, str]:
    """Map each spec to the source in `data` that it equals or ends; specs that match no row are left out.

    Raises:
        DataError: A spec matches several sources, such as shards with one name in several folders.
    """
    fits: dict[str, dict[str, None]] = {spec: {} for spec in specs}
    for row in read_examples(data, read_options) if specs else ():
        for source in (row.source, record_source(row)):
            for spec, matches in fits.items():
                if matches_source(spec, source):
                    matches[source] = None
    for spec, matches in fits.items():
        if len(matches) > 1 and spec not in matches:
            raise ambiguous_source(spec, list(matches))
    return {spec: spec if spec in matches else next(iter(matches)) for spec, matches in fits.items() if matches}


def ambiguous_source(spec: str, rows: Sequence[str]) -> DataError:
    """Return the error for a source that matches more than one row."""
    do = "give a longer part of the path, or use row ids"
    return DataError(f"{spec} matches several rows", got=", ".join(rows[:3]), do=do)
