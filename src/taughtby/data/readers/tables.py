"""Reads rows from Arrow tables: Parquet, Arrow files and streams, `save_to_disk` folders, the hub."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from taughtby.data.example import Record, shorten
from taughtby.data.readers.arrow_values import AT_ONCE, batch_rows, json_like
from taughtby.data.readers.stream import KINDS, Rows, read_error
from taughtby.errors import DataError, OptionError, machine_fault

_FAULTS = (pa.ArrowException, OSError, ValueError, KeyError, OverflowError, NotImplementedError)


def parquet(path: Path) -> Rows:
    """Read a Parquet file batch by batch."""
    import pyarrow.parquet as pq

    with _kind_of(path, "Parquet"):
        batches = pq.ParquetFile(path.absolute()).iter_batches(batch_size=AT_ONCE)
    return _rows(batches, path)


def arrow(path: Path) -> Rows:
    """Read an Arrow IPC file (such as Feather) or stream batch by batch."""
    with _kind_of(path, "Arrow"):
        mapped = pa.memory_map(str(path.absolute()))
        if mapped.read(6) == b"ARROW1":
            file = pa.ipc.open_file(mapped)
            return _rows(map(file.get_batch, range(file.num_record_batches)), path)
        mapped.seek(0)
        return _rows(pa.ipc.open_stream(mapped), path)


@contextlib.contextmanager
def _kind_of(path: Path, name: str) -> Generator[None]:
    try:
        yield
    except _FAULTS as fault:
        if machine_fault(fault):
            raise read_error(path, fault) from None
        do = "write the file again, or correct its suffix"
        raise DataError(f"{path}: not a valid {name} file", got=shorten(str(fault), 160), do=do) from None


def _rows(batches: Iterable[pa.RecordBatch], path: Path) -> Rows:
    number = 0
    try:
        for batch in batches:
            names: list[str] = _validated(batch).schema.names
            if twice := sorted({name for name in names if names.count(name) > 1}):
                do = "give each column a unique name"
                raise DataError(f"{path}:{number}: two columns have the same name", got=", ".join(twice), do=do)
            for row in batch_rows(batch):
                yield f"{path}:{number}", row
                number += 1
    except _FAULTS as fault:
        raise read_error(f"{path}:{number}", fault) from None


def _validated(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Validate a batch: reading unchecked values of a damaged file may crash the process."""
    batch.validate(full=True)
    return batch


def saved(path: Path, split: str | None) -> Rows:
    """Read a folder that `save_to_disk` wrote, a Dataset or a DatasetDict."""
    from datasets import Dataset, load_from_disk

    try:
        dataset: Any = load_from_disk(str(path.absolute()))
    except Exception as fault:  # `datasets` may raise anything for files that are not its own
        if machine_fault(fault):
            raise read_error(path, fault) from None
        do = "give the data set's own folder, or a file"
        if "::" in str(path.absolute()):
            do = "move it to a path without `::`, which `datasets` reads as a chained URL"
        raise DataError(
            f"{path} is a folder, but not one that `Dataset.save_to_disk` wrote", got=shorten(str(fault)), do=do
        ) from None
    name = path.name
    if not isinstance(dataset, Dataset):
        split_name = split or ("train" if len(dataset) > 1 else next(iter(dataset), ""))
        if split_name not in dataset:
            what = f"{path} has no split {split_name}" if split else f"{path} has several splits"
            raise DataError(what, got=", ".join(map(str, dataset)), do="choose one with --split")
        dataset, name = dataset[split_name], f"{name}/{split_name}"
    elif split:
        do = "omit the split"
        raise OptionError(f"{path} is a single data set without splits", got=f"split {split}", do=do)
    tables = cast("Iterable[pa.Table]", dataset.with_format("arrow").iter(AT_ONCE))
    rows = (row for table in tables for batch in table.to_batches() for row in batch_rows(_validated(batch)))
    return _numbered(rows, name)


def hub(data: str, split: str | None) -> Rows:
    """Stream a hub data set: `owner/name`, or `owner/name:config`."""
    from datasets import load_dataset

    name, _, config = data.partition(":")
    chosen: dict[str, Any] = {"name": config} if config else {}
    try:
        rows = iter(_undecoded(load_dataset(name, split=split or "train", streaming=True, **chosen)))
        first = next(rows)
    except StopIteration:
        raise DataError(
            f"{data} has no rows", do=f"give a data set with rows in its split {split or 'train'}"
        ) from None
    except Exception as fault:  # the hub client passes on whatever its transport raises
        what = f"{data} is neither a local file nor a data set on the hub"
        do = f"give one of: {KINDS}"
        if problem := machine_fault(fault):
            what, do = f"{data} cannot be fetched from the hub: {problem[0]}", problem[1]
        elif "split" in str(fault).lower():
            what, do = f"{data} has no split {split or 'train'}", "choose one with --split"
        elif "config name" in str(fault).lower():
            what, do = f"{data} has several configurations", f"choose one: {name}:CONFIG"
        raise DataError(what, got=shorten(str(fault), 200), do=do) from None
    return _numbered(chain([first], rows), data)


def _undecoded(dataset: Any) -> Any:
    """Leave images and audio undecoded: detecting them needs no decoder."""
    media = {"Image", "Audio", "Video", "Pdf"}
    features: dict[str, Any] = getattr(dataset, "features", None) or {}
    columns = {name: type(feature) for name, feature in features.items() if type(feature).__name__ in media}
    for name, feature in columns.items():
        dataset = dataset.cast_column(name, feature(decode=False))
    return dataset


def _numbered(rows: Iterable[Any], name: str) -> Rows:
    iterator: Iterator[Any] = iter(rows)
    number = 0
    while True:
        try:
            row = cast("Record", next(iterator))
        except StopIteration:
            return
        except Exception as fault:  # `datasets` passes on whatever its transport or decoders raise
            raise read_error(f"{name}:{number}", fault) from None
        yield f"{name}:{number}", json_like(row)
        number += 1
