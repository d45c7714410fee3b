"""What becomes of a window of rows: ids, batches, blocks, a table. The same in one process and in many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import torch

from taughtby.data.batching import Batch, make_batches, split_in_two
from taughtby.data.example import Example
from taughtby.data.tokenize import Encoding, SkippedRow, TokenizedExample, tokenize_all
from taughtby.errors import out_of_memory
from taughtby.index.writer import arrange_table
from taughtby.methods import Features, Method
from taughtby.methods.base import stack_features
from taughtby.models.model import Model


@dataclass(frozen=True)
class WindowProgress:
    """How far a window is, told before each batch: rows and tokens that lie behind, and which rows come next."""

    done: int
    tokens: int
    open: tuple[int, ...]


@dataclass(frozen=True)
class WindowResult:
    """A window's rows as an index holds them, None where none can be used, and for each of the others why not."""

    table: pa.Table | None
    skipped: list[dict[str, str]]
    tokens: int


@dataclass(frozen=True)
class CapturePipeline:
    """What is done with rows: by which model, for which methods, in batches of at most `budget` padded tokens."""

    model: Model
    methods: tuple[Method, ...]
    encoding: Encoding
    budget: int

    def window(self, rows: Sequence[Example]) -> Iterator[WindowProgress | WindowResult]:
        """Capture these rows, in steps, and at last all that was made of them.

        A row whose numbers are not finite is skipped, never scored.
        """
        skipped: list[dict[str, str]] = []
        usable: list[tuple[int, TokenizedExample]] = []
        for at, made in enumerate(tokenize_all(self.model.tokenizer, rows, self.encoding)):
            if isinstance(made, SkippedRow):
                skipped.append({"source": rows[at].source, "reason": made.reason})
            else:
                usable.append((at, made))
        examples, ids = [rows[at] for at, _ in usable], [row for _, row in usable]
        found = self._read(examples)
        done, tokens = len(skipped), 0
        for batch in self._batches(ids):
            yield WindowProgress(done, tokens, tuple(usable[row][0] for row in batch.row_indices))
            for some, blocks in self._captured(batch):
                for place, row in enumerate(some.row_indices):
                    found[row] |= {name: block[place] for name, block in blocks.items()}
            done += len(batch.row_indices)
            tokens += sum(len(ids[row].ids) for row in batch.row_indices)
        sound = [i for i, blocks in enumerate(found) if _finite(blocks)]
        for i in sorted({*range(len(found))}.difference(sound)):
            skipped.append({"source": examples[i].source, "reason": "its states or gradients are not finite"})
        table = None
        if sound:
            columns = stack_features([found[i] for i in sound], found[sound[0]])
            table = arrange_table([examples[i] for i in sound], [ids[i] for i in sound], columns)
        yield WindowResult(table, skipped, tokens)

    def _read(self, rows: Sequence[Example]) -> list[Features]:
        """What the methods take from each row's text alone."""
        found: list[Features] = [{} for _ in rows]
        for method in self.methods:
            for name, block in method.text_features(rows).items():
                for row, part in zip(found, block, strict=True):
                    row[name] = part
        return found

    def _batches(self, rows: Sequence[TokenizedExample]) -> Iterator[Batch]:
        depth = self.model.depth
        alone = all(how.needs_prompts_only(depth) for how in self.methods)
        return make_batches(rows, self.budget, prompts_only=alone)

    def _captured(self, batch: Batch) -> Iterator[tuple[Batch, Features]]:
        """The batch with its blocks; one that does not fit into memory comes in halves."""
        waiting = [batch]
        while waiting:
            batch = waiting.pop(0)
            try:
                yield batch, self.features(batch)
            except RuntimeError as fault:  # torch.OutOfMemoryError is one
                if len(batch.row_indices) == 1 or not out_of_memory(fault):
                    raise
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                waiting[:0] = split_in_two(batch)

    def features(self, batch: Batch) -> Features:
        """What the methods take from the model, each block once."""
        made: Features = {}
        for method in self.methods:
            if not set(method.feature_names(self.model.depth)) <= set(made):
                made |= method.features(self.model, batch)
        return made


def _finite(blocks: Features) -> bool:
    return all(bool(torch.as_tensor(block).isfinite().all()) for block in blocks.values())
