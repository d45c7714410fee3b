"""A trace's document with what only the page draws: links between words, and a map of the training set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from taughtby.attribution.embedding_map import PCAMap
from taughtby.attribution.token_links import links
from taughtby.attribution.trace import Trace
from taughtby.models.model import Model

LIT = 500  # culprits of a query that the map marks


def page_document(
    trace: Trace, model: Model, plane: PCAMap | None, progress: Callable[[int, int], Any] | None = None
) -> dict[str, Any]:
    """The document of `trace.to_json()`, each row with its `links` and the point `at` which it lies, and a `map`."""
    document = trace.to_json()
    found = links(trace, model, progress)
    for q, (query, traced) in enumerate(zip(document["queries"], trace.queries, strict=True)):
        places = [row.position for row in traced.rows]
        points = plane.at(trace.index, places) if plane else [None] * len(places)
        for row, place, point in zip(query["rows"], places, points, strict=True):
            row |= {"place": place, "links": found.get((q, place), []), "at": point}
        query["lit"] = plane.at(trace.index, list(traced.flagged or ())[:LIT]) if plane else []
    return document | {"map": plane and plane.to_json()}
