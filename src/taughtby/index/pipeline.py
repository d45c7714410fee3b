"""From a window of rows to a table of features, the same in one process and in many, in three stages.

`prepare` reads and tokenizes, `capture_window` runs the model, and `CapturedWindow.finish` makes the table. A window's
stages follow each other, but stages of different windows may run at the same time, in different threads. On an
accelerator the second stage only gives out work: results arrive in pinned memory, and the third stage waits for them.
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
    """Progress of a window before each batch: rows and tokens that are done, and the positions of the next rows."""

    num_rows: int
    num_tokens: int
    next_rows: tuple[int, ...]


@dataclass(frozen=True)
class WindowResult:
    """A window's rows as a table (None if none is usable), and the skipped rows with their reasons."""

    table: pa.Table | None
    skipped: list[dict[str, str]]
    num_tokens: int


@dataclass(frozen=True)
class PreparedWindow:
    """A window that is ready for the model: its usable rows, their positions in the window, and batches of them."""

    examples: list[Example]
    tokenized: list[TokenizedExample]
    positions: list[int]
    batches: list[Batch]
    skipped: list[dict[str, str]]

    @property
    def num_rows(self) -> int:
        """Rows of the window, with those that are skipped."""
        return len(self.examples) + len(self.skipped)


@dataclass(frozen=True)
class CapturedWindow:
    """A window of which the model has begun all batches: for each its rows and features, and the copies to wait for."""

    window: PreparedWindow
    text_features: Features
    parts: list[tuple[Batch, Features, Copies]] = field(default_factory=list[tuple[Batch, Features, Copies]])

    def finish(self) -> WindowResult:
        """Wait for the features, and arrange them as a table; a row whose numbers are not finite is skipped."""
        for _, _, copies in self.parts:
            copies.wait()
        window, features = self.window, self.text_features | self._in_order()
        bad = _not_finite(features)
        skipped = [
            *window.skipped,
            *({"source": window.examples[i].source, "reason": "its states or gradients are not finite"} for i in bad),
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
        """The features of all batches, in the order of the window."""
        indices = [index for batch, _, _ in self.parts for index in batch.row_indices]
        order = sorted(range(len(indices)), key=indices.__getitem__)
        names = self.parts[0][1] if self.parts else ()
        return {name: _select(_joined([features[name] for _, features, _ in self.parts]), order) for name in names}


@dataclass(frozen=True)
class CapturePipeline:
    """Capture rows by a model, for some methods.

    Attributes:
        token_budget: Padded tokens of a batch at most; None is as many as fit into the memory of the device.
    """

    model: Model
    methods: tuple[Method, ...]
    encoding: Encoding
    token_budget: int | None = None

    def prepare(self, rows: Sequence[Example]) -> PreparedWindow:
        """Tokenize rows, and divide them into batches."""
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
        """Run the model on a window, with progress before each batch and the captured window at the end."""
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
        """The batch with its features, in halves if it does not fit into memory."""
        waiting = [batch]
        while waiting:
            batch = waiting.pop(0)
            try:
                with deferred_copies(self.model.device) as copies:
                    features = self.features(batch)
                yield batch, features, copies
            except RuntimeError as error:  # torch.OutOfMemoryError is one
                if len(batch.row_indices) == 1 or not out_of_memory(error):
                    raise
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                halve_budget(self.model)
                waiting[:0] = split_in_two(batch)

    def features(self, batch: Batch) -> Features:
        """The features that the methods take from the model, each computed once."""
        features: Features = {}
        for method in self.methods:
            if not set(method.feature_names(self.model.depth)) <= set(features):
                features |= method.features(self.model, batch)
        return features


def tokenize_readable(model: Model, rows: Sequence[Example], encoding: Encoding) -> list[TokenizedExample | SkippedRow]:
    """Tokenize rows as `tokenize_all`, and skip those with tokens that the model has no embedding for."""
    tokenized = tokenize_all(model.tokenizer, rows, encoding)
    return [
        SkippedRow(f"the model cannot read it: {lack}")
        if isinstance(row, TokenizedExample) and (lack := model.token_without_embedding(row.ids)) else row
        for row in tokenized
    ]  # fmt: skip


def _joined(parts: Sequence[Any]) -> Any:
    """A feature of consecutive batches: (B, d), (B,), or a list of (n, k)."""
    if isinstance(parts[0], torch.Tensor) and parts[0].ndim < 3:
        return torch.cat(list(parts))
    return [torch.as_tensor(values) for part in parts for values in part]


def _select(values: Any, indices: Sequence[int]) -> Any:
    return values[list(indices)] if isinstance(values, torch.Tensor) else [values[index] for index in indices]


def _not_finite(features: Features) -> list[int]:
    """The rows with a number that is not finite. Of each feature one number is examined: the sum of all."""
    bad: set[int] = set()
    for values in features.values():
        total = values.sum() if isinstance(values, torch.Tensor) else sum(value.sum() for value in values)
        if not torch.as_tensor(total).isfinite():
            bad |= {row for row, value in enumerate(values) if not torch.as_tensor(value).isfinite().all()}
    return sorted(bad)
