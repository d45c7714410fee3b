"""The right to change an index: one process at a time, and each change whole or not at all. Knows no model.

A change is made of commits to rows.lance, which no reader looks at, and then of a manifest that names the last of them.
What was committed and never named is taken back by whoever comes next, unless the manifest has it as `pending`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import lance
import pyarrow as pa
from filelock import FileLock, Timeout

from taughtby.errors import StoreError
from taughtby.index.arrow import vector_width
from taughtby.index.reader import FORMAT, absent, open_rows, read_manifest, storage_errors
from taughtby.index.storage import StoragePath, address, file_digest, replace, storage_path
from taughtby.text import cli_command

Manifest = dict[str, Any]
ROWS = 2**14  # of a fragment that is left alone: smaller ones are merged
PARTS = 64  # of all rows, or so many to a fragment: what a scan opens, and a commit writes down, stays short
SOME = 10_000  # rows that one statement deletes
TIDY = 64  # commits from one merging to the next


class IndexTransaction:
    """An index that this process alone may change, until the block ends. `notes` say what was mended on the way."""

    def __init__(self, path: str | StoragePath, new: bool = False) -> None:
        self.path = storage_path(path)
        self.new = new  # whether there need not be an index yet
        address(self.path)  # what rows cannot be written to is refused before any is made
        # an object store has no locks: there a commit that another writer's came before is refused
        self.lock = FileLock(f"{self.path}.lock", timeout=0) if isinstance(self.path, Path) else None
        self.rows: Any = None  # as of the newest commit; None before the first
        self.pinned = 0  # the version that readers see
        self.alone = True  # whether no other process writes files here that are still to be joined
        self.fresh = 0  # commits since fragments were merged
        self.notes: list[str] = []

    def __enter__(self) -> Self:
        if not self.new and read_manifest(self.path) is None:
            raise absent(self.path)  # before the lock, which would make the folders above it
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
            # in this order: after the release the file may be the next writer's, and a third would lock a new one
            Path(self.lock.lock_file).unlink(missing_ok=True)
            self.lock.release()

    def _begin(self) -> None:
        """What is to be known before the first change."""

    def finished(self) -> Manifest:
        """The manifest of a finished index in which nothing is left to be done."""
        known = read_manifest(self.path)
        if known is None:
            raise absent(self.path)
        if not known["complete"]:
            do = "run the same `taughtby index build` command again: it resumes"
            raise StoreError(f"{self.path} is not finished", do=do)
        if pending := known.get("pending"):
            do = f"run that again: it goes on where it stopped; or give it up: {cli_command('index undo', self.path)}"
            raise StoreError(f"something begun in {self.path} is not finished", got=told(pending), do=do)
        return self.settled(known)

    def settled(self, known: Manifest) -> Manifest:
        """Take back what a killed command committed and no manifest tells of."""
        self.rows, self.pinned = open_rows(self.path), known["version"]
        if self.rows.version == self.pinned:
            return known
        self.notes.append("a command that did not end had begun to change the rows; that is taken back")
        return self.restored(known)

    def restored(self, known: Manifest) -> Manifest:
        """The rows as the manifest tells of them, as the newest version, and the manifest that names it."""
        with storage_errors(self.path):
            open_rows(self.path, known["version"]).restore()
        self.rows = open_rows(self.path)
        return self.named(known)

    def begun(self, known: Manifest, change: dict[str, Any]) -> Manifest:
        """Go on with this change where it is pending; else note it down as what is being done."""
        if same_change(known.get("pending"), change):
            self.rows, self.pinned = open_rows(self.path), known["version"]
            return known
        known = {**self.finished(), "pending": change}
        self.publish(known)
        return known

    def add(self, rows: pa.Table) -> None:
        """Commit these rows behind the others."""
        self._next(lambda where, mode: lance.write_dataset(rows, where, mode=mode))

    def join(self, fragments: Iterable[Any], schema: pa.Schema) -> None:
        """Commit fragments that were written elsewhere, in this order, behind the others, all at once."""
        parts = list(fragments)

        def commit(where: Any, mode: str) -> Any:
            if mode == "create":
                return lance.LanceDataset.commit(where, lance.LanceOperation.Overwrite(schema, parts))
            return lance.LanceDataset.commit(where, lance.LanceOperation.Append(parts), read_version=where.version)

        self._next(commit)

    def drop(self, ids: Sequence[str]) -> None:
        """Commit that the rows with these ids are gone."""
        with storage_errors(self.path):
            for at in range(0, len(ids), SOME):
                some = ",".join("'" + id.replace("'", "''") + "'" for id in ids[at : at + SOME])
                self.rows.delete(f"id IN ({some})")

    def widen(self, columns: pa.RecordBatchReader) -> None:
        """Commit these columns for all rows, in their order."""
        with storage_errors(self.path):
            self.rows.add_columns(columns)

    def _next(self, commit: Callable[[Any, str], Any]) -> None:
        with storage_errors(self.path):
            if self.rows is None:
                self.rows = commit(address(self.path / "rows.lance"), "create")
                return
            before = self.rows.version
            if self.rows.latest_version == before:
                self.rows = commit(self.rows, "append")
            if self.rows.version != before + 1:
                do = "let one of them end, and run the other again: it goes on where it stopped"
                raise StoreError(f"{self.path} is being written by another process too", do=do)
            self.fresh += 1
            if self.fresh >= TIDY:
                self.tidy()

    def tidy(self) -> None:
        """Merge small fragments, in their order, and let the versions go that no reader has seen."""
        self.fresh = 0
        with storage_errors(self.path):
            self.merge(max(ROWS, self.rows.count_rows() // PARTS))
            # by number and not by age, since clocks jump; the newest goes never, but a list may not be empty
            between = list(range(self.pinned + 1, self.rows.version + 1))
            # where the lock is ours, what a kill left behind can go too
            self.rows.cleanup_old_versions(versions=between, delete_unverified=self.lock is not None and self.alone)

    def merge(self, most: int) -> None:
        """Commit neighbouring fragments as one where they hold fewer rows than that; order is kept, rows deleted go."""
        with storage_errors(self.path):
            self.rows.optimize.compact_files(target_rows_per_fragment=most, materialize_deletions_threshold=0.0,
                                             num_threads=1, batch_size=1024)  # fmt: skip

    def named(self, known: Manifest, event: dict[str, Any] | None = None, **more: Any) -> Manifest:
        """Make the newest version the one that readers see, with what has happened; the manifest that says so."""
        history = known.get("history", [])
        if event:
            history = [*history, {**event, "at": datetime.now(UTC).isoformat(timespec="seconds")}]
        with storage_errors(self.path):
            blocks = {f.name: wide for f in self.rows.schema if (wide := vector_width(f.type))}
            count, version = self.rows.count_rows(), self.rows.version
            held = contents(self.path, self.rows, known.get("files", {}))
        made = {**known, **more, "complete": True, "version": version, "count": count, "blocks": blocks,
                "history": history, "files": held}  # fmt: skip
        self.publish(made)
        self.pinned = version
        return made

    def publish(self, manifest: Manifest) -> None:
        """Put the manifest in the place of the one that was."""
        with storage_errors(self.path):
            if isinstance(self.path, Path):
                self.path.mkdir(parents=True, exist_ok=True)
            manifest = {"format": FORMAT, **manifest}
            manifest["seal"] = seal(manifest)
            replace(self.path / "manifest.json", written(manifest))


def same_change(pending: dict[str, Any] | None, change: dict[str, Any]) -> bool:
    """Whether a change is the one that is pending, wherever its files lie by now."""

    def what(one: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in one.items() if key not in ("data", "base")}

    return pending is not None and what(pending) == what(change)


def told(change: dict[str, Any]) -> str:
    """What is being done, in words."""
    if change["did"] == "add":
        return f"adding {', '.join(change['methods'])}"
    return f"appending {change['data']}"


def written(manifest: Manifest) -> str:
    """The text of a manifest."""
    return json.dumps(manifest, indent=1)


def seal(manifest: Manifest) -> str:
    """A hash of all that a manifest says."""
    said = {key: value for key, value in manifest.items() if key != "seal"}
    return hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=16).hexdigest()


def tracked(rows: Any, transactions: bool = False) -> list[str]:
    """The files that a dataset's version is made of, by their paths in it."""
    found = rows.tracked_files(min_version=rows.version).read_all().to_pylist()
    kinds = ("manifest", "data file", "deletion file", *(("transaction file",) if transactions else ()))
    return sorted(one["path"] for one in found if one["version"] == rows.version and one["type"] in kinds)


def contents(path: StoragePath, rows: Any, known: dict[str, Any]) -> dict[str, Any]:
    """[bytes, hash] of each of these files. A file of Lance's never changes, so those `known` are not read again."""
    return {name: known.get(name) or file_digest(path / "rows.lance" / name) for name in tracked(rows)}
