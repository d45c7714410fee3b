"""Incidents in a trace's document: answers that share flagged rows, with the words that name them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taughtby.reporting.text import finite_or_none, is_flagged, shared_words

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Incident:
    """Queries that share flagged rows.

    Attributes:
        queries: Numbers of the queries, from 1.
        flagged_ids: Ids of the rows flagged for any of them.
        words: The top-scoring words that its flagged rows have in common; empty if there are none.
    """

    queries: tuple[int, ...]
    flagged_ids: tuple[str, ...]
    words: str


def find_incidents(queries: Sequence[Document]) -> list[Incident]:
    """Group the queries that have flagged rows: two queries that share one belong to the same incident.

    Args:
        queries: The queries of a trace's document.

    Returns:
        The incidents, the one with the most queries first. A query without flagged rows belongs to none.
    """
    groups: list[tuple[list[int], dict[str, None]]] = []
    for number, query in enumerate(queries, 1):
        flagged = _flagged_ids(query)
        if not flagged:
            continue
        related = [group for group in groups if flagged.keys() & group[1].keys()]
        numbers = sorted([number, *(other for numbers, _ in related for other in numbers)])
        rows = {id: None for ids in [*(ids for _, ids in related), flagged] for id in ids}
        groups = [group for group in groups if group not in related] + [(numbers, rows)]
    groups.sort(key=lambda group: (-len(group[0]), group[0]))
    return [Incident(tuple(numbers), tuple(rows), _words(queries, numbers)) for numbers, rows in groups]


def incident_rows(queries: Sequence[Document], incident: Incident) -> list[dict[str, Any]]:
    """Return the ranked rows of an incident's queries, each once, with new ranks.

    A row is as in the query where it ranks best, and `num_queries` is the number of the incident's queries for which
    it is flagged. There are as many rows as one query has at most.
    """
    members = [queries[number - 1] for number in incident.queries]
    ranked = [(rank, row) for query in members for rank, row in enumerate(query.get("rows") or [], 1)]
    best: dict[str, Document] = {}
    for _, row in sorted(ranked, key=lambda pair: (pair[0], -(finite_or_none(pair[1].get("score")) or 0.0))):
        best.setdefault(str(row.get("id") or row.get("source")), row)
    flagged = [_flagged_ids(query) for query in members]
    limit = max((len(query.get("rows") or []) for query in members), default=0)
    return [
        {**row, "rank": rank, "num_queries": sum(id in ids for ids in flagged), "flagged": id in incident.flagged_ids}
        for rank, (id, row) in enumerate(list(best.items())[:limit], 1)
    ]


def _flagged_ids(query: Document) -> dict[str, None]:
    """The ids of all flagged rows, with text or without, as in view.js of the page."""
    shown = (row.get("id") or row.get("source") for row in query.get("rows") or [] if is_flagged(row))
    return dict.fromkeys(str(id) for id in [*(query.get("flagged_ids") or ()), *shown] if id)


def _words(queries: Sequence[Document], numbers: Sequence[int]) -> str:
    rows = {
        row.get("id"): row for number in numbers for row in queries[number - 1].get("rows") or [] if is_flagged(row)
    }
    return shared_words(rows.values())
