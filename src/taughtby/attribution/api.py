"""Trace answers from Python: strings, dicts and paths are accepted where the other modules are strict."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from taughtby.attribution import trace as tracing
from taughtby.attribution.query import Query, query_from_record, read_queries
from taughtby.attribution.significance import DEFAULT_FDR, MAX_FDR, MIN_FDR
from taughtby.attribution.token_links import token_links
from taughtby.attribution.trace import Trace
from taughtby.data.conversation import Columns
from taughtby.errors import DataError, OptionError
from taughtby.index.api import as_model, load_indexed_model
from taughtby.index.build import check_same_model
from taughtby.index.reader import Index
from taughtby.methods import Method
from taughtby.models.model import Model
from taughtby.progress import ProgressCallback, reported

AnyQuery = Query | Mapping[str, Any] | Sequence[str]
AnyQueries = AnyQuery | Iterable[AnyQuery] | str | Path
QUERY = 'give a Query, {"prompt": …, "response": …}, or a pair of prompt and response'


def trace(
    index: Index | str | Path,
    prompt: str,
    response: str,
    *,
    model: Model | str | Path | None = None,
    span: str | None = None,
    desired: str | None = None,
    method: Method | str | None = None,
    top_k: int = 20,
    fdr: float = DEFAULT_FDR,
    links: bool = False,
    progress: bool | ProgressCallback = True,
) -> Trace:
    """Rank the training rows that explain one answer, and score the tokens in them.

    Args:
        index: An index, or its path.
        prompt: The prompt.
        response: The answer to explain.
        model: The model the index was built with; by default it is loaded, once per open index.
        span: Words of the answer; only these are explained.
        desired: The answer that it should have given; the difference is explained, and no row is flagged.
        method: A method whose features the index holds; by default the index's first.
        top_k: The number of rows to rank and explain.
        fdr: The nominal false discovery rate at which rows are flagged.
        links: Whether to link the tokens of the ranked rows with those of the answers, so that the notebook and the
            page can mark what matches a word. Takes as long as scoring the tokens.
        progress: True for a progress bar on a terminal or in a notebook, False for none, or a function that is called
            with (done, total).

    Raises:
        TaughtbyError: The index, the model or the query cannot be used.

    Example:
        >>> trace("taughtby-demo/idx", "Who makes honey?", "Honey is made by beetles.").flagged
    """
    query = Query(prompt, response, span, desired)
    return trace_queries(index, model, [query], method=method, top_k=top_k, fdr=fdr, links=links, progress=progress)


def trace_queries(
    index: Index | str | Path,
    model: Model | str | Path | None,
    queries: AnyQueries,
    *,
    method: Method | str | None = None,
    top_k: int = 20,
    score_tokens: bool = True,
    fdr: float = DEFAULT_FDR,
    links: bool = False,
    progress: bool | ProgressCallback = True,
) -> Trace:
    """Rank the training rows that explain each of several answers; similar queries are explained together.

    Args:
        index: An index, or its path.
        model: The model the index was built with, or its name; None loads the one that the index names.
        queries: Queries, dicts with `prompt` and `response` (or `messages`), or pairs of prompt and response; one of
            these alone; or the name of a file of them.
        method: A method whose features the index holds; by default the index's first.
        top_k: The number of rows to rank and explain for each query.
        score_tokens: Whether to score the tokens of the ranked rows.
        fdr: The nominal false discovery rate at which rows are flagged.
        links: Whether to link the tokens of the ranked rows with those of the answers, so that the notebook and the
            page can mark what matches a word. Takes as long as scoring the tokens.
        progress: True for a progress bar on a terminal or in a notebook, False for none, or a function that is called
            with (done, total).

    Raises:
        TaughtbyError: The index, the model or a query cannot be used, or the index was built with another model.
    """
    _check_options(index, top_k, fdr)
    opened = index if isinstance(index, Index) else Index.open(index)
    reading = opened.manifest["settings"]["reading"]
    parsed = as_queries(queries, reading["columns"], reading.get("join"))
    loaded = _model_of(opened) if model is None else as_model(model)
    check_same_model(opened, loaded)
    title = f"trace {len(parsed)} {'query' if len(parsed) == 1 else 'queries'}"
    with reported(progress, title) as callback:
        trace = tracing.trace_queries(
            opened,
            loaded,
            parsed,
            method=method,
            top_k=int(top_k),
            score_tokens=score_tokens,
            fdr=float(fdr),
            progress=callback,
        )
        return replace(trace, links=token_links(trace, loaded, callback)) if links else trace


def _check_options(index: object, top_k: object, fdr: object) -> None:
    """Check the type of the index and the ranges of the numbers, which are those of the command line."""
    if not isinstance(index, Index | str | os.PathLike):
        do = "give the index first, then the model"
        raise OptionError("the first argument is not an index", got=type(index).__name__, do=do)
    if isinstance(top_k, bool) or not isinstance(top_k, Integral) or int(top_k) < 1:
        raise OptionError("top_k is not a number of rows", got=repr(top_k), do="give 1 or more")
    if not isinstance(fdr, Real) or not MIN_FDR <= float(fdr) <= MAX_FDR:
        raise OptionError("fdr is not a false discovery rate", got=repr(fdr), do=f"give {MIN_FDR} to {MAX_FDR}")


def as_queries(queries: AnyQueries, columns: Columns = (), join: str | None = None) -> list[Query]:
    """Return a list of queries from a list, a single query, or the name of a file."""
    if isinstance(queries, str | Path):
        return read_queries(queries, columns, join)
    if not isinstance(queries, Iterable | Query):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DataError("the queries are neither a list nor a file", got=repr(queries)[:80], do=QUERY)
    items: Any = [queries] if isinstance(queries, Query | Mapping) else list(queries)
    if len(items) == 2 and isinstance(items[0], str):
        items = [items]
    if not (parsed := [as_query(query, number, columns, join) for number, query in enumerate(items, 1)]):
        raise DataError("there are no queries", do="give at least one prompt and response")
    return parsed


def as_query(query: Any, number: int = 1, columns: Columns = (), join: str | None = None) -> Query:
    """Convert a dict or a pair to a Query; `number` identifies it in errors."""
    if isinstance(query, Query):
        return query
    if isinstance(query, Mapping):
        return query_from_record(dict(query), f"query {number}", columns, join)
    if isinstance(query, Sequence) and not isinstance(query, str) and len(query) == 2:
        return query_from_record({"prompt": query[0], "response": query[1]}, f"query {number}")
    raise DataError(f"query {number} cannot be read", got=repr(query)[:80], do=QUERY)


def _model_of(index: Index) -> Model:
    """The model the index was built with, loaded once for the index."""
    if "model" not in index.model_cache:
        index.model_cache["model"] = load_indexed_model(index)
    return index.model_cache["model"]
