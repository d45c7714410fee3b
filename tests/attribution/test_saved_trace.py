"""Saved traces: queries are read back, and token links are computed for files without them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from taughtby.attribution.illustrate import page_document
from taughtby.attribution.query import Query
from taughtby.attribution.saved_trace import saved_links, saved_query
from taughtby.attribution.trace import trace_queries
from taughtby.data.tokenize import Encoding
from taughtby.index.build import build_index
from taughtby.index.reader import Index
from taughtby.methods import get_method

QUERIES = [
    Query("who makes honey", "beetles make honey", span_range=(0, 7)),
    Query("why", "a b c", desired="seven", before=({"role": "system", "content": "what"},),
          response_fields=(("reasoning", "b"),)),
]  # fmt: skip


@pytest.fixture
def index(tuned: Any, data: Path, tmp_path: Path) -> Index:
    methods = [get_method(spec) for spec in ("lesson:layer=2,state_layer=1,sketch_dim=16", "bm25")]
    return build_index(tuned, data, tmp_path / "idx", methods, encoding=Encoding(128))


def test_saved_queries_are_the_traced_ones(index: Index, tuned: Any) -> None:
    document = json.loads(json.dumps(trace_queries(index, tuned, QUERIES).to_json()))
    assert [saved_query(query) for query in document["queries"]] == QUERIES


ALIKE = [Query("who makes honey", "beetles make honey"), Query("who makes wax", "the beetles make it")]


@pytest.mark.parametrize("method", [None, "lesson:pool_queries=false"])
@pytest.mark.parametrize("queries", [QUERIES, ALIKE], ids=["unlike", "alike"])
def test_links_of_a_saved_trace_are_those_of_a_new_one(
    index: Index, tuned: Any, queries: list[Query], method: str | None
) -> None:
    trace = trace_queries(index, tuned, queries, method=method)
    saved, page = json.loads(json.dumps(trace.to_json())), page_document(trace, tuned, None)
    steps: list[tuple[int, int]] = []
    links = saved_links(index, tuned, saved, lambda *step: steps.append(step))
    assert links == [[row["links"] for row in query["rows"]] for query in page["queries"]]
    assert all(map(any, links)) and steps[-1] == (8, 8)


def test_rows_that_the_index_lacks_and_methods_without_token_scores_have_no_links(index: Index, tuned: Any) -> None:
    saved = trace_queries(index, tuned, QUERIES[:1], top_k=2).to_json()
    saved["queries"][0]["rows"][0]["id"] = "0" * 16
    ((first, second),) = saved_links(index, tuned, saved)
    assert first == [] and second
    words = trace_queries(index, tuned, QUERIES[:1], method="bm25", top_k=2).to_json()
    assert saved_links(index, tuned, words) == [[[], []]]
