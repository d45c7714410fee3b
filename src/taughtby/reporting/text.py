"""The words of a trace as the terminal and the notebook show them: top-scoring word, long texts cut, verdicts.

Reads the trace's JSON document only. The page marks and cuts words in the same way in words.js.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from taughtby.data.phrases import is_same_word
from taughtby.text import make_visible, plural

FLAG_MARK = "●"  # before the rank of a flagged row


class ShownToken(NamedTuple):
    """A piece of text, its score if it has one, whether it belongs to the top-scoring word, and its token's number."""

    text: str
    score: float | None
    top: bool = False
    at: int | None = None


def scored_tokens(raw: Any, key: str) -> list[ShownToken]:
    """Return the tokens of a trace's document; a score that is missing or not finite becomes None."""
    return [ShownToken(str(token.get("text") or ""), finite_or_none(token.get(key)), at=at)
            for at, token in enumerate(raw or [])]  # fmt: skip


def highest_weight(tokens: Iterable[ShownToken]) -> float:
    """Return the highest absolute score of the tokens; 0 if none has one."""
    return max((abs(token.score) for token in tokens if token.score is not None), default=0.0)


def mark_top_word(tokens: list[ShownToken]) -> list[ShownToken]:
    """Return the tokens with the top-scoring word marked: the top-scoring token and the letters joined to it."""
    positive = [n for n, token in enumerate(tokens) if (token.score or 0) > 0 and token.text.strip()]
    if not positive:
        return tokens
    first = last = max(positive, key=lambda n: tokens[n].score or 0.0)
    while first and is_same_word(tokens[first - 1].text, tokens[first].text):
        first -= 1
    while last + 1 < len(tokens) and is_same_word(tokens[last].text, tokens[last + 1].text):
        last += 1
    return [token._replace(top=first <= n <= last) for n, token in enumerate(tokens)]


def window_around_top(tokens: list[ShownToken], limit: int) -> list[ShownToken]:
    """Return about `limit` characters of the tokens, around the top-scoring word."""
    ends = [0]
    for token in tokens:
        ends.append(ends[-1] + len(token.text))
    if ends[-1] <= limit:
        return tokens
    top = next((begin for begin, token in zip(ends, tokens, strict=False) if token.top), 0)
    start = max(0, min(top - limit // 3, ends[-1] - limit))
    start += max(0, "".join(token.text for token in tokens)[start : start + 20].find(" ")) if start else 0
    window: list[ShownToken] = [ShownToken("…", None)] if start else []
    for begin, token in zip(ends, tokens, strict=False):
        piece = token.text[max(0, start - begin) : max(0, start + limit - begin)]
        window += [token._replace(text=piece)] if piece else []
    return [*window, ShownToken("…", None)] if start + limit < ends[-1] else window


def is_flagged(row: Mapping[str, Any]) -> bool:
    """Return whether a row of a trace's document is flagged."""
    return row.get("flagged") is True


def verdict(document: Mapping[str, Any], query: Mapping[str, Any], num_shown: int | None = None) -> str:
    """Return a sentence on the causes of a query, with numbers and a next step.

    Args:
        document: The trace's document.
        query: One of its queries.
        num_shown: How many of the ranked rows are shown; by default all.

    Returns:
        How many rows are flagged, which are likely, or why none is; empty for a method without controls.
    """
    if query.get("increased_by_finetuning") is False:
        return "No row flagged: fine-tuning did not make these words more likely."
    count = query.get("num_flagged")
    if not isinstance(count, int):
        return make_visible(query.get("no_evidence") or "")[:1000]
    fdr = finite_or_none(document.get("fdr"))
    rate = f" at a nominal false discovery rate of {100 * fdr:.3g} %" if fdr and fdr > 0 else ""
    if not count:
        return _unflagged(query, rate)
    rows = (query.get("rows") or [])[:num_shown]
    shown = sum(map(is_flagged, rows))
    part = f" {shown} of them {'is' if shown == 1 else 'are'} shown." if 0 < shown < count else ""
    expected = math.ceil(count * fdr) if fdr and fdr > 0 else 0
    false = f": expect up to {expected:,} false" if expected and count > 1 else ""
    return f"{plural(count, 'row')} flagged{rate}{false}.{part}"


def _unflagged(query: Mapping[str, Any], rate: str) -> str:
    """What is known of a query without flagged rows: which rows are likely, or the lowest p-value."""
    rows = query.get("rows") or []
    p_values = [p for row in rows if (p := finite_or_none(row.get("p_value"))) is not None]
    lowest = f"lowest p {min(p_values):.2g}" if p_values else ""
    likely = query.get("likely_ids") or []
    if query.get("grade") != "likely" or not likely:
        return f"No row flagged{rate}{f': {lowest}' if query.get('grade') and lowest else ''}."
    words = shared_words([row for row in rows if row.get("id") in likely])
    facts = ", ".join(filter(None, [lowest, words and f"words in common: {words}"]))
    count = f"the first {len(likely):,} rows stand apart" if len(likely) > 1 else "the first row stands apart"
    return (f"No row flagged{rate}, but {count}{f' ({facts})' if facts else ''}. "
            "Trace more bad answers together, or select rows with --top-k.")  # fmt: skip


def shared_words(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the words that are the top-scoring one of two rows or more, the most frequent first."""
    tops = ("".join(token.text for token in mark_top_word(scored_tokens(row.get("tokens"), "score")) if token.top)
            for row in rows)  # fmt: skip
    counts = Counter(word.strip().casefold() for word in tops if word.strip())
    return ", ".join(make_visible(word)[:40] for word, number in counts.most_common(3) if number > 1)


def format_method(document: Mapping[str, Any]) -> str:
    """Return the method of a trace's document as `--method` takes it: `lesson:layer=27,sketch_dim=64`."""
    method = document.get("method")
    if not isinstance(method, Mapping):
        return str(method or "")
    options = method.get("options")
    pairs = options.items() if isinstance(options, Mapping) else ()
    return ":".join(filter(None, [str(method.get("name") or ""), ",".join(f"{key}={value}" for key, value in pairs)]))


def warnings(document: Mapping[str, Any]) -> list[str]:
    """Return the warnings of a trace's document, each at most a paragraph long."""
    texts = document.get("warnings")
    return [make_visible(text)[:1000] for text in texts] if isinstance(texts, list) else []


def format_number(value: Any) -> str:
    """Return a number as text of about four digits; "–" if it is not finite."""
    number = finite_or_none(value)
    if number is None:
        return "–"
    return f"{number:.3f}" if number == 0 or 1e-3 <= abs(number) < 1e4 else f"{number:.2e}"


def finite_or_none(value: Any) -> float | None:
    """Return the value if it is a finite number."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
