"""Notes for the user on queries and their flags: ambiguous spans, truncated answers, too many flags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from taughtby.attribution.query import PreparedQueries, Query
from taughtby.data.phrases import find_span
from taughtby.methods import Method, StateMethod
from taughtby.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def base_notes(model: Model, method: Method) -> list[str]:
    """Return a note on a method that compares with the base model where there is none, as a list of at most one."""
    if model.has_base or not isinstance(method, StateMethod) or not method.compares_with_base:
        return []
    return [f"There is no base model: {method.name} uses the fine-tuned model in its place, so it cannot see what "
            "fine-tuning changed, and rows that were learned well rank low."]  # fmt: skip


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


def truncation_notes(prepared: PreparedQueries) -> list[str]:
    """Return a note on responses of which only the beginning was read, as a list of at most one."""
    cut = [(number, row.n_response, whole)
           for number, (row, whole) in enumerate(zip(prepared.rows, prepared.whole, strict=True), 1)
           if row.n_response < whole]  # fmt: skip
    if not cut:
        return []
    places = ", ".join(f"{length:,} of {whole:,} tokens of answer {number}" for number, length, whole in cut[:3])
    more = f" and so on, of {len(cut)} answers" if len(cut) > 3 else ""
    return [f"Only the beginning of long answers is explained: {places}{more}. Shorten the prompt, or index with a "
            "greater --max-length, up to the model's context length."]  # fmt: skip


def excess_notes(flagged: Sequence[Sequence[int] | None], num_rows: int) -> list[str]:
    """Return a note on queries for which more than half of the rows are flagged, as a list of at most one.

    Mode and scale of a query's scores describe the rows that do not match it only if these are the majority.
    """
    many = [(number, len(rows)) for number, rows in enumerate(flagged, 1) if rows and 2 * len(rows) > num_rows]
    if not many:
        return []
    counts = ", ".join(f"{count:,} of {num_rows:,} for answer {number}" for number, count in many[:3])
    more = f" and so on, for {len(many)} answers" if len(many) > 3 else ""
    return [f"More than half of the rows are flagged, {counts}{more}. A row is flagged if it stands apart from most "
            "rows, so these flags say little: read the ranking, and select rows with --top-k."]  # fmt: skip


def tie_notes(scores: Float[Tensor, "Q N"]) -> list[str]:
    """Return a note on queries for which all rows have one score, as a list of at most one.

    Reasons are a layer that the adapter does not change, or words that no row has.
    """
    equal = (scores.amax(1) == scores.amin(1)).nonzero()[:, 0].tolist() if scores.shape[1] > 1 else []
    if not equal:
        return []
    which = ", ".join(str(number + 1) for number in equal[:3]) + (" and others" if len(equal) > 3 else "")
    return [f"All rows have the same score for answer {which}: the ranking is the order of the data. Choose another "
            "method or another layer."]  # fmt: skip
