"""Change a finished index: add features, delete rows, compact, copy, or undo a pending change.

Readers see the old state until a change is complete. (`build_index` appends rows.)
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from taughtby.capture.layer_similarity import read_layer_similarity
from taughtby.data.tokenize import Encoding
from taughtby.errors import DataError, OptionError, StoreError
from taughtby.index.build import (
    Progress,
    capture_into,
    check_index_notes,
    check_same_model,
    method_specs,
)
from taughtby.index.manifest import Manifest, Settings, describe_change, read_finished, same_change
from taughtby.index.reader import Index, open_rows
from taughtby.index.storage import StoragePath, copy, empty, file_digest, remove, storage_errors, storage_path
from taughtby.index.transaction import IndexTransaction, tracked_files
from taughtby.index.writer import Writer
from taughtby.methods import Method, get_method
from taughtby.models.model import Model
from taughtby.models.paths import absolute_name
from taughtby.models.torch_state import with_plain_torch
from taughtby.text import cli_command

STAGING = "more"  # folder that holds added features until all rows are done
MERGED = 2**20  # rows per fragment after `compact`


@dataclass(frozen=True)
class CompactReport:
    """Number of fragments before and after, and bytes freed."""

    before: int
    after: int
    freed: int


@with_plain_torch
def add_features(
    model: Model,
    out: str | StoragePath,
    methods: Sequence[Method],
    *,
    token_budget: int | None = None,
    progress: Progress | None = None,
) -> Index:
    """Add the features of methods to all rows of a finished index.

    New features are written to a staging folder, so that an interrupted run resumes, and then become columns of the
    index in one change; existing features are neither read nor rewritten. A row whose new features are not finite is
    removed from the index. If all features are stored already, only the manifest changes.

    Args:
        token_budget: Padded tokens per batch.
        progress: Called with (rows done, total rows).

    Raises:
        StoreError: The index is missing or unfinished, or was built with another model.
    """
    with IndexTransaction(out) as transaction:
        path = transaction.path
        manifest = read_finished(path)
        methods = [method.resolve_layers(model.depth, read_layer_similarity(manifest.layers)) for method in methods]
        settings = _with_methods(manifest.settings, methods, model, path)
        specs = {key: spec for key, spec in settings["methods"].items() if key not in manifest.settings["methods"]}
        if not specs and not manifest.pending:
            return Index.open(path)
        change = {"did": "add", "methods": specs, "base": settings["base"]}
        missing = [method for method in methods if not set(method.feature_names(model.depth)) <= set(manifest.features)]
        if not missing:
            manifest = transaction.require_finished()
            event = {**change, "methods": list(specs), "rows": manifest.num_rows}
            transaction.publish_version(manifest, event, settings=settings)
            return Index.open(path)
        if not same_change(manifest.pending, change):
            transaction.require_finished()  # raises while another change is pending, whose features may be staged
            remove(path / STAGING)
        manifest = transaction.begin_change(manifest, change)
        source = {"data": f"version {manifest.version}", "methods": specs, "fingerprint": settings["fingerprint"]}
        with Writer(path / STAGING, source) as staging:
            if not staging.complete:
                index, encoding = Index.open(path), Encoding(**settings["encoding"])
                rows = index.examples()
                skipped = capture_into(staging, model, rows, missing, encoding, token_budget, len(index), progress)
                staging.finish(skipped, None)
        _join_features(transaction, manifest, settings, Index.open(path / STAGING), change)
        remove(path / STAGING)
    return Index.open(out)


def _with_methods(settings: Settings, methods: Sequence[Method], model: Model, path: StoragePath) -> Settings:
    """The settings of an index with these methods added; raise if `model` is not the index's."""
    fingerprint = settings["fingerprint"]
    if fingerprint["base"] is None:
        base = model.base_name and absolute_name(model.base_name)
        settings = {**settings, "base": base, "fingerprint": {**fingerprint, "base": model.fingerprint["base"]}}
    check_same_model(settings, model, path)
    if (dtype := str(model.dtype).removeprefix("torch.")) != settings["dtype"]:
        got = f"dtype: the index has {settings['dtype']}, but {dtype} was given"
        raise StoreError(f"{path} was built in another precision", got=got, do=f"give --dtype {settings['dtype']}")
    specs = method_specs([*map(get_method, settings["methods"].values()), *methods])
    notes = {**check_index_notes(settings, methods, model, path), **settings["notes"]}
    return {**settings, "methods": specs, "notes": notes}


def _join_features(
    transaction: IndexTransaction, manifest: Manifest, settings: Settings, staging: Index, change: dict[str, Any]
) -> None:
    """Add the staged features to the index as columns."""
    before = open_rows(transaction.path, manifest.version)
    names = [name for name in staging.dataset.schema.names if name not in before.schema.names]
    joined = set(names) <= set(transaction.rows.schema.names)  # killed after the last commit
    if not joined and transaction.rows.version != manifest.version:
        manifest = transaction.restore(manifest)
    ids, staged = _ids(before if joined else transaction.rows), _ids(staging.dataset)
    usable = set(_ids(transaction.rows) if joined else staged)
    unusable = [id for id in ids if id not in usable]
    if not joined:
        transaction.delete_ids(unusable)
        if [id for id in ids if id in usable] != staged:
            do = f"undo the change: {cli_command('index undo', transaction.path)}; then add the methods again"
            raise StoreError(f"the rows of {transaction.path} have changed since the new features were computed", do=do)
        if names:
            schema = pa.schema([staging.dataset.schema.field(name) for name in names])
            batches = staging.dataset.to_batches(columns=names, batch_size=1024)
            transaction.add_columns(pa.RecordBatchReader.from_batches(schema, batches))
    event = {**change, "methods": list(change["methods"]), "rows": len(staging)}
    skipped = [*manifest.skipped, *staging.manifest["skipped"]]
    manifest = replace(manifest, pending=None, skipped=skipped)
    transaction.publish_version(manifest, event, settings=settings, deleted=[*manifest.deleted, *unusable])


def _ids(rows: Any) -> list[str]:
    return rows.to_table(columns=["id"]).column("id").to_pylist()


def delete_rows(out: str | StoragePath, rows: Iterable[str]) -> int:
    """Delete rows from an index: all of the given ones, or none on an error.

    Args:
        out: The index.
        rows: Ids or sources (`file:line`).

    Returns:
        The number of deleted rows.

    Raises:
        DataError: A row is not in the index, or a source names several rows.
        OptionError: No row would be left.
    """
    names = dict.fromkeys(rows)
    with IndexTransaction(out) as transaction:
        manifest = transaction.require_finished()
        columns = transaction.rows.to_table(columns=["id", "source"]).to_pydict()
        pairs = list(zip(columns["id"], columns["source"], strict=True))
        ids = [id for id, source in pairs if id in names or source in names]
        counts = Counter(name for pair in pairs for name in pair)
        if ambiguous := [name for name in names if counts[name] > 1]:
            got = f"{ambiguous[0]}: {', '.join(id for id, source in pairs if source == ambiguous[0])}"
            do = "give the ids of those to delete; nothing was deleted"
            raise DataError(f"a source names several rows of {transaction.path}", got=got, do=do)
        if missing := [name for name in names if name not in counts]:
            got = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
            do = "give ids or sources as in a trace; nothing was deleted"
            raise DataError(f"these rows are not in {transaction.path}", got=got, do=do)
        if len(ids) == len(pairs):
            raise OptionError(
                "this would delete all rows", got=f"{len(ids)} of {len(pairs)}", do="remove the folder instead"
            )
        if ids:
            transaction.delete_ids(ids)
            event = {"did": "delete", "rows": len(ids)}
            transaction.publish_version(manifest, event, deleted=[*manifest.deleted, *ids])
    return len(ids)


def removed_row_ids(manifest: str | Path) -> list[str]:
    """Return the ids of the rows that `taughtby clean` removed, read from the manifest next to its output."""
    do = "give the .manifest.json that `taughtby clean` wrote beside its output"
    try:
        document = json.loads(Path(manifest).read_text(encoding="utf-8"))
        did, ids = document["did"], [row["id"] for row in document["rows"]]
    except FileNotFoundError:
        raise DataError(f"there is no file {manifest}", do=do) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        got = f"{type(error).__name__}: {error}"
        raise DataError(f"{manifest} is not a manifest of cleaned data", got=got, do=do) from None
    if did != "removed rows":
        do = "build an index of the cleaned data: its rows were changed, not removed"
        raise DataError(f"{manifest} records no removed rows", got=did, do=do)
    return ids


def compact(out: str | StoragePath, keep: timedelta = timedelta(hours=1)) -> CompactReport:
    """Merge fragments, purge deleted rows from the files, and remove versions older than `keep`.

    A reader that opened the index longer ago than `keep` has to open it again.
    """
    with IndexTransaction(out) as transaction:
        manifest = transaction.require_finished()
        before = len(transaction.rows.get_fragments())
        transaction.merge(MERGED)
        if transaction.rows.version != manifest.version:
            transaction.publish_version(manifest, {"did": "compact"})
        remove(transaction.path / STAGING)
        with storage_errors(transaction.path):
            rows = transaction.rows
            # for keep=0, select versions by number: Lance computes ages from the wall clock, which can jump
            which: dict[str, Any] = {"older_than": keep} if keep else {"versions": list(range(1, rows.version + 1))}
            stats = rows.cleanup_old_versions(**which, delete_unverified=transaction.lock is not None and not keep)
        return CompactReport(before, len(rows.get_fragments()), stats.bytes_removed)


def copy_index(source: str | StoragePath, to: str | StoragePath) -> Index:
    """Copy the current version of an index, even while others write to it; copied files are verified by hash."""
    index, target = Index.open(source), storage_path(to)
    with IndexTransaction(target, new=True) as transaction:
        if not empty(target):
            raise StoreError(f"{target} contains other files", do="give a folder that is empty or does not exist")
        try:
            _copy_files(index, target)
        except BaseException:
            remove(target / "rows.lance")  # otherwise a retry would find the folder not empty
            raise
        transaction.publish(replace(Manifest.from_json(index.manifest), pending=None))
    return Index.open(target)


def _copy_files(index: Index, target: StoragePath) -> None:
    with storage_errors(target):
        for name in tracked_files(index.dataset, transactions=True):
            copy(index.path / "rows.lance" / name, target / "rows.lance" / name)
            digest = index.manifest["files"].get(name)
            if digest and file_digest(target / "rows.lance" / name) != digest:
                do = f"list all damage: {cli_command('index verify', index.path)}"
                raise StoreError(f"{index.path} is damaged", got=f"rows.lance/{name}", do=do)


def undo(out: str | StoragePath) -> str | None:
    """Roll back a pending change.

    Returns:
        A description of what was rolled back; None if nothing was.
    """
    with IndexTransaction(out) as transaction:
        manifest = read_finished(transaction.path)
        pending = manifest.pending
        manifest = transaction.roll_back(replace(manifest, pending=None))
        if pending:
            transaction.publish(manifest)
        remove(transaction.path / STAGING)
        return describe_change(pending) if pending else next(iter(transaction.notes), None)
