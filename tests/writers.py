"""Rows in every format, and writers for every file type: tests of reading combine them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq

Record = dict[str, Any]
TEMPLATE = "\n### Response:\n"  # stands before the answer of a plain text


def jsonl(path: Path, *rows: Any) -> Path:
    """Write one object per line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def turn(role: str, content: Any) -> Record:
    return {"role": role, "content": content}


def _shared(who: str, text: Any) -> Record:
    return {"from": who, "value": text}


def _parts(text: Any) -> Any:
    return [{"type": "text", "text": text}]


Made = Callable[[Any, Any], Record]  # a prompt and an answer as a record
FORM: dict[str, Made] = {
    "messages": lambda p, r: {"messages": [turn("user", p), turn("assistant", r)]},
    "messages, parts": lambda p, r: {"messages": [turn("user", _parts(p)), turn("assistant", _parts(r))]},
    "conversations": lambda p, r: {"conversations": [_shared("human", p), _shared("gpt", r)]},
    "conversations, roles": lambda p, r: {"conversations": [turn("user", p), turn("assistant", r)]},
    "conversation": lambda p, r: {"conversation": [_shared("user", p), _shared("assistant", r)]},
    "prompts/response": lambda p, r: {"prompts": p, "response": r},
    "prompt/response": lambda p, r: {"prompt": p, "response": r},
    "prompt/completion": lambda p, r: {"prompt": p, "completion": r},
    "prompt/completion messages": lambda p, r: {"prompt": [turn("user", p)], "completion": [turn("assistant", r)]},
    "alpaca": lambda p, r: {"instruction": p, "input": "", "output": r},
    "instruction/response": lambda p, r: {"instruction": p, "context": "", "response": r},
    "question/answer": lambda p, r: {"question": p, "answer": r},
    "question/response": lambda p, r: {"question": p, "response": r},
    "query/response": lambda p, r: {"query": p, "response": r},
    "query/answer": lambda p, r: {"query": p, "answer": r},
    "input/output": lambda p, r: {"input": p, "output": r},
    "chosen/rejected text": lambda p, r: {"prompt": p, "chosen": r, "rejected": "no"},
    "chosen/rejected": lambda p, r: {
        "prompt": [turn("user", p)], "chosen": [turn("assistant", r)], "rejected": [turn("assistant", "no")]
    },
    "chosen/rejected, whole": lambda p, r: {
        "chosen": [turn("user", p), turn("assistant", r)], "rejected": [turn("user", p), turn("assistant", "no")]
    },
    "chosen/rejected, asked": lambda p, r: {"question": p, "chosen": r, "rejected": "no"},
    "chosen/rejected, shared": lambda p, r: {
        "conversations": [_shared("human", p)], "chosen": _shared("gpt", r), "rejected": _shared("gpt", "no")
    },
    "text": lambda p, r: {"text": f"{p}{TEMPLATE}{r}"},
}  # fmt: skip


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def delimited(rows: list[Record], delimiter: str = ",") -> str:
    """CSV; lists as JSON, as a table of texts holds them."""
    out = io.StringIO(newline="")
    sheet = csv.DictWriter(out, list({name: 0 for row in rows for name in row}), delimiter=delimiter)
    sheet.writeheader()
    sheet.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return out.getvalue()


def lines(rows: list[Record]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _packed(path: Path, text: str) -> None:
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        with pa.output_stream(str(path), compression="zstd") as out:
            out.write(text.encode())


def table(rows: list[Record]) -> pa.Table:
    """Rows of several forms side by side: what a row has not is null."""
    names = {name: None for row in rows for name in row}
    return pa.Table.from_pylist([names | row for row in rows])


def _arrow(path: Path, rows: list[Record], make: Callable[..., Any]) -> None:
    result = table(rows)
    with pa.OSFile(str(path), "wb") as out, make(out, result.schema) as writer:
        writer.write_table(result, max_chunksize=2)


def _shards(path: Path, rows: list[Record]) -> None:
    path.mkdir()
    pq.write_table(table(rows), path / "train-00000-of-00001.parquet")


def save(path: Path, rows: list[Record], *splits: str) -> None:
    """A Dataset as `save_to_disk` leaves it; a DatasetDict where there are splits."""
    from datasets import Dataset, DatasetDict, disable_progress_bars

    disable_progress_bars()
    result = Dataset(table(rows))
    (DatasetDict(dict.fromkeys(splits, result)) if splits else result).save_to_disk(str(path))


def pipe(path: Path, text: str) -> None:
    """A named pipe that a thread writes into."""
    os.mkfifo(path)
    threading.Thread(target=lambda: path.write_text(text, encoding="utf-8"), daemon=True).start()


Writer = Callable[[Path, list[Record]], object]
KIND: dict[str, Writer] = {
    "rows.jsonl": lambda path, rows: path.write_text(lines(rows)),
    "rows.ndjson": lambda path, rows: path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows)),
    "rows.jsonl.gz": lambda path, rows: _packed(path, lines(rows)),
    "rows.jsonl.zst": lambda path, rows: _packed(path, lines(rows)),
    "pipe": lambda path, rows: pipe(path, lines(rows)),
    "lines.json": lambda path, rows: path.write_text(lines(rows)),
    "rows.json": lambda path, rows: path.write_text(json.dumps(rows, indent=1, ensure_ascii=False)),
    "data.json": lambda path, rows: path.write_text(json.dumps({"version": 1, "data": rows})),
    "rows.json.zst": lambda path, rows: _packed(path, json.dumps(rows)),
    "rows.csv": lambda path, rows: path.write_bytes(delimited(rows).encode()),
    "ROWS.TSV": lambda path, rows: path.write_bytes(delimited(rows, "\t").encode()),
    "rows.csv.gz": lambda path, rows: _packed(path, delimited(rows)),
    "rows.parquet": lambda path, rows: pq.write_table(table(rows), path),
    "shards": _shards,
    "rows.arrow": lambda path, rows: _arrow(path, rows, pa.ipc.new_file),
    "stream.arrow": lambda path, rows: _arrow(path, rows, pa.ipc.new_stream),
    "rows.feather": lambda path, rows: pyarrow.feather.write_feather(table(rows), str(path)),
    "saved": save,
    "split": lambda path, rows: save(path, rows, "train", "test"),
}
TEXTS = tuple(name for name in KIND if "csv" in name or "TSV" in name)  # tables of texts
TABLES = ("rows.parquet", "shards", "rows.arrow", "stream.arrow", "rows.feather", "saved", "split")  # of one type each
LINES = ("rows.jsonl", "rows.ndjson", "rows.jsonl.gz", "rows.jsonl.zst", "pipe", "lines.json")


def place(kind: str, path: Path, rows: list[Record], row: int) -> str:
    """The source of a row, counted from 0; a cell of a CSV file may hold line breaks."""
    if kind in LINES:
        return f"{path}:{row + 1}"
    if kind in TEXTS:
        before = [cell for record in rows[:row] for cell in record.values() if isinstance(cell, str)]
        return f"{path}:{row + 2 + sum(cell.count(chr(10)) for cell in before)}"
    names = {"shards": path / "train-00000-of-00001.parquet", "saved": "saved", "split": "split/train"}
    return f"{names.get(kind, path)}:{row}"
