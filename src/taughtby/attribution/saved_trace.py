"""Queries of a saved trace read back from its document, and the links between tokens that a saved trace lacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from taughtby.attribution.method_choice import choose_method
from taughtby.attribution.query import FIELDS, Query
from taughtby.attribution.result import QueryResult, RankedRow, TokenScore, Trace, TraceOrigin
from taughtby.attribution.token_links import Link, token_links
from taughtby.index.reader import Index, IndexedRow
from taughtby.models.model import Model
from taughtby.reporting.text import format_method


def saved_query(traced: Mapping[str, Any]) -> Query:
    """Return a query from its entry in a trace's document."""
    before, after, tools = (tuple(traced.get(name, ())) for name in ("before", "after", "tools"))
    fields: dict[str, Any] = {name: tuple(traced.get(name, {}).items()) for name in FIELDS}
    span = traced.get("span_range")
    return Query(traced["prompt"], traced["response"], None, traced.get("desired"), before, after, tools,
                 span and (span[0], span[1]), **fields)  # fmt: skip


def saved_links(
    index: Index, model: Model, document: Mapping[str, Any], progress: Callable[[int, int], Any] | None = None
) -> list[list[list[Link]]]:
    """Score the tokens of a saved trace's ranked rows for each token of the answers.

    All queries are read together, since the weights of their tokens depend on each other.

    Args:
        index: The traced index.
        model: Its model.
        document: The trace's document.
        progress: Called with (done, total) rows.

    Returns:
        For each query, the links of each ranked row, as `token_links` returns them; none for a row that the index no
        longer has, and for a method that does not score tokens.

    Raises:
        StoreError: The index does not hold the features of the trace's method.
    """
    method = choose_method(index, model, format_method(document))
    positions = _positions(index, {row["id"] for query in document["queries"] for row in query["rows"]})
    stored = {row.example.id: row for row in index.take(list(positions.values()))}
    results = tuple(_saved_result(query, stored) for query in document["queries"])
    origin = TraceOrigin(str(index.path), model.name, model.adapter, len(index), None)
    links = token_links(Trace(method, index, results, origin), model, progress)
    return [[links.get((q, positions.get(row["id"], -1)), []) for row in query["rows"]]
            for q, query in enumerate(document["queries"])]  # fmt: skip


def _saved_result(query: Mapping[str, Any], stored: Mapping[str, IndexedRow]) -> QueryResult:
    """A query's result with what links depend on: its answer, and the rows that the index has."""
    rows = tuple(RankedRow(row["rank"], 0.0, stored[row["id"]].example, stored[row["id"]].position, {},
                           _tokens(row.get("tokens"), "score"))
                 for row in query["rows"] if row["id"] in stored)  # fmt: skip
    return QueryResult(saved_query(query), _tokens(query["answer"], "weight"), rows, torch.empty(0))


def _positions(index: Index, ids: set[str]) -> dict[str, int]:
    """The position in the index of each row that it has, by id; of identical rows the first."""
    column = index.dataset.to_table(columns=["id"]).column("id").to_pylist()
    return {id: position for position, id in reversed([*enumerate(column)]) if id in ids}


def _tokens(tokens: list[dict[str, Any]] | None, name: str) -> tuple[TokenScore, ...]:
    return tuple(TokenScore(token["text"], token[name] or 0.0) for token in tokens or ())
