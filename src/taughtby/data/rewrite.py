"""Writes a copy of a data set in its own format, with rows removed or words excluded from the loss.

In JSON Lines all other bytes stay the same; in all other formats the other rows have the same values.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import shutil
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from taughtby.data import jsonl_edits
from taughtby.data.example import Record
from taughtby.data.files import atomic_path
from taughtby.data.jsonl_edits import FIELD, Edits, Marks
from taughtby.data.readers import SAVED, TABLES, read_records, shards
from taughtby.data.readers.stream import COMPRESSED, file_type, open_binary
from taughtby.data.readers.texts import csv_delimiter, csv_rows, listed_rows
from taughtby.errors import DataError, OptionError

RANGES: Any = pa.list_(pa.list_(pa.int64()))
BYTES = "all other rows are byte-identical"
VALUES = "all other rows have the same values"
LINES = "the rows of the hub as JSON lines"


def describe_preservation(data: str) -> str:
    """Return what `rewrite_dataset` guarantees for the rows that are not edited, as a phrase."""
    path = Path(data)
    if not path.exists():
        return LINES
    if path.is_dir():
        return VALUES if _saved(path) or not _json_lines(shards(path, None)[0]) else BYTES
    return BYTES if _json_lines(path) else VALUES


def rewrite_dataset(data: str, out: Path, split: str | None, edits: Edits) -> None:
    """Write `data` with the edits to `out` atomically, in its own format; hub data as JSON Lines.

    Raises:
        DataError: The output cannot be written, or a row of the hub cannot be written as JSON.
    """
    path = Path(data)
    with atomic_path(out, DataError) as draft:
        if not path.exists():
            _pack(_hub_lines(data, split, edits), draft, out)
        elif path.is_file():
            _rewrite_file(path, draft, out, edits)
        elif _saved(path):
            _rewrite_saved(path, draft, edits)
        else:
            _rewrite_shards(path, draft, split, edits)


def check_apart(data: str, out: Path) -> None:
    """Refuse an output that is the input, inside it, or around it."""
    path = Path(data)
    if path.exists():
        inside = {path.resolve(), *path.resolve().parents}, {out.resolve(), *out.resolve().parents}
        if path.resolve() in inside[1] or out.resolve() in inside[0] or (out.exists() and out.samefile(path)):
            raise OptionError(f"{out} is the input, or part of it", do="give another file: the input is never changed")


def check_output(data: str, out: Path) -> None:
    """Refuse an output that is the input, inside it, around it, or of another format."""
    path = Path(data)
    check_apart(data, out)
    if path.is_dir():
        if out.exists() and not (out.is_dir() and not any(out.iterdir())):
            raise OptionError(f"{out} already exists", do="give an empty or new folder")
        return
    suffix = file_type(path) if path.exists() else ".jsonl"
    alike = {".jsonl", ".ndjson"}
    if out.is_dir() or (file_type(out) != suffix and not {file_type(out), suffix} <= alike):
        raise OptionError("the cleaned data must have the same format", got=str(out), do=f"name it {out.stem}{suffix}")


def _saved(path: Path) -> bool:
    return any((path / name).exists() for name in SAVED)


def _json_lines(path: Path) -> bool:
    """Whether a file is JSON Lines, as some .json files are; only rows of a list are numbered from 0."""
    if file_type(path) == ".json":
        return not next(read_records(str(path)))[0].endswith(":0")
    return file_type(path) in (".jsonl", ".ndjson")


def _rewrite_file(path: Path, draft: Path, out: Path, edits: Edits) -> None:
    """Rewrite one file; text files are compressed by the suffix of `out`."""
    if file_type(path) in TABLES:
        _rewrite_table(path, draft, edits)
    elif file_type(path) in (".csv", ".tsv"):
        _pack(_csv(path, edits), draft, out)
    else:
        _pack(jsonl_edits.edit_lines(path, edits) if _json_lines(path) else _json_list(path, edits), draft, out)


def _rewrite_shards(folder: Path, draft: Path, split: str | None, edits: Edits) -> None:
    """Rewrite the shards of the split, and copy every other file."""
    files = shards(folder, split)
    shutil.copytree(folder, draft, ignore=lambda parent, names: {name for name in names if Path(parent, name) in files})
    for file in files:
        shard = draft / file.relative_to(folder)
        _rewrite_file(file, shard, shard, edits)
        if not shard.stat().st_size:  # readers refuse an empty file
            shard.unlink()


# Text files


def _pack(pieces: Iterable[bytes], draft: Path, out: Path) -> None:
    with pa.output_stream(str(draft), compression=COMPRESSED.get(out.suffix.lower())) as raw:
        for piece in pieces:
            raw.write(piece)


def _json_bytes(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace")


def _hub_lines(data: str, split: str | None, edits: Edits) -> Iterator[bytes]:
    for source, record in read_records(data, split):
        try:
            if (edited := edits.apply(source, record)) is not None:
                yield _json_bytes(edited) + b"\n"
        except TypeError as fault:  # a table may contain bytes
            do = "save the data set to disk, and clean the copy"
            raise DataError(f"{source}: the row cannot be written as JSON", got=str(fault), do=do) from None


def _json_list(path: Path, edits: Edits) -> Iterator[bytes]:
    """Write the list of rows, one row per line, inside the object that contains it if there is one."""
    whole, rows = listed_rows(path)
    applied = (edits.apply(f"{path}:{number}", row) for number, row in enumerate(rows))
    edited = [row for row in applied if row is not None]
    lines = b"[\n" + b",\n".join(map(_json_bytes, edited)) + b"\n]"
    holder: Record = whole if isinstance(whole, dict) and any(value is rows for value in whole.values()) else {}
    items = [
        _json_bytes(key) + b": " + (lines if value is rows else _json_bytes(value)) for key, value in holder.items()
    ]
    yield (b"{" + b", ".join(items) + b"}" if items else lines) + b"\n"


def _csv(path: Path, edits: Edits) -> Iterator[bytes]:
    """Write the rows with Python's `csv`, with one more column if words are marked.

    A byte order mark is kept, because spreadsheets need it to recognise UTF-8.
    """
    with open_binary(path) as raw:
        if raw.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8:
            yield codecs.BOM_UTF8
    line = io.StringIO(newline="")
    writer = csv.writer(line, delimiter=csv_delimiter(path))
    header: list[str] = []
    width = 0  # without the new column
    for source, row in csv_rows(path):
        if not header:
            header, width = row if FIELD in row or not edits.marks else [*row, FIELD], len(row)
            row = header
        elif source in edits.marks:
            row = [*row, *[""] * len(header)][: len(header)]
            row[header.index(FIELD)] = json.dumps(edits.marks[source])
        elif len(row) == width < len(header):
            row = [*row, ""]
        if source not in edits.dropped:
            writer.writerow(row)
            yield line.getvalue().encode()
            line.seek(0)
            line.truncate()


# Tables


def _rewrite_table(path: Path, draft: Path, edits: Edits) -> None:
    """Rewrite a Parquet, Arrow or Feather file."""
    if file_type(path) == ".parquet":
        _rewrite_parquet(path, draft, edits)
        return
    with pa.memory_map(str(path.absolute())) as mapped:
        seekable = mapped.read(6) == b"ARROW1"
        mapped.seek(0)
        table = _edit_table((pa.ipc.open_file if seekable else pa.ipc.open_stream)(mapped).read_all(), str(path), edits)
        options = pa.ipc.IpcWriteOptions(compression="lz4" if file_type(path) == ".feather" else None)
        make = pa.ipc.new_file if seekable else pa.ipc.new_stream
        with pa.OSFile(str(draft), "wb") as out, make(out, table.schema, options=options) as writer:
            writer.write_table(table)


def _rewrite_parquet(path: Path, draft: Path, edits: Edits) -> None:
    """Rewrite a Parquet file one row group at a time, since it may not fit into memory."""
    with pq.ParquetFile(path.absolute()) as file:
        schema = file.schema_arrow
        codec = file.metadata.row_group(0).column(0).compression if file.num_row_groups else "SNAPPY"
        empty = _edit_table(schema.empty_table(), str(path), edits)
        with pq.ParquetWriter(draft, empty.schema, compression=codec.replace("UNCOMPRESSED", "NONE")) as writer:
            start = 0
            for group in range(file.num_row_groups):
                # a row group's schema includes metadata of the footer that is valid only for the original file
                table = file.read_row_group(group).replace_schema_metadata(schema.metadata)
                writer.write_table(_edit_table(table, str(path), edits, start))
                start += len(table)


def _edit_table(table: pa.Table, name: str, edits: Edits, start: int = 0) -> pa.Table:
    """Apply the edits to the rows of a table, whose sources are `name:start`, …"""
    sources = [f"{name}:{row}" for row in range(start, start + len(table))]
    if edits.marks:
        table = _mark_table(table, sources, edits)
    # slices, since a filter knows fewer types: not the string views that Polars writes
    runs = groupby(range(len(sources)), lambda row: sources[row] not in edits.dropped)
    kept = [list(rows) for keep, rows in runs if keep]
    return pa.concat_tables([table.slice(rows[0], len(rows)) for rows in kept] or [table.slice(0, 0)])


def _mark_table(table: pa.Table, sources: list[str], edits: Edits) -> pa.Table:
    """Write the marks into their column, which keeps its position and type, or into a new column at the end."""
    at: int = table.schema.get_field_index(FIELD)
    if at < 0:
        table = table.append_column(FIELD, pa.array(_merge_marks(sources, None, edits), RANGES))
        return table.replace_schema_metadata(_with_feature(table.schema.remove(len(table.schema) - 1)))
    kind = table.schema.field(at).type
    kind = RANGES if pa.types.is_null(kind) else kind
    marks: list[Any] = list(_merge_marks(sources, table.column(at).to_pylist(), edits))
    if not pa.types.is_nested(kind):
        marks = [mark and json.dumps(mark) for mark in marks]
    return table.set_column(at, pa.field(FIELD, kind), pa.array(marks, kind))


def _with_feature(schema: pa.Schema) -> dict[bytes, bytes] | None:
    """Return the metadata of a schema; if `datasets` stored its features there, add the new column to them."""
    metadata: dict[bytes, bytes] | None = schema.metadata
    if not metadata or b"huggingface" not in metadata:
        return metadata
    from datasets import Features, List, Value

    features = Features({**Features.from_arrow_schema(schema), FIELD: List(List(Value("int64")))})
    return {**metadata, **(features.arrow_schema.metadata or {})}


def _merge_marks(sources: list[str], column: list[Any] | None, edits: Edits) -> list[Marks | None]:
    """Return the marks of each row: those of the edit, or those in its column, which may be JSON."""
    stored = [json.loads(value or "null") if isinstance(value, str) else value for value in column or []]
    return [
        edits.marks.get(source, mark) for source, mark in zip(sources, stored or [None] * len(sources), strict=True)
    ]


def _rewrite_saved(path: Path, draft: Path, edits: Edits) -> None:
    """Rewrite a `save_to_disk` folder: save the edited split, and copy the others."""
    from datasets import List, Value, disable_progress_bars, load_from_disk

    disable_progress_bars()
    name = next(iter({*edits.dropped, *edits.marks})).rpartition(":")[0]
    split = name.removeprefix(path.name).removeprefix("/")
    dataset: Any = load_from_disk(str(path.absolute()))
    dataset = dataset[split] if split else dataset
    sources = [f"{name}:{row}" for row in range(len(dataset))]
    if edits.marks:
        column = list(dataset[FIELD]) if FIELD in dataset.column_names else None
        dataset = dataset.remove_columns([FIELD]) if column else dataset
        marks: Any = _merge_marks(sources, column, edits)
        dataset = dataset.add_column(FIELD, marks, feature=List(List(Value("int64"))))
    if split:
        shutil.copytree(path, draft, ignore=lambda folder, names: {split} if Path(folder) == path else set[str]())
    rows = [row for row, source in enumerate(sources) if source not in edits.dropped]
    dataset.select(rows).save_to_disk(str(draft / split))
