"""The loss of a model on given rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from taughtby.capture.budget import token_budget
from taughtby.capture.capture import capture
from taughtby.data.batching import make_batches
from taughtby.data.example import Example
from taughtby.data.tokenize import Encoding, TokenizedExample, tokenize_all
from taughtby.models.model import Model


def row_losses(
    model: Model, rows: Sequence[Example], max_length: int, progress: Callable[[int, int], Any] | None = None
) -> list[float]:
    """Return the mean loss per token, in nats, of each row that can be tokenized.

    Args:
        model: The model.
        rows: The rows.
        max_length: Maximum tokens per row; longer rows are truncated.
        progress: Called with (rows done, total rows).
    """
    encoded = tokenize_all(model.tokenizer, rows, Encoding(min(max_length, model.context_length)))
    usable = [row for row in encoded if isinstance(row, TokenizedExample)]
    losses: dict[int, float] = {}
    for batch in make_batches(usable, token_budget(model, 0)):
        losses |= zip(batch.row_indices, capture(model, batch, [-1]).loss.tolist(), strict=True)
        if progress:
            progress(len(losses), len(usable))
    return [losses[index] for index in range(len(usable))]
