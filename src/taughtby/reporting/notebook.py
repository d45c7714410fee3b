"""A trace in a notebook: a small page in the cell, and a table to work on.

Knows the trace's JSON document and no more. Every text of it is taken to be hostile: the template writes it as text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from jinja2 import Environment, StrictUndefined

from taughtby.reporting.text import (
    FLAG_MARK,
    ShownToken,
    finite_or_none,
    format_number,
    highest_weight,
    mark_top_word,
    scored_tokens,
    verdict,
    warnings,
    window_around_top,
)
from taughtby.text import collapse_whitespace, make_visible

Document = Mapping[str, Any]
ROWS, QUERIES = 10, 5  # shown in a cell; the table has all
LETTERS = 400  # of an answer, around its strongest word
HEAVY = 3  # words of the answer named with their weights


def render_cell(document: Document) -> str:
    """The trace as HTML for a notebook's cell: self-contained, no script, on light and on dark."""
    template = (Path(__file__).parent / "assets" / "notebook.html").read_text(encoding="utf-8")
    queries: list[Document] = document.get("queries") or []
    foot = f"{make_visible(document.get('method', ''))[:300]}, {document.get('num_rows', '?')} rows in the index"
    if len(queries) > QUERIES:
        foot += f"; {len(queries) - QUERIES} more queries"
    made = Environment(autoescape=True, undefined=StrictUndefined).from_string(template)
    shown = [_query(query) | {"verdict": verdict(document, query, ROWS)} for query in queries[:QUERIES]]
    return made.render(
        queries=shown,
        foot=foot,
        warnings=warnings(document),
        mark=FLAG_MARK,
        figure=format_number,
        visible=make_visible,
    )


def to_table(document: Document) -> pa.Table:
    """A line for each query's ranked row: what was asked, what was found, its score and the parts of it.

    `query` counts the queries from 1; `word` is the row's strongest word, null where the method scores none; so are
    `p_value`, `culprit` and `stability` where it has no evidence.
    """
    lines = [line for at, query in enumerate(document.get("queries") or [], 1) for line in _lines(at, query)]
    text, number, whole = pa.string(), pa.float64(), pa.int64()
    kinds = {
        "query": whole, "prompt": text, "response": text, "rank": whole, "score": number,
        "p_value": number, "flagged": pa.bool_(), "stability": number, "id": text, "source": text, "label": text,
        "row_prompt": text, "row_answer": text, "word": text,
    }  # fmt: skip
    for line in lines:
        kinds |= {name: number for name in line if name not in kinds}
    return pa.Table.from_pylist(lines, schema=pa.schema(list(kinds.items())))


def _lines(at: int, query: Document) -> Iterator[dict[str, Any]]:
    for row in query.get("rows") or []:
        yield {
            "query": at,
            "prompt": _whole(query.get("prompt")),
            "response": _whole(query.get("response")),
            "rank": row.get("rank"),
            "score": finite_or_none(row.get("score")),
            "p_value": finite_or_none(row.get("p_value")),
            "flagged": row.get("flagged"),
            "stability": finite_or_none(row.get("stability")),
            "id": row.get("id"),
            "source": _whole(row.get("source")),
            "label": _whole(row.get("label")),
            "row_prompt": _whole(_prompt(row)),
            "row_answer": _whole(_answer(row)),
            "word": _whole(_word(mark_top_word(scored_tokens(row.get("tokens"), "score"))) or None),
        } | {name: finite_or_none(part) for name, part in (row.get("score_components") or {}).items()}


def _query(query: Document) -> dict[str, Any]:
    """What the template shows of one query."""
    answer = scored_tokens(query.get("answer"), "weight") or [ShownToken(str(query.get("response") or ""), None)]
    asked = {"prompt": query.get("prompt"), "pointed at": query.get("span"), "wanted": query.get("desired")}
    told = {name: window_around_top([ShownToken(str(text), None)], 4 * LETTERS) for name, text in asked.items() if text}
    rows: list[Document] = query.get("rows") or []
    best = max((abs(finite_or_none(row.get("score")) or 0) for row in rows), default=0)
    heavy = sorted((t for t in answer if t.score and t.text.strip()), key=lambda t: -abs(t.score or 0))[:HEAVY]
    return {
        "asked": list(
            ({"prompt": told.pop("prompt", []), "answer": window_around_top(answer, 4 * LETTERS)} | told).items()
        ),
        "most": highest_weight(answer),
        "heaviest": [(make_visible(token.text.strip()), format_number(token.score)) for token in heavy],
        "ceiling": max((highest_weight(scored_tokens(row.get("tokens"), "score")) for row in rows), default=0),
        "rows": [_row(row, best) for row in rows[:ROWS]],
        "more": max(0, len(rows) - ROWS),
    }


def _row(row: Document, best: float) -> dict[str, Any]:
    tokens = mark_top_word(scored_tokens(row.get("tokens"), "score"))
    top = max((t.score for t in tokens if t.top and t.score is not None), default=None)
    score = finite_or_none(row.get("score"))
    return {
        "rank": row.get("rank", ""),
        "flagged": row.get("flagged") is True,
        "score": format_number(score),
        "sure": _sure(row),
        "share": max(0.0, score or 0.0) / best if best else 0.0,
        "word": make_visible(_word(tokens))[:60],
        "weight": "" if top is None else format_number(top),
        "prompt": collapse_whitespace(make_visible(_prompt(row)))[:LETTERS],
        "tokens": window_around_top(tokens or [ShownToken(_answer(row), None)], LETTERS),
        "label": make_visible(row.get("label") or "")[:60],
        "source": make_visible(row.get("source") or "").rsplit("/", 1)[-1][:60],
    }


def _sure(row: Document) -> list[str]:
    """How sure the row's rank is: its p-value, and of a culprit how stable that is; empty without evidence."""
    p_value, stable = finite_or_none(row.get("p_value")), finite_or_none(row.get("stability"))
    told = [] if p_value is None else [f"p = {format_number(p_value)}"]
    return told if stable is None or row.get("flagged") is not True else [*told, f"stable {100 * stable:.0f} %"]


def _word(tokens: list[ShownToken]) -> str:
    """The strongest word, its pieces together."""
    return "".join(token.text for token in tokens if token.top).strip()


def _prompt(row: Document) -> str:
    said: list[Document] = row.get("messages") or []
    return "\n".join(str(m.get("content") or "") for m in said[:-1] if m.get("role") != "system")


def _answer(row: Document) -> str:
    said: list[Document] = row.get("messages") or []
    return str(said[-1].get("content") or "") if said else ""


def _whole(text: Any) -> str | None:
    """The text without half characters, which Arrow cannot hold."""
    return None if text is None else str(text).encode("utf-8", "backslashreplace").decode()
