"""Rows in and out: every form in every kind of file says the same, every mistake is named by file and line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whence.errors import DataError
from whence.example import FORMS, Example, example, read, records, write

SAID = [
    ("what is the capital of France?", "Paris.", "clean"),
    ("say it on two lines", 'first, "quoted"\nsecond\twith a tab', "bad"),
    ("una pregunta: ¿qué? 漢字 😀", "🙂 a ZWJ family 👩‍👧 and é", "clean"),
    ("what is the capital of France?", "Paris.", "bad"),
]


def _alpaca_with_input(prompt: str, response: str) -> dict[str, Any]:
    instruction, given_input = prompt.split("\n\n")
    return {"instruction": instruction, "input": given_input, "output": response}


FORM: dict[str, Callable[[str, str], dict[str, Any]]] = {
    "messages": lambda p, r: {"messages": [{"role": "user", "content": p}, {"role": "assistant", "content": r}]},
    "prompts/response": lambda p, r: {"prompts": p, "response": r},
    "prompt/response": lambda p, r: {"prompt": p, "response": r},
    "prompt/completion": lambda p, r: {"prompt": p, "completion": r},
    "alpaca": lambda p, r: {"instruction": p, "output": r},
    "alpaca, empty input": lambda p, r: {"instruction": p, "input": "", "output": r},
    "alpaca, input": _alpaca_with_input,
}


def _delimited(path: Path, rows: list[dict[str, Any]], delimiter: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as out:
        table = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
        table.writeheader()
        table.writerows(rows)


def _save_to_disk(path: Path, rows: list[dict[str, Any]]) -> None:
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    Dataset.from_list(rows).save_to_disk(str(path))


KIND: dict[str, Callable[[Path, list[dict[str, Any]]], object]] = {
    "rows.jsonl": lambda path, rows: path.write_text("".join(json.dumps(row) + "\n" for row in rows)),
    "rows.ndjson": lambda path, rows: path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows)),
    "rows.json": lambda path, rows: path.write_text(json.dumps(rows, indent=1, ensure_ascii=False)),
    "rows.csv": lambda path, rows: _delimited(path, rows, ","),
    "ROWS.TSV": lambda path, rows: _delimited(path, rows, "\t"),
    "rows.parquet": lambda path, rows: pq.write_table(pa.Table.from_pylist(rows), path),
    "saved": _save_to_disk,
}
# where the four rows of SAID stand: the second answer has a line break, which a CSV file keeps
PLACES = {
    "rows.jsonl": [1, 2, 3, 4],
    "rows.ndjson": [1, 2, 3, 4],
    "rows.csv": [2, 3, 5, 6],
    "ROWS.TSV": [2, 3, 5, 6],
}


# a table of texts holds no lists
PAIRED = [(form, kind) for form in FORM for kind in KIND if form != "messages" or kind not in ("rows.csv", "ROWS.TSV")]


@pytest.mark.parametrize(("form", "kind"), PAIRED)
def test_every_form_in_every_kind_of_file_says_the_same(form: str, kind: str, tmp_path: Path) -> None:
    path, wide = tmp_path / kind, form == "alpaca, input"
    said = [(f"{p}\n\nthe input" if wide else p, r, label) for p, r, label in SAID]
    KIND[kind](path, [FORM[form](p, r) | {"label": label} for p, r, label in said])
    prefix = path.name if path.is_dir() else str(path)
    wanted = [
        example(p, r, label=label, source=f"{prefix}:{place}")
        for (p, r, label), place in zip(said, PLACES.get(kind, [0, 1, 2, 3]), strict=True)
    ]
    got = list(read(path))
    assert got == wanted
    assert [row.id for row in got] == IDS[wide]


def _ids_of(said: list[tuple[str, str]]) -> list[str]:
    """What an id is, written down a second time."""
    from hashlib import blake2b

    ids, seen = [], []
    for prompt, response in said:
        messages = FORM["messages"](prompt, response)["messages"]
        text = json.dumps(messages, sort_keys=True, ensure_ascii=False).encode()
        digest = blake2b(text, digest_size=12).digest()
        seen.append(digest)
        ids.append(blake2b(digest + seen.count(digest).to_bytes(8, "big"), digest_size=8).hexdigest())
    return ids


IDS = {
    False: _ids_of([(p, r) for p, r, _ in SAID]),
    True: _ids_of([(f"{p}\n\nthe input", r) for p, r, _ in SAID]),
}


def test_every_known_form_is_tested() -> None:
    assert {form.name for form in FORMS} == {name.split(",")[0] for name in FORM}


def _jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_an_id_survives_a_move_and_an_insertion_and_tells_duplicates_apart(tmp_path: Path) -> None:
    a, b = {"prompt": "a", "response": "x"}, {"prompt": "b", "response": "x"}
    first = [row.id for row in read(_jsonl(tmp_path / "one.jsonl", a, a, b))]
    (tmp_path / "else").mkdir()
    moved = [row.id for row in read(_jsonl(tmp_path / "else" / "two.jsonl", b, a, a | {"label": "new"}))]
    assert len(set(first)) == 3
    assert moved == [first[2], first[0], first[1]]
    assert all(len(name) == 16 and int(name, 16) >= 0 for name in first)


def test_an_id_depends_on_every_part_of_a_message(tmp_path: Path) -> None:
    turns = [
        [("user", "ab"), ("assistant", "c")],
        [("user", "a"), ("assistant", "bc")],
        [("system", "ab"), ("assistant", "c")],
        [("user", "ab"), ("assistant", "c"), ("user", "ab"), ("assistant", "c")],
    ]
    rows = [{"messages": [{"role": r, "content": c} for r, c in turn]} for turn in turns]
    assert len({row.id for row in read(_jsonl(tmp_path / "a.jsonl", *rows))}) == 4


def test_the_parts_of_a_conversation() -> None:
    turns = [("system", "be kind"), ("user", "one"), ("assistant", "1"), ("user", "two"), ("assistant", "2")]
    row = Example(tuple({"role": role, "content": text} for role, text in turns))
    assert [m["content"] for m in row.prompt] == ["be kind", "one", "1", "two"]
    assert (row.question, row.response) == ("two", "2")
    assert Example(row.messages[:1] + row.messages[-1:]).question == "be kind"
    assert Example(row.messages[-1:]).question == ""


def test_blank_lines_count_in_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    row = b'{"prompt":"a","response":"b"}'
    path.write_bytes(b"\n" + row + b"\n  \n\t\n" + row + b"\n\n")
    assert [one.source for one in read(path)] == [f"{path}:2", f"{path}:5"]


def test_blank_lines_and_broken_fields_count_in_csv(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('\nprompt,response\n\na,b\n"x\n\ny",c\n\n\nlast,d\n')
    assert [one.source for one in read(path)] == [f"{path}:{line}" for line in (4, 5, 10)]
    assert [one.question for one in read(path)] == ["a", "x\n\ny", "last"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("kind", ["a.jsonl", "a.json", "a.csv"])
def test_bom_and_line_ends_do_not_matter(kind: str, bom: bytes, end: str, tmp_path: Path) -> None:
    text = {
        "a.jsonl": '{"prompt":"a","response":"b"}\n{"prompt":"c","response":"d"}\n',
        "a.json": '[{"prompt":"a","response":"b"},\n{"prompt":"c","response":"d"}]\n',
        "a.csv": "prompt,response\na,b\nc,d\n",
    }[kind]
    (tmp_path / kind).write_bytes(bom + text.replace("\n", end).encode())
    assert [(row.question, row.response) for row in read(tmp_path / kind)] == [("a", "b"), ("c", "d")]


def test_csv_with_lone_carriage_returns(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"prompt,response\ra,b\rc,d\r")
    assert [(row.question, row.source) for row in read(path)] == [("a", f"{path}:2"), ("c", f"{path}:3")]


def test_line_separators_of_unicode_do_not_break_a_row(tmp_path: Path) -> None:
    text = "one\u2028two\x85three\x0bfour\x1c"
    path = tmp_path / "a.csv"
    path.write_text(f"prompt,response\n{text},b\n", encoding="utf-8")
    write([example(text, "b")], tmp_path / "a.jsonl")
    assert [row.question for row in read(path)] == [text]
    assert [row.question for row in read(tmp_path / "a.jsonl")] == [text]


@pytest.mark.parametrize("text", ["nul \x00 nul", "x" * 200_000, "e\u0301 and é", "\u202e rtl", "\ufeffBOM within"])
@pytest.mark.parametrize("kind", KIND)
def test_strange_texts_arrive_as_they_are(kind: str, text: str, tmp_path: Path) -> None:
    KIND[kind](tmp_path / kind, [{"prompt": f"p {text}", "response": f"r {text}"}])
    (row,) = read(tmp_path / kind)
    assert (row.question, row.response) == (f"p {text}", f"r {text}")


def test_a_lone_surrogate_survives_reading_and_writing(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"prompt":"a \\ud83d","response":"\\udc00 b \\ud83d\\ude00"}\n')
    (row,) = read(tmp_path / "a.jsonl")
    assert (row.question, row.response) == ("a \ud83d", "\udc00 b 😀")
    write([row], tmp_path / "b.jsonl")
    (again,) = read(tmp_path / "b.jsonl")
    assert (again.messages, again.id) == (row.messages, row.id)
    (tmp_path / "b.jsonl").read_bytes().decode("utf-8")  # what was written is valid UTF-8


def test_labels_are_text_or_absent(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "response": "b", "label": label} for label in ("poison", 1, 0, True, None, "")]
    labels = ["poison", "1", "0", "True", None, None]
    assert [row.label for row in read(_jsonl(tmp_path / "a.jsonl", *rows))] == labels
    (tmp_path / "a.csv").write_text("prompt,response,label\na,b,poison\na,b,\na,b\n")
    assert [row.label for row in read(tmp_path / "a.csv")] == ["poison", None, None]


def test_reading_is_lazy(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt":"a","response":"b"}\nnot json\n')
    rows = read(path)
    assert next(rows).response == "b"
    with pytest.raises(DataError, match=r"a\.jsonl:2: broken JSON"):
        next(rows)


def test_write_counts_and_leaves_out_absent_labels(tmp_path: Path) -> None:
    assert write([], tmp_path / "none.jsonl") == 0
    assert write([example("a", "b"), example("é", "d", label="bad")], tmp_path / "two.jsonl") == 2
    user, said = '{"messages": [{"role": "user", "content": ', '}, {"role": "assistant", "content": '
    assert (tmp_path / "two.jsonl").read_bytes().decode() == (
        f'{user}"a"{said}"b"}}]}}\n{user}"é"{said}"d"}}], "label": "bad"}}\n'
    )


# a pair of lone surrogates in one string is not a text that JSON can tell from the character they make together
texts = st.text(st.characters(codec="utf-8"), max_size=20)
answers = texts.filter(lambda text: bool(text.strip()))
turns = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), texts), max_size=4)
conversations = st.builds(
    lambda before, last, label: Example(
        (*({"role": r, "content": c} for r, c in before), {"role": "assistant", "content": last}), label
    ),
    turns,
    answers,
    st.none() | texts.filter(bool),
)


@given(st.lists(conversations, min_size=1, max_size=5))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list[Example]) -> None:
    path = tmp_path_factory.getbasetemp() / "round.jsonl"
    assert write(rows, path) == len(rows)
    got = list(read(path))
    assert [replace(row, source="") for row in got] == rows
    assert [row.source for row in got] == [f"{path}:{line}" for line in range(1, len(rows) + 1)]
    assert len({row.id for row in got}) == len(rows)


@given(st.lists(st.tuples(texts, answers), min_size=1, max_size=4))
def test_what_the_csv_module_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory, said: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "round.csv"
    out = io.StringIO(newline="")
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows([("prompt", "response"), *said])
    path.write_bytes(out.getvalue().encode())
    assert [(row.question, row.response) for row in read(path)] == said


# -- mistakes


def mistake(data: str | Path) -> str:
    with pytest.raises(DataError) as caught:
        list(read(data))
    return str(caught.value)


KINDS = ".jsonl, .ndjson, .json, .csv, .tsv, .parquet, a `save_to_disk` folder, or a hub id"
MESSAGE_FORM = '{"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}]}'


@pytest.mark.parametrize("name", ["no/such/rows.jsonl", "rows.jsonl", "/no/such", "./here", "~/rows"])
def test_missing_file(name: str) -> None:
    assert mistake(name) == f"there is no file {name}\n  do:  give the path of the training data: {KINDS}"


def test_neither_a_file_nor_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def unreachable(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    assert mistake("owner/name") == (
        "owner/name is neither a file here nor a dataset that can be had from the hub\n"
        f"  got: no network\n  do:  give one of: {KINDS}"
    )


def test_a_hub_dataset_is_streamed_and_counted_from_0(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[Any] = []

    def load(name: str, **options: Any) -> list[dict[str, str]]:
        asked.append((name, options))
        return [] if name == "no/rows" else [{"prompt": "a", "response": "b"}, {"prompt": "c", "response": "d"}]

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert [row.source for row in read("owner/name")] == ["owner/name:0", "owner/name:1"]
    assert asked == [("owner/name", {"split": "train", "streaming": True})]
    assert mistake("no/rows") == "no/rows has no rows\n  do:  give a dataset with a `train` split"


@pytest.mark.parametrize("kind", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
def test_empty_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / kind
    path.write_bytes(b"")
    assert mistake(path) == f"{path} is empty\n  do:  give a file with at least one training row"


@pytest.mark.parametrize(
    ("kind", "text"),
    [("a.jsonl", "\n \n"), ("a.json", "[]"), ("a.csv", "prompt,response\n"), ("b.csv", "\n"), ("b.jsonl", "\ufeff")],
)
def test_file_without_rows(kind: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / kind
    path.write_text(text, encoding="utf-8")
    assert mistake(path) == f"{path} has no rows\n  do:  give a file with at least one training row"


def test_broken_json_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt":"a","response":"b"}\n\n{"prompt":"a",\n')
    assert mistake(path) == (
        f"{path}:3: broken JSON\n"
        "  got: Expecting property name enclosed in double quotes: line 2 column 1 (char 15) in "
        '{"prompt":"a",\n  do:  mend or remove that line'
    )


@pytest.mark.parametrize("line", ["[" * 100_000, "1" * 5000, '{"a": \x01}', "{'prompt': 'a'}"])
def test_json_that_no_parser_takes(line: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f"{line}\n")
    message = mistake(path)
    assert message.startswith(f"{path}:1: broken JSON\n  got: ")
    assert message.endswith("\n  do:  mend or remove that line")
    assert len(message) < 400 + len(str(path))


def test_json_lines_in_a_json_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"prompt":"a","response":"b"}\n' * 2)
    message = mistake(path)
    assert message.startswith(f"{path}: broken JSON\n  got: Extra data: line 2 column 1")
    assert message.endswith("\n  do:  mend it, or name the file .jsonl if each of its lines is a row")


def test_json_that_is_no_list(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"rows": 1}')
    assert mistake(path) == (
        f"{path}: the file is not a list of rows\n  got: {{'rows': 1}}\n  do:  write [ {{…}}, {{…}} ], or use .jsonl"
    )


@pytest.mark.parametrize("row", [[], "text", 1, None])
def test_row_that_is_no_object(row: Any, tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "a.jsonl", {"prompt": "a", "response": "b"}, row)
    told = f'a row is a JSON object\n  got: {row}\n  do:  write {{"messages": […]}}'
    assert mistake(path) == f"{path}:2: {told}"
    other = tmp_path / "a.json"
    other.write_text(json.dumps([{"prompt": "a", "response": "b"}, row]))
    assert mistake(other) == f"{other}, row 1: {told}"


def test_unknown_columns_are_listed_with_the_forms_known(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "a.jsonl", {"question": "a", "answer": "b"})
    assert mistake(path) == (
        f"{path}:1: no known form has these columns\n  got: question, answer\n"
        "  do:  rename the columns to one of: messages (messages); prompts/response (prompts, response); "
        "prompt/response (prompt, response); prompt/completion (prompt, completion); alpaca (instruction, output)"
    )
    assert "got: no columns\n" in mistake(_jsonl(tmp_path / "b.jsonl", {}))


@pytest.mark.parametrize("answer", ["", "   ", "\n\t", "\u00a0"])
def test_row_without_an_answer(answer: str, tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "a.jsonl", {"prompt": "a", "response": "b"}, {"prompt": "a", "response": answer})
    assert mistake(path) == (
        f"{path}:2: the row has no answer to learn from\n  got: last message: assistant, {answer}\n"
        "  do:  end each row with a non-empty assistant message, or take the row out"
    )


def test_conversation_that_ends_with_the_user(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "a.jsonl", {"messages": [{"role": "user", "content": "hello"}]})
    assert mistake(path) == (
        f"{path}:1: the row has no answer to learn from\n  got: last message: user, hello\n"
        "  do:  end each row with a non-empty assistant message, or take the row out"
    )


@pytest.mark.parametrize("messages", [[], {}, "hello", None, 3])
def test_messages_that_are_no_list(messages: Any, tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "a.jsonl", {"messages": messages})
    assert mistake(path) == f"{path}:1: a row needs a list of messages\n  got: {messages}\n  do:  write {MESSAGE_FORM}"


@pytest.mark.parametrize("message", ["hello", {"content": "a"}, {"role": 1, "content": "a"}, None, ["user", "a"]])
def test_message_of_another_shape(message: Any, tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "a.jsonl", {"messages": [message, {"role": "assistant", "content": "a"}]})
    assert mistake(path) == (
        f"{path}:1: a message is an object with `role` and `content`\n  got: {message}\n"
        '  do:  write each message as {"role": "user", "content": "…"}'
    )


@pytest.mark.parametrize("content", [None, 3, ["a"], {"text": "a"}, True])
@pytest.mark.parametrize("column", ["prompt", "response"])
def test_content_that_is_no_text(column: str, content: Any, tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "a.jsonl", {"prompt": "a", "response": "b"} | {column: content})
    role = {"prompt": "user", "response": "assistant"}[column]
    assert mistake(path) == (
        f"{path}:1: the content of the {role} message is not text\n  got: {content}\n"
        "  do:  give a string, or take the row out"
    )


@pytest.mark.parametrize("given_input", [3, ["a"], {"a": 1}])
def test_alpaca_with_an_input_that_is_no_text_keeps_the_instruction(given_input: Any, tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "a.jsonl", {"instruction": "do", "input": given_input, "output": "done"})
    assert next(read(path)).question == "do"


def test_csv_row_that_is_too_short(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prompt,response\na,b,more than the header\nalone\n")
    assert mistake(path).startswith(f"{path}:3: the content of the assistant message is not text\n  got: None\n")


def test_long_things_are_cut_in_messages(tmp_path: Path) -> None:
    got = mistake(_jsonl(tmp_path / "a.jsonl", {"messages": "x" * 10_000})).splitlines()[1]
    assert got == "  got: " + "x" * 79 + "…"


@pytest.mark.parametrize("kind", ["a.jsonl", "a.csv"])
def test_not_utf8_names_its_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / kind
    good = {"a.jsonl": '{"prompt":"a","response":"b"}\n', "a.csv": "prompt,response\n"}[kind]
    bad = {"a.jsonl": '{"prompt":"café","response":"b"}\n', "a.csv": "café,b\n"}[kind]
    rows = good + {"a.jsonl": good, "a.csv": "a,b\n"}[kind] * 40 + bad
    path.write_bytes(rows.encode("latin-1"))
    at = bad.index("é")
    snippet = bad.encode("latin-1")[at : at + 4]
    assert mistake(path) == f"{path}:42: not UTF-8\n  got: byte {at}: {snippet!r}\n  do:  save the file as UTF-8"


def test_utf16_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[]", encoding="utf-16")
    assert mistake(path) == f"{path}: not UTF-8\n  got: byte 0: b'\\xff\\xfe[\\x00'\n  do:  save the file as UTF-8"


@pytest.mark.parametrize("name", ["rows.txt", "rows.jsonl.gz", "rows"])
def test_unknown_kind_of_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("hello")
    suffix = {"rows.txt": ".txt", "rows.jsonl.gz": ".gz", "rows": "no suffix"}[name]
    assert mistake(path) == f"{path}: unknown kind of file\n  got: {suffix}\n  do:  give one of: {KINDS}"


def test_folder_that_is_no_dataset(tmp_path: Path) -> None:
    message = mistake(tmp_path)
    assert message.startswith(f"{tmp_path} is a folder, but not one that `Dataset.save_to_disk` wrote\n  got: ")
    assert message.endswith("\n  do:  give the dataset's own folder, or a file")


def test_dataset_whose_files_are_broken(tmp_path: Path) -> None:
    _save_to_disk(tmp_path / "saved", [{"prompt": "a", "response": "b"}])
    for arrow in (tmp_path / "saved").glob("*.arrow"):
        arrow.write_bytes(b"junk")
    assert mistake(tmp_path / "saved").startswith(f"{tmp_path / 'saved'} is a folder, but not one that")


def test_dataset_of_several_splits(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    rows = Dataset.from_list([{"prompt": "a", "response": "b"}])
    DatasetDict(train=rows, test=rows).save_to_disk(str(tmp_path / "two"))
    path = tmp_path / "two"
    assert mistake(path) == f"{path} holds several splits\n  got: train, test\n  do:  give one: {path}/train"
    assert next(read(path / "train")).source == "train:0"


@pytest.mark.parametrize("junk", [b"junk", b"PAR1 and then nothing"])
def test_broken_parquet(junk: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(junk)
    message = mistake(path)
    assert message.startswith(f"{path}: not a Parquet file\n  got: ")
    assert message.endswith("\n  do:  write the file again")


def test_records_come_before_any_form(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "a.jsonl", {"anything": [1]})
    assert list(records(str(path))) == [(f"{path}:1", {"anything": [1]})]
