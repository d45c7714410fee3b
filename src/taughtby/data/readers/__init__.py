"""Streams the raw records of any file, folder, pipe or hub data set."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import chain
from pathlib import Path

from taughtby.data.example import shorten
from taughtby.data.readers import tables, texts
from taughtby.data.readers.stream import COMPRESSED, KINDS, STDIN, Rows, file_type, read_error
from taughtby.errors import DataError, OptionError

TEXTS: dict[str, Callable[[Path], Rows]] = {
    ".jsonl": texts.jsonl, ".ndjson": texts.jsonl, ".json": texts.json_file, ".csv": texts.table, ".tsv": texts.table,
}  # fmt: skip
TABLES: dict[str, Callable[[Path], Rows]] = {
    ".parquet": tables.parquet, ".arrow": tables.arrow, ".feather": tables.arrow,
}  # fmt: skip
SAVED = ("state.json", "dataset_info.json", "dataset_dict.json")  # files that `save_to_disk` writes


def read_records(data: str, split: str | None = None) -> Rows:
    """Stream pairs (source, record) of `data`; `split` selects a split of a folder or a hub data set."""
    path = Path(data)
    try:
        folder, exists = path.is_dir(), path.exists()
    except OSError as fault:  # permission denied, or a name that is too long
        raise read_error(shorten(data), fault) from None
    if folder:
        return _folder(path, split)
    if not exists and data not in STDIN:
        if _has_data_suffix(path) or data.count("/") > 1 or data.startswith((".", "/", "~")):
            raise DataError(f"there is no file {data}", do=f"give the path of the training data: {KINDS}")
        return tables.hub(data, split)
    if split:
        do = "omit the split: it selects part of a folder or of a hub data set"
        raise OptionError(f"{data} has no splits", got=f"split {split}", do=do)
    return _reader(path)(path)


def _has_data_suffix(path: Path) -> bool:
    return path.suffix.lower() in {*TEXTS, *TABLES, *COMPRESSED, ".txt"}


def _reader(path: Path) -> Callable[[Path], Rows]:
    """Return the reader for a type of file; pipes are JSON Lines, unless their name ends in .csv or .tsv."""
    suffix = file_type(path)
    if str(path) in STDIN or not path.is_file():
        return texts.table if suffix in {".csv", ".tsv"} else texts.jsonl
    if suffix in TABLES and path.suffix.lower() in COMPRESSED:
        raise DataError(f"{path}: a compressed {suffix} cannot be streamed", do="decompress the file first")
    reader = (TEXTS | TABLES).get(suffix)
    if reader is None:
        raise DataError(f"{path}: unknown file type", got=suffix or "no suffix", do=f"give one of: {KINDS}")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty", do="give a file with at least one row")
    return reader


def _folder(path: Path, split: str | None) -> Rows:
    """Read a `save_to_disk` folder, or shards of one type in the order of their names."""
    if any((path / name).exists() for name in SAVED):
        return tables.saved(path, split)
    return chain.from_iterable(_reader(file)(file) for file in shards(path, split))


def shards(path: Path, split: str | None) -> list[Path]:
    """Return the data files of a folder of shards, sorted by name."""
    # as deep as folders on the hub, and no deeper: the folder may be a whole disk
    candidates = chain.from_iterable(path.glob(pattern) for pattern in ("*", "*/*", "*/*/*"))
    # .json files beside shards hold metadata, not rows
    files = sorted(file for file in candidates if file_type(file) in {*TEXTS, *TABLES} - {".json"} and file.is_file())
    files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    kinds = sorted({file_type(file) for file in files})
    if len(kinds) != 1:
        got = ", ".join(kinds) or "none"
        raise DataError(f"{path} must contain data files of exactly one type", got=got, do=f"give one of: {KINDS}")
    return _of_split(files, path, split)


def _of_split(files: list[Path], folder: Path, split: str | None) -> list[Path]:
    """Return the shards whose file or folder name begins with the split, by default `train`, else all shards."""
    begins = re.compile(rf"{re.escape(split or 'train')}(?![a-z0-9_])", re.IGNORECASE)
    chosen = [file for file in files if any(begins.match(part) for part in file.relative_to(folder).parts)]
    if split and not chosen:
        got = ", ".join(str(file.relative_to(folder)) for file in files[:5])
        raise DataError(f"{folder} has no shards of the split {split}", got=got, do="choose another, or omit it")
    return chosen or files
