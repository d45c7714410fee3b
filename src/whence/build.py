"""Fill an index: rows in windows, sorted by length and captured in batches, each window one commit; killed, it goes on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import whence.layers
from whence.errors import DataError, OptionError
from whence.example import Example, read
from whence.index import Index, Settings, Writer
from whence.layers import Curve
from whence.methods import Method
from whence.model import Model
from whence.tokens import Batch, Row, Skip, batches, encode, halves

if TYPE_CHECKING:
    from torch import Tensor

WINDOW = 256  # rows a commit: what a kill can cost, and the room that sorting by length has
PROBE = 64  # rows that the layer curve and the constants are taken from

Progress = Callable[[int, int], None]  # (rows done, rows in all)


def build_index(
    model: Model,
    data: str | Path,
    out: str | Path,
    methods: Sequence[Method],
    *,
    max_length: int = 1024,
    budget: int = 4096,
    progress: Progress | None = None,
) -> Index:
    """Index `data` for all `methods` into the folder `out`, and return it open.

    The whole file is read once before the first row is captured, so that a broken line ends the run in its first
    seconds. Run again after a kill with the same settings it goes on; with others it refuses.
    """
    if max_length > model.window:
        raise OptionError(
            "the model's window is shorter",
            got=f"--max-length {max_length}, window {model.window}",
            do=f"choose at most {model.window}",
        )
    count, digest = _survey(data)
    probe = _probe(model, data, count, max_length)
    curve = whence.layers.curve(model, probe) if model.depth > 1 else None
    methods = [method.resolved(model.depth, curve) for method in methods]
    with Writer(out, _settings(model, data, digest, methods, max_length)) as writer:
        if writer.complete:
            return Index.open(out)
        constants = writer.constants(
            {k: v for method in methods for k, v in method.constants(model, probe).items()}
        )
        skipped: list[dict[str, str]] = []
        at = 0
        for window in _windows(read(data), WINDOW):
            _fill(
                model,
                window,
                writer,
                methods,
                constants,
                max_length,
                budget,
                skipped,
                lambda n, at=at: progress and progress(at + n, count),
            )
            at += len(window)
            if progress:
                progress(at, count)
        return writer.finish(skipped, curve.to_json() if curve else None)


def _fill(
    model: Model, window: list[Example], writer: Writer, methods: Sequence[Method], constants: dict[str, Tensor],
    max_length: int, budget: int, skipped: list[dict[str, str]], tell: Callable[[int], Any],
) -> None:  # fmt: skip
    """Capture and commit the rows of one window that are not there yet."""
    examples: list[Example] = []
    rows: list[Row] = []
    for row in (row for row in window if row.id not in writer.done):
        made = encode(model.tokenizer, row, max_length)
        if isinstance(made, Skip):
            skipped.append({"source": row.source, "reason": made.reason})
        else:
            examples.append(row)
            rows.append(made)
    if not rows:
        return
    found: list[dict[str, Tensor]] = [{} for _ in rows]
    finished = len(window) - len(rows)
    for batch in batches(rows, budget):
        for part, blocks in _captured(model, batch, methods, constants):
            for place, row in enumerate(part.rows):
                found[row] = {name: block[place] for name, block in blocks.items()}
            finished += len(part.rows)
            tell(finished)
    sound = [
        i for i, blocks in enumerate(found) if all(bool(block.isfinite().all()) for block in blocks.values())
    ]
    for i in set(range(len(rows))) - set(sound):
        skipped.append({"source": examples[i].source, "reason": "its states or gradients are not finite"})
    if sound:
        columns = {name: torch.stack([found[i][name] for i in sound]) for name in found[sound[0]]}
        writer.append([examples[i] for i in sound], [rows[i] for i in sound], columns)


def _captured(
    model: Model, batch: Batch, methods: Sequence[Method], constants: dict[str, Tensor]
) -> Iterator[tuple[Batch, dict[str, Tensor]]]:
    """The blocks of a batch, in halves of halves where it does not fit into memory."""
    try:
        yield batch, _blocks(model, batch, methods, constants)
    except (torch.OutOfMemoryError, RuntimeError) as fault:
        if len(batch.rows) == 1 or not (
            isinstance(fault, torch.OutOfMemoryError) or "allocate memory" in str(fault)
        ):
            raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        for half in halves(batch):
            yield from _captured(model, half, methods, constants)


def _blocks(
    model: Model, batch: Batch, methods: Sequence[Method], constants: dict[str, Tensor]
) -> dict[str, Tensor]:
    made: dict[str, Tensor] = {}
    for method in methods:
        if not set(method.names(model.depth)) <= set(made):
            made |= method.blocks(model, batch, constants)
    return made


def _settings(
    model: Model, data: str | Path, digest: str, methods: Sequence[Method], max_length: int
) -> Settings:
    template = model.tokenizer.chat_template or "plain"
    return {
        "model": model.name,
        "adapter": model.adapter,
        "fingerprint": {**model.fingerprint, "template": _hash(str(template)), "data": digest},
        "data": str(data),
        "methods": {method.name: method.spec() for method in methods},
        "max_length": max_length,
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def _survey(data: str | Path) -> tuple[int, str]:
    """How many rows, and a hash of their ids."""
    digest, count = hashlib.blake2b(digest_size=8), 0
    for row in read(data):
        digest.update(row.id.encode())
        count += 1
    return count, digest.hexdigest()


def _probe(model: Model, data: str | Path, count: int, max_length: int) -> list[Row]:
    """Rows spread evenly over the data."""
    step = max(1, math.ceil(count / PROBE))
    rows = [encode(model.tokenizer, row, max_length) for row in islice(read(data), 0, None, step)]
    usable = [row for row in rows if isinstance(row, Row)]
    if not usable:
        reasons = {row.reason for row in rows if isinstance(row, Skip)}
        raise DataError(
            f"no row of {data} can be used",
            got="; ".join(sorted(reasons)[:3]),
            do="raise --max-length, or shorten the prompts",
        )
    return usable


def _windows(rows: Iterator[Example], size: int) -> Iterator[list[Example]]:
    while window := list(islice(rows, size)):
        yield window


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
