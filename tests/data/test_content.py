"""Content of messages and rows other than text: refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from taughtby.data.content import is_filled
from taughtby.data.dataset import read_examples
from taughtby.data.example import Example
from taughtby.errors import DataError
from writers import jsonl, turn

ANSWER = turn("assistant", "b")


def row(tmp_path: Path, record: dict[str, Any]) -> Example:
    (one,) = read_examples(jsonl(tmp_path / "a.jsonl", record))
    return one


def fault(tmp_path: Path, record: dict[str, Any]) -> str:
    path = jsonl(tmp_path / "a.jsonl", {"prompt": "a", "response": "b"}, record)
    with pytest.raises(DataError) as caught:
        list(read_examples(path))
    assert str(caught.value).startswith(f"{path}:2: ")
    return str(caught.value)


JSON_TEXTS = (
    '{"role": "assistant", "content": "x"}', '[{"role": "user", "content": "x"}]', '{"from": "Oslo", "to": "Rome"}',
    '[{"from": "gpt", "value": "x"}]', '[{"name": "Ann", "role": "lead"}]',
)  # fmt: skip


@pytest.mark.parametrize("text", JSON_TEXTS)
def test_json_messages_in_text_columns_stay_text(tmp_path: Path, text: str) -> None:
    for ask, answer in (("prompt", "response"), ("prompts", "response"), ("instruction", "output"), ("input", "output"),
                        ("question", "answer"), ("query", "response"), ("prompt", "completion")):  # fmt: skip
        assert row(tmp_path, {ask: text, answer: "b"}).messages == (turn("user", text), ANSWER)
        assert row(tmp_path, {ask: "a", answer: text}).messages == (turn("user", "a"), turn("assistant", text))
    chosen = row(tmp_path, {"prompt": "a", "chosen": text, "rejected": text})
    assert (chosen.messages[-1]["content"], chosen.rejected) == (text, text)
    asked = row(tmp_path, {"question": text, "chosen": "b", "rejected": text, "system": text})
    assert asked.messages == (turn("system", text), turn("user", text), ANSWER)
    assert row(tmp_path, {"messages": [turn("user", text), turn("assistant", text)]}).question == text
    assert row(tmp_path, {"text": text}).response == text


def test_message_columns_accept_json_strings(tmp_path: Path) -> None:
    talk = [turn("user", "a"), ANSWER]
    for column in ("messages", "conversations", "conversation"):
        for value in (talk, json.dumps(talk), [json.dumps(one) for one in talk]):
            assert row(tmp_path, {column: value}).messages == tuple(talk)
    asked = {"chosen": "b", "rejected": "c", "messages": json.dumps(talk[:1])}
    assert row(tmp_path, asked).messages == tuple(talk)
    calls = [{"type": "function", "function": {"name": "f", "arguments": {}}}]
    message = row(tmp_path, {"messages": [talk[0], {"role": "assistant", "tool_calls": json.dumps(calls)}]})
    assert message.messages[-1] == turn("assistant", "") | {"tool_calls": calls}


@pytest.mark.parametrize(
    "column", ["image", "images", "video", "videos", "audio", "audios", "image_path", "image_urls"]
)
def test_filled_media_columns_are_rejected(tmp_path: Path, column: str) -> None:
    forms: list[dict[str, Any]] = [
        {"messages": [turn("user", "<image>what"), ANSWER]}, {"prompt": "a", "response": "b"}, {"text": "a"},
        {"conversations": [{"from": "human", "value": "<image>\nwhat"}, {"from": "gpt", "value": "b"}]},
    ]  # fmt: skip
    for form in forms:
        for value in ("a.jpg", ["a.jpg"], [{"url": "http://a"}], {"bytes": None, "path": "a.jpg"}):
            message = fault(tmp_path, {**form, column: value})
            assert f"the row has images, audio or video\n  got: column {column}\n" in message
        for nothing in (None, "", [], [None], {}, {"bytes": None, "path": None}, [[]]):
            assert row(tmp_path, {**form, column: nothing}).response in ("a", "b")


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"type": "image", "text": ""}, "contains more than text\n  got: image\n"),  # as Arrow fills it
        ({"type": "text", "text": "a", "image_url": {"url": "data:"}}, "contains more than text\n  got: image_url\n"),
        ({"text": "a", "image": "a.jpg"}, "contains more than text\n  got: image\n"),
        ({"image": {"format": "png"}}, "contains more than text\n  got: image\n"),
        ({"toolUse": {"name": "f"}}, "contains Bedrock's toolUse\n"),
        ({"reasoningContent": {"text": "t"}}, "contains Bedrock's reasoningContent\n"),
        ({"type": "refusal", "refusal": "no"}, "contains more than text\n  got: refusal\n"),
    ],
)
def test_non_text_parts_are_rejected_by_kind(tmp_path: Path, part: dict[str, Any], words: str) -> None:
    assert words in fault(tmp_path, {"messages": [turn("user", [{"text": "q"}, part]), ANSWER]})


def test_null_fields_of_a_part_are_ignored(tmp_path: Path) -> None:
    part = {"type": "text", "text": "a", "image": None, "image_url": {"url": None}, "toolUse": None, "thinking": ""}
    assert row(tmp_path, {"messages": [turn("user", [part]), ANSWER]}).question == "a"


@pytest.mark.parametrize("key", ["images", "audio", "files", "attachments"])
def test_media_fields_of_a_message_are_rejected(tmp_path: Path, key: str) -> None:
    assert "contains more than text" in fault(tmp_path, {"messages": [turn("user", "a") | {key: ["a.jpg"]}, ANSWER]})
    assert row(tmp_path, {"messages": [turn("user", "a") | {key: []}, ANSWER]}).question == "a"


@pytest.mark.parametrize("kwargs", [{"enable_thinking": False}, '{"enable_thinking": false}'])
def test_chat_template_kwargs_are_read_and_change_the_id(tmp_path: Path, kwargs: Any) -> None:
    plain, argument = ({"prompt": "a", "response": "b", "chat_template_kwargs": value} for value in (None, kwargs))
    assert row(tmp_path, argument).template_kwargs == (("enable_thinking", False),)
    assert row(tmp_path, plain).template_kwargs == ()
    assert row(tmp_path, argument).id != row(tmp_path, plain).id


@pytest.mark.parametrize("kwargs", [3, ["a"], "x", {"a b": 1}, {"tokenize": True}, {"tools": []}])
def test_invalid_chat_template_kwargs_are_rejected(tmp_path: Path, kwargs: Any) -> None:
    message = fault(tmp_path, {"prompt": "a", "response": "b", "chat_template_kwargs": kwargs})
    assert "chat_template_kwargs is not an object" in message or "a row cannot set this template argument" in message


def test_unread_columns_are_reported(tmp_path: Path) -> None:
    def told(record: dict[str, Any]) -> list[str]:
        return [mark.name for mark in row(tmp_path, record).marks if not mark.followed]

    assert told({"question": "a", "answer": "b", "context": "c"}) == ["column context (ignored)"]
    assert told({"prompt": "a", "response": "b", "reasoning": "c"}) == ["column reasoning (ignored)"]
    assert told({"prompt": "a", "completion": "b", "system": "c"}) == ["column system (ignored)"]
    assert told({"prompt": "a", "response": "b", "text": "a b", "rejected": ""}) == ["column text (ignored)"]
    assert told({"messages": [turn("user", "a"), ANSWER], "system": "c", "tools": [], "source": "x"}) == []


def test_is_filled() -> None:
    assert all(map(is_filled, (0, False, "a", [0], {"a": {"b": 1}})))
    assert not any(map(is_filled, (None, "", [], {}, [None, ""], {"a": {"b": None}}, float("nan"))))
