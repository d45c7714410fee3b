"""Signatures on disk: a Lance dataset of rows and blocks beside a manifest. Knows no model.

manifest.json         what made it; written first as a plan, marked complete last. Of a finished index it names the
                      version of rows.lance that holds, so that a reader sees no change before it is whole
rows.lance            id, source, label, messages, more (tools and the rejected answer, where a row has them),
                      n_prompt, n_response; a block with one vector a row as unit vectors (float16) with their norms
                      (float32), since raw gradients fall below float16's range; one with a vector a token as it is
                      given (float16); numbers such as the loss
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lance
import numpy as np
import pyarrow as pa
import torch
from pyarrow.dataset import InMemoryDataset

from taughtby.data.example import Example
from taughtby.errors import StoreError, machine_fault
from taughtby.index import hooks
from taughtby.index.arrow import from_arrow, numbers
from taughtby.index.storage import StoragePath, address, list_files, storage_path
from taughtby.models.paths import locate
from taughtby.text import cli_command, shell_quote

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

FORMAT = 4
SAID = ("id", "source", "label", "messages", "more")  # what an Example is made of
# what the manifest says of a finished index, beside its settings
FINISHED = ("version", "count", "blocks", "skipped", "layers", "history", "files", "seal")
SCAN = 2**21  # numbers a scan gives at a time, 8 MB: what a processor keeps at hand
AHEAD = 2**25  # bytes it reads ahead of them; Lance's own is 2 GB


@dataclass(frozen=True)
class IndexedRow:
    """One row as the index holds it; `place` counts from 0 in the order of the data."""

    position: int
    example: Example


@dataclass(frozen=True)
class Index:
    """A finished index, open for reading."""

    path: StoragePath
    manifest: dict[str, Any]
    dataset: Any
    parent: Index | None = field(default=None, repr=False)  # which this one is some rows of
    _means: dict[str, Tensor] = field(default_factory=dict[str, "Tensor"], repr=False, compare=False)
    model_cache: dict[str, Any] = field(default_factory=dict[str, Any], repr=False, compare=False)  # of `trace`

    @classmethod
    def open(cls, path: str | StoragePath) -> Index:
        """Open a finished index as its manifest tells of it; refuse one missing, unfinished or of another format.

        What is open stays as it is while others append, delete or compact.
        """
        path = storage_path(path)
        manifest = read_manifest(path)
        if manifest is None:
            raise absent(path)
        if not manifest["complete"]:
            do = "run the same `taughtby index build` command again: it resumes"
            raise StoreError(f"{path} is not finished", do=do)
        if isinstance(path, Path):
            path = path.absolute()  # the working directory may change while it is open
        try:
            return cls(path, manifest, open_rows(path, manifest["version"]))
        except StoreError:
            # between the two, a `taughtby index compact` may have changed the one and taken away the other
            if (again := read_manifest(path)) is None or again["version"] == manifest["version"]:
                raise
            return cls.open(path)

    def trace(self, prompt: str, response: str, **options: Any) -> Any:
        """Trace an answer with the model the index was built with; options are those of `taughtby.trace`."""
        assert hooks.trace is not None
        return hooks.trace(self, prompt, response, **options)

    def __len__(self) -> int:
        return int(self.manifest["count"])

    def __repr__(self) -> str:
        names = [f"{name} ({width})" for name, width in self.features.items()]
        return f"Index({str(self.path)!r}: {len(self)} rows of {', '.join(self.data)}; {join_names(names)})"

    @property
    def data(self) -> list[str]:
        """What its rows came from, the first one first, where it lies now."""
        names = dict.fromkeys(event["data"] for event in self.manifest["history"] if "data" in event)
        return list(map(self.located, names))

    def located(self, name: str) -> str:
        """Where a model, adapter or file lies that the manifest names."""
        return locate(name, self.manifest.get("home"), self.path)

    @property
    def features(self) -> dict[str, int]:
        """Block name → width d."""
        return self.manifest["blocks"]

    def require_features(self, names: Sequence[str], method: str, other: str = "") -> None:
        """Refuse, by name, a block the index does not hold; `other` are the options that it has otherwise."""
        if missing := [name for name in names if name not in self.features]:
            what = f"{method.partition(':')[0]} needs blocks that {self.path} does not hold: {join_names(missing)}"
            adds = f"taughtby index add {shell_quote(self.path)} --method {method}"
            do = f"{adds} adds them; or choose another method"
            raise StoreError(what, got=other or join_names(self.features), do=do)

    def scan(self, names: Sequence[str], rows: int = 4096) -> Iterator[dict[str, Any]]:
        """Blocks in float32, in order: (B, d) unit vectors, or a Ragged; `NAME_norm` gives (B,).

        `rows` at a time, or fewer where they are wide.
        """
        rows = min(rows, max(1, SCAN // sum(numbers(self.dataset.schema.field(name).type) for name in names)))
        with read_errors(self.path):
            for batch in self.dataset.to_batches(columns=list(names), batch_size=rows):
                yield {name: from_arrow(batch.column(name)) for name in names}

    def mean(self, name: str) -> Float[Tensor, " d"]:
        """The mean of a block's unit vectors over all rows, those of the whole index; computed once."""
        if self.parent:
            return self.parent.mean(name)
        if name not in self._means:
            sums = torch.zeros(self.features[name], dtype=torch.float64)
            for batch in self.scan([name]):
                sums += batch[name].sum(0)
            self._means[name] = (sums / len(self)).float()
        return self._means[name]

    def subset(self, places: Sequence[int], names: Sequence[str]) -> Index:
        """The rows at these places, in that order, with some blocks and their norms, in memory."""
        held = [name for each in names for name in (each, f"{each}_norm") if name in self.dataset.schema.names]
        rows = InMemoryDataset(self.dataset.take(list(places), columns=held).combine_chunks())
        return Index(self.path, {**self.manifest, "count": len(places)}, rows, self.parent or self)

    def sample_positions(self, count: int, seed: int = 0) -> list[int]:
        """The places of up to `count` rows in a random order."""
        return np.random.default_rng(seed).permutation(len(self))[:count].tolist()

    def sample(self, count: int, names: Sequence[str], seed: int = 0) -> Index:
        """Such rows with some blocks and their norms, in memory."""
        return self.subset(self.sample_positions(count, seed), names)

    def examples(self) -> Iterator[Example]:
        """All rows without their blocks, in order."""
        with read_errors(self.path):
            for batch in self.dataset.to_batches(columns=list(SAID)):
                yield from map(_example, batch.to_pylist())

    def to_arrow(self, blocks: Sequence[str] = ()) -> pa.Table:
        """All rows as a table: their texts, their numbers, and the blocks asked for as they are stored."""
        if missing := ", ".join(name for name in blocks if name not in self.features):
            held = ", ".join(self.features) or "no blocks"
            raise StoreError(f"{self.path} has no block {missing}", got=held, do="ask for one that it holds")
        kept = [name for name in self.dataset.schema.names if name not in self.features or name in blocks]
        found = self.dataset.to_table(columns=kept)
        rows = [_example(record) for record in found.select(["id", "source", "label", "messages"]).to_pylist()]
        for name, texts in (("response", [row.response for row in rows]), ("prompt", [row.question for row in rows])):
            found = found.add_column(3, name, pa.array(map(plain, texts), pa.string()))
        return found.drop_columns(["messages"])

    def to_pandas(self, blocks: Sequence[str] = ()) -> Any:
        """The same as a data frame."""
        return self.to_arrow(blocks).to_pandas()

    def take(self, places: Sequence[int]) -> list[IndexedRow]:
        """The rows at these places, in the order asked."""
        if not places:
            return []
        with read_errors(self.path):
            records = self.dataset.take(list(places), columns=list(SAID)).to_pylist()
        return [IndexedRow(place, _example(r)) for place, r in zip(places, records, strict=True)]


def join_names(names: Iterable[str]) -> str:
    """Names of blocks in words: many that differ by their layer alone are a run from the first to the last."""
    runs: dict[str, list[str]] = {}
    for name in names:
        runs.setdefault(re.sub(r"_\d+(?= |$)", "_", name), []).append(name)
    told = (", ".join(run) if len(run) < 8 else f"{run[0]} … {run[-1]}" for run in runs.values())
    return ", ".join(told) or "no blocks"


def absent(path: StoragePath) -> StoreError:
    """What to say where there is no index."""
    return StoreError(
        f"{path} is not an index",
        do=f"give the folder of one, or make it: taughtby index build MODEL DATA -o {shell_quote(path)}",
    )


def read_manifest(path: StoragePath) -> dict[str, Any] | None:
    """What the folder's manifest says; None where there is none, and a StoreError where it cannot be read."""
    file = path / "manifest.json"
    try:
        with storage_errors(path):
            if not file.exists():
                return None
            manifest = json.loads(file.read_text(encoding="utf-8"))
        if (found := manifest["format"]) != FORMAT:
            got = f"format {found}, this taughtby reads {FORMAT}"
            raise StoreError(f"{path} has another format", got=got, do="make the index again")
        _ = [manifest[key] for key in ("settings", *(FINISHED if manifest["complete"] else ()))]
    except (ValueError, KeyError, TypeError) as fault:
        do = "make the index again in another folder"
        raise StoreError(f"{file} cannot be read", got=f"{type(fault).__name__}: {fault}", do=do) from None
    return manifest


def committed(path: StoragePath) -> bool:
    """Whether any row was ever committed: a kill in the first append leaves a folder that has no version."""
    with storage_errors(path):
        return any(name.endswith(".manifest") for name in list_files(path / "rows.lance" / "_versions"))


def open_rows(path: StoragePath, version: int | None = None) -> Any:
    """The Lance dataset of an index, as it was at that version or as it is."""
    options: Any = {"io_buffer_size": AHEAD}
    try:
        with storage_errors(path):
            return lance.dataset(address(path / "rows.lance"), version=version, default_scan_options=options)
    except ValueError as fault:
        check = cli_command("index verify", path)
        do = f"see what is missing: {check}; copy the whole folder again, or build the index again"
        raise StoreError(f"{path} has lost its rows", got=str(fault)[:200], do=do) from None


@contextlib.contextmanager
def storage_errors(path: StoragePath) -> Generator[None]:
    """A full disk or a forbidden folder, in words."""
    try:
        yield
    except OSError as fault:
        got, do = str(fault).strip()[:200], "check the folder and its permissions"
        if "No space left" in got:
            got, do = "No space left on device", "make room"
        do += ", and run the same command again: it goes on where it stopped"
        raise StoreError(f"{path} cannot be written or read", got=got, do=do) from fault


@contextlib.contextmanager
def read_errors(path: StoragePath) -> Generator[None]:
    """Rows that cannot be read any more, in words."""
    try:
        yield
    except StoreError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, MemoryError) as fault:
        what, got = f"rows of {path} cannot be read", f"{type(fault).__name__}: {str(fault)[:200]}"
        check = cli_command("index verify", path)
        do = f"open it again, since it may have been compacted; else see what is damaged: {check}"
        if lack := machine_fault(fault):
            what, do = f"{what}: {lack[0]}", lack[1]
        raise StoreError(what, got=got, do=do) from fault


def plain(text: str) -> str:
    """The text without half characters, which JSON can hold and UTF-8 cannot."""
    return text.encode("utf-8", "backslashreplace").decode()


def _example(record: dict[str, Any]) -> Example:
    more: dict[str, Any] = json.loads(record.get("more") or "{}")
    tools, rejected = tuple(more.get("tools", ())), more.get("rejected")
    masked = tuple((begin, end) for begin, end in more.get("masked", ()))
    messages = tuple(json.loads(record["messages"]))
    return Example(messages, record["label"], record["source"], record["id"], tools, rejected, masked)
