"""From a window of rows to a table of features, the same in one process and in many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import torch

from taughtby.data.batching import Batch, make_batches, split_in_two
from taughtby.data.example import Example
from taughtby.data.pretokenized import decode_rows
from taughtby.data.tokenize import Encoding, SkippedRow, TokenizedExample, tokenize_all
from taughtby.errors import out_of_memory
from taughtby.index.arrow import arrange_table
from taughtby.methods import Features, Method
from taughtby.methods.base import stack_features
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
class CapturePipeline:
    """Capture rows by a model, for some methods, in batches of at most `token_budget` padded tokens."""

    model: Model
    methods: tuple[Method, ...]
    encoding: Encoding
    token_budget: int

    def capture_window(self, rows: Sequence[Example]) -> Iterator[WindowProgress | WindowResult]:
        """Capture rows, with progress before each batch and the result at the end.

        A row whose numbers are not finite is skipped.
        """
        rows = decode_rows(self.model.tokenizer, rows)
        skipped: list[dict[str, str]] = []
        usable: list[tuple[int, TokenizedExample]] = []
        for position, row in enumerate(tokenize_all(self.model.tokenizer, rows, self.encoding)):
            if isinstance(row, SkippedRow):
                skipped.append({"source": rows[position].source, "reason": row.reason})
            else:
                usable.append((position, row))
        examples, tokenized = [rows[position] for position, _ in usable], [row for _, row in usable]
        features = self._text_features(examples)
        num_rows, num_tokens = len(skipped), 0
        for batch in self._batches(tokenized):
            yield WindowProgress(num_rows, num_tokens, tuple(usable[index][0] for index in batch.row_indices))
            for part, captured in self._capture(batch):
                for offset, index in enumerate(part.row_indices):
                    features[index] |= {name: values[offset] for name, values in captured.items()}
            num_rows += len(batch.row_indices)
            num_tokens += sum(len(tokenized[index].ids) for index in batch.row_indices)
        finite = [index for index, row in enumerate(features) if _finite(row)]
        for index in sorted({*range(len(features))}.difference(finite)):
            skipped.append({"source": examples[index].source, "reason": "its states or gradients are not finite"})
        table = None
        if finite:
            columns = stack_features([features[index] for index in finite], features[finite[0]])
            table = arrange_table([examples[i] for i in finite], [tokenized[i] for i in finite], columns)
        yield WindowResult(table, skipped, num_tokens)

    def _text_features(self, rows: Sequence[Example]) -> list[Features]:
        features: list[Features] = [{} for _ in rows]
        for method in self.methods:
            for name, values in method.text_features(rows).items():
                for row, value in zip(features, values, strict=True):
                    row[name] = value
        return features

    def _batches(self, rows: Sequence[TokenizedExample]) -> Iterator[Batch]:
        depth = self.model.depth
        prompts_only = all(
            method.needs_prompts_only(depth) or type(method).features is Method.features for method in self.methods
        )
        return make_batches(rows, self.token_budget, prompts_only=prompts_only)

    def _capture(self, batch: Batch) -> Iterator[tuple[Batch, Features]]:
        """The batch with its features, in halves if it does not fit into memory."""
        waiting = [batch]
        while waiting:
            batch = waiting.pop(0)
            try:
                yield batch, self.features(batch)
            except RuntimeError as error:  # torch.OutOfMemoryError is one
                if len(batch.row_indices) == 1 or not out_of_memory(error):
                    raise
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                waiting[:0] = split_in_two(batch)

    def features(self, batch: Batch) -> Features:
        """The features that the methods take from the model, each computed once."""
        features: Features = {}
        for method in self.methods:
            if not set(method.feature_names(self.model.depth)) <= set(features):
                features |= method.features(self.model, batch)
        return features


def _finite(features: Features) -> bool:
    return all(bool(torch.as_tensor(values).isfinite().all()) for values in features.values())
