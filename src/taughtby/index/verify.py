"""Check an index against its manifest: files by hash, rows by id, features by recomputing them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
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
from taughtby.index.arrow import TEXT_COLUMNS, feature_widths, from_arrow
from taughtby.index.build import Progress, check_index_notes, check_same_model
from taughtby.index.manifest import Manifest, describe_change, read_finished
from taughtby.index.reader import Index, IndexedRow, open_rows
from taughtby.index.storage import StoragePath, file_digest, storage_path
from taughtby.methods import Method, get_method
from taughtby.models.model import Model

if TYPE_CHECKING:
    from torch import Tensor

NORM_TOLERANCE = 5e-3  # error of the norm of a unit vector in float16
TOLERANCE = {"float32": 1e-3}  # relative error between stored and recomputed features
HALF_TOLERANCE = 3e-2  # the same in half precision, where rounding depends on the batch
MAX_REPORTED = 20  # damaged rows
ROWS = 64  # rows to recompute by default


@dataclass(frozen=True)
class Damage:
    """A damaged place (a file, or a row with its position and source), and what is wrong with it."""

    where: str
    what: str


@dataclass(frozen=True)
class VerifyReport:
    """What was checked, and the damage.

    Attributes:
        files: Number of files compared with their hashes.
        rows: Number of rows compared with their ids.
        num_recomputed: Number of rows whose features were recomputed.
        faults: All damaged files, or up to `MAX_REPORTED` damaged rows.
        pending: Description of an unfinished change, which is not damage.
    """

    files: int
    rows: int
    num_recomputed: int
    faults: tuple[Damage, ...]
    pending: str | None = None


def verify(
    out: str | StoragePath,
    model: Model | None = None,
    rows: int = ROWS,
    seed: int = 0,
    progress: Progress | None = None,
) -> VerifyReport:
    """Check an index for damage. Files are checked first; if any is damaged, rows are not read.

    Args:
        out: The index.
        model: The model of the index. Without it, no features are recomputed.
        rows: Number of rows to recompute.
        seed: Seed that selects these rows.
        progress: Called with (files done, total files).

    Raises:
        StoreError: There is no finished index, or `model` is not its model.
    """
    path = storage_path(out)
    try:
        manifest = read_finished(path)
        if (path / "manifest.json").read_text() != manifest.to_text():
            return VerifyReport(0, 0, 0, (Damage("manifest.json", "its hash does not match its content"),))
    except StoreError as error:
        if _no_index(error) or machine_fault(error):
            raise
        return VerifyReport(0, 0, 0, (Damage("manifest.json", f"{error.what}: {error.got}"),))
    pending = describe_change(manifest.pending) if manifest.pending else None
    damage = list(_check_files(path, manifest, progress))
    if damage:
        return VerifyReport(len(manifest.files), 0, 0, tuple(damage), pending)
    index = Index(path, manifest.to_json(), open_rows(path, manifest.version))
    checks = chain(_check_shape(index, manifest), _check_ids(index, manifest), _check_features(index))
    damage = list(islice(checks, MAX_REPORTED))
    num_recomputed = 0
    if model and not damage:
        check_same_model(index, model)
        methods = [get_method(spec) for spec in index.settings["methods"].values()]
        check_index_notes(index.settings, methods, model, path)
        positions = sorted(index.sample_positions(rows, seed))
        num_recomputed = len(positions)
        damage = list(islice(_recompute(index, model, methods, positions), MAX_REPORTED))
    return VerifyReport(len(manifest.files), len(index), num_recomputed, tuple(damage), pending)


def _no_index(error: StoreError) -> bool:
    """Whether there is no readable index at all: a user error rather than damage."""
    return error.what.endswith(("is not an index", "is not finished", "has another format"))


def _check_files(path: StoragePath, manifest: Manifest, progress: Progress | None) -> Iterator[Damage]:
    for number, (name, expected) in enumerate(manifest.files.items()):
        if progress:
            progress(number, len(manifest.files))
        try:
            digest = file_digest(path / "rows.lance" / name)
        except OSError as error:
            if fault := machine_fault(error):
                raise StoreError(f"{path} cannot be verified: {fault[0]}", got=str(error), do=fault[1]) from error
            missing = isinstance(error, FileNotFoundError)
            yield Damage(f"rows.lance/{name}", "it is missing" if missing else f"it cannot be read: {error}")
            continue
        if digest[0] != expected[0]:
            yield Damage(f"rows.lance/{name}", f"its size is {digest[0]:,} bytes, expected {expected[0]:,}")
        elif digest != expected:
            yield Damage(f"rows.lance/{name}", "its hash does not match the manifest")


def _check_shape(index: Index, manifest: Manifest) -> Iterator[Damage]:
    if (num_rows := index.dataset.count_rows()) != manifest.num_rows:
        yield Damage("rows.lance", f"it has {num_rows:,} rows, but the manifest says {manifest.num_rows:,}")
    if (features := feature_widths(index.dataset.schema)) != manifest.features:
        yield Damage("rows.lance", f"it has the features {features}, but the manifest says {manifest.features}")


def _check_ids(index: Index, manifest: Manifest) -> Iterator[Damage]:
    """Find rows whose id is a duplicate or does not match their content."""
    ids: set[str] = set()
    counts: Counter[bytes] = Counter()
    # an id counts the earlier rows with the same content, some of which may have been skipped or deleted
    most = manifest.num_rows + len(manifest.skipped) + len(manifest.deleted)
    try:
        for position, row in enumerate(index.examples()):
            if row.id in ids:
                yield Damage(_label(position, row.source), f"its id {row.id} is a duplicate")
            ids.add(row.id)
            digest = content_hash(row)
            key = digest[:8]
            counts[key] += 1
            if row.id == row_id(digest, counts[key]):
                continue
            count = next((count for count in range(1, most + 1) if row.id == row_id(digest, count)), None)
            if count is None:
                yield Damage(_label(position, row.source), f"its id {row.id} does not match its content")
            else:
                counts[key] = count
    except StoreError as error:
        if machine_fault(error):
            raise
        yield Damage("rows.lance", f"{error.what}: {error.got}")


def _label(position: int, source: str) -> str:
    return f"row {position} ({source})"


def _check_features(index: Index) -> Iterator[Damage]:
    """Find rows with directions that are not unit vectors, or with numbers that are not finite."""
    columns = [c.name for c in index.dataset.schema if c.name not in TEXT_COLUMNS and not pa.types.is_integer(c.type)]
    for name in columns:
        norm = f"{name}_norm"
        start = 0
        try:
            for batch in index.scan([name, norm] if norm in columns else [name]):
                bad, problem = _invalid_rows(batch[name], batch.get(norm))
                for offset in bad.nonzero()[:, 0].tolist():
                    yield Damage(f"row {start + offset}", f"{name} {problem}")
                start += len(bad)
        except StoreError as error:
            if machine_fault(error):
                raise
            yield Damage(name, f"{error.what}: {error.got}")


def _invalid_rows(column: Column, norms: Any) -> tuple[Tensor, str]:
    """Return a mask (B,) of the rows with invalid values, and what is wrong with them."""
    if isinstance(column, Ragged):
        bad = torch.zeros(len(column.lengths), dtype=torch.bool)
        bad[column.owner[~column.flat.isfinite().all(1)]] = True
        return bad, "has numbers that are not finite"
    if column.ndim == 1:
        return ~column.isfinite(), "is not finite"
    stored_norms = column.norm(dim=1)
    zero = (norms == 0) & (stored_norms == 0) if norms is not None else torch.zeros(len(column), dtype=torch.bool)
    return ~(((stored_norms - 1).abs() < NORM_TOLERANCE) | zero), "is not a unit vector"


def _recompute(index: Index, model: Model, methods: Sequence[Method], positions: Sequence[int]) -> Iterator[Damage]:
    """Find rows whose recomputed features differ from the stored ones."""
    encoding = Encoding(**index.settings["encoding"])
    usable: list[tuple[IndexedRow, TokenizedExample]] = []
    for row in index.take(positions):
        tokens = tokenize(model.tokenizer, row.example, encoding)
        if isinstance(tokens, TokenizedExample):
            usable.append((row, tokens))
        else:
            yield Damage(_label(row.position, row.example.source), f"it can no longer be tokenized: {tokens.reason}")
    rows = [row for row, _ in usable]
    for method in methods:
        features: dict[str, list[Any]] = {
            name: list(values) for name, values in method.text_features([row.example for row in rows]).items()
        }
        prompts_only = method.needs_prompts_only(model.depth)
        for batch in make_batches(
            [tokens for _, tokens in usable], method.token_budget(model), prompts_only=prompts_only
        ):
            for name, values in method.features(model, batch).items():
                column = features.setdefault(name, [None] * len(rows))
                for number, value in zip(batch.row_indices, values, strict=True):
                    column[number] = value
        for name, values in features.items():
            yield from _compare(index, name, values, rows)


def _compare(index: Index, name: str, recomputed: Sequence[Any], rows: Sequence[IndexedRow]) -> Iterator[Damage]:
    """Find rows whose recomputed feature differs from the stored one by more than the tolerance."""
    tolerance = TOLERANCE.get(index.settings["dtype"], HALF_TOLERANCE)
    names = [name, *({f"{name}_norm"} & set(index.dataset.schema.names))]
    table = index.dataset.take([row.position for row in rows], columns=names).combine_chunks()
    column, *norms = (from_arrow(table.column(key).combine_chunks()) for key in names)
    stored = column.flat.split(column.lengths.tolist()) if isinstance(column, Ragged) else list(column)
    if norms and isinstance(norms[0], torch.Tensor):
        stored = [vector * norm for vector, norm in zip(stored, norms[0], strict=True)]
    for row, new, old in zip(rows, recomputed, stored, strict=True):
        new = torch.as_tensor(new).float()
        if new.shape != old.shape or float((new - old).norm()) > tolerance * max(float(new.norm()), 1e-30):
            yield Damage(_label(row.position, row.example.source), f"the recomputed {name} differs")
