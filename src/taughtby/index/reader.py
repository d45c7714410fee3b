"""Read an index: a Lance dataset of rows and features, and a manifest. No model is needed.

manifest.json         the settings of the index, and the version of rows.lance that readers see (`index.manifest`)
rows.lance            id, source, label, messages, more (optional fields such as tools, as JSON), n_prompt,
                      n_response; features with one vector per row as unit vectors (float16) and norms (float32);
                      features with a vector per token, not normalized (float16); numbers such as the loss
"""

from __future__ import annotations

import contextlib
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
from taughtby.index.arrow import TEXT_COLUMNS, escape_surrogates, from_arrow, numbers_per_row, to_example
from taughtby.index.manifest import read_finished, read_manifest
from taughtby.index.storage import StoragePath, address, list_files, storage_errors, storage_path
from taughtby.models.paths import locate
from taughtby.text import cli_command, shell_quote

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

SCAN = 2**21  # numbers per batch of a scan: 8 MB, which fits in a CPU's cache
READ_AHEAD = 2**25  # bytes; Lance's default is 2 GB


@dataclass(frozen=True)
class IndexedRow:
    """One row of an index; `position` counts from 0 in the order of the data."""

    position: int
    example: Example


@dataclass(frozen=True)
class Index:
    """A finished index, open for reading.

    It is a snapshot: rows that other processes append, delete or compact later do not change it.

    Attributes:
        path: The folder, or the prefix in an object store.
        manifest: The manifest as JSON (`taughtby.index.manifest`).
        dataset: The rows, as a Lance or Arrow dataset.
        parent: The full index, if this is a subset of it.
    """

    path: StoragePath
    manifest: dict[str, Any]
    dataset: Any
    parent: Index | None = field(default=None, repr=False)
    _means: dict[str, Tensor] = field(default_factory=dict[str, "Tensor"], repr=False, compare=False)
    model_cache: dict[str, Any] = field(default_factory=dict[str, Any], repr=False, compare=False)  # used by `trace`

    @classmethod
    def open(cls, path: str | StoragePath) -> Index:
        """Open a finished index.

        Raises:
            StoreError: There is no index, or it is unfinished, damaged or of another format.
        """
        path = storage_path(path)
        manifest = read_finished(path)
        if isinstance(path, Path):
            path = path.absolute()  # the working directory may change while it is open
        try:
            return cls(path, manifest.to_json(), open_rows(path, manifest.version))
        except StoreError:
            # between the two reads, a compaction may have replaced the manifest and removed that version
            again = read_manifest(path)
            if again is None or again.version == manifest.version:
                raise
            return cls.open(path)

    def trace(self, prompt: str, response: str, **options: Any) -> Any:
        """Trace an answer with the model that the index was built with; takes the options of `taughtby.trace`."""
        assert hooks.trace is not None
        return hooks.trace(self, prompt, response, **options)

    def __len__(self) -> int:
        return int(self.manifest["num_rows"])

    def __repr__(self) -> str:
        names = [f"{name} ({width})" for name, width in self.features.items()]
        return f"Index({str(self.path)!r}: {len(self)} rows of {', '.join(self.data)}; {join_names(names)})"

    @property
    def settings(self) -> dict[str, Any]:
        """What the index was built with: model, data, methods, encoding."""
        return self.manifest["settings"]

    @property
    def data(self) -> list[str]:
        """The current paths of the data files that the rows came from, in order."""
        names = dict.fromkeys(event["data"] for event in self.manifest["history"] if "data" in event and event["rows"])
        return list(map(self.located, names))

    def located(self, name: str) -> str:
        """Return the current path of a model, adapter or file that the manifest names."""
        return locate(name, self.manifest.get("home"), self.path)

    @property
    def features(self) -> dict[str, int]:
        """The width d of each feature's vectors, by name."""
        return self.manifest["features"]

    def require_features(self, names: Sequence[str], method: str, other: str = "") -> None:
        """Raise a StoreError that names the features that the index does not have.

        Args:
            names: The required features.
            method: The method that needs them.
            other: The options for which the index has features of that method, for the message.
        """
        if missing := [name for name in names if name not in self.features]:
            what = f"{method.partition(':')[0]} needs features that {self.path} does not have: {join_names(missing)}"
            command = f"taughtby index add {shell_quote(self.path)} --method {method}"
            do = f"add them: {command}; or choose another method"
            raise StoreError(what, got=other or join_names(self.features), do=do)

    def scan(self, names: Sequence[str], rows: int = 4096) -> Iterator[dict[str, Any]]:
        """Read features in float32, in the order of the rows.

        Args:
            names: Features, and numbers such as `loss` or `NAME_norm`.
            rows: Rows per batch; fewer for wide features.

        Yields:
            A dict of (B, d) unit vectors, (B,) numbers, or a Ragged, by name.
        """
        numbers = sum(numbers_per_row(self.dataset.schema.field(name).type) for name in names)
        with read_errors(self.path):
            for batch in self.dataset.to_batches(columns=list(names), batch_size=min(rows, max(1, SCAN // numbers))):
                yield {name: from_arrow(batch.column(name)) for name in names}

    def mean(self, name: str) -> Float[Tensor, " d"]:
        """Return the mean of a feature's unit vectors over all rows of the full index; computed once."""
        if self.parent:
            return self.parent.mean(name)
        if name not in self._means:
            sums = torch.zeros(self.features[name], dtype=torch.float64)
            for batch in self.scan([name]):
                sums += batch[name].sum(0)
            self._means[name] = (sums / len(self)).float()
        return self._means[name]

    def subset(self, positions: Sequence[int], names: Sequence[str]) -> Index:
        """Return an index in memory of the rows at these positions, in that order, with these features and norms."""
        columns = [column for name in names for column in (name, f"{name}_norm") if column in self.dataset.schema.names]
        rows = InMemoryDataset(self.dataset.take(list(positions), columns=columns).combine_chunks())
        return Index(self.path, {**self.manifest, "num_rows": len(positions)}, rows, self.parent or self)

    def sample_positions(self, count: int, seed: int = 0) -> list[int]:
        """Return the positions of up to `count` rows, in random order."""
        return np.random.default_rng(seed).permutation(len(self))[:count].tolist()

    def examples(self) -> Iterator[Example]:
        """Yield all rows without their features, in order."""
        with read_errors(self.path):
            for batch in self.dataset.to_batches(columns=list(TEXT_COLUMNS)):
                yield from map(to_example, batch.to_pylist())

    def to_arrow(self, features: Sequence[str] = ()) -> pa.Table:
        """Return all rows as a table of their texts, their numbers, and these features as stored."""
        if missing := ", ".join(name for name in features if name not in self.features):
            stored = ", ".join(self.features) or "no features"
            raise StoreError(f"{self.path} has no feature {missing}", got=stored, do="choose one of these")
        columns = [name for name in self.dataset.schema.names if name not in self.features or name in features]
        table = self.dataset.to_table(columns=columns)
        rows = [to_example(record) for record in table.select(["id", "source", "label", "messages"]).to_pylist()]
        for name, texts in (("response", [row.response for row in rows]), ("prompt", [row.question for row in rows])):
            table = table.add_column(3, name, pa.array(map(escape_surrogates, texts), pa.string()))
        return table.drop_columns(["messages"])

    def to_pandas(self, features: Sequence[str] = ()) -> Any:
        """Return the table of `to_arrow` as a data frame."""
        return self.to_arrow(features).to_pandas()

    def take(self, positions: Sequence[int]) -> list[IndexedRow]:
        """Return the rows at these positions, in that order."""
        if not positions:
            return []
        with read_errors(self.path):
            records = self.dataset.take(list(positions), columns=list(TEXT_COLUMNS)).to_pylist()
        return [IndexedRow(position, to_example(record)) for position, record in zip(positions, records, strict=True)]


def join_names(names: Iterable[str]) -> str:
    """Join feature names; eight or more that differ only by layer are shortened to the first and the last."""
    runs: dict[str, list[str]] = {}
    for name in names:
        runs.setdefault(re.sub(r"_\d+(?= |$)", "_", name), []).append(name)
    parts = (", ".join(run) if len(run) < 8 else f"{run[0]} … {run[-1]}" for run in runs.values())
    return ", ".join(parts) or "no features"


def has_commits(path: StoragePath) -> bool:
    """Whether any row was committed. A process killed in its first commit leaves a folder without a version."""
    with storage_errors(path):
        return any(name.endswith(".manifest") for name in list_files(path / "rows.lance" / "_versions"))


def open_rows(path: StoragePath, version: int | None = None) -> Any:
    """Open the Lance dataset of an index at a version, by default the latest."""
    options: Any = {"io_buffer_size": READ_AHEAD}
    try:
        with storage_errors(path):
            return lance.dataset(address(path / "rows.lance"), version=version, default_scan_options=options)
    except ValueError as error:
        command = cli_command("index verify", path)
        do = f"list what is missing: {command}; copy the whole folder again, or build the index again"
        raise StoreError(f"the rows of {path} are missing", got=str(error)[:200], do=do) from None


@contextlib.contextmanager
def read_errors(path: StoragePath) -> Generator[None]:
    """Convert errors of reading rows into a StoreError."""
    try:
        yield
    except StoreError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, MemoryError) as error:
        what, got = f"rows of {path} cannot be read", f"{type(error).__name__}: {str(error)[:200]}"
        command = cli_command("index verify", path)
        do = f"open it again, in case it was compacted; if that fails, list the damage: {command}"
        if fault := machine_fault(error):
            what, do = f"{what}: {fault[0]}", fault[1]
        raise StoreError(what, got=got, do=do) from error
