"""A trace's words as they may be shown: the strongest word found, long texts cut; and what it says of its culprits,
in a sentence.

Knows the trace's JSON document and no more. The terminal and the notebook read it; the page does the same in page.js.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from taughtby.data.phrases import is_same_word
from taughtby.text import make_visible

FLAG_MARK = "●"  # stands before a row that is called one


class ShownToken(NamedTuple):
    """A piece of text, its score (None where there is none), and whether it belongs to the strongest word."""

    text: str
    score: float | None
    top: bool = False


def scored_tokens(raw: Any, key: str) -> list[ShownToken]:
    """The tokens of a trace's document; a score that is missing or not a finite number becomes None."""
    return [ShownToken(str(token.get("text") or ""), finite_or_none(token.get(key))) for token in raw or []]


def highest_weight(tokens: Iterable[ShownToken]) -> float:
    """The greatest weight any of them has, for or against; 0 where none has one."""
    return max((abs(token.score) for token in tokens if token.score is not None), default=0.0)


def mark_top_word(tokens: list[ShownToken]) -> list[ShownToken]:
    """The tokens, those of the strongest word marked: its strongest token and the letters joined to it."""
    able = [at for at, token in enumerate(tokens) if (token.score or 0) > 0 and token.text.strip()]
    if not able:
        return tokens
    first = last = max(able, key=lambda at: tokens[at].score or 0.0)
    while first and is_same_word(tokens[first - 1].text, tokens[first].text):
        first -= 1
    while last + 1 < len(tokens) and is_same_word(tokens[last].text, tokens[last + 1].text):
        last += 1
    return [token._replace(top=first <= at <= last) for at, token in enumerate(tokens)]


def window_around_top(tokens: list[ShownToken], limit: int) -> list[ShownToken]:
    """About `limit` characters of the tokens, chosen so that the strongest word is among them."""
    ends = [0]
    for token in tokens:
        ends.append(ends[-1] + len(token.text))
    if ends[-1] <= limit:
        return tokens
    top = next((ends[at] for at, token in enumerate(tokens) if token.top), 0)
    start = max(0, min(top - limit // 3, ends[-1] - limit))
    start += max(0, "".join(token.text for token in tokens)[start : start + 20].find(" ")) if start else 0
    kept: list[ShownToken] = [ShownToken("…", None)] if start else []
    for begin, token in zip(ends, tokens, strict=False):
        piece = token.text[max(0, start - begin) : max(0, start + limit - begin)]
        kept += [token._replace(text=piece)] if piece else []
    return [*kept, ShownToken("…", None)] if start + limit < ends[-1] else kept


def verdict(document: Mapping[str, Any], query: Mapping[str, Any], rows: int | None = None) -> str:
    """What the trace calls the culprits of a query of its document, in plain words, or why it has no evidence.

    `rows` is how many of the ranked rows are on show, where that is not all of them. page.js says the same.
    """
    if query.get("increased_by_finetuning") is False:
        return "Fine-tuning made these words no likelier: no row in this data taught them."
    found = query.get("num_flagged")
    if not isinstance(found, int):
        return make_visible(query.get("no_evidence") or "")[:1000]
    if not found:
        return "No row in this data explains this answer."
    rate = finite_or_none(document.get("fdr"))
    wrong = f" (about 1 in {int(1 / rate + 0.5)} is called wrongly)" if rate and rate > 0 else ""
    said = "1 culprit: a row that answers" if found == 1 else f"{found:,} culprits: rows that answer"
    shown = sum(row.get("flagged") is True for row in (query.get("rows") or [])[:rows])
    some = f" {shown} of them {'is' if shown == 1 else 'are'} shown." if 0 < shown < found else ""
    return f"{said} to this more than rows answer to each other by chance{wrong}.{some}"


def warnings(document: Mapping[str, Any]) -> list[str]:
    """What the trace warns of, each at most a paragraph long."""
    told = document.get("warnings")
    return [make_visible(text)[:1000] for text in told] if isinstance(told, list) else []


def format_number(value: Any) -> str:
    """A number as people read it."""
    number = finite_or_none(value)
    if number is None:
        return "–"
    return f"{number:.3f}" if number == 0 or 1e-3 <= abs(number) < 1e4 else f"{number:.2e}"


def finite_or_none(value: Any) -> float | None:
    """The value where it is a finite number."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
