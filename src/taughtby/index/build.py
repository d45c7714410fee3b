"""Build an index window by window: rows are batched by length, captured and written in one commit."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import taughtby.capture.layer_similarity
from taughtby.data.dataset import ReadOptions, default_read_options, detect_format, read_examples
from taughtby.data.example import Example, shorten
from taughtby.data.tokenize import Encoding, SkippedRow, TokenizedExample, default_options
from taughtby.errors import DataError, OptionError, StoreError
from taughtby.index.manifest import Settings, read_manifest
from taughtby.index.pipeline import CapturedWindow, CapturePipeline, PreparedWindow, tokenize_readable
from taughtby.index.reader import Index
from taughtby.index.stages import OneBehind, one_ahead
from taughtby.index.storage import StoragePath, storage_path
from taughtby.index.writer import Writer
from taughtby.methods import Method
from taughtby.models.model import Model
from taughtby.models.paths import absolute_name
from taughtby.models.torch_state import with_plain_torch
from taughtby.text import plural

if TYPE_CHECKING:
    from taughtby.capture.layer_similarity import LayerSimilarity
    from taughtby.index.distributed import RayPool

WINDOW = 256  # rows per commit, and rows that are sorted by length together
ACCELERATOR_FACTOR = 16  # windows are this many times as large on an accelerator
PROBE = 64  # rows on which layer similarity is measured

Progress = Callable[[int, int], None]  # (done, total)


@with_plain_torch
def build_index(
    model: Model, data: str | Path, out: str | StoragePath, methods: Sequence[Method], *,
    read_options: ReadOptions | None = None, encoding: Encoding | None = None, token_budget: int | None = None,
    layers: bool = True, append: bool = False, progress: Progress | None = None, pool: RayPool | None = None,
    note: Callable[[str], None] | None = None,
) -> Index:  # fmt: skip
    """Build an index of `data` for all `methods`.

    Repeat the same call to resume an interrupted build; other settings raise an error. All rows are read once before
    the first is captured, so that a malformed line is reported within seconds.

    Args:
        out: The folder of the index, or its prefix in an object store.
        read_options: How rows are read; by default from the model's training metadata, as is `encoding`.
        token_budget: Padded tokens per batch; by default, as many as fit in the device's memory.
        layers: Whether to measure layer similarity, which methods with `layer=auto` need.
        append: Append the rows that a finished index does not have; readers see its old state until all are added.
        progress: Called with (rows done, total rows).
        note: Called with notes on the data before rows are captured.

    Raises:
        OptionError, DataError: An option is out of range; the data cannot be read, or no row is usable.
        StoreError: The folder has other files, or an index with other settings.
    """
    read_options = read_options or default_read_options(model.metadata)
    if encoding is None:
        raw = detect_format(data, read_options).raw
        encoding = default_options(model.metadata, model.context_length, raw=raw)
    read_options = read_options.for_mask(encoding.mask)
    _check_options(model, methods, encoding, append)
    num_rows, digest, unfollowed = _survey(data, read_options)
    if note and unfollowed:
        note(_unfollowed_note(unfollowed))
    curve = None
    if layers and not append and model.depth > 1:
        curve = _planned_curve(out, model.depth) or _measured_curve(model, data, read_options, encoding, num_rows)
    methods = [method.resolve_layers(model.depth, curve) for method in methods]
    change = {"did": "append", "data": absolute_name(str(data)), "digest": digest} if append else None
    curve_json, settings = curve and curve.to_json(), _settings(model, data, digest, methods, read_options, encoding)
    with Writer(out, settings, change, curve_json) as writer:
        if writer.complete:
            return Index.open(out)
        skipped = capture_into(
            writer, model, read_examples(data, read_options), methods, encoding, token_budget, num_rows, progress, pool
        )
        return writer.finish(skipped, curve_json)


def _unfollowed_note(marks: Counter[str]) -> str:
    names = ", ".join(f"{mark} ({plural(count, 'row')})" for mark, count in marks.most_common(5))
    return f"the data has columns or loss marks that are ignored: {names}; `taughtby data inspect` shows them"


def _check_options(model: Model, methods: Sequence[Method], encoding: Encoding, append: bool) -> None:
    if encoding.max_length > model.context_length:
        raise OptionError(
            "--max-length exceeds the model's context length",
            got=f"--max-length {encoding.max_length}, context length {model.context_length}",
            do=f"use at most {model.context_length}",
        )
    names = [method.name for method in methods]
    if not append and (repeated := {name for name in names if names.count(name) > 1}):
        do = "build the index with one of them, and add the other with `taughtby index add`"
        raise OptionError("a method is given twice", got=", ".join(sorted(repeated)), do=do)


def _measured_curve(
    model: Model, data: str | Path, read_options: ReadOptions, encoding: Encoding, num_rows: int
) -> LayerSimilarity:
    probe = probe_rows(model, data, read_options, encoding, num_rows)
    return taughtby.capture.layer_similarity.measure_layer_similarity(model, probe)


def _planned_curve(out: str | StoragePath, depth: int) -> LayerSimilarity | None:
    """Return the curve stored by an earlier run, if any: a new measurement could select another layer."""
    manifest = read_manifest(storage_path(out))
    curve = taughtby.capture.layer_similarity.read_layer_similarity(manifest.layers if manifest else None)
    return curve if curve and len(curve.similarity) == depth - 1 else None


def capture_into(
    writer: Writer,
    model: Model,
    data: Iterator[Example],
    methods: Sequence[Method],
    encoding: Encoding,
    token_budget: int | None,
    num_rows: int,
    progress: Progress | None = None,
    pool: RayPool | None = None,
) -> list[dict[str, str]]:
    """Capture the rows that the writer does not have, window by window.

    Args:
        num_rows: Number of rows in `data`, for `progress`.

    Returns:
        Source and reason of each skipped row.
    """
    pipeline = CapturePipeline(model, tuple(methods), encoding, token_budget)
    accelerated = pool.has_gpus if pool else model.device.type != "cpu"
    windows = _windows(data, WINDOW * (ACCELERATOR_FACTOR if accelerated else 1))

    def report(done: int) -> None:
        if progress:
            progress(done, num_rows)

    if pool:
        return pool.fill(writer, windows, pipeline, report)
    return _capture_windows(writer, pipeline, windows, report)


def _capture_windows(
    writer: Writer, pipeline: CapturePipeline, windows: Iterator[list[Example]], report: Callable[[int], None]
) -> list[dict[str, str]]:
    """Capture windows in this process; the next one is prepared and the last one written while the model runs."""
    skipped: list[dict[str, str]] = []
    done = 0

    def prepared() -> Iterator[tuple[int, PreparedWindow]]:
        for window in windows:
            new = [row for row in window if row.id not in writer.row_ids]
            yield len(window), pipeline.prepare(new)

    def write(captured: CapturedWindow) -> None:
        result = captured.finish()
        if result.table is not None:
            writer.append_table(result.table)
        skipped.extend(result.skipped)

    with OneBehind[None]() as behind, one_ahead(prepared()) as ahead:
        for size, window in ahead:
            for event in pipeline.capture_window(window) if window.num_rows else ():
                if isinstance(event, CapturedWindow):
                    behind.submit(partial(write, event))
                else:
                    report(done + size - window.num_rows + event.num_rows)
            done += size
            report(done)
    return skipped


def check_same_model(index: Index | Settings, model: Model, path: StoragePath | None = None) -> None:
    """Raise if a model, adapter or chat template is not that of the index (or settings, of an index at `path`)."""
    settings, where = (index.settings, index.path) if isinstance(index, Index) else (index, path)
    stored: dict[str, str | None] = settings["fingerprint"]
    for part, value in model.fingerprint.items():
        if stored.get(part) != value:
            raise StoreError(
                f"{where} was built with another {part}",
                got=f"{part}: the index has {stored.get(part)}, but {value} was given",
                do=f"give the {part} that the index was built with, or build the index again",
            )
    template = _template_digest(settings["encoding"]["template"], model)
    if stored.get("template") != template:
        raise StoreError(
            f"{where} was built with another chat template",
            got=f"template: the index has {stored.get('template')}, but {template} was given",
            do="give the model or adapter with the tokenizer of the index, or build the index again",
        )


def check_index_notes(settings: Settings, methods: Iterable[Method], model: Model, path: StoragePath) -> dict[str, Any]:
    """Return the methods' notes on the model; raise if they differ from those of the index at `path`."""
    notes = {key: note for method in methods for key, note in method.index_notes(model).items()}
    for key, note in notes.items():
        if settings["notes"].get(key, note) != json.loads(json.dumps(note)):
            raise StoreError(
                f"the model no longer matches the features of {path}",
                got=f"{key}: the index has {shorten(settings['notes'][key])}, but the model has {shorten(note)}",
                do="restore the files beside the adapter, or build another index",
            )
    return notes


def _settings(
    model: Model,
    data: str | Path,
    digest: str,
    methods: Sequence[Method],
    read_options: ReadOptions,
    encoding: Encoding,
) -> Settings:
    adapters = [absolute_name(name) for name in model.adapters]
    return {
        "model": absolute_name(model.name),
        "adapter": adapters if len(adapters) > 1 else next(iter(adapters), None),
        "base": model.base_name and absolute_name(model.base_name),
        "fingerprint": {**model.fingerprint, "template": _template_digest(encoding.template, model), "data": digest},
        "data": absolute_name(str(data)),
        "methods": method_specs(methods),
        "notes": {key: note for method in methods for key, note in method.index_notes(model).items()},
        # JSON turns tuples into lists; without this, a second run would see different settings
        "reading": json.loads(json.dumps(read_options.to_json())),
        "encoding": asdict(encoding),
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def method_specs(methods: Sequence[Method]) -> dict[str, dict[str, Any]]:
    """Return the methods' specs by name, for a manifest; repeated names get their options appended: rept:layer=3."""
    specs: dict[str, dict[str, Any]] = {}
    for method in methods:
        spec = method.spec()
        if spec not in specs.values():
            first = specs.get(method.name, spec)
            other = ",".join(f"{key}={value}" for key, value in spec.items() if first[key] != value)
            specs[f"{method.name}:{other}" if other else method.name] = spec
    return specs


def _survey(data: str | Path, read_options: ReadOptions) -> tuple[int, str, Counter[str]]:
    """Return the number of rows, a hash of their ids and loss masks, and counts of ignored loss marks."""
    digest, num_rows, unfollowed = hashlib.blake2b(digest_size=8), 0, Counter[str]()
    for row in read_examples(data, read_options):
        loss = [row.masked, row.loss_from, bool(row.no_loss)] if row.no_loss or row.loss_from else row.masked
        digest.update(row.id.encode() + (repr(loss).encode() if loss else b""))
        unfollowed.update(mark.name for mark in row.marks if not mark.followed)
        num_rows += 1
    return num_rows, digest.hexdigest(), unfollowed


def probe_rows(
    model: Model, data: str | Path, read_options: ReadOptions, encoding: Encoding, num_rows: int | None = None
) -> list[TokenizedExample]:
    """Return up to `PROBE` usable rows, evenly spaced over the data."""
    step = max(1, math.ceil((num_rows or _survey(data, read_options)[0]) / PROBE))
    rows = tokenize_readable(model, list(islice(read_examples(data, read_options), 0, None, step)), encoding)
    if not any(isinstance(row, TokenizedExample) for row in rows):  # the step may hit only unusable rows
        rows = [tokenize_readable(model, [row], encoding)[0] for row in read_examples(data, read_options)]
    usable = [row for row in rows if isinstance(row, TokenizedExample)][:PROBE]
    if not usable:
        sources = (row.source for row in read_examples(data, read_options))
        first = {
            skip.reason: source
            for source, skip in reversed([*zip(sources, rows, strict=True)])
            if isinstance(skip, SkippedRow)
        }
        long = any("the limit is" in reason for reason in first)
        raise DataError(
            f"no row of {data} can be used",
            got="; ".join(f"{first[reason]}: {reason}" for reason in sorted(first)[:3]),
            do="raise --max-length, or shorten the prompts" if long else "change the rows, or give another --template",
        )
    return usable


def _windows(rows: Iterator[Example], size: int) -> Iterator[list[Example]]:
    while window := list(islice(rows, size)):
        yield window


def _template_digest(template: str | None, model: Model) -> str:
    """A hash of the chat template for rows and queries."""
    text = str(template or model.tokenizer.chat_template or "plain")
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
