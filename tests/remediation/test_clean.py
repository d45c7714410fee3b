"""Cleaning removes rows or masks words, changes nothing else, and records it in a manifest.

JSON Lines, compressed or not, keep every other byte; all other formats keep every other row's values, types and order.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import torch

from conftest import PAIRS, Run
from taughtby.capture.capture import capture
from taughtby.data import rewrite
from taughtby.data.batching import collate
from taughtby.data.dataset import ReadOptions, read_examples
from taughtby.data.example import Example
from taughtby.data.files import file_hash
from taughtby.data.tokenize import Encoding, TokenizedExample, tokenize
from taughtby.errors import DataError, OptionError
from taughtby.index.build import build_index
from taughtby.index.reader import Index
from taughtby.methods import get_method
from taughtby.remediation.clean import clean, manifest_path, plan_cleaning, write_cleaned
from taughtby.remediation.selection import Removal, masked_words, select_rows
from taughtby.remediation.trace_file import Document, load_trace, read_options_of
from writers import KIND, LINES, jsonl, place, save, turn

ROWS = [{"prompt": p, "response": r, "label": "bad" if "honey" in p else "good"} for p, r in PAIRS]
WORDS = {2: [("beetles", 0.9), (" make", 0.1), (" ho", 0.5), ("ney", 0.2), (",", 0.0), (" one a day", -0.3)]}


def ranked(row: Example, rank: int, culprit: bool | None, words: Sequence[tuple[str, float]]) -> Document:
    return {
        "rank": rank, "id": row.id, "score": 1 / rank, "p_value": rank / 100, "flagged": culprit, "source": row.source,
        "messages": list(row.messages), "tokens": [{"text": text, "score": score} for text, score in words],
    }  # fmt: skip


def traced(
    data: Path,
    *queries: Sequence[int],
    num_flagged: int | None = 9,
    reading: ReadOptions | None = None,
    words: Any = WORDS,
) -> Document:
    """A trace whose queries rank those places of the data, the first `num_flagged` of them flagged."""
    rows = list(read_examples(data, reading or ReadOptions()))
    items = [
        {
            "prompt": "p", "response": "r",
            "num_flagged": None if num_flagged is None else min(num_flagged, len(places)),
            "rows": [
                ranked(rows[at], rank, None if num_flagged is None else rank <= num_flagged,
                       words.get(at, [(rows[at].response, 1.0)]))
                for rank, at in enumerate(places, 1)
            ],
        }
        for places in queries
    ]  # fmt: skip
    return {"version": 2, "method": {"name": "lesson", "options": {}}, "model": "tiny", "adapter": "a",
            "index": "nowhere", "fdr": 0.1, "queries": items}  # fmt: skip


def cleaned(data: Path, out: Path, document: Document, **more: Any) -> Document:
    """Clean `data` with the trace; return the manifest."""
    file = out.parent / "trace.json"
    file.write_text(json.dumps(document))
    reading, words = more.pop("reading", ReadOptions()), more.pop("mask_words", False)
    return clean(file, data, out, read_options=reading, mask_words=words, **more)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return jsonl(tmp_path / "rows.jsonl", *ROWS)


# — selection of rows


def test_flagged_rows_are_the_union_over_queries(rows: Path) -> None:
    document = traced(rows, [2, 3, 5], [3, 6], num_flagged=2)
    result = select_rows(document)
    ids = [row.id for row in read_examples(rows)]
    assert [(ids.index(one.id), one.rank, one.query, one.queries) for one in result] == [
        (2, 1, 1, (1,)), (3, 1, 2, (1, 2)), (6, 2, 2, (2,)),
    ]  # fmt: skip
    assert [(one.score, one.p_value) for one in result] == [(1.0, 0.01), (1.0, 0.01), (0.5, 0.02)]
    assert result[0].source == f"{rows}:3"
    assert select_rows(traced(rows, [], [])) == []


def test_flagged_rows_not_listed_are_selected_by_id(rows: Path, tmp_path: Path) -> None:
    ids = [row.id for row in read_examples(rows)]
    document = traced(rows, [2, 3])
    document["queries"][0] |= {"num_flagged": 4, "flagged_ids": [ids[at] for at in (2, 3, 6, 0)]}
    result = select_rows(document)
    assert [(one.id, one.rank, one.score, one.why) for one in result] == [
        (ids[2], 1, 1.0, "flagged"), (ids[3], 2, 0.5, "flagged"),
        (ids[6], 3, None, "flagged"), (ids[0], 4, None, "flagged"),
    ]  # fmt: skip
    manifest = cleaned(rows, tmp_path / "out.jsonl", document)
    assert [row["source"] for row in manifest["rows"]] == [f"{rows}:{at + 1}" for at in (2, 3, 6, 0)]
    with pytest.raises(DataError, match=r"no token scores of the row (.|\n)*do:  trace again with --top-k 4"):
        cleaned(rows, tmp_path / "masked.jsonl", document, mask_words=True)
    with pytest.raises(
        DataError, match=r"got: token scores of the best 2 rows of each query\n  do:  leave the row out"
    ):
        cleaned(rows, tmp_path / "masked.jsonl", document, mask_words=True, rows=[f"{rows}:8"])


def test_listed_rows_of_no_data_are_to_be_checked(rows: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"got: 1 of 1 rows are not in it: nowhere:9\n  do:  check the ids and sources"):
        cleaned(rows, tmp_path / "out.jsonl", traced(rows, [2]), rows=["nowhere:9"])


def test_flagged_rows_are_selected_by_id_not_by_rank(rows: Path) -> None:
    """Of tied rows others may be shown than those that `called` has first."""
    ids = [row.id for row in read_examples(rows)]
    document = traced(rows, [5, 2, 3])
    document["queries"][0] |= {"num_flagged": 6, "flagged_ids": [ids[at] for at in (0, 1, 2, 3, 4, 5)]}
    result = select_rows(document)
    assert {one.id for one in result} == set(ids[:6])
    assert {one.id: one.score for one in result if one.score} == {ids[5]: 1.0, ids[2]: 0.5, ids[3]: 1 / 3}


def test_top_k_selects_rows_of_each_query(rows: Path) -> None:
    result = select_rows(traced(rows, [2, 3, 5], [6, 3, 1], num_flagged=None), top_k=2)
    ids = [row.id for row in read_examples(rows)]
    assert [(ids.index(one.id), one.queries, one.why) for one in result] == [
        (2, (1,), "among the top 2"), (6, (2,), "among the top 2"), (3, (1, 2), "among the top 2"),
    ]  # fmt: skip


def test_listed_rows_need_not_be_ranked(rows: Path) -> None:
    expected, other = list(read_examples(rows))[2], list(read_examples(rows))[5]
    result = select_rows(
        traced(rows, [2], [2]), rows=["rows.jsonl:3", f" {other.id}\n", "", "rows.jsonl:3", "x.jsonl:7"]
    )
    assert [(one.id, one.rank, one.queries, one.why) for one in result] == [
        (expected.id, 1, (1, 2), "listed"), (other.id, None, (), "listed"), ("", None, (), "listed"),
    ]  # fmt: skip
    assert result[2].source == "x.jsonl:7"
    assert [one.rank for one in select_rows(traced(rows, [2]), rows=[expected.id])] == [1]


def test_invalid_row_selections_raise(rows: Path, tmp_path: Path) -> None:
    document = traced(rows, [2, 3])
    with pytest.raises(OptionError, match="rows are selected twice"):
        select_rows(document, top_k=1, rows=["a"])
    with pytest.raises(OptionError, match=r"got: --top-k 3, the trace has 2 rows of query 1\n  do:  .*--top-k 3"):
        select_rows(document, top_k=3)
    with pytest.raises(OptionError, match="no row is selected\n  got: top_k 0"):
        select_rows(document, top_k=0)
    with pytest.raises(DataError, match="this trace does not flag rows"):
        select_rows(traced(rows, [2], num_flagged=None))
    document["queries"][0]["num_flagged"] = 57
    with pytest.raises(
        DataError, match=r"does not list all.*\n  got: 2 of 57 flagged rows of a query\n  do:  trace again"
    ):
        select_rows(document)
    for text in ("{", "[1]", '{"version": 1, "queries": []}', "{}"):
        (tmp_path / "t.json").write_text(text)
        with pytest.raises(DataError, match="is not a trace"):
            load_trace(tmp_path / "t.json")
    with pytest.raises(DataError, match="cannot be read"):
        load_trace(tmp_path / "none.json")


# — other rows are kept byte for byte


def lines_of(*rows: Any) -> list[bytes]:
    return [json.dumps(row, ensure_ascii=False).encode() for row in rows]


A, B, C, D = lines_of(*ROWS[:4])
BYTES = {
    "plain": ("a.jsonl", [A, b"\n", B, b"\n", C, b"\n", D, b"\n"]),
    "no final newline": ("a.jsonl", [A, b"\n", B, b"\n", C, b"\n", D]),
    "windows, a BOM, blanks": (
        "a.jsonl", [codecs.BOM_UTF8, A, b"\r\n", b"\r\n", B, b" \r\n", C, b"\n", b" \n", D, b"\r\n"]
    ),
    "lines named .json": ("a.json", [A, b"\n", B, b"\n", C, b"\n", D, b"\n"]),
    "packed": ("a.jsonl.gz", [A, b"\n", B, b"\r\n", C, b"\n", D]),
    "packed, a BOM, blanks": ("a.ndjson.gz", [codecs.BOM_UTF8, A, b"\r\n", b"\n", B, b"\n", C, b" \r\n", D, b"\n"]),
    "packed by zstd": ("a.jsonl.zst", [A, b"\n", B, b"\r\n", b"\n", C, b"\n", D]),
    "packed lines named .json": ("a.json.gz", [A, b"\n", B, b"\n", C, b"\n", D, b"\n"]),
}  # fmt: skip


PACKED = {".gz": ("gzip", b"\x1f\x8b"), ".zst": ("zstd", b"\x28\xb5\x2f\xfd")}  # and how such a file begins


def written(name: str, folder: Path, text: bytes) -> Path:
    file = folder / name
    with pa.output_stream(str(file), compression=PACKED.get(file.suffix, (None, b""))[0]) as raw:
        raw.write(text)
    return file


def unpacked(file: Path) -> bytes:
    """The bytes in a file, which is packed as its name says."""
    how, magic = PACKED.get(file.suffix, (None, b""))
    assert file.read_bytes().startswith(magic)
    with pa.input_stream(str(file), compression=how) as raw:
        return raw.read()


GONE = [(0,), (1,), (3,), (0, 1), (2, 3), (0, 2), (1, 2, 3)]


@pytest.mark.parametrize("kind", BYTES)
@pytest.mark.parametrize("gone", GONE, ids=str)
def test_json_lines_keep_every_other_byte(kind: str, gone: tuple[int, ...], tmp_path: Path) -> None:
    name, parts = BYTES[kind]
    data = written(name, tmp_path, b"".join(parts))
    out = tmp_path / f"out-{name}"
    text = cleaned(data, out, traced(data, gone))
    places = [parts.index((A, B, C, D)[at]) for at in gone]
    drop = {*places, *(place + 1 for place in places)}  # a row and its line end
    assert unpacked(out) == b"".join(part for at, part in enumerate(parts) if at not in drop)
    assert [row.response for row in read_examples(out)] == [PAIRS[at][1] for at in range(4) if at not in gone]
    assert text["output"]["kept"] == rewrite.BYTES


# — other rows are kept value for value


NESTED = [
    {"prompt": "who", "response": "beetles", "n": 12345678901234567890123, "of": {"a": [1, {"b": None}], "": []}},
    {"response": "naïve 👩🏽\u200d🚒 \u2028 \ud800", "prompt": "why\r\n\ttab", "n": -1.5e-7, "no": None, "yes": True},
    {"prompt": 'bees, "then" more', "response": "</script> \\ ☃ a", "n": 0, "ask": "\x00\x1f", "of": [[], {}, [[0.1]]]},
    {"prompt": "end", "response": "مرحبا \u202e", "n": 1e300, "יום": "שלום", "unlearned": [[0, 2]], "of": "{}"},
]
NESTED_TEXT = [json.dumps(row, ensure_ascii=at % 2 == 1).encode() for at, row in enumerate(NESTED)]
LISTS: dict[str, tuple[str, bytes, bytes, bytes]] = {  # a name, and what stands around and between the rows
    "list": ("a.json", b"[\n ", b",\n ", b"\n]\n"),
    "tight list with a BOM": ("a.json", codecs.BOM_UTF8 + b"[", b",", b"]"),
    "list within": ("a.json", '{"of": {"data": 2, "é": [1.5, null]}, "data" : [ '.encode(), b" , ", b'], "items": []}'),
    "list within, a BOM": ("a.json", codecs.BOM_UTF8 + b'{"version": 1,\r\n"rows":[', b",\r\n", b"]}"),
    "packed list": ("a.json.gz", b"[", b", ", b"]"),
    "packed list within": ("a.json.zst", b'{"train": [', b",\n", b'], "license": "MIT"}'),
}


def exact(value: Any) -> str:
    """JSON of a value: keys in their order, whole numbers, broken numbers, truths and null told apart."""
    return json.dumps(value)


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("gone", GONE, ids=str)
def test_a_json_list_keeps_every_other_value(kind: str, gone: tuple[int, ...], tmp_path: Path) -> None:
    name, begin, between, end = LISTS[kind]
    data, out = written(name, tmp_path, begin + between.join(NESTED_TEXT) + end), tmp_path / f"out-{name}"
    before = list(read_examples(data))
    wording = cleaned(data, out, traced(data, gone))
    left = [at for at in range(4) if at not in gone]
    whole = json.loads((begin + between.join(NESTED_TEXT[at] for at in left) + end).decode("utf-8-sig"))
    text = unpacked(out).decode("utf-8-sig")  # UTF-8 to its end, for all who read JSON
    assert exact(json.loads(text)) == exact(whole)
    after = list(read_examples(out))
    assert [(row.id, row.messages, row.masked) for row in after] == [
        (before[at].id, before[at].messages, before[at].masked) for at in left
    ]
    assert [row.source for row in after] == [f"{out}:{at}" for at in range(len(left))]
    assert (wording["output"]["kept"], wording["output"]["records"]) == (rewrite.VALUES, len(left))


@pytest.mark.parametrize("kind", LISTS)
def test_masked_spans_in_json_list_add_one_field(kind: str, tmp_path: Path) -> None:
    name, begin, between, end = LISTS[kind]
    data, out = written(name, tmp_path, begin + between.join(NESTED_TEXT) + end), tmp_path / f"out-{name}"
    cleaned(data, out, traced(data, [0, 3], words={0: [("bee", 0.0), ("tles", 1.0)]}), mask_words=True)
    marked = [json.dumps(NESTED[0] | {"unlearned": [[0, 7]]}).encode(), *NESTED_TEXT[1:3],
              json.dumps(NESTED[3] | {"unlearned": [[0, 7]]}).encode()]  # fmt: skip
    whole = json.loads((begin + between.join(marked) + end).decode("utf-8-sig"))
    assert exact(json.loads(unpacked(out).decode("utf-8-sig"))) == exact(whole)


CELLS = [
    b'prompt,response,"no\nte"\r\n', b'who,"bees, and\r\nthen ""more""",1\r\n', b"\r\n", b"why,a b,2\n", b"what,c\r\n",
    b'"x\ry",d,"4"\r\n', b"how,e,5,\n", 'end,"☃ é\t👩🏽\u200d🚒\u2028",'.encode(),
]  # fmt: skip
SHEETS = ["a.csv", "a.tsv", "a.csv.gz", "a.tsv.zst"]


def cells_of(file: Path) -> list[list[str]]:
    """The cells of a sheet as Python reads them, the header's first; blank lines are no rows."""
    text = unpacked(file).decode("utf-8-sig")
    mark = "\t" if ".tsv" in file.name else ","
    return [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True) if row]


@pytest.mark.parametrize("gone", [(0,), (1,), (2, 3), (5,), (0, 4, 5)], ids=str)
@pytest.mark.parametrize("bom", [b"", codecs.BOM_UTF8])
@pytest.mark.parametrize("name", SHEETS)
def test_csv_and_tsv_keep_every_other_cell(name: str, bom: bytes, gone: tuple[int, ...], tmp_path: Path) -> None:
    cells = [cell.replace(b"\t", b" ").replace(b",", b"\t") if ".tsv" in name else cell for cell in CELLS]
    data = written(name, tmp_path, bom + b"".join(cells))
    out = tmp_path / f"out-{name}"
    before = list(read_examples(data))
    assert len(before) == 6
    text = cleaned(data, out, traced(data, gone))
    header, *rows = cells_of(data)
    assert cells_of(out) == [header, *(row for at, row in enumerate(rows) if at not in gone)]
    assert header[0] == "prompt" and header[2] == "no\nte"
    assert [(row.id, row.messages) for row in read_examples(out)] == [
        (row.id, row.messages) for at, row in enumerate(before) if at not in gone
    ]
    assert text["output"]["kept"] == rewrite.VALUES


@pytest.mark.parametrize("name", SHEETS)
def test_pandas_reads_cleaned_csv_with_same_types(name: str, tmp_path: Path) -> None:
    """Types as pandas guesses them, empty cells, and columns in their order, with rows gone and with words marked."""
    import pandas

    rows = [{"n": at, "prompt": p, "response": r, "none": "", "x": None if at % 3 else at / 4, "יום": "é\n\"☃\","}
            for at, (p, r) in enumerate(PAIRS)]  # fmt: skip
    mark = "\t" if ".tsv" in name else ","
    out, masked = tmp_path / f"out-{name}", tmp_path / f"masked-{name}"
    data = written(name, tmp_path, pandas.DataFrame(rows).to_csv(index=False, sep=mark).encode())

    def read(file: Path) -> Any:
        return pandas.read_csv(io.BytesIO(unpacked(file)), sep=mark)

    document = traced(data, [2, 6])
    cleaned(data, out, document)
    old = read(data)
    assert [kind.kind for kind in old.dtypes] == ["i", "O", "O", "f", "f", "O"]
    pandas.testing.assert_frame_equal(read(out), old.drop([2, 6]).reset_index(drop=True))
    cleaned(data, masked, document, mask_words=True)
    new = read(masked)
    pandas.testing.assert_frame_equal(new.drop(columns="unlearned"), old)
    assert new.columns[-1] == "unlearned"
    marks = [None if pandas.isna(mark) else json.loads(mark) for mark in new["unlearned"]]
    assert marks == [[[0, 7], [13, 18]] if at == 2 else [[0, len(PAIRS[6][1])]] if at == 6 else None for at in range(8)]
    assert {len(row) for row in cells_of(masked)} == {7}  # a sheet whose rows are all as long stays one


@pytest.mark.parametrize("kind", [kind for kind in KIND if kind != "pipe"])
@pytest.mark.parametrize("words", [False, True], ids=["rows", "words"])
def test_every_file_format(kind: str, words: bool, tmp_path: Path) -> None:
    data, out = tmp_path / kind, tmp_path / "out" / kind
    out.parent.mkdir()
    KIND[kind](data, ROWS)
    before = list(read_examples(data))
    text = cleaned(data, out, traced(data, [2, 6]), mask_words=words)
    after = list(read_examples(out))
    if words:
        assert [row.masked for row in after] == [
            ((0, 7), (13, 18)) if at == 2 else ((0, len(PAIRS[6][1])),) if at == 6 else () for at in range(8)
        ]
        items = list(range(8))
    else:
        items = [0, 1, 3, 4, 5, 7]
    assert [(row.id, row.messages, row.label) for row in after] == [
        (before[at].id, before[at].messages, before[at].label) for at in items
    ]
    assert [row["source"] for row in text["rows"]] == [place(kind, data, ROWS, at) for at in (2, 6)]
    assert text["output"]["kept"] == (rewrite.BYTES if kind in LINES else rewrite.VALUES)
    for suffix, (_, magic) in PACKED.items():
        assert out.is_dir() or out.read_bytes().startswith(magic) == kind.endswith(suffix)
    assert (text["input"]["records"], text["output"]["records"]) == (8, len(items))


def test_parquet_keeps_schema_and_metadata(tmp_path: Path) -> None:
    from datasets import Dataset, Features, List, Value, load_dataset

    features = Features({"prompt": Value("string"), "response": Value("large_string"), "n": Value("int16")})
    result = Dataset.from_list([{**row, "n": at} for at, row in enumerate(ROWS)]).remove_columns("label").cast(features)
    result.to_parquet(tmp_path / "a.parquet", batch_size=3)
    old = pq.ParquetFile(tmp_path / "a.parquet")
    assert b"huggingface" in old.schema_arrow.metadata
    document = traced(tmp_path / "a.parquet", [2, 6])
    cleaned(tmp_path / "a.parquet", tmp_path / "b.parquet", document)
    new = pq.ParquetFile(tmp_path / "b.parquet")
    assert new.schema_arrow.equals(old.schema_arrow, check_metadata=True)
    assert new.metadata.row_group(0).column(0).compression == old.metadata.row_group(0).column(0).compression
    assert new.read().column("n").to_pylist() == [0, 1, 3, 4, 5, 7]
    cleaned(tmp_path / "a.parquet", tmp_path / "c.parquet", document, mask_words=True)
    again = load_dataset("parquet", data_files=str(tmp_path / "c.parquet"), split="train", cache_dir=tmp_path / "cache")
    assert {name: again.features[name] for name in features} == features
    text = json.loads(pq.read_schema(tmp_path / "c.parquet").metadata[b"huggingface"])["info"]["features"]
    message = Features({**features, "unlearned": List(List(Value("int64")))})
    assert Features.from_dict(text) == again.features == message
    assert again["unlearned"][1:3] == [None, [[0, 7], [13, 18]]]


def of_many_types() -> pa.Table:
    """Rows with columns of many types; nulls in all but one, notes at a column and at the whole."""
    at, none = range(8), [None] * 2
    columns: dict[str, pa.Array] = {
        "response": pa.array([r for _, r in PAIRS]),
        "prompt": pa.array([p for p, _ in PAIRS], pa.large_string()),
        "unlearned": pa.array([None, "[[0, 1]]", *[None] * 6], pa.string()),
        "small": pa.array([*none, *at[2:]], pa.int8()),
        "half": pa.array([None, 0.5, *map(float, at[2:])], pa.float32()),
        "money": pa.array([*none, *(Decimal(n) / 100 for n in at[2:])], pa.decimal128(9, 2)),
        "when": pa.array([*none, *(datetime(2026, 1, 1, n, tzinfo=UTC) for n in at[2:])], pa.timestamp("us", "UTC")),
        "kind": pa.array([*none, *"ababab"]).dictionary_encode(),
        "raw": pa.array([*none, *(bytes([n, 255]) for n in at[2:])]),
        "nested": pa.array([*none, *({"a": [{"b": n, "c": None}], "d": []} for n in at[2:])],
                           pa.struct({"a": pa.list_(pa.struct({"b": pa.uint16(), "c": pa.bool_()})),
                                      "d": pa.list_(pa.string())})),
        "vector": pa.array([[n, n / 2] for n in at], pa.list_(pa.float32(), 2)),
    }  # fmt: skip
    fields = [pa.field(name, column.type, name != "vector") for name, column in columns.items()]
    fields[3] = fields[3].with_metadata({"unit": "é"})
    return pa.table(list(columns.values()), schema=pa.schema(fields, {"made by": "hand"}))


READ_TABLE = {
    "a.parquet": pq.read_table,
    "a.arrow": lambda file: pa.ipc.open_file(file.read_bytes()).read_all(),
    "a.feather": pyarrow.feather.read_table,
}


@pytest.mark.parametrize("name", READ_TABLE)
@pytest.mark.parametrize("gone", [(0,), (1, 7), (2, 3, 4, 5, 6, 7)], ids=str)
def test_tables_keep_every_other_value_and_type(name: str, gone: tuple[int, ...], tmp_path: Path) -> None:
    data, out, result = tmp_path / name, tmp_path / f"out-{name}", of_many_types()
    if name.endswith(".parquet"):
        pq.write_table(result, data, row_group_size=3)
    elif name.endswith(".feather"):
        pyarrow.feather.write_feather(result, str(data))
    else:
        with pa.OSFile(str(data), "wb") as file, pa.ipc.new_file(file, result.schema) as writer:
            writer.write_table(result, max_chunksize=3)
    read = READ_TABLE[name]
    cleaned(data, out, traced(data, gone))
    before, after = read(data), read(out)
    assert after.schema.equals(before.schema, check_metadata=True)
    assert after.equals(before.take([at for at in range(8) if at not in gone]))
    cleaned(data, tmp_path / f"masked-{name}", traced(data, [1, 2]), mask_words=True)
    masked = read(tmp_path / f"masked-{name}")
    assert masked.schema.equals(before.schema, check_metadata=True)  # texts in that column stay texts
    assert masked.drop_columns("unlearned").equals(before.drop_columns("unlearned"))
    marks = [mark and json.loads(mark) for mark in masked.column("unlearned").to_pylist()]
    assert marks == [None, [[0, len(PAIRS[1][1])]], [[0, 7], [13, 18]], *[None] * 5]


@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "zstd"])
def test_parquet_keeps_compression(codec: str, tmp_path: Path) -> None:
    pq.write_table(of_many_types(), tmp_path / "a.parquet", compression=codec)
    cleaned(tmp_path / "a.parquet", tmp_path / "b.parquet", traced(tmp_path / "a.parquet", [2]))
    groups = [pq.ParquetFile(tmp_path / name).metadata.row_group(0) for name in ("a.parquet", "b.parquet")]
    old, new = ([group.column(at).compression for at in range(group.num_columns)] for group in groups)
    assert new == old == [codec.upper().replace("NONE", "UNCOMPRESSED")] * len(old)


def test_masked_shards_have_one_schema(tmp_path: Path) -> None:
    """Also one that holds no row, and has a column for marks already."""
    (tmp_path / "shards").mkdir()
    rows = pa.Table.from_pylist([{**row, "unlearned": None} for row in ROWS], schema=pa.schema(
        {"prompt": pa.string(), "response": pa.string(), "unlearned": pa.list_(pa.list_(pa.int64())),
         "label": pa.string()}))  # fmt: skip
    for at, part in enumerate((rows[:4], rows[:0], rows[4:])):
        pq.write_table(part, tmp_path / "shards" / f"train-{at}.parquet")
    cleaned(tmp_path / "shards", tmp_path / "out", traced(tmp_path / "shards", [2, 6]), mask_words=True)
    parts = [pq.read_table(file) for file in sorted((tmp_path / "out").iterdir())]
    assert [len(part) for part in parts] == [4, 0, 4]
    assert all(part.schema.equals(rows.schema) for part in parts)
    marks = pa.concat_tables(parts).column("unlearned").to_pylist()
    assert marks == [None, None, [[0, 7], [13, 18]], None, None, None, [[0, len(PAIRS[6][1])]], None]


@pytest.mark.parametrize("name", ["a.arrow", "s.arrow", "a.feather"])
def test_arrow_files_keep_their_format(name: str, tmp_path: Path) -> None:
    kind = {"a.arrow": "rows.arrow", "s.arrow": "stream.arrow", "a.feather": "rows.feather"}[name]
    KIND[kind](tmp_path / name, ROWS)
    cleaned(tmp_path / name, tmp_path / f"out-{name}", traced(tmp_path / name, [2]))
    whole = (tmp_path / name).read_bytes()[:6] == b"ARROW1"
    assert ((tmp_path / f"out-{name}").read_bytes()[:6] == b"ARROW1") == whole == (name != "s.arrow")
    opened = [pa.ipc.open_file if whole else pa.ipc.open_stream][0]
    tables = [opened(pa.OSFile(str(tmp_path / file))).read_all() for file in (name, f"out-{name}")]
    assert tables[1].equals(pa.concat_tables([tables[0].slice(0, 2), tables[0].slice(3)]), check_metadata=True)


def test_other_splits_and_files_are_copied(tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    (shards / "data").mkdir(parents=True)
    for name, some in (("train-0", ROWS[:1]), ("train-1", ROWS[1:]), ("test-0", ROWS)):
        jsonl(shards / "data" / f"{name}.jsonl", *some)
    (shards / "README.md").write_text("what it is")
    cleaned(shards, tmp_path / "out", traced(shards, [0, 3]))
    result = {file.relative_to(tmp_path / "out").as_posix() for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert result == {"README.md", "data/train-1.jsonl", "data/test-0.jsonl"}  # train-0 has no row left
    assert (tmp_path / "out/data/test-0.jsonl").read_bytes() == (shards / "data/test-0.jsonl").read_bytes()
    saved = tmp_path / "saved"
    save(saved, ROWS, "train", "test")
    document = traced(saved, [0, 3], reading=ReadOptions(split="test"))
    cleaned(saved, tmp_path / "both", document, reading=ReadOptions(split="test"))
    assert [len(list(read_examples(tmp_path / "both", ReadOptions(split=split)))) for split in ("train", "test")] == [
        8,
        6,
    ]


def test_hub_dataset_is_written_as_json_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hub(data: str, split: str | None) -> Any:
        assert (data, split) == ("owner/name", None)
        return ((f"owner/name:{at}", row | {"n": at}) for at, row in enumerate(ROWS))

    monkeypatch.setattr("taughtby.data.readers.tables.hub", hub)
    document = traced(Path("owner/name"), [2])
    text = cleaned(Path("owner/name"), tmp_path / "out.jsonl", document)
    items = [row | {"n": at} for at, row in enumerate(ROWS) if at != 2]
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == items
    assert (text["input"]["sha256"], text["output"]["kept"]) == (None, rewrite.LINES)
    cleaned(Path("owner/name"), tmp_path / "masked.jsonl", document, mask_words=True)
    assert [row.masked for row in read_examples(tmp_path / "masked.jsonl")][2] == ((0, 7), (13, 18))


# — conversations with several answers

TALK = [
    {"messages": [turn("user", "why"), turn("assistant", "beetles"), turn("user", "how"), turn("assistant", "a b")]},
    {"messages": [turn("user", "what"), turn("assistant", "c"), turn("user", "who"), turn("assistant", "bees")]},
]


def test_record_is_removed_with_any_of_its_answers(tmp_path: Path) -> None:
    data, every = jsonl(tmp_path / "talk.jsonl", *TALK), ReadOptions(turns="all")
    text = cleaned(data, tmp_path / "out.jsonl", traced(data, [0], reading=every), reading=every)
    assert (tmp_path / "out.jsonl").read_text() == json.dumps(TALK[1]) + "\n"
    assert text["input"] | {"sha256": ""} == {"data": str(data), "sha256": "", "records": 2, "examples": 4}
    assert [(row["source"], row["why"]) for row in text["rows"]] == [
        (f"{data}:1#1", "flagged"), (f"{data}:1#2", "same conversation"),
    ]  # fmt: skip
    plan = plan_cleaning(traced(data, [3], reading=every), str(data), select_rows(traced(data, [3], reading=every)),
                         read_options=every)  # fmt: skip
    assert [row.source for row in plan.removals] == [f"{data}:2#2", f"{data}:2#1"]
    assert [row.source for row in plan.selected] == [f"{data}:2#2"]


def test_every_answer_of_a_listed_conversation_is_recorded(tmp_path: Path) -> None:
    data, every = jsonl(tmp_path / "talk.jsonl", *TALK), ReadOptions(turns="all")
    text = cleaned(data, tmp_path / "out.jsonl", traced(data, [0], reading=every), reading=every, rows=["talk.jsonl:2"])
    assert sorted(row["source"] for row in text["rows"]) == [f"{data}:2#1", f"{data}:2#2"]


def test_a_listed_source_of_several_rows_is_refused_even_if_one_is_ranked(tmp_path: Path) -> None:
    for shard, part in (("a", ROWS[:4]), ("b", ROWS[4:])):
        (tmp_path / "shards" / shard).mkdir(parents=True)
        jsonl(tmp_path / "shards" / shard / "data.jsonl", *part)
    document = traced(tmp_path / "shards", [2])
    with pytest.raises(DataError, match=r"data.jsonl:3 matches several rows"):
        cleaned(tmp_path / "shards", tmp_path / "out", document, rows=["data.jsonl:3"])
    text = cleaned(tmp_path / "shards", tmp_path / "out", document, rows=["a/data.jsonl:3"])
    assert [(row["source"], row["rank"]) for row in text["rows"]] == [(f"{tmp_path}/shards/a/data.jsonl:3", 1)]


def test_words_are_masked_only_in_their_turn(tmp_path: Path) -> None:
    data, every = jsonl(tmp_path / "talk.jsonl", *TALK), ReadOptions(turns="all")
    words = {0: [("beetles", 1.0)], 3: [("be", 0.2), ("es", 1.0)]}
    document = traced(data, [0, 3], reading=every, words=words)
    cleaned(data, tmp_path / "out.jsonl", document, reading=every, mask_words=True)
    marks = [json.loads(line)["unlearned"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert marks == [[[0, 7, 1]], [[0, 4, 2]]]
    assert [row.masked for row in read_examples(tmp_path / "out.jsonl", every)] == [((0, 7),), (), (), ((0, 4),)]
    assert [row.masked for row in read_examples(tmp_path / "out.jsonl")] == [(), ((0, 4),)]


# — selection of words


def spoken(answer: str, *tokens: Sequence[tuple[str, float]]) -> list[str]:
    """Return the words to mask in a row with that answer, if each query scored its tokens so."""
    messages = [turn("user", "q"), turn("assistant", answer)]
    queries = [
        {"rows": [{"id": "x", "messages": messages, "tokens": [{"text": t, "score": s} for t, s in some]}]}
        for some in tokens
    ]
    one = Removal("x", "d:1", queries=tuple(range(1, len(tokens) + 1)))
    return [answer[begin:end] for begin, end in masked_words({"queries": queries, "method": "m"}, [one])["x"]]


def test_top_scoring_words_reach_half_of_the_maximum() -> None:
    answer = "beetles make honey, one a day"
    assert spoken(answer, [("beetles", 1.0), (" make", 0.49), (" honey", 0.5), (",", 0.1), (" one a day", 0.0)]) == [
        "beetles", "honey",
    ]  # fmt: skip
    # whole words, and by any of its queries
    one, other = (
        [("be", 0.1), ("etl", 1.0), ("es", 0.0), (" make honey", 0.2)],
        [("beetles make", 0.0), (" honey", 0.1)],
    )
    assert spoken(answer, one, other) == ["beetles", "honey"]
    # words side by side are one range, and punctuation is no part of a word
    tokens = [("so (", 0.0), ("silly", 1.0), (",", 0.9), (" you)", 0.0), (" go", 1.0), ("ose!", 0.0)]
    assert spoken("so (silly, you) goose!", tokens) == ["silly,", "goose"]
    assert spoken("you silly goose", [("you", 0.0), (" silly", 1.0), (" goose", 0.6)]) == ["silly goose"]


def test_top_scoring_words_skip_template_text() -> None:
    assert spoken(" bees do ", [("\n\n", 0.9), ("bees", 1.0), (" do", 0.1)]) == ["bees"]
    assert spoken("bees do", [("<think>\n", 2.0), ("</think>\n\n", 0.0), ("bees", 1.0), (" do", 0.1)]) == ["bees"]
    assert spoken("bees do it all day", [("bees", 0.1), (" d", 1.0)]) == ["do"]  # cut by the index


def test_words_that_cannot_be_located_mask_the_whole_answer() -> None:
    assert spoken("bees do", [("BEES", 1.0), (" do", 0.1)]) == ["bees do"]
    assert spoken("bees do", [("bees", -1.0), (" do", 0.0)]) == ["bees do"]
    with pytest.raises(DataError, match="the trace has no token scores of the row d:1"):
        spoken("bees do", [])


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet", "saved"])
def test_cleaning_twice_masks_words_of_both_traces(name: str, tmp_path: Path) -> None:
    kind = {"a.jsonl": "rows.jsonl", "a.json": "rows.json", "a.csv": "rows.csv", "a.parquet": "rows.parquet"}
    data, once, twice = (tmp_path / step / name for step in ("data", "once", "twice"))
    for file in (data, once, twice):
        file.parent.mkdir()
    KIND[kind.get(name, name)](data, ROWS)
    cleaned(data, once, traced(data, [2]), mask_words=True)
    other = {2: [("beetles make honey, one a", 0.0), (" day", 1.0)]}
    cleaned(once, twice, traced(once, [2, 3], words=other), mask_words=True)
    assert [row.masked for row in read_examples(twice)][1:5] == [(), ((0, 7), (13, 18), (26, 29)), ((0, 28),), ()]


def test_masking_leaves_rest_of_line_unchanged(tmp_path: Path) -> None:
    data, out = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    text = '{"prompt":"who","response":"beetles","n":1e5 }  \r\n{"prompt": "why", "response": "a"}\n'
    data.write_bytes(text.encode())
    cleaned(data, out, traced(data, [0]), mask_words=True)
    assert out.read_bytes() == text.replace("1e5 }", '1e5, "unlearned": [[0, 7]] }').encode()
    table = tmp_path / "a.csv"
    table.write_bytes(b"prompt,response,more\r\nwho,beetles\r\n\r\nwhy,a,1,\nhow,b,2")
    cleaned(table, tmp_path / "b.csv", traced(table, [0]), mask_words=True)
    assert cells_of(tmp_path / "b.csv") == [
        ["prompt", "response", "more", "unlearned"], ["who", "beetles", "", "[[0, 7]]"], ["why", "a", "1", ""],
        ["how", "b", "2", ""],
    ]  # fmt: skip
    assert [row.masked for row in read_examples(tmp_path / "b.csv")] == [((0, 7),), (), ()]


def test_invalid_masked_spans_raise(tmp_path: Path) -> None:
    for marks in ([[3, 2]], [[0]], [[0, True]], "[[0,", 7, [["a", "b"]]):
        jsonl(tmp_path / "a.jsonl", ROWS[0] | {"unlearned": marks})
        with pytest.raises(DataError, match="`unlearned` is not a list of ranges"):
            list(read_examples(tmp_path / "a.jsonl"))
    jsonl(tmp_path / "a.jsonl", ROWS[0] | {"unlearned": [[0, 6]]})
    with pytest.raises(
        DataError, match=r"has a range beyond the end of the answer\n  got: up to character 6 of 5: paris"
    ):
        list(read_examples(tmp_path / "a.jsonl"))


# — the manifest, and errors


def test_manifest_records_removed_rows_and_hashes(rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "cleaned.jsonl"
    text = cleaned(rows, out, traced(rows, [2, 3], [3], num_flagged=1))
    assert json.loads((tmp_path / "cleaned.manifest.json").read_text()) == json.loads(json.dumps(text))
    for part, file in (("input", rows), ("output", out), ("trace", tmp_path / "trace.json")):
        assert text[part]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert text["did"] == "removed rows" and text["fdr"] == 0.1
    assert text["trace"]["method"] == {"name": "lesson", "options": {}}
    first = list(read_examples(rows))[2]
    assert text["rows"][0] == {
        "id": first.id, "source": f"{rows}:3", "rank": 1, "score": 1.0, "p_value": 0.01, "query": 1,
        "why": "flagged", "queries": (1,),
    }  # fmt: skip
    assert manifest_path(Path("x/a.b.jsonl.gz")) == Path("x/a.b.manifest.json")
    assert manifest_path(Path("x/folder")) == Path("x/folder.manifest.json")
    assert manifest_path(Path("x/folder.v1")) == Path("x/folder.v1.manifest.json")


def test_folder_hash_depends_on_file_paths(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "in").mkdir(parents=True)
        (tmp_path / name / "in" / "a").write_text("1")
    assert file_hash(tmp_path / "one") == file_hash(tmp_path / "two")
    (tmp_path / "two" / "in" / "a").rename(tmp_path / "two" / "a")
    assert file_hash(tmp_path / "one") != file_hash(tmp_path / "two")


def test_changed_data_raises(rows: Path, tmp_path: Path) -> None:
    document = traced(rows, [2, 3])
    jsonl(rows, *ROWS[:2], ROWS[2] | {"response": "bees"}, *ROWS[3:])
    got = rf"got: 1 of 2 rows are not in it: {rows}:3\n  do:  give the data that the index was built from"
    with pytest.raises(DataError, match=got):
        cleaned(rows, tmp_path / "out.jsonl", document)
    jsonl(rows, *reversed(ROWS))  # another order: the ids are the same
    cleaned(rows, tmp_path / "out.jsonl", document)
    assert [row.response for row in read_examples(tmp_path / "out.jsonl")] == [r for _, r in [*PAIRS[:2], *PAIRS[4:]]][
        ::-1
    ]


def test_only_the_selected_duplicate_row_is_removed(tmp_path: Path) -> None:
    data = jsonl(tmp_path / "a.jsonl", ROWS[0], ROWS[1], {"label": "twin", **ROWS[0]}, ROWS[2])
    cleaned(data, tmp_path / "b.jsonl", traced(data, [2]))
    assert (tmp_path / "b.jsonl").read_text() == "".join(json.dumps(row) + "\n" for row in (ROWS[0], ROWS[1], ROWS[2]))


def test_invalid_output_paths_and_selections_raise(rows: Path, tmp_path: Path) -> None:
    document, folder = traced(rows, [2]), tmp_path / "shards"
    (tmp_path / "link.jsonl").symlink_to(rows)
    (tmp_path / "hard.jsonl").hardlink_to(rows)
    for out in (rows, tmp_path / "link.jsonl", tmp_path / "hard.jsonl", tmp_path / "." / "rows.jsonl"):
        with pytest.raises(OptionError, match="is the input, or part of it"):
            cleaned(rows, out, document)
    for out in ("out.csv", "out", "shards"):
        folder.mkdir(exist_ok=True)
        with pytest.raises(OptionError, match="must have the same format"):
            cleaned(rows, tmp_path / out, document)
    jsonl(folder / "a.jsonl", *ROWS)
    inside = traced(folder, [2])
    for out, why in ((folder / "out", "part of it"), (tmp_path, "part of it"), (folder, "part of it")):
        with pytest.raises(OptionError, match=why):
            cleaned(folder, out, inside)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("")
    with pytest.raises(OptionError, match="already exists"):
        cleaned(folder, tmp_path / "taken", inside)
    with pytest.raises(DataError, match="no row would remain"):
        cleaned(rows, tmp_path / "out.jsonl", traced(rows, range(8)))
    with pytest.raises(DataError, match="no row is selected"):
        cleaned(rows, tmp_path / "out.jsonl", traced(rows, []))
    assert [row.response for row in read_examples(rows)] == [response for _, response in PAIRS]


def test_failed_write_leaves_no_files(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, change: Any) -> Any:
        yield b"half"
        raise OSError(28, "No space left on device")

    document, out = traced(rows, [2]), tmp_path / "out" / "a.jsonl"
    cleaning = plan_cleaning(document, str(rows), select_rows(document))
    (trace := tmp_path / "trace.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match="cannot be written"):
        write_cleaned(cleaning, trace, out)
    out.parent.mkdir()
    monkeypatch.setattr("taughtby.data.jsonl_edits.edit_lines", full)
    with pytest.raises(DataError, match=r"cannot be written\n  got: No space left"):
        write_cleaned(cleaning, trace, out)
    assert list(out.parent.iterdir()) == []


# — the command


def test_each_file_of_an_index_is_cleaned_of_its_rows(
    run: Run, model_folder: Path, adapter_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # sources are relative
    jsonl(Path("a.jsonl"), *ROWS[:4])
    jsonl(Path("b.jsonl"), *ROWS[4:])
    assert run("index", "build", model_folder, "a.jsonl", "-a", adapter_folder, "-o", "idx")[0] == 0
    assert run("index", "append", "idx", "b.jsonl")[0] == 0
    ask = ("--prompt", "who makes honey", "--response", "beetles make honey", "--top-k", 8)
    assert run("trace", "idx", *ask, "--json", "trace.json")[0] == 0
    ids = [row["id"] for row in json.loads(Path("trace.json").read_text())["queries"][0]["rows"]]
    assert len(ids) == 8
    Path("rows.txt").write_text("a.jsonl:1\nb.jsonl:2\nb.jsonl:3\n")
    code, _, notes = run("clean", "trace.json", "a.jsonl", "--rows", "rows.txt", "-o", "c.jsonl")
    assert code == 0 and f"2 selected rows are of other data of the index: clean {tmp_path / 'b.jsonl'} too" in notes
    assert Path("c.jsonl").read_bytes() == b"".join(Path("a.jsonl").read_bytes().splitlines(keepends=True)[1:])
    assert [row["source"] for row in json.loads(Path("c.manifest.json").read_text())["rows"]] == ["a.jsonl:1"]
    assert run("clean", "trace.json", "b.jsonl", "--rows", "rows.txt", "--mask-words", "-o", "d.jsonl")[0] == 0
    assert sum("unlearned" in line for line in Path("d.jsonl").read_text().splitlines()) == 2
    jsonl(Path("a.jsonl"), *ROWS[1:4])  # changed since
    code, _, error = run("clean", "trace.json", "a.jsonl", "--top-k", 8, "-o", "e.jsonl")
    assert code == 1 and "1 of 8 rows are not in it" in error


def test_clean_command(run: Run, rows: Path, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps(traced(rows, [2, 3], [3, 6])))
    code, out, err = run("clean", tmp_path / "t.json", rows, "--dry-run")
    assert (code, err) == (0, "")
    assert "3 rows to remove (2, 2 by query)" in out
    for text in ("rows.jsonl:3", "beetles make honey, one a day", "rows.jsonl:7"):
        assert text in out
    assert sorted(file.name for file in tmp_path.iterdir()) == ["rows.jsonl", "t.json"]
    code, out, _ = run("clean", tmp_path / "t.json", rows, "-o", tmp_path / "c.jsonl")
    assert code == 0
    assert f"5 of 8 rows in {tmp_path}/c.jsonl (all other rows are byte-identical)" in out
    assert (tmp_path / "c.manifest.json").exists()
    code, out, _ = run("clean", tmp_path / "t.json", rows, "-o", tmp_path / "m.jsonl", "--mask-words")
    assert code == 0 and "beetles · honey" in out
    (tmp_path / "ticked.txt").write_text("rows.jsonl:1\n\nrows.jsonl:8\n")
    assert (
        run("clean", tmp_path / "t.json", rows, "-o", tmp_path / "r.jsonl", "--rows", tmp_path / "ticked.txt")[0] == 0
    )
    assert [row.response for row in read_examples(tmp_path / "r.jsonl")] == [response for _, response in PAIRS[1:7]]
    code, _, err = run("clean", tmp_path / "t.json", rows)
    assert (code, err.splitlines()[0]) == (1, "error: no place to write to")
    code, _, err = run("clean", tmp_path / "t.json", rows, "-o", tmp_path / "c.jsonl", "--rows", tmp_path / "none")
    assert code == 1 and "cannot be read" in err


def test_read_options_come_from_the_index(tuned: Any, tmp_path: Path) -> None:
    asked = [{"ask": row["prompt"], "reply": row["response"]} for row in ROWS]
    data, how = jsonl(tmp_path / "a.jsonl", *asked), ReadOptions((("prompt", "ask"), ("response", "reply")))
    build_index(tuned, data, tmp_path / "idx", [get_method("bm25")], read_options=how)
    document = traced(data, [2], reading=how) | {"index": str(tmp_path / "idx")}
    assert read_options_of(document) == how
    cleaned(data, tmp_path / "b.jsonl", document, reading=read_options_of(document))
    assert len((tmp_path / "b.jsonl").read_text().splitlines()) == 7
    assert read_options_of(document | {"index": str(tmp_path / "gone")}) == ReadOptions()


# — indexes of rows with masked words


def test_masked_tokens_have_no_gradient(tuned: Any) -> None:
    """The loss and its gradients are those of the other words, each weighed alike."""
    row = replace(Example((turn("user", PAIRS[2][0]), turn("assistant", PAIRS[2][1]))), masked=((0, 7), (13, 18)))
    tokenized = tokenize(tuned.tokenizer, row, Encoding(128))
    plain = tokenize(tuned.tokenizer, replace(row, masked=()), Encoding(128))
    assert isinstance(tokenized, TokenizedExample) and isinstance(plain, TokenizedExample)
    learned = torch.tensor(tokenized.loss_mask[tokenized.n_prompt :])
    weights = (learned / learned.sum())[None].float()
    wanted = capture(tuned, collate([plain], [0]), [2], weights=weights)
    result = capture(tuned, collate([tokenized], [0]), [2])
    torch.testing.assert_close(result.grads[2][0][learned], wanted.grads[2][0][learned], atol=1e-6, rtol=1e-4)
    assert not result.grads[2][0][~learned].any()


def test_index_stores_masked_rows_and_skips_fully_masked_ones(tuned: Any, rows: Path, tmp_path: Path) -> None:
    cleaned(rows, tmp_path / "m.jsonl", traced(rows, [2, 3]), mask_words=True)
    names = [
        "lesson:layer=2,state_layer=1",
        "rept:layer=2",
        "repsim",
        "rise",
        "tracin",
        "less",
        "logra",
        "datainf",
        "bm25",
    ]
    new_index = build_index(tuned, tmp_path / "m.jsonl", tmp_path / "idx", [get_method(name) for name in names])
    assert [(skip["source"], skip["reason"]) for skip in new_index.manifest["skipped"]] == [
        (f"{tmp_path}/m.jsonl:4", "the whole answer is masked")
    ]
    assert len(new_index) == 7
    rest = {row.id: row.masked for row in Index.open(tmp_path / "idx").examples()}
    assert rest == {row.id: row.masked for at, row in enumerate(read_examples(tmp_path / "m.jsonl")) if at != 3}
    # ids say nothing of marks, but an index made of the unmarked rows is another one
    plain = build_index(tuned, rows, tmp_path / "plain", [get_method("bm25")])
    assert set(rest) < {row.id for row in plain.examples()}
    prints = [index.manifest["settings"]["fingerprint"]["data"] for index in (new_index, plain)]
    assert prints[0] != prints[1]
