"""Signatures on disk: a Lance dataset of rows and blocks beside a manifest. Knows no model.

manifest.json         what made it; written first as a plan, marked complete last
rows.lance            id, source, label, messages, more (tools and the rejected answer, where a row has them),
                      n_prompt, n_response; a block with one vector a row as unit vectors (float16) with their norms
                      (float32), since raw gradients fall below float16's range; one with a vector a token as it is
                      given (float16); numbers such as the loss
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lance
import numpy as np
import pyarrow as pa
import torch
from filelock import FileLock, Timeout
from pyarrow.dataset import InMemoryDataset

from whence.columns import from_arrow, to_arrow, width
from whence.errors import StoreError
from whence.example import Example
from whence.tokens import Row

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

FORMAT = 2
SAID = ("id", "source", "label", "messages", "more")  # what an Example is made of
DRAFT = "manifest.json.draft"
FINISHED = ("count", "blocks", "skipped", "layers")  # what the manifest says of a finished index, beside its settings
SCAN = 2**24  # numbers a scan reads at a time, 64 MB: gradients of weights are wide
Settings = dict[str, Any]


@dataclass(frozen=True)
class Stored:
    """One row as the index holds it; `place` counts from 0 in the order of the data."""

    place: int
    example: Example


@dataclass(frozen=True)
class Index:
    """A finished index, open for reading."""

    path: Path
    manifest: dict[str, Any]
    rows: Any
    _means: dict[str, Tensor] = field(default_factory=dict[str, "Tensor"], repr=False, compare=False)

    @classmethod
    def open(cls, path: str | Path) -> Index:
        """Open a finished index; refuse one that is missing, unfinished or of another format."""
        path = Path(path)
        manifest = _manifest(path)
        if manifest is None:
            raise StoreError(f"{path} is not an index", do=f"make one: whence index MODEL DATA -o {path}")
        if not manifest["complete"]:
            do = "run the same `whence index` command again: it goes on where it stopped"
            raise StoreError(f"{path} is not finished", do=do)
        if not _committed(path):
            do = "copy the whole folder again, or make the index again in another one"
            raise StoreError(f"{path} has lost its rows", got="no rows.lance with a version in it", do=do)
        with _explained(path):
            return cls(path, manifest, lance.dataset(str(path / "rows.lance")))

    def __len__(self) -> int:
        return int(self.manifest["count"])

    def __repr__(self) -> str:
        names = [f"{name} ({width})" for name, width in self.blocks.items()]
        return f"Index({str(self.path)!r}: {len(self)} rows of {self.manifest['settings']['data']}; {listed(names)})"

    @property
    def blocks(self) -> dict[str, int]:
        """Block name → width d."""
        return self.manifest["blocks"]

    def require(self, names: Sequence[str], method: str) -> None:
        """Refuse, by name, a block the index does not hold."""
        if missing := [name for name in names if name not in self.blocks]:
            what = f"{method} needs blocks that {self.path} does not hold: {listed(missing)}"
            do = f"index again with --method {method}, or choose a method and layer it was made with"
            raise StoreError(what, got=listed(self.blocks), do=do)

    def scan(self, names: Sequence[str], rows: int = 4096) -> Iterator[dict[str, Any]]:
        """Blocks in float32, in order: (B, d) unit vectors, or a Ragged; `NAME_norm` gives (B,).

        `rows` at a time, or fewer where they are wide.
        """
        rows = min(rows, max(1, SCAN // max(1, sum(self.blocks.get(name, 0) for name in names))))
        for batch in self.rows.to_batches(columns=list(names), batch_size=rows):
            yield {name: from_arrow(batch.column(name)) for name in names}

    def mean(self, name: str) -> Float[Tensor, " d"]:
        """The mean of a block's unit vectors over all rows; computed once."""
        if name not in self._means:
            sums = [batch[name].sum(0, dtype=torch.float64) for batch in self.scan([name])]
            self._means[name] = (torch.stack(sums).sum(0) / len(self)).float()
        return self._means[name]

    def sample(self, count: int, names: Sequence[str], seed: int = 0) -> Index:
        """Up to `count` rows in a random order, with some blocks, in memory; the means stay those of all rows."""
        places = np.random.default_rng(seed).permutation(len(self))[:count]
        held = [name for each in names for name in (each, f"{each}_norm") if name in self.rows.schema.names]
        plain = [name for name in names if pa.types.is_fixed_size_list(self.rows.schema.field(name).type)]
        rows = InMemoryDataset(self.rows.take(places.tolist(), columns=held).combine_chunks())
        return Index(self.path, {**self.manifest, "count": len(places)}, rows, {at: self.mean(at) for at in plain})

    def texts(self) -> Iterator[Example]:
        """All rows without their blocks, in order."""
        for batch in self.rows.to_batches(columns=list(SAID)):
            yield from map(_example, batch.to_pylist())

    def to_arrow(self, blocks: Sequence[str] = ()) -> pa.Table:
        """All rows as a table: their texts, their numbers, and the blocks asked for as they are stored."""
        if missing := ", ".join(name for name in blocks if name not in self.blocks):
            held = ", ".join(self.blocks) or "no blocks"
            raise StoreError(f"{self.path} has no block {missing}", got=held, do="ask for one that it holds")
        kept = [name for name in self.rows.schema.names if name not in self.blocks or name in blocks]
        found = self.rows.to_table(columns=kept)
        rows = [_example(record) for record in found.select(["id", "source", "label", "messages"]).to_pylist()]
        for name, texts in (("response", [row.response for row in rows]), ("prompt", [row.question for row in rows])):
            found = found.add_column(3, name, pa.array(map(_plain, texts), pa.string()))
        return found.drop_columns(["messages"])

    def to_pandas(self, blocks: Sequence[str] = ()) -> Any:
        """The same as a data frame."""
        return self.to_arrow(blocks).to_pandas()

    def take(self, places: Sequence[int]) -> list[Stored]:
        """The rows at these places, in the order asked."""
        if not places:
            return []
        records = self.rows.take(list(places), columns=list(SAID)).to_pylist()
        return [Stored(place, _example(r)) for place, r in zip(places, records, strict=True)]


class Writer:
    """An index being filled. Each `append` is one atomic commit; `finish` marks it complete.

    Opening a folder that holds the same settings goes on with it: `done` has the ids that are there already.
    Settings that differ are refused by name. One writer at a time.
    """

    def __init__(self, path: str | Path, settings: Settings) -> None:
        self.path, self.settings = Path(path), settings
        self.lock = FileLock(str(self.path) + ".lock", timeout=0)
        self.done: set[str] = set()
        self.complete = False

    def __enter__(self) -> Writer:
        with _explained(self.path):
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
        known = _manifest(self.path)
        if known is None:
            if self.path.exists() and any(file.name != DRAFT for file in self.path.iterdir()):
                raise StoreError(f"{self.path} holds other files", do="give a folder that is empty or not there yet")
            self._plan(complete=False)
            return
        _refuse_difference(self.path, known["settings"], self.settings)
        self.complete = known["complete"]
        if not self.complete and _committed(self.path):
            with _explained(self.path):
                rows = lance.dataset(str(self.path / "rows.lance"))
                self.done = set(rows.to_table(columns=["id"]).column("id").to_pylist())

    def _plan(self, **more: Any) -> None:
        manifest = {"format": FORMAT, "settings": self.settings, "complete": False, **more}
        with _explained(self.path):
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
            "source": [_plain(row.source) for row in examples],
            "label": pa.array([row.label and _plain(row.label) for row in examples], pa.string()),
            "messages": [json.dumps(list(row.messages)) for row in examples],
            "more": pa.array([_more(row) for row in examples], pa.string()),
            "n_prompt": pa.array([row.n_prompt for row in rows], pa.int32()),
            "n_response": pa.array([row.n_response for row in rows], pa.int32()),
        }
        for name, block in blocks.items():
            columns |= to_arrow(name, block)
        uri = str(self.path / "rows.lance")
        with _explained(self.path):
            lance.write_dataset(pa.table(columns), uri, mode="append" if _committed(self.path) else "create")
        self.done.update(columns["id"])

    def finish(self, skipped: Sequence[dict[str, str]], layers: dict[str, Any] | None) -> Index:
        """Mark the index complete and open it."""
        if not _committed(self.path):
            reasons = "; ".join(f"{skip['source']}: {skip['reason']}" for skip in skipped[:3])
            do = "look at the reasons, and raise --max-length where rows are too long"
            raise StoreError(f"no row of {self.settings['data']} can be used", got=reasons, do=do)
        with _explained(self.path):
            rows = lance.dataset(str(self.path / "rows.lance"))
            # no other writer lives: the lock is ours, so what an earlier kill left behind can go
            rows.cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)
            blocks = {f.name: wide for f in rows.schema if (wide := width(f.type))}
        self._plan(count=rows.count_rows(), blocks=blocks, skipped=list(skipped), layers=layers, complete=True)
        self.complete = True
        return Index.open(self.path)


def listed(names: Iterable[str]) -> str:
    """Names of blocks in words: many that differ by their layer alone are a run from the first to the last."""
    runs: dict[str, list[str]] = {}
    for name in names:
        runs.setdefault(re.sub(r"_\d+(?= |$)", "_", name), []).append(name)
    told = (", ".join(run) if len(run) < 8 else f"{run[0]} … {run[-1]}" for run in runs.values())
    return ", ".join(told) or "no blocks"


def _manifest(path: Path) -> dict[str, Any] | None:
    file = path / "manifest.json"
    if not file.exists():
        return None
    try:
        with _explained(path):
            manifest = json.loads(file.read_text(encoding="utf-8"))
        if (found := manifest["format"]) != FORMAT:
            got = f"format {found}, this whence reads {FORMAT}"
            raise StoreError(f"{path} has another format", got=got, do="make the index again")
        _ = [manifest[key] for key in ("settings", *(FINISHED if manifest["complete"] else ()))]
    except (ValueError, KeyError, TypeError) as fault:
        do = "make the index again in another folder"
        raise StoreError(f"{file} cannot be read", got=f"{type(fault).__name__}: {fault}", do=do) from None
    return manifest


def _committed(path: Path) -> bool:
    """Whether any row was ever committed: a kill in the first append leaves a folder that has no version."""
    return any((path / "rows.lance" / "_versions").glob("*.manifest"))


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


@contextlib.contextmanager
def _explained(path: Path) -> Generator[None]:
    """A full disk or a forbidden folder, in words."""
    try:
        yield
    except OSError as fault:
        got, do = str(fault).strip()[:200], "check the folder and its permissions"
        if "No space left" in got:
            got, do = "No space left on device", "make room"
        do += ", and run the same command again: it goes on where it stopped"
        raise StoreError(f"{path} cannot be written or read", got=got, do=do) from fault


def _plain(text: str) -> str:
    """The text without half characters, which JSON can hold and UTF-8 cannot."""
    return text.encode("utf-8", "backslashreplace").decode()


def _more(row: Example) -> str | None:
    more = {"tools": row.tools, "rejected": row.rejected}
    return json.dumps(more) if row.tools or row.rejected is not None else None


def _example(record: dict[str, Any]) -> Example:
    more: dict[str, Any] = json.loads(record.get("more") or "{}")
    tools, rejected = tuple(more.get("tools", ())), more.get("rejected")
    messages = tuple(json.loads(record["messages"]))
    return Example(messages, record["label"], record["source"], record["id"], tools, rejected)
