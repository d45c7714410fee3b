"""Rows named by a source such as `data.jsonl:12`, or by the end of one."""

from __future__ import annotations

import re
from collections.abc import Sequence

from taughtby.data.dataset import ReadOptions, read_examples
from taughtby.data.example import Example
from taughtby.errors import DataError


def matches_source(spec: str, source: str) -> bool:
    """Whether `spec` is the source or its last path components."""
    return source == spec or source.endswith(f"/{spec}")


def record_source(row: Example) -> str:
    """The source of the record that contains a row; a record may have several turns."""
    return re.sub(r"(?<=:)(\d+)#\d+\Z", r"\1", row.source)


def resolve_sources(specs: Sequence[str], data: str, read_options: ReadOptions) -> dict[str, str]:
    """The source in `data` that each of these is, or is the end of; those of no row are left out.

    The end of several sources, as of shards with one name in several folders, is refused.
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
    """The error for a source that names more than one row."""
    do = "write more of the path before it, or give ids"
    return DataError(f"{spec} names several rows", got=", ".join(rows[:3]), do=do)
