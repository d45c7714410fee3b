"""What to know of queries before their traces are read: which words were meant, and what was cut off."""

from __future__ import annotations

from collections.abc import Sequence

from taughtby.attribution.query import Query, query_encoding
from taughtby.data.phrases import find_span
from taughtby.data.tokenize import Encoding, TokenizedExample, tokenize_untruncated
from taughtby.models.model import Model


def ambiguity_notes(queries: Sequence[Query]) -> list[str]:
    """Return a note on spans that occur more than once in their responses, as a list of at most one."""
    counts = {number: len(find_span(query.response, query.span))
              for number, query in enumerate(queries, 1) if query.span and query.span_range is None}  # fmt: skip
    ambiguous = [number for number, count in counts.items() if count > 1]
    if not ambiguous:
        return []
    places = ", ".join(f"{queries[number - 1].span!r} {counts[number]} times in answer {number}"
                       for number in ambiguous[:3])  # fmt: skip
    more = f" and so on, in {len(ambiguous)} answers" if len(ambiguous) > 3 else ""
    return [f"The span occurs more than once, {places}{more}: the first occurrence is used. Give the characters "
            "as span_range to use another."]  # fmt: skip


def truncation_notes(
    model: Model, queries: Sequence[Query], rows: Sequence[TokenizedExample], encoding: Encoding
) -> list[str]:
    """Return a note on answers of which only the beginning is traced, as a list of at most one."""
    limit = query_encoding(model, encoding).max_length
    ends = encoding.truncate == "right"  # else an answer is whole, or its row is refused
    full = [number for number, row in enumerate(rows) if ends and len(row.ids) == limit]
    whole = tokenize_untruncated(model.tokenizer, [queries[number].example for number in full], encoding.template)
    cut = [
        f"{queries[number].source or f'answer {number + 1}'} ({len(row.ids) - row.n_prompt:,} tokens)"
        for number, row in zip(full, whole, strict=True)
        if isinstance(row, TokenizedExample) and len(row.ids) > limit
    ]
    if not cut:
        return []
    more = f" and {len(cut) - 3} more" if len(cut) > 3 else ""
    return [f"Rows end at {limit:,} tokens, and longer answers are traced up to there: {', '.join(cut[:3])}{more}. "
            "Index with a greater --max-length to trace all of them."]  # fmt: skip
