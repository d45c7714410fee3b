"""Turn a window of rows into a table of features, in three stages. One process and Ray workers run the same code.

`prepare` tokenizes, `capture_window` runs the model, and `CapturedWindow.finish` makes the table. The stages of one
window run in sequence, but those of different windows may run at the same time, in different threads. On an accelerator
the second stage only queues work: results are copied to pinned memory, and the third stage waits for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import torch

from taughtby.capture.budget import halve_budget
from taughtby.capture.transfer import Copies, deferred_copies
from taughtby.data.batching import Batch, make_batches, split_in_two
from taughtby.data.example import Example
from taughtby.data.pretokenized import decode_rows
from taughtby.data.tokenize import Encoding, SkippedRow, TokenizedExample, tokenize_all
from taughtby.errors import out_of_memory
from taughtby.index.arrow import arrange_table
from taughtby.methods import Features, Method
from taughtby.models.model import Model


@dataclass(frozen=True)
class WindowProgress:
    """Progress in a window before a batch: rows and tokens done, and the positions of the batch's rows."""

    num_rows: int
    num_tokens: int
    next_rows: tuple[int, ...]


@dataclass(frozen=True)
class WindowResult:
    """A window's rows as a table (None if no row is usable), and the skipped rows with reasons."""

    table: pa.Table | None
    skipped: list[dict[str, str]]
    num_tokens: int


@dataclass(frozen=True)
class PreparedWindow:
    """A window ready for the model: its usable rows, their positions in the window, and batches of them."""

    examples: list[Example]
    tokenized: list[TokenizedExample]
    positions: list[int]
    batches: list[Batch]
    skipped: list[dict[str, str]]

    @property
    def num_rows(self) -> int:
        """Number of rows in the window, including skipped ones."""
        return len(self.examples) + len(self.skipped)


@dataclass(frozen=True)
class CapturedWindow:
    """A window whose batches have all been submitted: each with its features and the copies to wait for."""

    window: PreparedWindow
    text_features: Features
    parts: list[tuple[Batch, Features, Copies]] = field(default_factory=list[tuple[Batch, Features, Copies]])

    def finish(self) -> WindowResult:
        """Wait for the features, and make the table; rows with features that are not finite are skipped."""
        for _, _, copies in self.parts:
            copies.wait()
        window, features = self.window, self.text_features | self._in_order()
        bad = _not_finite(features)
        skipped = [
            *window.skipped,
            *(
                {"source": window.examples[i].source, "reason": "its hidden states or gradients are not finite"}
                for i in bad
            ),
        ]
        rows = [index for index in range(len(window.examples)) if index not in bad]
        num_tokens = sum(len(row.ids) for row in window.tokenized)
        if not rows:
            return WindowResult(None, skipped, num_tokens)
        if bad:
            features = {name: _select(values, rows) for name, values in features.items()}
        examples, tokenized = (_select(part, rows) for part in (window.examples, window.tokenized))
        return WindowResult(arrange_table(examples, tokenized, features), skipped, num_tokens)

    def _in_order(self) -> Features:
        """The features of all batches, in the order of the window's rows."""
        indices = [index for batch, _, _ in self.parts for index in batch.row_indices]
        order = sorted(range(len(indices)), key=indices.__getitem__)
        names = self.parts[0][1] if self.parts else ()
        return {name: _select(_concatenate([features[name] for _, features, _ in self.parts]), order) for name in names}


@dataclass(frozen=True)
class CapturePipeline:
    """Captures rows with a model, for several methods.

    Attributes:
        token_budget: Maximum number of padded tokens per batch; None for as many as fit in the device's memory.
    """

    model: Model
    methods: tuple[Method, ...]
    encoding: Encoding
    token_budget: int | None = None

    def prepare(self, rows: Sequence[Example]) -> PreparedWindow:
        """Tokenize rows, and split them into batches."""
        rows = decode_rows(self.model.tokenizer, rows)
        usable: list[tuple[int, TokenizedExample]] = []
        skipped: list[dict[str, str]] = []
        for position, row in enumerate(tokenize_readable(self.model, rows, self.encoding)):
            if isinstance(row, SkippedRow):
                skipped.append({"source": rows[position].source, "reason": row.reason})
            else:
                usable.append((position, row))
        positions, tokenized = [position for position, _ in usable], [row for _, row in usable]
        examples = [rows[position] for position in positions]
        return PreparedWindow(examples, tokenized, positions, self._batches(tokenized), skipped)

    def capture_window(self, window: PreparedWindow) -> Iterator[WindowProgress | CapturedWindow]:
        """Run the model on a window; yield progress before each batch, and the captured window at the end."""
        captured = CapturedWindow(window, self._text_features(window.examples))
        num_rows, num_tokens = len(window.skipped), 0
        for batch in window.batches:
            yield WindowProgress(num_rows, num_tokens, tuple(window.positions[index] for index in batch.row_indices))
            captured.parts.extend(self._capture(batch))
            num_rows += len(batch.row_indices)
            num_tokens += sum(len(window.tokenized[index].ids) for index in batch.row_indices)
        yield captured

    def _text_features(self, rows: Sequence[Example]) -> Features:
        return {name: values for method in self.methods for name, values in method.text_features(rows).items()}

    def _batches(self, rows: Sequence[TokenizedExample]) -> list[Batch]:
        depth = self.model.depth
        prompts_only = all(
            method.needs_prompts_only(depth) or type(method).features is Method.features for method in self.methods
        )
        budget = self.token_budget or min(method.token_budget(self.model) for method in self.methods)
        return list(make_batches(rows, budget, prompts_only=prompts_only))

    def _capture(self, batch: Batch) -> Iterator[tuple[Batch, Features, Copies]]:
        """Yield the batch with its features, split in halves until they fit in memory."""
        waiting = [batch]
        while waiting:
            batch = waiting.pop(0)
            try:
                with deferred_copies(self.model.device) as copies:
                    features = self.features(batch)
                yield batch, features, copies
            except RuntimeError as error:  # includes torch.OutOfMemoryError
                if len(batch.row_indices) == 1 or not out_of_memory(error):
                    raise
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                halve_budget(self.model)
                waiting[:0] = split_in_two(batch)

    def features(self, batch: Batch) -> Features:
        """Compute the methods' features with the model; features that methods share are computed once."""
        features: Features = {}
        for method in self.methods:
            if not set(method.feature_names(self.model.depth)) <= set(features):
                features |= method.features(self.model, batch)
        return features


def tokenize_readable(model: Model, rows: Sequence[Example], encoding: Encoding) -> list[TokenizedExample | SkippedRow]:
    """Tokenize rows like `tokenize_all`, and skip those with tokens for which the model has no embedding."""
    tokenized = tokenize_all(model.tokenizer, rows, encoding)
    largest = max((max(row.ids) for row in tokenized if isinstance(row, TokenizedExample)), default=0)
    if not model.token_without_embedding([largest]):
        return tokenized
    return [
        SkippedRow(f"it has a token without an embedding: {missing}")
        if isinstance(row, TokenizedExample) and (missing := model.token_without_embedding(row.ids)) else row
        for row in tokenized
    ]  # fmt: skip


def _concatenate(parts: Sequence[Any]) -> Any:
    """Concatenate a feature of consecutive batches: (B, d), (B,), or a list of (n, k)."""
    if isinstance(parts[0], torch.Tensor) and parts[0].ndim < 3:
        return torch.cat(list(parts))
    return [torch.as_tensor(values) for part in parts for values in part]


def _select(values: Any, indices: Sequence[int]) -> Any:
    return values[list(indices)] if isinstance(values, torch.Tensor) else [values[index] for index in indices]


def _not_finite(features: Features) -> list[int]:
    """Return the rows with features that are not finite. Each feature's sum is checked first, since that is fast."""
    bad: set[int] = set()
    for values in features.values():
        flat = values if isinstance(values, torch.Tensor) else torch.cat([value.flatten() for value in values])
        if not flat.sum().isfinite():
            bad |= {row for row, value in enumerate(values) if not torch.as_tensor(value).isfinite().all()}
    return sorted(bad)
