"""A trace in a notebook: HTML for the cell, and a table.

Reads the trace's JSON document only. Every text in it is treated as hostile: the template writes it as text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from taughtby.reporting.cell_links import cell_scope, link_rules
from taughtby.reporting.text import (
    FLAG_MARK,
    ShownToken,
    finite_or_none,
    format_method,
    format_number,
    highest_weight,
    is_flagged,
    mark_top_word,
    scored_tokens,
    verdict,
    warnings,
    window_around_top,
)
from taughtby.text import collapse_whitespace, make_visible

Document = Mapping[str, Any]
ROWS, QUERIES = 10, 5  # shown in a cell; the table has all
MAX_CHARACTERS = 400  # of a response, around its top-scoring word
HEAVIEST = 3  # tokens of the answer shown with their weights


def render_cell(document: Document) -> str:
    """Return the trace as self-contained HTML for a notebook's cell, without scripts, for light and dark themes."""
    template = (Path(__file__).parent / "assets" / "notebook.html").read_text(encoding="utf-8")
    queries: list[Document] = document.get("queries") or []
    foot = f"{make_visible(format_method(document))[:300]}, {document.get('num_rows', '?')} rows in the index"
    if len(queries) > QUERIES:
        foot += f"; {len(queries) - QUERIES} more queries"
    page = Environment(autoescape=True, undefined=StrictUndefined).from_string(template)
    shown = [_query(query) | {"verdict": verdict(document, query, ROWS), **_links(number, query)}
             for number, query in enumerate(queries[:QUERIES])]  # fmt: skip
    return page.render(
        queries=shown,
        foot=foot,
        warnings=warnings(document),
        mark=FLAG_MARK,
        figure=format_number,
        visible=make_visible,
    )


def to_table(document: Document) -> pa.Table:
    """Return a table with a line per query and ranked row.

    `query` is the number of the query, from 1; `word` is the row's top-scoring word, null if tokens have no scores.
    `p_value`, `flagged` and `stability` are null without controls. Each score component has a column.
    """
    queries: list[Document] = document.get("queries") or []
    lines = [line for number, query in enumerate(queries, 1) for line in _lines(number, query)]
    text, real, whole = pa.string(), pa.float64(), pa.int64()
    types = {
        "query": whole, "prompt": text, "response": text, "rank": whole, "score": real,
        "p_value": real, "flagged": pa.bool_(), "stability": real, "id": text, "source": text, "label": text,
        "row_prompt": text, "row_answer": text, "word": text,
    }  # fmt: skip
    for line in lines:
        types |= {name: real for name in line if name not in types}
    return pa.Table.from_pylist(lines, schema=pa.schema(list(types.items())))


def to_flagged_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Return a table with a line per flagged row, with its prompt and answer in place of its `messages`."""
    text, whole = pa.string(), pa.int64()
    types = {"id": text, "source": text, "label": text, "num_queries": whole, "queries": pa.list_(whole),
             "position": whole, "row_prompt": text, "row_answer": text}  # fmt: skip
    lines = [{**row, "source": _encodable(row["source"]), "label": _encodable(row["label"]),
              "row_prompt": _encodable(_prompt(row)), "row_answer": _encodable(_answer(row))}
             for row in rows]  # fmt: skip
    return pa.Table.from_pylist(lines, schema=pa.schema(list(types.items())))


def _lines(number: int, query: Document) -> Iterator[dict[str, Any]]:
    for row in query.get("rows") or []:
        yield {
            "query": number,
            "prompt": _encodable(query.get("prompt")),
            "response": _encodable(query.get("response")),
            "rank": row.get("rank"),
            "score": finite_or_none(row.get("score")),
            "p_value": finite_or_none(row.get("p_value")),
            "flagged": row.get("flagged"),
            "stability": finite_or_none(row.get("stability")),
            "id": row.get("id"),
            "source": _encodable(row.get("source")),
            "label": _encodable(row.get("label")),
            "row_prompt": _encodable(_prompt(row)),
            "row_answer": _encodable(_answer(row)),
            "word": _encodable(_word(mark_top_word(scored_tokens(row.get("tokens"), "score"))) or None),
        } | {name: finite_or_none(part) for name, part in (row.get("score_components") or {}).items()}


def _query(query: Document) -> dict[str, Any]:
    """The values of a query for the template."""
    answer = scored_tokens(query.get("answer"), "weight") or [ShownToken(str(query.get("response") or ""), None)]
    texts = {"prompt": query.get("prompt"), "span": query.get("span"), "desired": query.get("desired")}
    shown = {name: window_around_top([ShownToken(str(text), None)], 4 * MAX_CHARACTERS)
             for name, text in texts.items() if text}  # fmt: skip
    rows: list[Document] = query.get("rows") or []
    best = max((abs(finite_or_none(row.get("score")) or 0) for row in rows), default=0)
    heavy = sorted((t for t in answer if t.score and t.text.strip()), key=lambda t: -abs(t.score or 0))[:HEAVIEST]
    return {
        "asked": list(
            (
                {"prompt": shown.pop("prompt", []), "answer": window_around_top(answer, 4 * MAX_CHARACTERS)} | shown
            ).items()
        ),
        "most": highest_weight(answer),
        "heaviest": [(make_visible(token.text.strip()), format_number(token.score)) for token in heavy],
        "ceiling": max((highest_weight(scored_tokens(row.get("tokens"), "score")) for row in rows), default=0),
        "rows": [_row(row, best) for row in rows[:ROWS]],
        "more": max(0, len(rows) - ROWS),
    }


def _links(number: int, query: Document) -> dict[str, Any]:
    """The class of a query's part of the cell, and the rules that link its words."""
    scope = cell_scope(number, query)
    return {"scope": scope, "rules": Markup(link_rules(scope, (query.get("rows") or [])[:ROWS]))}


def _row(row: Document, best: float) -> dict[str, Any]:
    tokens = mark_top_word(scored_tokens(row.get("tokens"), "score"))
    top = max((t.score for t in tokens if t.top and t.score is not None), default=None)
    score = finite_or_none(row.get("score"))
    return {
        "rank": row.get("rank", ""),
        "flagged": is_flagged(row),
        "score": format_number(score),
        "sure": _evidence(row),
        "share": max(0.0, score or 0.0) / best if best else 0.0,
        "word": make_visible(_word(tokens))[:60],
        "weight": "" if top is None else format_number(top),
        "prompt": collapse_whitespace(make_visible(_prompt(row)))[:MAX_CHARACTERS],
        "tokens": window_around_top(tokens or [ShownToken(_answer(row), None)], MAX_CHARACTERS),
        "label": make_visible(row.get("label") or "")[:60],
        "source": make_visible(row.get("source") or "").rsplit("/", 1)[-1][:60],
    }


def _evidence(row: Document) -> list[str]:
    """The row's p-value, and the stability of a flagged row; empty without controls."""
    p_value, stability = finite_or_none(row.get("p_value")), finite_or_none(row.get("stability"))
    facts = [] if p_value is None else [f"p = {format_number(p_value)}"]
    return facts if stability is None or not is_flagged(row) else [*facts, f"stable {100 * stability:.0f} %"]


def _word(tokens: list[ShownToken]) -> str:
    """The top-scoring word."""
    return "".join(token.text for token in tokens if token.top).strip()


def _prompt(row: Document) -> str:
    messages: list[Document] = row.get("messages") or []
    return "\n".join(str(m.get("content") or "") for m in messages[:-1] if m.get("role") not in ("system", "developer"))


def _answer(row: Document) -> str:
    messages: list[Document] = row.get("messages") or []
    return str(messages[-1].get("content") or "") if messages else ""


def _encodable(text: Any) -> str | None:
    """The text with lone surrogates escaped, which Arrow cannot hold."""
    return None if text is None else str(text).encode("utf-8", "backslashreplace").decode()
