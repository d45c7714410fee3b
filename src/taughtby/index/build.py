"""Fill an index: rows in windows, sorted by length, captured in batches, a window one commit; killed, it goes on."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import taughtby.capture.layer_similarity
from taughtby.data.dataset import ReadOptions, detect_format, read_examples
from taughtby.data.example import Example, shorten
from taughtby.data.tokenize import Encoding, SkippedRow, TokenizedExample, default_options, tokenize, tokenize_all
from taughtby.errors import DataError, OptionError, StoreError
from taughtby.index.pipeline import CapturePipeline, WindowProgress
from taughtby.index.reader import Index, read_manifest
from taughtby.index.storage import StoragePath, storage_path
from taughtby.index.writer import Settings, Writer
from taughtby.methods import Method
from taughtby.models.model import Model
from taughtby.models.paths import absolute_name

if TYPE_CHECKING:
    from taughtby.index.distributed import RayPool

WINDOW = 256  # rows a commit: what a kill can cost, and the room that sorting by length has
TOKEN_BUDGET = 1024  # padded tokens a batch on a CPU, where more is slower (docs/methods.md)
ACCELERATOR_FACTOR = 16  # times as many of both on an accelerator
PROBE = 64  # rows that the layer curve is taken from

Progress = Callable[[int, int], None]  # (rows done, rows in all)


def build_index(
    model: Model,
    data: str | Path,
    out: str | StoragePath,
    methods: Sequence[Method],
    *,
    reading: ReadOptions | None = None,
    encoding: Encoding | None = None,
    budget: int | None = None,
    layers: bool = True,
    append: bool = False,
    progress: Progress | None = None,
    pool: RayPool | None = None,
) -> Index:
    """Index `data` for all `methods` into the folder `out`, and return it open.

    `reading` says how rows are read and `encoding` how they become ids; without them, both are as the model's trainer
    left it written, else as goes without saying. Without `layers` the layer curve is not taken: it costs a pass over
    some rows, and only a method whose layer is `auto` needs it. The whole file is read once before the first row is
    captured, so that a broken line ends the run in its first seconds. Run again after a kill with the same settings
    it goes on; with others it refuses. With `append` a finished index is given the rows of `data` that it does not
    hold, be that its own file grown or another one; readers see it as it was until all are there.
    """
    budget = budget or TOKEN_BUDGET * _times(model, pool)
    reading = reading or ReadOptions(turns=model.metadata.turns or "last")
    encoding = encoding or default_options(model.metadata, model.context_length, raw=detect_format(data, reading).raw)
    if encoding.max_length > model.context_length:
        raise OptionError(
            "the model's window is shorter",
            got=f"--max-length {encoding.max_length}, window {model.context_length}",
            do=f"choose at most {model.context_length}",
        )
    if not append and (
        twice := {method.name for method in methods if sum(other.name == method.name for other in methods) > 1}
    ):
        raise OptionError("a method is asked for twice", got=", ".join(sorted(twice)), do="make an index for each")
    count, digest = _survey(data, reading)
    curve = None
    if layers and not append and model.depth > 1:
        curve = _planned(out, model.depth)
        curve = curve or taughtby.capture.layer_similarity.measure_layer_similarity(
            model, probe_rows(model, data, reading, encoding, count)
        )
    methods = [method.resolve_layers(model.depth, curve) for method in methods]
    change = {"did": "append", "data": absolute_name(str(data)), "digest": digest} if append else None
    settings, measured = _settings(model, data, digest, methods, reading, encoding), curve and curve.to_json()
    with Writer(out, settings, change, measured) as writer:
        if writer.complete:
            return Index.open(out)
        skipped = capture_into(
            writer, model, read_examples(data, reading), methods, encoding, budget, count, progress, pool
        )
        return writer.finish(skipped, measured)


def _planned(out: str | StoragePath, depth: int) -> taughtby.capture.layer_similarity.LayerSimilarity | None:
    """The layer curve that an earlier run stored with its plan: measured again, it might choose another layer."""
    known = read_manifest(storage_path(out))
    curve = taughtby.capture.layer_similarity.read_layer_similarity(known.get("layers") if known else None)
    return curve if curve and len(curve.similarity) == depth - 1 else None


def capture_into(
    writer: Writer,
    model: Model,
    data: Iterator[Example],
    methods: Sequence[Method],
    encoding: Encoding,
    budget: int,
    count: int,
    progress: Progress | None = None,
    pool: RayPool | None = None,
) -> list[dict[str, str]]:
    """Give the writer what it has not yet of these rows, `count` in all, window by window; those that were skipped."""
    work = CapturePipeline(model, tuple(methods), encoding, budget)
    windows = _windows(data, WINDOW * _times(model, pool))

    def tell(seen: int) -> None:
        if progress:
            progress(seen, count)

    if pool:
        return pool.fill(writer, windows, work, tell)
    skipped: list[dict[str, str]] = []
    seen = 0
    for window in windows:
        fresh = [row for row in window if row.id not in writer.done]
        for told in work.window(fresh) if fresh else ():
            if isinstance(told, WindowProgress):
                tell(seen + len(window) - len(fresh) + told.done)
                continue
            if told.table is not None:
                writer.add(told.table)
            skipped += told.skipped
        seen += len(window)
        tell(seen)
    return skipped


def check_same_model(made: Index | Settings, model: Model, path: StoragePath | None = None) -> None:
    """Refuse a model, adapter or chat template other than that of the index, or of one at `path` with such settings."""
    settings, where = (made.manifest["settings"], made.path) if isinstance(made, Index) else (made, path)
    known: dict[str, str | None] = settings["fingerprint"]
    for part, found in model.fingerprint.items():
        if known.get(part) != found:
            raise StoreError(
                f"{where} was made with another {part}",
                got=f"{part}: index has {known.get(part)}, asked {found}",
                do=f"give the {part} it was made with, or index again",
            )
    if (has := known.get("template")) != (found := _template(settings["encoding"]["template"], model)):
        raise StoreError(
            f"{where} was made with another chat template",
            got=f"template: index has {has}, asked {found}",
            do="give the model or adapter with the tokenizer it was made with, or index again",
        )


def check_notes(settings: Settings, methods: Iterable[Method], model: Model, path: StoragePath) -> dict[str, Any]:
    """What these methods note of the model; refuse what differs from the notes that the index at `path` has."""
    notes = {key: note for method in methods for key, note in method.index_notes(model).items()}
    for key, found in notes.items():
        if settings["notes"].get(key, found) != json.loads(json.dumps(found)):
            raise StoreError(
                f"the blocks of {path} were made with other {key}",
                got=f"index has {shorten(settings['notes'][key])}, now {shorten(found)}",
                do="put back what lay beside the adapter then, or make another index",
            )
    return notes


def _settings(
    model: Model, data: str | Path, digest: str, methods: Sequence[Method], reading: ReadOptions, encoding: Encoding
) -> Settings:
    adapters = [absolute_name(one) for one in model.adapters]
    return {
        "model": absolute_name(model.name),
        "adapter": adapters if len(adapters) > 1 else next(iter(adapters), None),
        "base": model.base_name and absolute_name(model.base_name),
        "fingerprint": {**model.fingerprint, "template": _template(encoding.template, model), "data": digest},
        "data": absolute_name(str(data)),
        "methods": method_specs(methods),
        "notes": {key: note for method in methods for key, note in method.index_notes(model).items()},
        # as JSON has it, with lists for pairs, or a second run would find it different
        "reading": json.loads(json.dumps(asdict(reading))),
        "encoding": asdict(encoding),
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def method_specs(methods: Sequence[Method]) -> dict[str, dict[str, Any]]:
    """Methods as a manifest has them, by name; a second one of a name by what it has otherwise, as in rept:layer=3."""
    made: dict[str, dict[str, Any]] = {}
    for how in methods:
        spec = how.spec()
        if spec not in made.values():
            first = made.get(how.name, spec)
            other = ",".join(f"{key}={value}" for key, value in spec.items() if first[key] != value)
            made[f"{how.name}:{other}" if other else how.name] = spec
    return made


def _survey(data: str | Path, reading: ReadOptions) -> tuple[int, str]:
    """How many rows, and a hash of their ids, and of what in them is not to be learned."""
    digest, count = hashlib.blake2b(digest_size=8), 0
    for row in read_examples(data, reading):
        digest.update(row.id.encode() + (repr(row.masked).encode() if row.masked else b""))
        count += 1
    return count, digest.hexdigest()


def probe_rows(
    model: Model, data: str | Path, reading: ReadOptions, encoding: Encoding, count: int | None = None
) -> list[TokenizedExample]:
    """Rows spread evenly over the data, for what is measured before the first row is stored."""
    step = max(1, math.ceil((count or _survey(data, reading)[0]) / PROBE))
    rows = tokenize_all(model.tokenizer, list(islice(read_examples(data, reading), 0, None, step)), encoding)
    if not any(isinstance(row, TokenizedExample) for row in rows):  # those between may do: two kinds of rows in turn
        rows = [tokenize(model.tokenizer, row, encoding) for row in read_examples(data, reading)]
    usable = [row for row in rows if isinstance(row, TokenizedExample)][:PROBE]
    if not usable:
        reasons = {row.reason for row in rows if isinstance(row, SkippedRow)}
        raise DataError(
            f"no row of {data} can be used",
            got="; ".join(sorted(reasons)[:3]),
            do="raise --max-length, or shorten the prompts",
        )
    return usable


def _times(model: Model, crew: RayPool | None) -> int:
    return ACCELERATOR_FACTOR if (crew.fast if crew else model.device.type != "cpu") else 1


def _windows(rows: Iterator[Example], size: int) -> Iterator[list[Example]]:
    while window := list(islice(rows, size)):
        yield window


def _template(given: str | None, model: Model) -> str:
    """A hash of the chat template that rows and queries are written with."""
    text = str(given or model.tokenizer.chat_template or "plain")
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
