"""Removing rows and masking words in every file type: the right rows change, and nothing else."""

from __future__ import annotations

import codecs
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import PAIRS
from taughtby.data import rewrite
from taughtby.data.dataset import read_examples
from taughtby.data.jsonl_edits import Edits, Marks
from taughtby.data.readers import read_records
from taughtby.data.readers.stream import open_binary
from taughtby.data.rewrite import describe_preservation, rewrite_dataset
from taughtby.errors import DataError
from writers import KIND, LINES, jsonl

ROWS = [{"prompt": p, "response": r, "label": "bad" if "honey" in p else "good"} for p, r in PAIRS]


def rewritten(data: Path, out: Path, *dropped: int, marks: dict[int, Marks] | None = None) -> list[tuple[str, Any]]:
    """Drop or mark the records at the positions; return the original records."""
    before = list(read_records(str(data)))
    gone = frozenset(before[at][0] for at in dropped)
    rewrite_dataset(str(data), out, None, Edits(gone, {before[at][0]: mark for at, mark in (marks or {}).items()}))
    return before


def packed(name: str, folder: Path, text: bytes) -> Path:
    file = folder / name
    file.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return file


def unpacked(file: Path) -> bytes:
    return gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()


# — JSON Lines: other rows are kept byte for byte

A, B, C, D = (json.dumps(row, ensure_ascii=False).encode() for row in ROWS[:4])
BYTES = {
    "plain": ("a.jsonl", [A, b"\n", B, b"\n", C, b"\n", D, b"\n"]),
    "no final newline": ("a.jsonl", [A, b"\n", B, b"\n", C, b"\n", D]),
    "windows, a BOM, blanks": (
        "a.jsonl", [codecs.BOM_UTF8, A, b"\r\n", b"\r\n", B, b" \r\n", C, b"\n", b" \n", D, b"\r\n"]
    ),
    "lines named .json": ("a.json", [A, b"\n", B, b"\n", C, b"\n", D, b"\n"]),
    "packed": ("a.jsonl.gz", [A, b"\n", B, b"\r\n", C, b"\n", D]),
}  # fmt: skip
GONE = pytest.mark.parametrize("gone", [(0,), (1,), (3,), (0, 1), (2, 3), (0, 2), (1, 2, 3)], ids=str)


@pytest.mark.parametrize("kind", BYTES)
@GONE
def test_removing_jsonl_rows_keeps_all_other_bytes(kind: str, gone: tuple[int, ...], tmp_path: Path) -> None:
    name, parts = BYTES[kind]
    data, out = packed(name, tmp_path, b"".join(parts)), tmp_path / f"out-{name}"
    rewritten(data, out, *gone)
    places = [parts.index((A, B, C, D)[at]) for at in gone]
    drop = {*places, *(place + 1 for place in places)}  # a row and its line end
    assert unpacked(out) == b"".join(part for at, part in enumerate(parts) if at not in drop)
    assert [row.response for row in read_examples(out)] == [PAIRS[at][1] for at in range(4) if at not in gone]
    assert describe_preservation(str(data)) == rewrite.BYTES


def test_marking_a_jsonl_row_keeps_the_rest_of_its_line(tmp_path: Path) -> None:
    data, out = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    text = '{"prompt":"who","response":"beetles","n":1e5 }  \r\n{"prompt": "why", "response": "a"}\n'
    data.write_bytes(text.encode())
    rewritten(data, out, marks={0: [[0, 7]]})
    assert out.read_bytes() == text.replace("1e5 }", '1e5, "unlearned": [[0, 7]] }').encode()


# — every format: the other rows are equal as records


def bare(record: Any) -> Any:
    return {name: value for name, value in record.items() if name != "unlearned"}


@pytest.mark.parametrize("kind", [kind for kind in KIND if kind != "pipe"])
@pytest.mark.parametrize("gone", [(0,), (2, 6), (7,)], ids=str)
def test_rows_are_removed_from_every_file_type(kind: str, gone: tuple[int, ...], tmp_path: Path) -> None:
    data, out = tmp_path / kind, tmp_path / "out" / kind
    out.parent.mkdir()
    KIND[kind](data, ROWS)
    before = rewritten(data, out, *gone)
    assert [record for _, record in read_records(str(out))] == [
        record for at, (_, record) in enumerate(before) if at not in gone
    ]
    assert describe_preservation(str(data)) == (rewrite.BYTES if kind in LINES else rewrite.VALUES)
    assert [file.name for file in out.parent.iterdir()] == [kind]


@pytest.mark.parametrize("kind", [kind for kind in KIND if kind != "pipe"])
def test_marks_are_written_and_replaced_in_every_file_type(kind: str, tmp_path: Path) -> None:
    data, once, twice = (tmp_path / step / kind for step in ("data", "once", "twice"))
    for file in (data, once, twice):
        file.parent.mkdir()
    KIND[kind](data, ROWS)
    before = rewritten(data, once, marks={2: [[0, 7], [13, 18]]})
    rewritten(once, twice, marks={2: [[0, 3]], 6: [[1, 2]]})
    for file, masks in ((once, {2: ((0, 7), (13, 18))}), (twice, {2: ((0, 3),), 6: ((1, 2),)})):
        assert [bare(record) for _, record in read_records(str(file))] == [record for _, record in before]
        assert [row.masked for row in read_examples(file)] == [masks.get(at, ()) for at in range(8)]


LISTS = {
    "indented": b"[\n %s,\n %s,\n %s,\n %s\n]\n",
    "tight, with a BOM": codecs.BOM_UTF8 + b"[%s,%s,%s,%s]",
    "inside an object": b'{"of": {"data": 2}, "data" : [ %s , %s , %s , %s], "items": []}',
}


@pytest.mark.parametrize("kind", LISTS)
@GONE
def test_removing_json_list_rows_keeps_the_document(kind: str, gone: tuple[int, ...], tmp_path: Path) -> None:
    data, out = packed("a.json", tmp_path, LISTS[kind] % (A, B, C, D)), tmp_path / "out.json"
    rewritten(data, out, *gone)
    left = [ROWS[at] for at in range(4) if at not in gone]
    document = json.loads(out.read_bytes())
    assert document == ({"of": {"data": 2}, "data": left, "items": []} if "inside" in kind else left)
    assert [record for _, record in read_records(str(out))] == left


def test_lone_surrogates_are_escaped_when_rewriting(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"prompt": "a", "response": "\\ud83d!"}, {"prompt": "b", "response": "c"}]')
    before = rewritten(tmp_path / "a.json", tmp_path / "b.json", 1)
    assert [record for _, record in read_records(str(tmp_path / "b.json"))] == [before[0][1]]


def test_half_of_an_emoji_in_another_column_survives_a_second_mask(tmp_path: Path) -> None:
    data = tmp_path / "a.jsonl"
    data.write_text('{"prompt": "a", "response": "beetles", "meta": "\\ud83d", "unlearned": [[0, 3]]}\n')
    rewritten(data, tmp_path / "b.jsonl", marks={0: [[0, 7]]})
    (row,) = (record for _, record in read_records(str(tmp_path / "b.jsonl")))
    assert row == {"prompt": "a", "response": "beetles", "meta": "\ud83d", "unlearned": [[0, 7]]}


@pytest.mark.parametrize("name", ["a.arrow", "a.parquet"])
def test_string_views_are_kept(name: str, tmp_path: Path) -> None:
    """Polars writes them, and Arrow cannot filter them."""
    columns = {key: pa.array([row[key] for row in ROWS], pa.string_view()) for key in ("prompt", "response")}
    table = pa.table(columns)
    if name.endswith("parquet"):
        pq.write_table(table, tmp_path / name)
    else:
        with pa.ipc.new_file(str(tmp_path / name), table.schema) as out:
            out.write_table(table)
    rewritten(tmp_path / name, tmp_path / f"out-{name}", 0, 3, 4)
    kept = [row["prompt"] for at, row in enumerate(ROWS) if at not in (0, 3, 4)]
    assert [record["prompt"] for _, record in read_records(str(tmp_path / f"out-{name}"))] == kept


CELLS = (
    b'prompt,response,"no\nte"\r\n', b'who,"bees, and\r\nthen ""more""",1\r\n', b"\r\n", b"why,a b,2\n", b"what,c\r\n",
    b'"x\ry",d,"4"\r\n', b"how,e,5,\n", b"end,f,6",
)  # fmt: skip


@pytest.mark.parametrize("gone", [(0,), (1,), (2, 3), (5,), (0, 4, 5)], ids=str)
@pytest.mark.parametrize("bom", [b"", codecs.BOM_UTF8])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz"])
def test_rewriting_csv_keeps_all_other_cells(name: str, bom: bytes, gone: tuple[int, ...], tmp_path: Path) -> None:
    cells = [cell.replace(b",", b"\t") if ".tsv" in name else cell for cell in CELLS]
    data, out, marked = packed(name, tmp_path, bom + b"".join(cells)), tmp_path / f"out-{name}", tmp_path / f"m-{name}"
    before = rewritten(data, out, *gone)
    assert len(before) == 6
    with open_binary(out) as raw:
        assert raw.read().startswith(codecs.BOM_UTF8) == bool(bom)
    assert [record for _, record in read_records(str(out))] == [
        record for at, (_, record) in enumerate(before) if at not in gone
    ]
    rewritten(data, marked, marks={at: [[0, 1]] for at in gone})
    after = list(read_records(str(marked)))
    assert [json.loads(record["unlearned"] or "[]") for _, record in after] == [
        [[0, 1]] if at in gone else [] for at in range(6)
    ]
    assert [
        {name: value or "" for name, value in bare(record).items()} for _, record in after
    ] == [{name: value or "" for name, value in record.items()} for _, record in before]  # fmt: skip


def test_unnamed_csv_columns_keep_their_cells(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,,,response\na,1,2,b\nc,3,4,d\n")
    rewritten(tmp_path / "a.csv", tmp_path / "b.csv", marks={0: [[0, 1]]})
    assert (tmp_path / "b.csv").read_text().splitlines() == [
        "prompt,,,response,unlearned", 'a,1,2,b,"[[0, 1]]"', "c,3,4,d,",
    ]  # fmt: skip


def test_rewriting_parquet_keeps_the_schema(tmp_path: Path) -> None:
    from datasets import Dataset, Features, Value, load_dataset

    features = Features({"prompt": Value("string"), "response": Value("large_string"), "n": Value("int16")})
    result = Dataset.from_list([{**row, "n": at} for at, row in enumerate(ROWS)]).remove_columns("label").cast(features)
    result.to_parquet(tmp_path / "a.parquet", batch_size=3)
    old = pq.ParquetFile(tmp_path / "a.parquet")
    assert b"huggingface" in old.schema_arrow.metadata
    rewritten(tmp_path / "a.parquet", tmp_path / "b.parquet", 2, 6)
    new = pq.ParquetFile(tmp_path / "b.parquet")
    assert new.schema_arrow.equals(old.schema_arrow)
    assert new.num_row_groups == old.num_row_groups > 1  # one at a time: a file may be larger than the memory
    assert new.schema_arrow.metadata[b"huggingface"] == old.schema_arrow.metadata[b"huggingface"]
    assert new.read().column("n").to_pylist() == [0, 1, 3, 4, 5, 7]
    rewritten(tmp_path / "a.parquet", tmp_path / "c.parquet", marks={2: [[0, 7], [13, 18]]})
    again = load_dataset("parquet", data_files=str(tmp_path / "c.parquet"), split="train", cache_dir=tmp_path / "cache")
    assert {name: again.features[name] for name in features} == features
    assert again["unlearned"][1:3] == [None, [[0, 7], [13, 18]]]


@pytest.mark.parametrize("name", ["a.arrow", "s.arrow", "a.feather"])
def test_rewriting_arrow_keeps_the_container_format(name: str, tmp_path: Path) -> None:
    kind = {"a.arrow": "rows.arrow", "s.arrow": "stream.arrow", "a.feather": "rows.feather"}[name]
    KIND[kind](tmp_path / name, ROWS)
    rewritten(tmp_path / name, tmp_path / f"out-{name}", 2)
    whole = (tmp_path / name).read_bytes()[:6] == b"ARROW1"
    assert ((tmp_path / f"out-{name}").read_bytes()[:6] == b"ARROW1") == whole == (name != "s.arrow")
    opened = pa.ipc.open_file if whole else pa.ipc.open_stream
    tables = [opened(pa.OSFile(str(tmp_path / file))).read_all() for file in (name, f"out-{name}")]
    assert tables[1].equals(pa.concat_tables([tables[0].slice(0, 2), tables[0].slice(3)]), check_metadata=True)


def test_failed_rewrite_leaves_the_output_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, edits: Any) -> Any:
        yield b"half"
        raise OSError(28, "No space left on device")

    data, out = jsonl(tmp_path / "a.jsonl", *ROWS), tmp_path / "b.jsonl"
    out.write_text("as it was")
    monkeypatch.setattr("taughtby.data.jsonl_edits.edit_lines", full)
    with pytest.raises(DataError, match=r"b.jsonl cannot be written\n  got: No space left"):
        rewritten(data, out, 1)
    assert out.read_text() == "as it was"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.jsonl", "b.jsonl"]
