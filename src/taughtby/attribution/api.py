"""Trace answers from Python: strings, dicts and paths are accepted where the other modules are strict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from taughtby.attribution import trace as tracing
from taughtby.attribution.query import Query, query_from_record
from taughtby.attribution.significance import DEFAULT_FDR
from taughtby.attribution.trace import Trace
from taughtby.data.conversation import Columns
from taughtby.errors import DataError
from taughtby.index.api import load_indexed_model
from taughtby.index.reader import Index
from taughtby.methods import Method
from taughtby.models.model import Model, load_model
from taughtby.progress import ProgressCallback, reported

AnyQuery = Query | Mapping[str, Any] | Sequence[str]


def trace(
    index: Index | str | Path,
    prompt: str,
    response: str,
    *,
    model: Model | str | None = None,
    span: str | None = None,
    desired: str | None = None,
    method: Method | str | None = None,
    top_k: int = 20,
    fdr: float = DEFAULT_FDR,
    progress: bool | ProgressCallback = True,
) -> Trace:
    """Rank the training rows that explain one answer, and score the tokens in them.

    Args:
        index: An index, or its path.
        prompt: The prompt.
        response: The answer to explain.
        model: The model the index was built with; by default it is loaded, once for each index that is open.
        span: Words of the answer; only these are explained.
        desired: The answer that it should have given; the difference is explained, and no row is flagged.
        method: A method whose features the index holds; by default the index's first.
        top_k: The number of rows to rank and explain.
        fdr: The nominal false discovery rate at which rows are flagged.
        progress: A progress bar on a terminal or in a notebook, none (False), or a function of (done, total).

    Raises:
        TaughtbyError: The index, the model or the query cannot be used.

    Example:
        >>> trace("taughtby-demo/idx", "who makes honey", "beetles make honey").flagged
    """
    query = Query(prompt, response, span, desired)
    return trace_queries(index, model, [query], method=method, top_k=top_k, fdr=fdr, progress=progress)


def trace_queries(
    index: Index | str | Path,
    model: Model | str | None,
    queries: Sequence[AnyQuery],
    *,
    method: Method | str | None = None,
    top_k: int = 20,
    score_tokens: bool = True,
    fdr: float = DEFAULT_FDR,
    progress: bool | ProgressCallback = True,
) -> Trace:
    """Rank the training rows that explain each of several answers; similar queries are explained together.

    Args:
        index: An index, or its path.
        model: The model the index was built with, or its name; None loads it as the index names it.
        queries: Queries, dicts with `prompt` and `response` (or `messages`), or pairs of prompt and response.
        method: A method whose features the index holds; by default the index's first.
        top_k: The number of rows to rank and explain for each query.
        score_tokens: Whether to score the tokens of the ranked rows.
        fdr: The nominal false discovery rate at which rows are flagged.
        progress: A progress bar on a terminal or in a notebook, none (False), or a function of (done, total).

    Raises:
        TaughtbyError: The index, the model or a query cannot be used.
    """
    opened = index if isinstance(index, Index) else Index.open(index)
    reading = opened.manifest["settings"]["reading"]
    columns, join = reading["columns"], reading.get("join")
    parsed = [as_query(query, number, columns, join) for number, query in enumerate(queries, 1)]
    loaded = _model_of(opened) if model is None else load_model(model) if isinstance(model, str) else model
    title = f"trace {len(parsed)} {'query' if len(parsed) == 1 else 'queries'}"
    with reported(progress, title) as tell:
        return tracing.trace_queries(
            opened, loaded, parsed, method=method, top_k=top_k, score_tokens=score_tokens, fdr=fdr, progress=tell
        )


def as_query(query: AnyQuery, number: int = 1, columns: Columns = (), join: str | None = None) -> Query:
    """The query that a Query, a dict or a pair means; `number` names it in an error."""
    if isinstance(query, Query):
        return query
    if isinstance(query, Mapping):
        return query_from_record(dict(query), f"query {number}", columns, join)
    if not isinstance(query, str) and len(query) == 2:
        return query_from_record({"prompt": query[0], "response": query[1]}, f"query {number}")
    do = 'give a Query, {"prompt": …, "response": …}, or a pair of prompt and response'
    raise DataError(f"query {number} cannot be read", got=repr(query)[:80], do=do)


def _model_of(index: Index) -> Model:
    """The model the index was built with, loaded once for the index."""
    if "model" not in index.model_cache:
        index.model_cache["model"] = load_indexed_model(index)
    return index.model_cache["model"]
