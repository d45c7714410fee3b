"""A data set once more, without some of its rows or with words marked in them: whole or not at all.

Of texts the bytes of every kept row are copied; of tables the values, under the same schema. Knows no trace.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from taughtby.data import jsonl_edits as spans
from taughtby.data.jsonl_edits import FIELD, Edits
from taughtby.data.readers import SAVED, TABLES, read_records, shards
from taughtby.data.readers.stream import COMPRESSED, file_type
from taughtby.errors import DataError, OptionError

RANGES: Any = pa.list_(pa.list_(pa.int64()))
BYTES = "every other row is the same to the byte"
VALUES = "every other row has the same values, under the same schema"
LINES = "the rows of the hub as JSON lines"


def describe_preservation(data: str) -> str:
    """What holds of the rows that nothing happens to."""
    path = Path(data)
    if path.is_dir():
        return VALUES if _saved(path) or file_type(shards(path, None)[0]) in TABLES else BYTES
    return LINES if not path.exists() else VALUES if file_type(path) in TABLES else BYTES


def rewrite_dataset(data: str, out: Path, split: str | None, edits: Edits) -> None:
    """Write `data` to `out` in its own format, changed; what stands there is replaced if it is a file."""
    # whole, because Arrow reads a scheme into a relative `a:b`, and a home into `~`
    part = out.absolute().with_name(f".{out.name}.{os.getpid()}.part")
    try:
        _write(data, part, out, split, edits)
        part.replace(out)
    except OSError as fault:
        do = "give a file or folder on a disk with room, where you may write"
        raise DataError(f"{out} cannot be written", got=fault.strerror or str(fault), do=do) from None
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


def check_output(data: str, out: Path) -> None:
    """Refuse to write over the input, into it, around it, or in another format."""
    path = Path(data)
    if path.exists():
        inside = {path.resolve(), *path.resolve().parents}, {out.resolve(), *out.resolve().parents}
        if path.resolve() in inside[1] or out.resolve() in inside[0] or (out.exists() and out.samefile(path)):
            raise OptionError(f"{out} is the input, or part of it", do="give another file: the input is never changed")
    if path.is_dir():
        if out.exists() and not (out.is_dir() and not any(out.iterdir())):
            raise OptionError(f"{out} is there already", do="give a folder that is empty or not there yet")
        return
    wanted = file_type(path) if path.exists() else ".jsonl"
    alike = {".jsonl", ".ndjson"}
    if out.is_dir() or (file_type(out) != wanted and not {file_type(out), wanted} <= alike):
        raise OptionError("the cleaned data keeps its format", got=str(out), do=f"name it {out.stem}{wanted}")


def _write(data: str, part: Path, out: Path, split: str | None, change: Edits) -> None:
    path = Path(data)
    if not path.exists():
        _pack(_hub(data, split, change), part, out)
    elif path.is_file():
        _file(path, part, out, change)
    elif _saved(path):
        _disk(path, part, change)
    else:
        files = shards(path, split)
        shutil.copytree(path, part, ignore=lambda folder, names: {one for one in names if Path(folder, one) in files})
        for file in files:
            shard = part / file.relative_to(path)
            _file(file, shard, shard, change)
            if not shard.stat().st_size:  # an empty file is taken for a broken one
                shard.unlink()


def _saved(path: Path) -> bool:
    return any((path / name).exists() for name in SAVED)


def _file(path: Path, part: Path, out: Path, change: Edits) -> None:
    """One file, packed as the name of `out` says."""
    texts: dict[str, Callable[[Path, Edits], Iterator[bytes]]] = {".csv": spans.table, ".tsv": spans.table}
    if file_type(path) == ".parquet":
        _parquet(path, part, change)
    elif file_type(path) in TABLES:
        _arrow(path, part, change)
    else:
        # a list's rows are counted from 0, the lines of JSON lines that are named .json from 1
        listed = file_type(path) == ".json" and next(read_records(str(path)))[0].endswith(":0")
        again = texts.get(file_type(path), spans.json_list if listed else spans.jsonl)
        _pack(again(path, change), part, out)


def _pack(pieces: Iterable[bytes], part: Path, out: Path) -> None:
    with pa.output_stream(str(part), compression=COMPRESSED.get(out.suffix.lower())) as raw:
        for piece in pieces:
            raw.write(piece)


def _hub(data: str, split: str | None, change: Edits) -> Iterator[bytes]:
    for source, record in read_records(data, split):
        if source in change.dropped:
            continue
        marked = record | {FIELD: change.marks[source]} if source in change.marks else record
        try:
            yield (json.dumps(marked, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
        except TypeError as fault:  # bytes, which a table may hold
            do = "save the data set to disk, and clean that"
            raise DataError(f"{source}: the row cannot be written as JSON", got=str(fault), do=do) from None


# — tables


def _parquet(path: Path, part: Path, change: Edits) -> None:
    """Row group by row group, packed as it was."""
    with pq.ParquetFile(path.absolute()) as file:
        packed = file.metadata.row_group(0).column(0).compression if file.num_row_groups else "snappy"
        schema, first = _schema(file.schema_arrow, change), 0
        with pq.ParquetWriter(part, schema, compression=packed.replace("UNCOMPRESSED", "none")) as writer:
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group)
                kept = _kept(rows, str(path), first, change, schema)
                first += len(rows)
                if len(kept):
                    writer.write_table(kept)


def _arrow(path: Path, part: Path, change: Edits) -> None:
    """An IPC file or stream, batch by batch; Feather is packed as its writers do."""
    with pa.memory_map(str(path.absolute())) as mapped:
        whole = mapped.read(6) == b"ARROW1"
        mapped.seek(0)
        source: Any = pa.ipc.open_file(mapped) if whole else pa.ipc.open_stream(mapped)
        batches = map(source.get_batch, range(source.num_record_batches)) if whole else source
        schema, first = _schema(source.schema, change), 0
        options = pa.ipc.IpcWriteOptions(compression="lz4" if file_type(path) == ".feather" else None)
        make = pa.ipc.new_file if whole else pa.ipc.new_stream
        with pa.OSFile(str(part), "wb") as out, make(out, schema, options=options) as writer:
            for batch in batches:
                writer.write_table(_kept(pa.Table.from_batches([batch]), str(path), first, change, schema))
                first += batch.num_rows


def _disk(path: Path, part: Path, change: Edits) -> None:
    """What `save_to_disk` wrote: the one split anew, the others copied."""
    from datasets import List, Value, disable_progress_bars, load_from_disk

    disable_progress_bars()
    name = next(iter({*change.dropped, *change.marks})).rpartition(":")[0]
    split = name.removeprefix(path.name).removeprefix("/")
    found: Any = load_from_disk(str(path.absolute()))
    found = found[split] if split else found
    sources = [f"{name}:{row}" for row in range(len(found))]
    if change.marks:
        known = found[FIELD] if FIELD in found.column_names else [None] * len(found)
        marks = [change.marks.get(source, mark) for source, mark in zip(sources, known, strict=True)]
        found = found.remove_columns([FIELD]) if FIELD in found.column_names else found
        found = found.add_column(FIELD, marks, feature=List(List(Value("int64"))))
    if split:
        shutil.copytree(path, part, ignore=lambda folder, names: {split} if Path(folder) == path else set[str]())
    found.select([at for at, source in enumerate(sources) if source not in change.dropped]).save_to_disk(
        str(part / split)
    )


def _schema(schema: pa.Schema, change: Edits) -> pa.Schema:
    """The schema, with a column for marks where there are any; the features that `datasets` left there know of it."""
    if not change.marks or FIELD in schema.names:
        return schema
    said = schema.metadata or {}
    wider = schema.append(pa.field(FIELD, RANGES))
    if b"huggingface" not in said:
        return wider
    from datasets import Features, List, Value

    features = Features({**Features.from_arrow_schema(schema), FIELD: List(List(Value("int64")))})
    return wider.with_metadata({**said, **(features.arrow_schema.metadata or {})})


def _kept(rows: pa.Table, name: str, first: int, change: Edits, schema: pa.Schema) -> pa.Table:
    """The kept rows of a table whose first is row `first` of the file or data set `name`."""
    sources = [f"{name}:{first + at}" for at in range(len(rows))]
    if change.marks:
        kind = schema.field(FIELD).type
        before = rows.column(FIELD).to_pylist() if FIELD in rows.schema.names else [None] * len(rows)
        marks = [change.marks.get(source, known) for source, known in zip(sources, before, strict=True)]
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            marks = [json.dumps(one) if isinstance(one, list) else one for one in marks]
        rest = rows.drop_columns([FIELD]) if FIELD in rows.schema.names else rows
        rows = rest.append_column(FIELD, pa.array(marks, kind)).select(schema.names)
    return rows.filter(pa.array([source not in change.dropped for source in sources])).cast(schema)
