"""Fill an index: rows in atomic commits, behind a lock, under settings that may not change."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lance
import pyarrow as pa
from filelock import FileLock, Timeout

from whence.columns import to_arrow, width
from whence.errors import StoreError
from whence.example import Example
from whence.index import FORMAT, Index, committed, explained, plain, read_manifest
from whence.tokens import Row

if TYPE_CHECKING:
    from torch import Tensor

DRAFT = "manifest.json.draft"
Settings = dict[str, Any]


class Writer:
    """An index being filled. Each `append` is one atomic commit; `finish` marks it complete.

    Opening a folder that holds the same settings goes on with it: `done` has the ids that were there already, and
    does not grow. Settings that differ are refused by name. One writer at a time.
    """

    def __init__(self, path: str | Path, settings: Settings) -> None:
        self.path, self.settings = Path(path), settings
        self.lock = FileLock(str(self.path) + ".lock", timeout=0)
        self.done: set[str] = set()
        self.complete = False

    def __enter__(self) -> Writer:
        with explained(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
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
        # in this order: after the release the file may be the next writer's, and a third would lock a new one
        Path(self.lock.lock_file).unlink(missing_ok=True)
        self.lock.release()

    def _begin(self) -> None:
        known = read_manifest(self.path)
        if known is None:
            if self.path.exists() and any(file.name != DRAFT for file in self.path.iterdir()):
                raise StoreError(f"{self.path} holds other files", do="give a folder that is empty or not there yet")
            self._plan(complete=False)
            return
        _refuse_difference(self.path, known["settings"], self.settings)
        self.complete = known["complete"]
        if not self.complete and committed(self.path):
            with explained(self.path):
                rows = lance.dataset(str(self.path / "rows.lance"))
                self.done = set(rows.to_table(columns=["id"]).column("id").to_pylist())

    def _plan(self, **more: Any) -> None:
        manifest = {"format": FORMAT, "settings": self.settings, "complete": False, **more}
        with explained(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            draft = self.path / DRAFT
            draft.write_text(json.dumps(manifest, indent=1))
            os.replace(draft, self.path / "manifest.json")

    def append(
        self, examples: Sequence[Example], rows: Sequence[Row], blocks: Mapping[str, Tensor | list[Tensor]]
    ) -> None:
        """Commit these rows: a block is (B, d), (B,) for a number a row, or a list of (n, k) for a vector a token."""
        columns: dict[str, Any] = {
            "id": [row.id for row in examples],
            "source": [plain(row.source) for row in examples],
            "label": pa.array([row.label and plain(row.label) for row in examples], pa.string()),
            "messages": [json.dumps(list(row.messages)) for row in examples],
            "more": pa.array([_more(row) for row in examples], pa.string()),
            "n_prompt": pa.array([row.n_prompt for row in rows], pa.int32()),
            "n_response": pa.array([row.n_response for row in rows], pa.int32()),
        }
        for name, block in blocks.items():
            columns |= to_arrow(name, block)
        uri = str(self.path / "rows.lance")
        with explained(self.path):
            lance.write_dataset(pa.table(columns), uri, mode="append" if committed(self.path) else "create")

    def finish(self, skipped: Sequence[dict[str, str]], layers: dict[str, Any] | None) -> Index:
        """Mark the index complete and open it."""
        if not committed(self.path):
            reasons = "; ".join(f"{skip['source']}: {skip['reason']}" for skip in skipped[:3])
            do = "look at the reasons, and raise --max-length where rows are too long"
            raise StoreError(f"no row of {self.settings['data']} can be used", got=reasons, do=do)
        with explained(self.path):
            rows = lance.dataset(str(self.path / "rows.lance"))
            # no other writer lives: the lock is ours, so what an earlier kill left behind can go
            rows.cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)
            blocks = {f.name: wide for f in rows.schema if (wide := width(f.type))}
        self._plan(count=rows.count_rows(), blocks=blocks, skipped=list(skipped), layers=layers, complete=True)
        self.complete = True
        return Index.open(self.path)


def _refuse_difference(path: Path, has: Settings, asked: Settings) -> None:
    have, want = dict(_flat(has)), dict(_flat(asked))
    different = [f"{key}: index has {have.get(key, 'nothing')}, asked {want.get(key, 'nothing')}"
                 for key in dict.fromkeys([*have, *want]) if have.get(key) != want.get(key)]  # fmt: skip
    if different:
        do = "ask for the same, or write to another folder"
        raise StoreError(f"{path} was made with other settings", got="; ".join(different), do=do)


def _flat(settings: Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _more(row: Example) -> str | None:
    more = {"tools": row.tools, "rejected": row.rejected, "masked": row.masked}
    return json.dumps(more) if row.tools or row.masked or row.rejected is not None else None
