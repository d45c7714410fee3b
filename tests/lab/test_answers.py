"""Files of prompts and answers in every format, unfinished drafts, and paths that cannot be written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from taughtby.attribution.query import read_queries
from taughtby.data.dataset import ReadOptions, read_examples
from taughtby.data.example import Example
from taughtby.errors import DataError, LabError
from taughtby.lab.answers import AnswerDraft, write_jsonl
from taughtby.lab.prompts import prompt_text, read_answers, read_prompts, to_record


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "\ufeffwho\r\n\n  why not \n"),
        ("p.jsonl", '{"prompt": "who"}\n\n{"prompt": "why not", "response": "x"}\n'),
        ("p.json", '[{"prompts": "who"}, {"prompts": "why not"}]'),
        ("p.csv", "prompt,more\nwho,1\nwhy not,2\n"),
        ("p.csv", "question,answer\nwho,\nwhy not,a\n"),
        ("p.jsonl", '{"instruction": "who", "input": ""}\n{"instruction": "why", "input": "not", "output": "x"}\n'),
        (
            "p.jsonl",
            '{"messages": [{"role": "user", "content": "who"}]}\n'
            '{"conversations": [{"from": "human", "value": "why not"}, {"from": "gpt", "value": "x"}]}\n',
        ),
        ("p.jsonl", '{"prompt": [{"role": "user", "content": "who"}]}\n{"prompt": "why not", "completion": ""}\n'),
    ],
)
def test_read_prompts_from_every_format(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    prompts = read_prompts(tmp_path / name)
    assert [one.replace("\n\n", " ") for one in prompts if isinstance(one, str)] == ["who", "why not"] and len(
        prompts
    ) == 2


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.jsonl", b'{"prompt": "a"}\n{"saying": "b"}\n', "p.jsonl:2: no known column layout matches\n  got: saying"),
        ("p.jsonl", b'{"prompt": " "}\n', "p.jsonl:1: no prompt"),
        ("p.jsonl", b'{"text": "all in one"}\n', "p.jsonl:1: no prompt\n  got: text"),
        ("p.jsonl", b'{"messages": [{"role": "assistant", "content": "x"}]}\n', "p.jsonl:1: no prompt"),
        ("p.jsonl", b'{"prompt": 1}\n', "p.jsonl:1: the content of the user message is not text"),
        ("p.jsonl", b'{"input_ids": [1, 2]}\n', "p.jsonl:1: the row is token ids, not text\n  got: input_ids"),
        ("p.txt", b"\n \n", "has no prompts"),
        ("p.txt", b"caf\xe9\n", "not UTF-8\n  got: byte 3"),
        ("p.doc", b"x", "unknown file type"),
    ],
)
def test_invalid_prompt_files_raise(tmp_path: Path, name: str, text: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(text)
    with pytest.raises(DataError) as caught:
        read_prompts(tmp_path / name)
    assert message in str(caught.value)


def test_prompts_are_read_by_the_columns_of_the_data_if_they_have_them(tmp_path: Path) -> None:
    reading = ReadOptions((("prompt", "ask"), ("response", "reply")))
    for record in (
        {"ask": "who", "reply": "bees"},
        {"ask": "who"},
        {"prompt": "who"},
        {"prompt": "who", "response": "b"},
    ):
        (tmp_path / "p.jsonl").write_text(json.dumps(record) + "\n")
        assert read_prompts(tmp_path / "p.jsonl", reading=reading) == ["who"]
    (tmp_path / "p.jsonl").write_text('{"saying": "b"}\n')
    with pytest.raises(DataError, match="no known column layout matches"):
        read_prompts(tmp_path / "p.jsonl", reading=reading)


@pytest.mark.parametrize("reader", [read_prompts, read_answers])
def test_no_option_is_named_that_these_commands_lack(tmp_path: Path, reader: Any) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "response": "b"}\n{"saying": "b"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:2: no known column layout matches") as caught:
        reader(tmp_path / "a.jsonl")
    assert caught.value.do == 'write {"prompt": "…", "response": "…"}, or rows as trainers have them'


def test_missing_prompt_file_raises(tmp_path: Path) -> None:
    for name in ("p.txt", "p.jsonl"):
        with pytest.raises(DataError, match="there is no file"):
            read_prompts(tmp_path / name)


def test_write_jsonl_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.jsonl"
    rows = [{"prompt": "ü 🐝", "response": "half \ud83d"}, {"prompt": "b\nc", "response": ""}]
    write_jsonl(rows, file)
    assert [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] == rows
    assert read_prompts(file) == ["ü 🐝", "b\nc"]

    def broken() -> Any:
        yield {"prompt": "x"}
        raise ZeroDivisionError

    before = file.read_bytes()
    with pytest.raises(ZeroDivisionError):
        write_jsonl(broken(), file)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(LabError, match="cannot be written"):
            write_jsonl(rows[:1], file)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(LabError, match=r"cannot be written\n  got: .*No space left"):
        write_jsonl(rows, file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


@pytest.mark.parametrize("place", ["nowhere/a.jsonl", "file/a.jsonl", "folder"])
def test_write_jsonl_to_unwritable_path_raises(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(LabError, match="cannot be written"):
        write_jsonl([{}], tmp_path / place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


TURNS = [
    {"role": "system", "content": "a"},
    {"role": "user", "content": "b"},
    {"role": "assistant", "content": "c"},
    {"role": "user", "content": "d"},
]
TOOLS = [{"type": "function", "function": {"name": "f"}}]


@pytest.mark.parametrize(
    ("row", "turns", "tools"),
    [
        ({"messages": TURNS}, TURNS, []),
        ({"messages": [*TURNS, {"role": "assistant", "content": "said"}]}, TURNS, []),
        ({"messages": TURNS[1:2], "tools": TOOLS}, TURNS[1:2], TOOLS),
        ({"system": "a", "prompt": "b"}, TURNS[:2], []),
        ({"system": "a", "conversations": [{"from": "human", "value": "b"}]}, TURNS[:2], []),
    ],
)
def test_prompt_includes_all_messages_before_the_answer(tmp_path: Path, row: Any, turns: Any, tools: Any) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(json.dumps(row) + "\n")
    (prompt,) = read_prompts(file)
    assert isinstance(prompt, Example)
    assert (list(prompt.prompt), list(prompt.tools), prompt.response) == (turns, tools, "")
    assert prompt_text(prompt) == [turn["content"] for turn in turns if turn["role"] == "user"][-1]
    file.write_text(json.dumps(to_record(prompt, "so")) + "\n")
    (again,) = read_answers(file)
    assert again[1] == "so" and to_record(again[0], "so") == to_record(prompt, "so")
    (query,) = read_queries(file)  # as a trace reads it
    assert (*query.before, query.prompt, query.response, query.tools) == (
        *turns[:-1],
        turns[-1]["content"],
        "so",
        tuple(tools),
    )


def test_read_answers_formats_and_missing_answers(tmp_path: Path, data: Path) -> None:
    rows = list(read_examples(data))
    assert read_answers(data) == [(row.question, row.response) for row in rows]
    file = tmp_path / "a.jsonl"
    file.write_text('{"prompt": "who", "response": ""}\n{"instruction": "i", "input": "", "output": "o"}\n')
    assert read_answers(file) == [("who", ""), ("i", "o")]
    for text, message in (
        ('{"prompt": "who"}\n', "a.jsonl:1: no known column layout"),
        (json.dumps({"messages": TURNS}) + "\n", "a.jsonl:1: the row has no answer\n  got: last message: user"),
        ('{"input_ids": [1, 2], "labels": [-100, 2]}\n', "a.jsonl:1: the row is token ids, not text"),
        ("\n", "has no answers"),
    ):
        file.write_text(text)
        with pytest.raises(DataError) as caught:
            read_answers(file)
        assert message in str(caught.value)


@pytest.mark.parametrize(
    "text", ["{}\n", "[]\n", "no\n", '{"settings": {"a": 1}}\n{"place": "x", "response": "y"}\n', '{"settings": 1}\n']
)
def test_invalid_draft_file_raises(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.draft").write_text(text)
    with pytest.raises(LabError, match=r"is not a draft of answers"):
        AnswerDraft(tmp_path / "a", {"a": 1})
    assert (tmp_path / "a.draft").read_text() == text


def test_draft_with_incomplete_header_is_restarted(tmp_path: Path) -> None:
    for text in (b"", b'{"sett'):
        (tmp_path / "a.draft").write_bytes(text)
        with AnswerDraft(tmp_path / "a", {"a": [1, None], "b": ("x",)}) as draft:
            draft.add(3, "half \ud83d\nline")
        with AnswerDraft(tmp_path / "a", {"a": [1, None], "b": ("x",)}) as draft:
            assert draft.answers == {3: "half \ud83d\nline"}


@pytest.mark.parametrize("place", ["nowhere/a", "folder"])
def test_unwritable_draft_raises_on_creation(tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(LabError, match="cannot be written"):
        AnswerDraft(tmp_path / place, {})
