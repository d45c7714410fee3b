"""What becomes of a window of rows: ids, batches, blocks, a table. The same in one process and in many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import torch

from taughtby.data.example import Example
from taughtby.data.tokenize import Batch, Encoding, Row, Skip, batches, encode_all, halves
from taughtby.errors import out_of_memory
from taughtby.index.writer import arranged
from taughtby.methods import Blocks, Method
from taughtby.methods.base import gathered
from taughtby.models.model import Model


@dataclass(frozen=True)
class Step:
    """How far a window is, told before each batch: rows and tokens that lie behind, and which rows come next."""

    done: int
    tokens: int
    open: tuple[int, ...]


@dataclass(frozen=True)
class Made:
    """A window's rows as an index holds them, None where none can be used, and for each of the others why not."""

    table: pa.Table | None
    skipped: list[dict[str, str]]
    tokens: int


@dataclass(frozen=True)
class Work:
    """What is done with rows: by which model, for which methods, in batches of at most `budget` padded tokens."""

    model: Model
    methods: tuple[Method, ...]
    encoding: Encoding
    budget: int

    def window(self, rows: Sequence[Example]) -> Iterator[Step | Made]:
        """Capture these rows, in steps, and at last all that was made of them.

        A row whose numbers are not finite is skipped, never scored.
        """
        skipped: list[dict[str, str]] = []
        usable: list[tuple[int, Row]] = []
        for at, made in enumerate(encode_all(self.model.tokenizer, rows, self.encoding)):
            if isinstance(made, Skip):
                skipped.append({"source": rows[at].source, "reason": made.reason})
            else:
                usable.append((at, made))
        examples, ids = [rows[at] for at, _ in usable], [row for _, row in usable]
        found = self._read(examples)
        done, tokens = len(skipped), 0
        for batch in self._batches(ids):
            yield Step(done, tokens, tuple(usable[row][0] for row in batch.rows))
            for some, blocks in self._captured(batch):
                for place, row in enumerate(some.rows):
                    found[row] |= {name: block[place] for name, block in blocks.items()}
            done += len(batch.rows)
            tokens += sum(len(ids[row].ids) for row in batch.rows)
        sound = [i for i, blocks in enumerate(found) if _finite(blocks)]
        for i in sorted({*range(len(found))}.difference(sound)):
            skipped.append({"source": examples[i].source, "reason": "its states or gradients are not finite"})
        table = None
        if sound:
            columns = gathered([found[i] for i in sound], found[sound[0]])
            table = arranged([examples[i] for i in sound], [ids[i] for i in sound], columns)
        yield Made(table, skipped, tokens)

    def _read(self, rows: Sequence[Example]) -> list[Blocks]:
        """What the methods take from each row's text alone."""
        found: list[Blocks] = [{} for _ in rows]
        for method in self.methods:
            for name, block in method.read(rows).items():
                for row, part in zip(found, block, strict=True):
                    row[name] = part
        return found

    def _batches(self, rows: Sequence[Row]) -> Iterator[Batch]:
        depth = self.model.depth
        alone = all(how.prompts_alone(depth) or type(how).blocks is Method.blocks for how in self.methods)
        return batches(rows, self.budget, prompts=alone)

    def _captured(self, batch: Batch) -> Iterator[tuple[Batch, Blocks]]:
        """The batch with its blocks; one that does not fit into memory comes in halves."""
        waiting = [batch]
        while waiting:
            batch = waiting.pop(0)
            try:
                yield batch, self.blocks(batch)
            except RuntimeError as fault:  # torch.OutOfMemoryError is one
                if len(batch.rows) == 1 or not out_of_memory(fault):
                    raise
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                waiting[:0] = halves(batch)

    def blocks(self, batch: Batch) -> Blocks:
        """What the methods take from the model, each block once."""
        made: Blocks = {}
        for method in self.methods:
            if not set(method.names(self.model.depth)) <= set(made):
                made |= method.blocks(self.model, batch)
        return made


def _finite(blocks: Blocks) -> bool:
    return all(bool(torch.as_tensor(block).isfinite().all()) for block in blocks.values())
