"""Exclusive and atomic changes of an index. No model is needed.

A change is a series of commits to rows.lance, which readers do not see, followed by a manifest that names the last of
them. The next writer rolls back commits that no manifest names, unless the manifest lists their change as `pending`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import lance
import pyarrow as pa
from filelock import FileLock, Timeout

from taughtby.errors import StoreError
from taughtby.index.arrow import feature_widths
from taughtby.index.manifest import (
    Manifest,
    missing_index,
    read_finished,
    read_manifest,
    require_no_pending,
    same_change,
)
from taughtby.index.reader import open_rows
from taughtby.index.storage import (
    StoragePath,
    address,
    file_digest,
    storage_errors,
    storage_path,
    write_atomically,
)

ROWS = 2**14  # fragments with fewer rows are merged
MAX_FRAGMENTS = 64  # target number of fragments of a large index: each scan opens, and each commit lists, all of them
DELETE_BATCH = 10_000  # rows per delete statement
COMMITS_PER_TIDY = 64  # commits between two merges


class IndexTransaction:
    """A context in which only this process may change an index.

    Attributes:
        rows: The Lance dataset at the latest commit; None before the first.
        visible_version: The version that readers see.
        exclusive: Whether no other process is writing uncommitted files here.
        notes: Descriptions of what was rolled back.
    """

    def __init__(self, path: str | StoragePath, new: bool = False) -> None:
        self.path = storage_path(path)
        self.new = new  # whether the index may be missing
        address(self.path)  # raises for an unusable path before anything is written
        # an object store has no locks: there a commit fails if another writer committed first
        # one lock for all names of a folder: relative ones, and through links
        self.lock = FileLock(f"{self.path.resolve()}.lock", timeout=0) if isinstance(self.path, Path) else None
        self.rows: Any = None
        self.visible_version = 0
        self.exclusive = True
        self.num_commits = 0  # since fragments were merged
        self.notes: list[str] = []

    def __enter__(self) -> Self:
        if not self.new and read_manifest(self.path) is None:
            raise missing_index(self.path)  # before the lock, whose creation would create its parent folders
        if self.lock:
            with storage_errors(self.path):
                Path(self.lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
                try:
                    self.lock.acquire()
                except Timeout:
                    do = "wait for it, or write to another folder"
                    raise StoreError(f"{self.path} is being written by another process", do=do) from None
        try:
            self._begin()
        except BaseException:
            self._unlock()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._unlock()

    def _unlock(self) -> None:
        if self.lock:
            # unlink before the release: otherwise the next writer may hold this file while a third locks a new one
            Path(self.lock.lock_file).unlink(missing_ok=True)
            self.lock.release()

    def _begin(self) -> None:
        """A hook for subclasses, called while the lock is held."""

    def require_finished(self) -> Manifest:
        """Return the manifest of a finished index without a pending change; roll back unpublished commits."""
        manifest = read_finished(self.path)
        require_no_pending(self.path, manifest)
        return self.roll_back(manifest)

    def roll_back(self, manifest: Manifest) -> Manifest:
        """Roll back commits of a killed process that no manifest names."""
        self.rows, self.visible_version = open_rows(self.path), manifest.version
        if self.rows.version == self.visible_version:
            return manifest
        self.notes.append("changes of an interrupted command were rolled back")
        return self.restore(manifest)

    def restore(self, manifest: Manifest) -> Manifest:
        """Make the manifest's version of the rows the latest one again, and publish it."""
        with storage_errors(self.path):
            open_rows(self.path, manifest.version).restore()
        self.rows = open_rows(self.path)
        return self.publish_version(manifest)

    def begin_change(self, manifest: Manifest, change: dict[str, Any]) -> Manifest:
        """Resume this change if it is pending; else record it as pending."""
        if same_change(manifest.pending, change):
            self.rows, self.visible_version = open_rows(self.path), manifest.version
            return manifest
        manifest = replace(self.require_finished(), pending=change)
        self.publish(manifest)
        return manifest

    def append_table(self, table: pa.Table) -> None:
        """Append these rows in one commit."""
        self._commit(lambda target, mode: lance.write_dataset(table, target, mode=mode))

    def append_fragments(self, fragments: Iterable[Any], schema: pa.Schema) -> None:
        """Append fragments that other processes wrote, in this order, in one commit."""
        parts = list(fragments)

        def commit(target: Any, mode: str) -> Any:
            if mode == "create":
                return lance.LanceDataset.commit(target, lance.LanceOperation.Overwrite(schema, parts))
            return lance.LanceDataset.commit(target, lance.LanceOperation.Append(parts), read_version=target.version)

        self._commit(commit)

    def delete_ids(self, ids: Sequence[str]) -> None:
        """Delete the rows with these ids, without publishing the deletion."""
        with storage_errors(self.path):
            for start in range(0, len(ids), DELETE_BATCH):
                quoted = ",".join("'" + id.replace("'", "''") + "'" for id in ids[start : start + DELETE_BATCH])
                self.rows.delete(f"id IN ({quoted})")

    def add_columns(self, columns: pa.RecordBatchReader) -> None:
        """Add these columns, with a value for each row in order, without publishing them."""
        with storage_errors(self.path):
            self.rows.add_columns(columns)

    def _commit(self, commit: Callable[[Any, str], Any]) -> None:
        with storage_errors(self.path):
            if self.rows is None:
                self.rows = commit(address(self.path / "rows.lance"), "create")
                return
            version = self.rows.version
            if self.rows.latest_version == version:
                self.rows = commit(self.rows, "append")
            if self.rows.version != version + 1:
                do = "wait for one of them to finish, then rerun the other: it resumes"
                raise StoreError(f"another process is also writing {self.path}", do=do)
            self.num_commits += 1
            if self.num_commits >= COMMITS_PER_TIDY:
                self.tidy()

    def tidy(self) -> None:
        """Merge small fragments, keeping their order, and remove versions that readers never saw."""
        self.num_commits = 0
        with storage_errors(self.path):
            self.merge(max(ROWS, self.rows.count_rows() // MAX_FRAGMENTS))
            # by number and not by age, since clocks jump; Lance keeps the latest, but rejects an empty list
            if unseen := list(range(self.visible_version + 1, self.rows.version + 1)):
                # while we hold the lock, files that a killed process left behind can be removed too
                unverified = self.lock is not None and self.exclusive
                self.rows.cleanup_old_versions(versions=unseen, delete_unverified=unverified)

    def merge(self, num_rows: int) -> None:
        """Merge adjacent fragments with fewer rows than this; order is kept, deleted rows are purged."""
        with storage_errors(self.path):
            self.rows.optimize.compact_files(target_rows_per_fragment=num_rows, materialize_deletions_threshold=0.0,
                                             num_threads=1, batch_size=1024)  # fmt: skip

    def publish_version(self, manifest: Manifest, event: dict[str, Any] | None = None, **changes: Any) -> Manifest:
        """Make the latest version visible to readers.

        Args:
            manifest: The previous manifest.
            event: An entry for its history.
            changes: Other fields of the manifest to change.
        """
        history = manifest.history
        if event:
            history = [*history, {**event, "at": datetime.now(UTC).isoformat(timespec="seconds")}]
        with storage_errors(self.path):
            contents = {"num_rows": self.rows.count_rows(), "features": feature_widths(self.rows.schema)}
            version, files = self.rows.version, self._files(manifest)
        manifest = replace(
            manifest, **changes, **contents, complete=True, version=version, history=history, files=files
        )
        self.publish(manifest)
        self.visible_version = version
        return manifest

    def _files(self, manifest: Manifest) -> dict[str, list[int | str]]:
        # Lance never changes a file, so those in the manifest are not hashed again
        return {
            name: manifest.files.get(name) or file_digest(self.path / "rows.lance" / name)
            for name in tracked_files(self.rows)
        }

    def publish(self, manifest: Manifest) -> None:
        """Replace the manifest."""
        with storage_errors(self.path):
            if isinstance(self.path, Path):
                self.path.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path / "manifest.json", manifest.to_text())


def tracked_files(rows: Any, transactions: bool = False) -> list[str]:
    """Return the files of a dataset's version, as paths relative to the dataset."""
    files = rows.tracked_files(min_version=rows.version).read_all().to_pylist()
    kinds = ("manifest", "data file", "deletion file", *(("transaction file",) if transactions else ()))
    return sorted(file["path"] for file in files if file["version"] == rows.version and file["type"] in kinds)
