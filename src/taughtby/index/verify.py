"""Whether an index is what its manifest says: files by their hashes, rows by their ids, blocks by the model itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch

from taughtby.capture.ragged import Column, Ragged
from taughtby.data.batching import make_batches
from taughtby.data.row_ids import content_hash, row_id
from taughtby.data.tokenize import Encoding, TokenizedExample, tokenize
from taughtby.errors import StoreError, machine_fault
from taughtby.index.arrow import from_arrow, vector_width
from taughtby.index.build import TOKEN_BUDGET, check_notes, check_same_model
from taughtby.index.reader import SAID, Index, IndexedRow, open_rows, read_manifest
from taughtby.index.storage import StoragePath, file_digest, storage_path
from taughtby.index.transaction import seal, told, written
from taughtby.methods import Method, get_method
from taughtby.models.model import Model

if TYPE_CHECKING:
    from torch import Tensor

LENGTH = 5e-3  # by which a unit vector in float16 may be longer or shorter than 1
NEAR = {"float32": 1e-3}  # how close a block comes when it is made again, as a share of its length
COARSE = 3e-2  # the same in half precision, where a batch cut otherwise rounds otherwise
ENOUGH = 20  # faults that are told; more say nothing new
ROWS = 64  # that are made again
Progress = Callable[[int, int], Any]


@dataclass(frozen=True)
class Damage:
    """What is wrong, and where: a file, or a row by its place and source."""

    where: str
    what: str


@dataclass(frozen=True)
class VerifyReport:
    """What was looked at, and the faults found; `again` counts rows whose blocks the model made once more.

    `pending` says in words what was begun and is not finished, which is no fault.
    """

    files: int
    rows: int
    again: int
    faults: tuple[Damage, ...]
    pending: str | None = None


def verify(
    out: str | StoragePath,
    model: Model | None = None,
    rows: int = ROWS,
    seed: int = 0,
    progress: Progress | None = None,
) -> VerifyReport:
    """Look for damage. With `model`, the blocks of so many rows drawn by `seed` are made again and compared.

    Files are compared with their hashes first: what is in damaged ones is not read.
    """
    path = storage_path(out)
    try:
        known = read_manifest(path)
        if known is None or not known["complete"]:
            Index.open(path)  # which says what is missing
        assert known is not None
        if known["seal"] != seal(known) or (path / "manifest.json").read_text() != written(known):
            return VerifyReport(0, 0, 0, (Damage("manifest.json", "it was changed since it was written"),))
    except StoreError as fault:
        if _absent(fault) or machine_fault(fault):
            raise
        return VerifyReport(0, 0, 0, (Damage("manifest.json", f"{fault.what}: {fault.got}"),))
    pending = told(known["pending"]) if known.get("pending") else None
    faults = list(_files(path, known["files"], progress))
    if faults:
        return VerifyReport(len(known["files"]), 0, 0, tuple(faults), pending)
    index = Index(path, known, open_rows(path, known["version"]))
    faults = list(islice(chain(_shape(index), _ids(index), _blocks(index)), ENOUGH))
    again = 0
    if model and not faults:
        check_same_model(index, model)
        methods = [get_method(spec) for spec in known["settings"]["methods"].values()]
        check_notes(known["settings"], methods, model, path)
        places = sorted(index.sample_positions(rows, seed))
        again, faults = len(places), list(islice(_again(index, model, methods, places), ENOUGH))
    return VerifyReport(len(known["files"]), len(index), again, tuple(faults), pending)


def _absent(fault: StoreError) -> bool:
    """Whether there is no finished index at all, which is a mistake and not a damage."""
    return fault.what.endswith(("is not an index", "is not finished", "has another format"))


def _files(path: StoragePath, files: dict[str, Any], progress: Progress | None) -> Iterator[Damage]:
    for at, (name, said) in enumerate(files.items()):
        if progress:
            progress(at, len(files))
        try:
            found = file_digest(path / "rows.lance" / name)
        except OSError as fault:
            if lack := machine_fault(fault):
                raise StoreError(f"{path} cannot be verified: {lack[0]}", got=str(fault), do=lack[1]) from fault
            missing = isinstance(fault, FileNotFoundError)
            yield Damage(f"rows.lance/{name}", "it is missing" if missing else f"it cannot be read: {fault}")
            continue
        if found[0] != said[0]:
            yield Damage(f"rows.lance/{name}", f"it has {found[0]:,} bytes, and had {said[0]:,}")
        elif found != said:
            yield Damage(f"rows.lance/{name}", "its bytes are not those that were written")


def _shape(index: Index) -> Iterator[Damage]:
    if (count := index.dataset.count_rows()) != len(index):
        yield Damage("rows.lance", f"it has {count:,} rows, and the manifest says {len(index):,}")
    held = {f.name: wide for f in index.dataset.schema if (wide := vector_width(f.type))}
    if held != index.features:
        yield Damage("rows.lance", f"it has the blocks {held}, and the manifest says {index.features}")


def _ids(index: Index) -> Iterator[Damage]:
    """Each id once, and the one that the row's content gives."""
    met: set[str] = set()
    seen: Counter[bytes] = Counter()
    # of rows that say the same, some may have been skipped or deleted
    most = len(index) + len(index.manifest["skipped"]) + len(index.manifest.get("deleted", ()))
    try:
        for place, row in enumerate(index.examples()):
            if row.id in met:
                yield Damage(_row(place, row.source), f"its id {row.id} is another row's too")
            met.add(row.id)
            found = content_hash(row)
            key = found[:8]
            seen[key] += 1
            if row.id == row_id(found, seen[key]):
                continue
            times = next((times for times in range(1, most + 1) if row.id == row_id(found, times)), None)
            if times is None:
                yield Damage(_row(place, row.source), f"its id {row.id} is not that of its text")
                continue
            seen[key] = times
    except StoreError as fault:
        if machine_fault(fault):
            raise
        yield Damage("rows.lance", f"{fault.what}: {fault.got}")


def _row(place: int, source: str) -> str:
    return f"row {place} ({source})"


def _blocks(index: Index) -> Iterator[Damage]:
    """Directions of length 1, and no number that is none."""
    names = [f.name for f in index.dataset.schema if f.name not in SAID and not pa.types.is_integer(f.type)]
    for name in names:
        wanted = [name, f"{name}_norm"] if f"{name}_norm" in names else [name]
        at = 0
        try:
            for batch in index.scan(wanted):
                bad, what = _odd(batch[name], batch.get(f"{name}_norm"))
                for place in bad.nonzero()[:, 0].tolist():
                    yield Damage(f"row {at + place}", f"{name} {what}")
                at += len(bad)
        except StoreError as fault:
            if machine_fault(fault):
                raise
            yield Damage(name, f"{fault.what}: {fault.got}")


def _odd(column: Column, norms: Any) -> tuple[Tensor, str]:
    """(B,): which rows cannot be; and what they are."""
    if isinstance(column, Ragged):
        bad = torch.zeros(len(column.lengths), dtype=torch.bool)
        bad[column.owner[~column.flat.isfinite().all(1)]] = True
        return bad, "has numbers that are not finite"
    if column.ndim == 1:
        return ~column.isfinite(), "is not finite"
    lengths = column.norm(dim=1)
    still = (norms == 0) & (lengths == 0) if norms is not None else torch.zeros(len(column), dtype=torch.bool)
    return ~(((lengths - 1).abs() < LENGTH) | still), "is no vector of length 1"


def _again(index: Index, model: Model, methods: Sequence[Method], places: Sequence[int]) -> Iterator[Damage]:
    """Rows whose blocks the model makes otherwise."""
    settings = index.manifest["settings"]
    encoding, near = Encoding(**settings["encoding"]), NEAR.get(settings["dtype"], COARSE)
    stored = index.take(places)
    encoded = [tokenize(model.tokenizer, one.example, encoding) for one in stored]
    usable = [(one, row) for one, row in zip(stored, encoded, strict=True) if isinstance(row, TokenizedExample)]
    for one, row in zip(stored, encoded, strict=True):
        if not isinstance(row, TokenizedExample):
            yield Damage(_row(one.position, one.example.source), f"it cannot be read any more: {row.reason}")
    for how in methods:
        made: dict[str, list[Any]] = {
            name: list(block) for name, block in how.text_features([one.example for one, _ in usable]).items()
        }
        for batch in make_batches(
            [row for _, row in usable], TOKEN_BUDGET, prompts_only=how.needs_prompts_only(model.depth)
        ):
            for name, block in how.features(model, batch).items():
                rows = made.setdefault(name, [None] * len(usable))
                for at, value in zip(batch.row_indices, block, strict=True):
                    rows[at] = value
        for name, block in made.items():
            yield from _other(index, name, block, [one for one, _ in usable], near)


def _other(index: Index, name: str, made: Sequence[Any], stored: Sequence[IndexedRow], near: float) -> Iterator[Damage]:
    """Where a block made again is further from what is stored than it may be."""
    norm = [f"{name}_norm"] if f"{name}_norm" in index.dataset.schema.names else []
    held = index.dataset.take([one.position for one in stored], columns=[name, *norm]).combine_chunks()
    columns = {key: from_arrow(held.column(key).combine_chunks()) for key in (name, *norm)}
    column = columns[name]
    lengths = columns.get(f"{name}_norm")
    rows = column.flat.split(column.lengths.tolist()) if isinstance(column, Ragged) else list(column)
    for at, (one, mine, theirs) in enumerate(zip(stored, made, rows, strict=True)):
        mine = torch.as_tensor(mine).float()
        if isinstance(lengths, torch.Tensor):
            theirs = theirs * lengths[at]
        if mine.shape != theirs.shape or float((mine - theirs).norm()) > near * max(float(mine.norm()), 1e-30):
            yield Damage(_row(one.position, one.example.source), f"the model gives another {name}")
