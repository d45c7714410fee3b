"""Fill an index: rows in windows, sorted by length, captured in batches, a window one commit; killed, it goes on."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import torch

import whence.layers
from whence.dataset import Reading, form, read
from whence.errors import DataError, OptionError, StoreError
from whence.example import Example
from whence.habits import habits
from whence.index import Index
from whence.methods import Blocks, Method
from whence.methods.method import gathered
from whence.model import Model
from whence.tokens import Batch, Encoding, Row, Skip, batches, encode, encode_all, halves
from whence.writer import Settings, Writer

WINDOW = 256  # rows a commit: what a kill can cost, and the room that sorting by length has
BUDGET = 1024  # padded tokens a batch on a CPU, where more is slower (docs/methods.md)
FASTER = 16  # times as many of both on an accelerator
PROBE = 64  # rows that the layer curve is taken from

Progress = Callable[[int, int], None]  # (rows done, rows in all)


def build_index(
    model: Model,
    data: str | Path,
    out: str | Path,
    methods: Sequence[Method],
    *,
    reading: Reading | None = None,
    encoding: Encoding | None = None,
    budget: int | None = None,
    layers: bool = True,
    progress: Progress | None = None,
) -> Index:
    """Index `data` for all `methods` into the folder `out`, and return it open.

    `reading` says how rows are read and `encoding` how they become ids; without them, both are as the model's trainer
    left it written, else as goes without saying. Without `layers` the layer curve is not taken: it costs a pass over
    some rows, and only a method whose layer is `auto` needs it. The whole file is read once before the first row is
    captured, so that a broken line ends the run in its first seconds. Run again after a kill with the same settings
    it goes on; with others it refuses.
    """
    times = 1 if model.device.type == "cpu" else FASTER
    budget = budget or BUDGET * times
    reading = reading or Reading(turns=model.origin.turns or "last")
    encoding = encoding or habits(model.origin, model.window, raw=form(data, reading).raw)
    if encoding.max_length > model.window:
        raise OptionError(
            "the model's window is shorter",
            got=f"--max-length {encoding.max_length}, window {model.window}",
            do=f"choose at most {model.window}",
        )
    if twice := {method.name for method in methods if sum(other.name == method.name for other in methods) > 1}:
        raise OptionError("a method is asked for twice", got=", ".join(sorted(twice)), do="make an index for each")
    count, digest = _survey(data, reading)
    curve = None
    if layers and model.depth > 1:
        curve = whence.layers.curve(model, probe(model, data, reading, encoding, count))
    methods = [method.resolved(model.depth, curve) for method in methods]
    with Writer(out, _settings(model, data, digest, methods, reading, encoding)) as writer:
        if writer.complete:
            return Index.open(out)
        skipped: list[dict[str, str]] = []
        seen = 0
        for window in _windows(read(data, reading), WINDOW * times):
            fresh = [row for row in window if row.id not in writer.done]
            examples, rows = _encoded(model, fresh, encoding, skipped)
            seen += len(window) - len(rows)
            found = _read(methods, examples)
            for batch, blocks in _captured(model, rows, methods, budget):
                for place, row in enumerate(batch.rows):
                    found[row] |= {name: block[place] for name, block in blocks.items()}
                seen += len(batch.rows)
                if progress:
                    progress(seen, count)
            _store(writer, examples, rows, found, skipped)
        return writer.finish(skipped, curve.to_json() if curve else None)


def check_model(index: Index, model: Model) -> None:
    """Refuse a model or adapter that is not the one the index was made with."""
    known: dict[str, str | None] = index.manifest["settings"]["fingerprint"]
    for part, found in model.fingerprint.items():
        if known.get(part) != found:
            raise StoreError(
                f"{index.path} was made with another {part}",
                got=f"{part}: index has {known.get(part)}, asked {found}",
                do=f"give the {part} it was made with, or index again",
            )


def _encoded(
    model: Model, fresh: Sequence[Example], encoding: Encoding, skipped: list[dict[str, str]]
) -> tuple[list[Example], list[Row]]:
    """The rows that can be used, with their ids; the others go to `skipped`."""
    usable: list[tuple[Example, Row]] = []
    for row, made in zip(fresh, encode_all(model.tokenizer, fresh, encoding), strict=True):
        if isinstance(made, Skip):
            skipped.append({"source": row.source, "reason": made.reason})
        else:
            usable.append((row, made))
    return [row for row, _ in usable], [made for _, made in usable]


def _read(methods: Sequence[Method], rows: Sequence[Example]) -> list[Blocks]:
    """What the methods take from each row's text alone."""
    found: list[Blocks] = [{} for _ in rows]
    for method in methods:
        for name, block in method.read(rows).items():
            for row, part in zip(found, block, strict=True):
                row[name] = part
    return found


def _captured(
    model: Model, rows: Sequence[Row], methods: Sequence[Method], budget: int
) -> Iterator[tuple[Batch, Blocks]]:
    """Batches with their blocks; one that does not fit into memory comes in halves."""
    alone = all(method.prompts_alone(model.depth) or type(method).blocks is Method.blocks for method in methods)
    waiting = list(batches(rows, budget, prompts=alone))
    while waiting:
        batch = waiting.pop(0)
        try:
            yield batch, _blocks(model, batch, methods)
        except RuntimeError as fault:  # torch.OutOfMemoryError is one
            full = isinstance(fault, torch.OutOfMemoryError) or "allocate memory" in str(fault)
            if len(batch.rows) == 1 or not full:
                raise
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            waiting[:0] = halves(batch)


def _blocks(model: Model, batch: Batch, methods: Sequence[Method]) -> Blocks:
    made: Blocks = {}
    for method in methods:
        if not set(method.names(model.depth)) <= set(made):
            made |= method.blocks(model, batch)
    return made


def _store(
    writer: Writer,
    examples: Sequence[Example],
    rows: Sequence[Row],
    found: Sequence[Blocks],
    skipped: list[dict[str, str]],
) -> None:
    """Commit one window; a row whose numbers are not finite is skipped, never scored."""
    sound: list[int] = []
    for i, blocks in enumerate(found):
        if all(bool(torch.as_tensor(block).isfinite().all()) for block in blocks.values()):
            sound.append(i)
        else:
            skipped.append({"source": examples[i].source, "reason": "its states or gradients are not finite"})
    if not sound:
        return
    columns = gathered([found[i] for i in sound], found[sound[0]])
    writer.append([examples[i] for i in sound], [rows[i] for i in sound], columns)


def _settings(
    model: Model, data: str | Path, digest: str, methods: Sequence[Method], reading: Reading, encoding: Encoding
) -> Settings:
    template = encoding.template or model.tokenizer.chat_template or "plain"
    return {
        "model": model.name,
        "adapter": model.adapter,
        "base": model.base,
        "fingerprint": {**model.fingerprint, "template": _hash(str(template)), "data": digest},
        "data": str(data),
        "methods": {method.name: method.spec() for method in methods},
        "notes": {key: note for method in methods for key, note in method.notes(model).items()},
        # as JSON has it, with lists for pairs, or a second run would find it different
        "reading": json.loads(json.dumps(asdict(reading))),
        "encoding": asdict(encoding),
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def _survey(data: str | Path, reading: Reading) -> tuple[int, str]:
    """How many rows, and a hash of their ids, and of what in them is not to be learned."""
    digest, count = hashlib.blake2b(digest_size=8), 0
    for row in read(data, reading):
        digest.update(row.id.encode() + (repr(row.masked).encode() if row.masked else b""))
        count += 1
    return count, digest.hexdigest()


def probe(model: Model, data: str | Path, reading: Reading, encoding: Encoding, count: int | None = None) -> list[Row]:
    """Rows spread evenly over the data, for what is measured before the first row is stored."""
    step = max(1, math.ceil((count or _survey(data, reading)[0]) / PROBE))
    rows = encode_all(model.tokenizer, list(islice(read(data, reading), 0, None, step)), encoding)
    if not any(isinstance(row, Row) for row in rows):  # those between may do: two kinds of rows in turn
        rows = [encode(model.tokenizer, row, encoding) for row in read(data, reading)]
    usable = [row for row in rows if isinstance(row, Row)][:PROBE]
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
