"""The document that the page draws: a trace with token links and a map of the training set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from taughtby.attribution.embedding_map import PCAMap
from taughtby.attribution.result import Trace
from taughtby.attribution.token_links import token_links
from taughtby.models.model import Model

MAPPED = 500  # flagged rows of a query that the map marks


def page_document(
    trace: Trace, model: Model, pca_map: PCAMap | None, progress: Callable[[int, int], Any] | None = None
) -> dict[str, Any]:
    """Return the document of `trace.to_json()` with a `map`, and with `links` and the map point `at` of each row.

    Args:
        trace: The trace.
        model: The model, which reads the ranked rows again.
        pca_map: The map of the index; None for an index without vectors.
        progress: Called with (done, total) rows.
    """
    document = trace.to_json()
    links = token_links(trace, model, progress)
    for q, (query, result) in enumerate(zip(document["queries"], trace.queries, strict=True)):
        positions = [row.position for row in result.rows]
        points = pca_map.project(trace.index, positions) if pca_map else [None] * len(positions)
        for row, position, point in zip(query["rows"], positions, points, strict=True):
            row |= {"position": position, "links": links.get((q, position), []), "at": point}
        query["lit"] = pca_map.project(trace.index, list(result.flagged or ())[:MAPPED]) if pca_map else []
    return document | {"map": pca_map and pca_map.to_json(trace.index)}
