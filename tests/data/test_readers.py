"""Readers of every file type: sources of rows, differences that are ignored, and errors of broken files."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from taughtby.data.readers import read_records, stream, texts
from taughtby.errors import OptionError, TaughtbyError
from writers import KIND, TABLES, delimited, jsonl, lines, pipe, save

A, B = {"prompt": "a", "response": "b"}, {"prompt": "c", "response": "d"}
ONE = '{"prompt":"a","response":"b"}\n'
KINDS = (
    ".jsonl, .ndjson, .json, .csv, .tsv (each also .gz or .zst), .parquet, .arrow, .feather, a folder of one of these, "
    "a `save_to_disk` folder, - for JSON lines from a pipe, or a hub id"
)
REMEDY = "fix it, or rename the file to .jsonl if each line is a row"


def mistake(data: str | Path, split: str | None = None) -> str:
    with pytest.raises(TaughtbyError) as caught:
        list(read_records(str(data), split))
    return str(caught.value)


# -- sources of rows


def test_read_records_returns_raw_records(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"anything": [1]})
    assert list(read_records(str(path))) == [(f"{path}:1", {"anything": [1]})]


def test_jsonl_line_numbers_count_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f"\n{ONE}  \n\t\n{ONE}\n")
    assert list(read_records(str(path))) == [(f"{path}:2", A), (f"{path}:5", A)]


def test_csv_line_numbers_count_blank_and_multiline_fields(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('\nprompt,response\n\na,b\n"x\n\ny",c\n\n\nlast,d\n')
    assert [(source, row["prompt"]) for source, row in read_records(str(path))] == [
        (f"{path}:4", "a"), (f"{path}:5", "x\n\ny"), (f"{path}:10", "last"),
    ]  # fmt: skip


def test_csv_with_lone_carriage_returns(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"prompt,response\ra,b\rc,d\r")
    assert list(read_records(str(path))) == [(f"{path}:2", A), (f"{path}:3", B)]


# -- differences that are ignored


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", ["a.jsonl", "lines.json", "a.json", "data.json", "a.csv", "a.tsv"])
def test_bom_newlines_and_compression_do_not_change_rows(
    kind: str, packed: str, bom: bytes, end: str, tmp_path: Path
) -> None:
    text = {
        "a.json": json.dumps([A, B], indent=1), "data.json": json.dumps({"n": 2, "data": [A, B]}, indent=1),
        "a.csv": delimited([A, B]), "a.tsv": delimited([A, B], "\t"),
    }.get(kind, lines([A, B]))  # fmt: skip
    data = bom + text.replace("\r\n", "\n").replace("\n", end).encode()
    path = tmp_path / (kind + packed)
    if packed == ".zst":
        with pa.output_stream(str(path), compression="zstd") as out:
            out.write(data)
    else:
        path.write_bytes(gzip.compress(data) if packed else data)
    assert [row for _, row in read_records(str(path))] == [A, B]


@pytest.mark.parametrize("packed", ["gz", "zst"])
def test_concatenated_compressed_files(packed: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.jsonl.{packed}"
    KIND[path.name](path, [A])
    path.write_bytes(path.read_bytes() * 3)
    assert [source for source, _ in read_records(str(path))] == [f"{path}:{line}" for line in (1, 2, 3)]


@pytest.mark.parametrize("name", sorted(texts.HOLDERS))
def test_rows_inside_a_json_object(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"version": 1, "tags": ["x"], name: [A, B]}))
    assert list(read_records(str(path))) == [(f"{path}:0", A), (f"{path}:1", B)]


def test_json_object_without_a_list_is_a_row(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    row = {"messages": [{"role": "user", "content": "a"}]}
    path.write_text(json.dumps(row, indent=1))
    assert list(read_records(str(path))) == [(f"{path}:0", row)]


def test_python_json_numbers_are_accepted(tmp_path: Path) -> None:
    """NaN, and numbers of any length, are what Python's own writer makes of its own."""
    for kind, text in (("a.jsonl", '{"a":NaN,"b":-Infinity,"c":%s}\n'), ("a.json", '[{"a":NaN,"b":-Infinity,"c":%s}]')):
        (tmp_path / kind).write_text(text % ("9" * 400))
        ((_, row),) = read_records(str(tmp_path / kind))
        assert row["a"] != row["a"] and row["b"] == -float("inf") and row["c"] == int("9" * 400)


# -- streaming of JSON lists


def in_pieces(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(stream, "CHUNK", size)
    monkeypatch.setattr(texts, "CHUNK", size)


HARD = [
    {}, {"a": []}, {"a": "]},{["}, {"a": '\\"\\\\", "'}, {"é": "漢字 😀 👩‍👧"}, {"a": "\ud83d"}, {"a": "\u2028\x7f"},
    {"a": [1.5e-7, -0.0, True, None, False, 123456789012345678]}, {"a": "x" * 500}, {"a": {"b": {"c": [[], {}]}}},
]  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 16, 64, 1000])
@pytest.mark.parametrize("style", [{}, {"indent": 1}, {"separators": (",", ":")}, {"ensure_ascii": False}])
def test_json_list_is_read_across_chunk_boundaries(
    size: int, style: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_pieces(monkeypatch, size)
    path = tmp_path / "a.json"
    rows = [row for row in HARD if style.get("ensure_ascii", True) or row != {"a": "\ud83d"}]
    path.write_text(f" \n{json.dumps(rows, **style)}\n ", encoding="utf-8")
    assert [row for _, row in read_records(str(path))] == rows


@pytest.mark.parametrize("size", [1, 4, 1 << 20])
@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ('[\n{"a":1},\n{"a" 2}]', 3, "Expecting ':' delimiter in 2}]"),
        ('[\n{"a":1}\n{"a":2}]', 3, "Expecting ',' or ']' after a row in {\"a\":2}]"),
        ('[{"a":1},\n]', 2, "Expecting value in ]"),
        ('[{"a":1},\n{"a":"b', 2, 'Unterminated string starting at in "b'),
        ('[{"a":1},\n{"a":"b"}\n', 3, "Expecting ',' or ']' after a row in "),
        ('[{"a":1}]\n x', 2, "there is more after the list in x"),
        ('[{"a":1}][', 1, "there is more after the list in ["),
        ("[\n\n{'a':1}]", 3, "Expecting property name enclosed in double quotes in 'a':1}]"),
        ("[", 1, "Expecting value in "),
        ('[{"a":"\n"}]', 1, r'Invalid control character at in \n"}]'),
    ],
)
def test_broken_json_list_is_reported_with_its_line(
    text: str, line: int, expected: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_pieces(monkeypatch, size)
    path = tmp_path / "a.json"
    path.write_text(text)
    assert mistake(path) == f"{path}:{line}: invalid JSON\n  got: {expected}\n  do:  {REMEDY}"


def test_broken_row_is_reported_before_the_rest_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_pieces(monkeypatch, 64)
    path = tmp_path / "a.json"
    path.write_bytes(b'[{"a":1},{"a" 2},' + b'{"a":3},' * 1000 + b"\xff]")
    assert ":1: invalid JSON" in mistake(path)  # and not the byte that is no UTF-8


# -- pipes, folders, splits, the hub


def test_pipes_are_read_by_suffix_or_as_json_lines(tmp_path: Path) -> None:
    pipe(tmp_path / "fifo", ONE * 3)
    assert [source for source, _ in read_records(str(tmp_path / "fifo"))] == [
        f"{tmp_path / 'fifo'}:{n}" for n in (1, 2, 3)
    ]
    pipe(tmp_path / "fifo.csv", "prompt,response\na,b\n")
    assert [row for _, row in read_records(str(tmp_path / "fifo.csv"))] == [A]


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_standard_input_is_read_as_json_lines(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbf" + ONE.encode() + b"{\n")))
    rows = read_records(name)
    assert next(rows) == (f"{name}:1", A)
    with pytest.raises(TaughtbyError, match=f"{name}:2: invalid JSON"):
        next(rows)


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "csv"])
def test_shards_are_read_in_name_order(suffix: str, tmp_path: Path) -> None:
    for name, row in (("b/1", B), ("a/2", B), ("a/1", A)):
        path = tmp_path / f"{name}.{suffix}"
        path.parent.mkdir(exist_ok=True)
        KIND[f"rows.{suffix}"](path, [row])
    (tmp_path / "README.md").write_text("hello")
    (tmp_path / "dataset_infos.json").write_text("{}")
    (tmp_path / ".cache").mkdir()
    jsonl(tmp_path / ".cache" / "x.jsonl", {"no": 1})
    first = {"jsonl": 1, "csv": 2}.get(suffix, 0)
    assert list(read_records(str(tmp_path))) == [
        (f"{tmp_path}/{name}.{suffix}:{first}", row) for name, row in (("a/1", A), ("a/2", B), ("b/1", B))
    ]


def test_folder_with_splits(tmp_path: Path) -> None:
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001", "train_prefs-00000-of-00001"):
        pq.write_table(pa.table({"name": [name]}), tmp_path / f"{name}.parquet")

    def names(split: str | None = None) -> list[str]:
        return [row["name"] for _, row in read_records(str(tmp_path), split)]

    assert names() == names("train") == ["train-00000-of-00002", "train-00001-of-00002"]
    assert names("test") == ["test-00000-of-00001"]
    assert names("train_prefs") == ["train_prefs-00000-of-00001"]
    assert mistake(tmp_path, "dev") == (
        f"{tmp_path} has no shards of the split dev\n  got: test-00000-of-00001.parquet, train-00000-of-00002.parquet, "
        "train-00001-of-00002.parquet, train_prefs-00000-of-00001.parquet\n  do:  choose another, or omit it"
    )


def test_folders_without_one_kind_of_shards_raise(tmp_path: Path) -> None:
    assert mistake(tmp_path) == (
        f"{tmp_path} must contain data files of exactly one type\n  got: none\n  do:  give one of: {KINDS}"
    )
    jsonl(tmp_path / "a.jsonl", A)
    (tmp_path / "b.csv").write_text("prompt\na\n")
    assert "\n  got: .csv, .jsonl\n" in mistake(tmp_path)


def test_splits_of_a_saved_dataset(tmp_path: Path) -> None:
    save(tmp_path / "two", [A, B], "test", "train")
    save(tmp_path / "one", [A], "only")
    save(tmp_path / "others", [A], "a", "b")
    save(tmp_path / "plain", [A])
    assert list(read_records(str(tmp_path / "two"))) == [("two/train:0", A), ("two/train:1", B)]
    assert next(read_records(str(tmp_path / "two"), "test")) == ("two/test:0", A)
    assert next(read_records(str(tmp_path / "two" / "test"))) == ("test:0", A)
    assert next(read_records(str(tmp_path / "one"))) == ("one/only:0", A)
    others = tmp_path / "others"
    assert mistake(others) == f"{others} has several splits\n  got: a, b\n  do:  choose one with --split"
    assert mistake(others, "c") == f"{others} has no split c\n  got: a, b\n  do:  choose one with --split"
    assert mistake(tmp_path / "plain", "train") == (
        f"{tmp_path / 'plain'} is a single data set without splits\n  got: split train\n  do:  omit the split"
    )


def test_split_of_a_file_raises(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", A)
    with pytest.raises(OptionError) as caught:
        read_records(str(path), "train")
    assert str(caught.value) == (
        f"{path} has no splits\n  got: split train\n"
        "  do:  omit the split: it selects part of a folder or of a hub data set"
    )


def hub(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[Any]:
    """The hub, answering with rows or an error; what it was asked."""
    import datasets

    asked: list[Any] = []

    def load(path: str, **options: Any) -> Any:
        asked.append((path, options))
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked


def test_hub_dataset_is_streamed_with_zero_based_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = hub(monkeypatch, [A, B | {"no": None, "in": {"no": None, "yes": 1}}])
    wanted = [("owner/name:0", A), ("owner/name:1", B | {"no": None, "in": {"yes": 1}})]
    assert list(read_records("owner/name")) == wanted
    assert next(read_records("owner/name-v1.5:config", "test")) == ("owner/name-v1.5:config:0", A)
    assert asked == [
        ("owner/name", {"split": "train", "streaming": True}),
        ("owner/name-v1.5", {"split": "test", "streaming": True, "name": "config"}),
    ]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (ConnectionError("no network"), "is neither a local file nor a data set on the hub"),
        (ValueError("Bad split: train. Available splits: ['test']"), "has no split train"),
        (ValueError("Config name is missing."), "has several configurations"),
    ],
)
def test_hub_errors_are_reported(fault: Exception, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, fault)
    first, got, do = mistake("owner/name").splitlines()
    assert (first, got) == (f"owner/name {expected}", f"  got: {fault}")
    assert do.startswith("  do:  ")


def test_interrupted_or_empty_hub_stream_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def rows() -> Iterator[Any]:
        yield A
        raise ConnectionError("reset by peer")

    hub(monkeypatch, rows())
    assert mistake("owner/name").startswith("owner/name:1: the file is damaged or cannot be read\n  got: reset by peer")
    hub(monkeypatch, [])
    assert mistake("owner/name", "test") == (
        "owner/name has no rows\n  do:  give a data set with rows in its split test"
    )


# -- errors of broken files


@pytest.mark.parametrize("name", ["no/such/rows.jsonl", "rows.jsonl", "rows.csv.gz", "/no/such", "./here", "~/rows"])
def test_missing_file_raises(name: str) -> None:
    assert mistake(name) == f"there is no file {name}\n  do:  give the path of the training data: {KINDS}"


def test_overlong_file_name_raises() -> None:
    assert "cannot be read" in mistake("x" * 10_000)


@pytest.mark.parametrize("kind", ["a.jsonl", "a.json", "a.csv", "a.parquet", "a.arrow", "a.jsonl.gz", "a.csv.zst"])
def test_empty_file_raises(kind: str, tmp_path: Path) -> None:
    path = tmp_path / kind
    path.write_bytes(b"")
    assert mistake(path) == f"{path} is empty\n  do:  give a file with at least one row"


@pytest.mark.parametrize(
    ("kind", "text"),
    [("a.jsonl", "\n \n"), ("a.json", "[]"), ("a.json", " \n"), ("a.json", "[ ]\n"), ("a.csv", "prompt,response\n"),
     ("b.csv", "\n"), ("b.jsonl", "\ufeff"), ("c.json", "\ufeff")],
)  # fmt: skip
def test_file_without_rows_yields_nothing(kind: str, text: str, tmp_path: Path) -> None:
    (tmp_path / kind).write_text(text, encoding="utf-8")
    assert list(read_records(str(tmp_path / kind))) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file_raises(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", A)
    path.chmod(0)
    assert mistake(path).startswith(f"{path}: the file is damaged or cannot be read\n  got: [Errno 13]")


def test_broken_json_is_reported_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{ONE}\n{{"prompt":"a",\n')
    assert mistake(path) == (
        f"{path}:3: invalid JSON\n"
        "  got: Expecting property name enclosed in double quotes: line 2 column 1 (char 15) in "
        '{"prompt":"a",\n  do:  fix or remove that line'
    )


@pytest.mark.parametrize("line", ["[" * 100_000, "1" * 5000, '{"a": \x01}', "{'prompt': 'a'}", '{"a":"\x00"}', "{}{}"])
def test_unparsable_json_is_reported(line: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f"{line}\n")
    message = mistake(path)
    assert message.startswith(f"{path}:1: invalid JSON\n  got: ")
    assert message.endswith("\n  do:  fix or remove that line")
    assert len(message) < 400 + len(str(path))
    (tmp_path / "a.json").write_text(f"[{line}]")
    assert mistake(tmp_path / "a.json").startswith(f"{tmp_path / 'a.json'}:1: invalid JSON\n  got: ")


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ('{"rows": 1}', "{'rows': 1}"), ('"text"', "text"), ("3", "3"),
        ('{"data": [], "x": 1}', "{'data': [], 'x': 1}"),
        ('{"train": [{"a":1}], "test": [{"a":1}]}', "several lists: train, test"), ('{"data": [1]}', "{'data': [1]}"),
    ],
)  # fmt: skip
def test_json_without_a_list_of_rows_raises(text: str, got: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    assert mistake(path) == (
        f"{path}: the file is not a list of rows\n  got: {got}\n"
        '  do:  write [ {…}, {…} ] or {"data": [ {…}, {…} ]}, or use .jsonl'
    )


@pytest.mark.parametrize("row", [[], "text", 1, None])
def test_row_that_is_not_an_object_raises(row: Any, tmp_path: Path) -> None:
    message = f'a row must be a JSON object\n  got: {row}\n  do:  write {{"messages": […]}}'
    path = jsonl(tmp_path / "a.jsonl", A, row)
    assert mistake(path) == f"{path}:2: {message}"
    for kind, whole in (("a.json", [A, row]), ("b.json", {"data": [A, row]})):
        other = tmp_path / kind
        other.write_text(json.dumps(whole))
        assert mistake(other) == f"{other}, row 1: {message}"


def test_json_list_in_a_jsonl_file_suggests_renaming(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps([A, B]))
    assert mistake(path).endswith('\n  do:  write {"messages": […]}, or rename the file to .json if it is one list')


def test_short_csv_rows_are_filled_and_long_ones_raise(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prompt,response\na\na,b,,\n")
    assert [row for _, row in read_records(str(path))] == [{"prompt": "a", "response": None}, A]
    path.write_text("prompt,response\na,b\nfirst, second,b\n")
    assert mistake(path) == (
        f"{path}:3: the row is longer than the header\n  got: 3 cells, 2 columns; the last cell: b\n"
        "  do:  quote a text that contains commas, or add the column to the header"
    )


def test_duplicate_column_names_raise(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prompt,response,prompt\na,b,c\n")
    message = "\n  got: prompt\n  do:  give each column a unique name"
    assert mistake(path) == f"{path}:1: the header names a column twice{message}"
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table([["a"], ["b"]], names=["prompt", "prompt"]), path)
    assert mistake(path) == f"{path}:0: two columns have the same name{message}"


@pytest.mark.parametrize(("name", "sign"), [("a.csv", ";"), ("a.csv", "\t"), ("a.tsv", ","), ("a.tsv", ";")])
def test_cells_separated_by_another_sign_are_named(tmp_path: Path, name: str, sign: str) -> None:
    path = tmp_path / name
    path.write_text(f"prompt{sign}response\na, b{sign}c\n")
    assert mistake(path).startswith(f"{path}:1: the header has one cell with several names\n  got: prompt")
    assert mistake(path).endswith("  do:  separate the cells by commas, or by tabs in a file named .tsv")


@pytest.mark.parametrize("row", ['a,"b', 'a,"b"c', '"a\n\nb'])
def test_unbalanced_csv_quotes_raise(row: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"prompt,response\na,b\n{row}")
    assert mistake(path).startswith(f"{path}:3: not a CSV row\n  got: ")


@pytest.mark.parametrize("kind", ["a.jsonl", "a.json", "a.csv", "a.jsonl.gz"])
@pytest.mark.parametrize("size", [100, 1 << 20])
def test_invalid_utf8_is_reported_with_its_line(
    kind: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_pieces(monkeypatch, size)
    rows = {"a.json": '[%s{"prompt":"café"}]', "a.csv": "prompt\n%s\ncafé\n"}.get(kind, '%s{"prompt":"café"}\n')
    text = rows % ({"a.json": '{"prompt":"a"},\n', "a.csv": "a\n"}.get(kind, '{"prompt":"a"}\n') * 40)
    data = text.encode("latin-1")
    path = tmp_path / kind
    path.write_bytes(gzip.compress(data) if kind.endswith(".gz") else data)
    line = data[: data.index(b"\xe9")].count(b"\n") + 1
    place = data.index(b"\xe9") - (0 if kind == "a.json" else data[: data.index(b"\xe9")].rindex(b"\n") + 1)
    got = data[data.index(b"\xe9") :][:4]
    assert mistake(path) == f"{path}:{line}: not UTF-8\n  got: byte {place}: {got!r}\n  do:  save the file as UTF-8"


@pytest.mark.parametrize("kind", ["a.json", "a.jsonl", "a.csv"])
def test_utf16_is_rejected(kind: str, tmp_path: Path) -> None:
    path = tmp_path / kind
    path.write_text("[]", encoding="utf-16")
    assert mistake(path) == (
        f"{path}:1: not UTF-8\n  got: byte 0: b'\\xff\\xfe[\\x00', a UTF-16 byte order mark\n"
        "  do:  save the file as UTF-8"
    )


@pytest.mark.parametrize("kind", ["a.jsonl.gz", "a.jsonl.zst", "a.json.gz", "a.csv.zst"])
def test_truncated_or_corrupt_compressed_files_raise(kind: str, tmp_path: Path) -> None:
    rows = [{"prompt": f"{number} {number**9}", "response": "b"} for number in range(9000)]
    path = tmp_path / kind
    whole = tmp_path / f"rows.{'csv' if 'csv' in kind else 'json' if '.json.' in kind else 'jsonl'}"
    KIND[whole.name](whole, rows)
    with pa.output_stream(str(path), compression="gzip" if kind.endswith("gz") else "zstd") as out:
        out.write(whole.read_bytes())
    data = path.read_bytes()
    assert len(list(read_records(str(path)))) == 9000
    path.write_bytes(data[: len(data) // 2])
    message = mistake(path)
    line = int(message.removeprefix(f"{path}:").split(":")[0])
    assert line == 1 if "json." in kind and "jsonl" not in kind else 1000 < line < 9000, message
    assert "the file is damaged or cannot be read\n  got: Truncated compressed" in message
    if kind.endswith(".gz"):  # which has a checksum
        path.write_bytes(data[: len(data) // 2] + b"\x00\xff\x00" * 9 + data[len(data) // 2 + 27 :])
        assert "the file is damaged" in mistake(path) or "not UTF-8" in mistake(path) or "invalid JSON" in mistake(path)
    path.write_bytes(b"no such thing")
    assert ":1: the file is damaged or cannot be read" in mistake(path)


def test_compressed_parquet_raises(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet.gz"
    path.write_bytes(b"x")
    assert mistake(path) == f"{path}: a compressed .parquet cannot be streamed\n  do:  decompress the file first"


@pytest.mark.parametrize("name", ["rows.txt", "rows.bin.gz", "rows.gz", "rows", "rows.xlsx"])
def test_unknown_file_type_raises(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("hello")
    suffix = {"rows.bin.gz": ".bin"}.get(name, Path(name.removesuffix(".gz")).suffix or "no suffix")
    assert mistake(path) == f"{path}: unknown file type\n  got: {suffix}\n  do:  give one of: {KINDS}"


@pytest.mark.parametrize("junk", [b"junk", b"PAR1 and then nothing", b"ARROW1 and then nothing", b"\xff" * 40])
@pytest.mark.parametrize("kind", ["Parquet", "Arrow"])
def test_invalid_parquet_and_arrow_files_raise(kind: str, junk: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind.lower()}"
    path.write_bytes(junk)
    message = mistake(path)
    assert message.startswith(f"{path}: not a valid {kind} file\n  got: ")
    assert message.endswith("\n  do:  write the file again, or correct its suffix")


@pytest.mark.parametrize("kind", TABLES)
def test_truncated_tables_raise(kind: str, tmp_path: Path) -> None:
    path = tmp_path / kind
    KIND[kind](path, [A] * 2000)
    file = path if path.is_file() else next(iter(sorted([*path.rglob("*.arrow"), *path.rglob("*.parquet")])))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    message = mistake(path)
    assert message.startswith(str(path)) and "\n  do:  " in message


def test_invalid_utf8_in_an_arrow_table_raises(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")])
    path = tmp_path / "a.arrow"
    with pa.OSFile(str(path), "wb") as out, pa.ipc.new_file(out, pa.schema({"text": pa.string()})) as writer:
        writer.write(pa.record_batch([bad], ["text"]))
    assert mistake(path).startswith(f"{path}:0: the file is damaged or cannot be read\n  got: ")


def test_nulls_from_other_rows_are_removed_in_nested_values(tmp_path: Path) -> None:
    rows = [{"m": [{"a": 1, "t": None}], "n": None}, {"m": [{"a": None, "t": {"x": None, "y": [None, 2]}}], "n": 3}]
    for kind in TABLES:
        KIND[kind](tmp_path / kind, rows)
        got = [row for _, row in read_records(str(tmp_path / kind))]
        assert got == [{"m": [{"a": 1}], "n": None}, {"m": [{"t": {"y": [None, 2]}}], "n": 3}], kind


def test_times_and_decimals_in_messages_become_text(tmp_path: Path) -> None:
    import datetime
    import decimal

    row = {"m": [{"at": datetime.datetime(2024, 1, 2), "n": decimal.Decimal("1.50"), "b": b"x"}]}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    ((_, got),) = read_records(str(tmp_path / "a.parquet"))
    assert got == {"m": [{"at": "2024-01-02 00:00:00", "n": "1.50", "b": b"x"}]}


def test_corrupt_saved_dataset_raises(tmp_path: Path) -> None:
    for number, (file, junk) in enumerate(
        [("*.arrow", "junk"), ("state.json", "{"), ("state.json", "{}"), ("dataset_info.json", "[]")]
    ):
        path = tmp_path / str(number)
        save(path, [A])
        for one in path.glob(file):
            one.write_text(junk)
        assert mistake(path).startswith(f"{path} is a folder, but not one that `Dataset.save_to_disk` wrote\n  got: ")


# -- memory


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux, to read peak memory")
def test_rows_are_read_in_constant_memory(tmp_path: Path) -> None:
    """A process that reads 10 MB of rows of each kind grows by less than 6 MB."""
    row = {"prompt": "p" * 400, "response": "r" * 400}
    for kind in ("rows.jsonl", "rows.json", "rows.csv", "rows.jsonl.gz"):
        KIND[kind](tmp_path / kind, [row] * 12_000)
    code = """
import re, sys
from pathlib import Path
from taughtby.data.readers import read_records
def memory(name): return int(re.search(name + r":\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
for path in sys.argv[1:]:
    rows = read_records(path)
    next(rows)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that of now; ru_maxrss begins at the parent's
    before = memory("VmHWM")
    assert sum(1 for _ in rows) == 11_999
    print(memory("VmHWM") - before)
"""
    paths = [str(tmp_path / kind) for kind in ("rows.jsonl", "rows.json", "rows.csv", "rows.jsonl.gz")]
    ran = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    grown = [float(value) for value in ran.stdout.split()]
    assert len(grown) == 4 and max(grown) < 6, grown
