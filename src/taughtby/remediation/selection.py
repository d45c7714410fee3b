"""Select the rows of a trace to remove, and the characters of their top-scoring words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from taughtby.data.example import CharRanges, Example, shorten
from taughtby.data.phrases import merge_ranges, top_scoring_words
from taughtby.data.row_sources import ambiguous_source, matches_source
from taughtby.errors import DataError, OptionError
from taughtby.remediation.trace_file import Document
from taughtby.reporting.text import scored_tokens

SAME_CONVERSATION = "same conversation"
_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Removal:
    """A row to remove, and why.

    A row that was listed explicitly but is not ranked for any query has only an `id` or a `source`.

    Attributes:
        id: The row's id.
        source: Where the row was read from, such as `data.jsonl:12`.
        rank: Its best rank over all queries, from 1.
        score: Its score for the query where it ranks best.
        p_value: Its p-value for that query.
        query: The number of that query, from 1.
        why: `flagged`, `among the top K`, `listed`, or `same conversation` for another answer of the same record.
        queries: The numbers of all queries that selected it.
    """

    id: str
    source: str
    rank: int | None = None
    score: float | None = None
    p_value: float | None = None
    query: int | None = None
    why: str = ""
    queries: tuple[int, ...] = ()


def select_rows(trace: Document, *, top_k: int | None = None, rows: Sequence[str] | None = None) -> list[Removal]:
    """Return the rows to remove, each once, ordered by their best rank.

    Args:
        trace: The trace's document.
        top_k: Select the top k rows of each query instead of the flagged rows.
        rows: Select exactly these rows: ids or sources (`file:line`), ranked or not.

    Raises:
        OptionError: If both `top_k` and `rows` are given, or the trace lists fewer than `top_k` rows.
        DataError: If the trace does not say which rows are flagged.
    """
    if top_k is not None and rows is not None:
        raise OptionError("rows are selected twice", got="--top-k and --rows", do="give one of them")
    if rows is not None:
        return _listed_rows(trace, rows)
    selected: dict[str, Removal] = {}
    for number, query in enumerate(trace["queries"], 1):
        for row in _flagged_rows(trace, query) if top_k is None else _top_rows(query, number, top_k):
            removal = _removal(row, number, "flagged" if top_k is None else f"among the top {top_k}")
            earlier = selected.get(removal.id)
            best = removal if earlier is None or (removal.rank or 0) < (earlier.rank or 0) else earlier
            selected[removal.id] = replace(best, queries=(*(earlier.queries if earlier else ()), number))
    return sorted(selected.values(), key=lambda removal: (removal.rank or 0, removal.query or 0))


def _removal(row: Document, query: int, why: str) -> Removal:
    return Removal(row["id"], row["source"], row["rank"], row["score"], row.get("p_value"), query, why, (query,))


def _flagged_rows(trace: Document, query: Document) -> list[Document]:
    if query.get("num_flagged") is None:
        do = "select rows with --top-k K or --rows FILE, or trace with a method that flags rows (lesson)"
        if query.get("no_evidence"):
            do = "select rows with --top-k K or --rows FILE, or trace again without the desired answer"
        raise DataError("this trace does not flag rows", got=shorten(trace.get("method")), do=do)
    listed = {row["id"]: row for row in query["rows"] if row.get("flagged") is True}
    # flagged_ids has all ids, best first; of rows beyond the listed ones, only the ids are known
    ids = dict.fromkeys([*(query.get("flagged_ids") or ()), *listed])
    rows = [listed.get(id) or {"id": id, "source": "", "rank": rank, "score": None} for rank, id in enumerate(ids, 1)]
    if len(rows) < query["num_flagged"]:
        got = f"{len(rows)} of {query['num_flagged']} flagged rows of a query"
        raise DataError("the trace does not list all rows that it flags", got=got, do="trace again")
    return rows


def _top_rows(query: Document, number: int, top_k: int) -> list[Document]:
    if top_k < 1:
        raise OptionError("no row is selected", got=f"top_k {top_k}", do="give 1 or more")
    if top_k > len(query["rows"]):
        got = f"--top-k {top_k}, the trace has {len(query['rows'])} rows of query {number}"
        raise OptionError("the trace lists fewer rows", got=got, do=f"trace again with --top-k {top_k}")
    return query["rows"][:top_k]


def _listed_rows(trace: Document, rows: Sequence[str]) -> list[Removal]:
    ranked = sorted(
        (_removal(row, number, "listed") for number, query in enumerate(trace["queries"], 1) for row in query["rows"]),
        key=lambda removal: removal.rank or 0,
    )
    selected: list[Removal] = []
    for spec in dict.fromkeys(row.strip() for row in rows if row.strip()):
        matches = [removal for removal in ranked if spec in (removal.id, removal.source)]
        matches = matches or [removal for removal in ranked if matches_source(spec, removal.source)]
        if len(names := dict.fromkeys(f"{removal.source} ({removal.id})" for removal in matches)) > 1:
            raise ambiguous_source(spec, list(names))
        unranked = Removal(spec, "", why="listed") if _ID.fullmatch(spec) else Removal("", spec, why="listed")
        queries = tuple(sorted({number for removal in matches for number in removal.queries}))
        # with the listed source, which may match further rows of the data
        source = {"source": spec} if matches and spec not in (matches[0].id, matches[0].source) else {}
        selected.append(replace(matches[0], queries=queries, **source) if matches else unranked)
    return selected


def masked_words(trace: Document, removals: Sequence[Removal]) -> dict[str, CharRanges]:
    """Return the characters of each row's response to mask, by row id: its top-scoring words for any of its queries.

    Raises:
        DataError: If the trace has no token scores of a row.
    """
    ranges: dict[str, CharRanges] = {}
    for removal in removals:
        queries = [trace["queries"][number - 1] for number in removal.queries]
        rows = [row for query in queries for row in query["rows"] if row["id"] == removal.id]
        words = {
            (begin, end) for query in queries for begin, end in (query.get("flagged_words") or {}).get(removal.id, ())
        }
        if not words and not any(row.get("tokens") for row in rows):
            raise _no_token_scores(trace, removal, shown=bool(rows))
        response = Example(tuple(rows[0]["messages"])).response if rows else ""
        for row in rows:
            pairs = [(token.text, token.score) for token in scored_tokens(row.get("tokens"), "score")]
            words |= {*top_scoring_words(pairs, response)}
        ranges[removal.id] = tuple(merge_ranges(sorted(words), response)) or ((0, len(response)),)
    return ranges


def _no_token_scores(trace: Document, removal: Removal, *, shown: bool) -> DataError:
    what = f"the trace has no token scores of the row {removal.source or removal.id}"
    if shown:
        do = "trace with a method that scores tokens (lesson)"
        return DataError(what, got=shorten(trace.get("method")), do=do)
    listed = max(len(query["rows"]) for query in trace["queries"])
    top_k = max(query.get("num_flagged") or 0 for query in trace["queries"])
    do = f"trace again with --top-k {top_k}" if removal.rank else "leave the row out, or trace with a greater --top-k"
    return DataError(what, got=f"token scores of the best {listed} rows of each query", do=do)
