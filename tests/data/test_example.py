"""The parts of a training row."""

from __future__ import annotations

from dataclasses import replace

from taughtby.data.example import Example, LossMark, copy_row, make_example, shorten


def test_prompt_question_and_response_of_a_conversation() -> None:
    turns = [("system", "be kind"), ("user", "one"), ("assistant", "1"), ("user", "two"), ("assistant", "2")]
    row = Example(tuple({"role": role, "content": text} for role, text in turns))
    assert [m["content"] for m in row.prompt] == ["be kind", "one", "1", "two"]
    assert (row.question, row.response) == ("two", "2")
    assert Example(row.messages[:1] + row.messages[-1:]).question == "be kind"
    assert Example(row.messages[-1:]).question == ""


def test_response_without_text_is_its_tool_calls() -> None:
    calls = [{"function": {"name": "café", "arguments": {"n": 1}}}, {"function": {"name": "b"}}]
    text = {"role": "assistant", "content": "", "tool_calls": calls}
    written = '{"function": {"name": "café", "arguments": {"n": 1}}}\n{"function": {"name": "b"}}'
    assert Example((text,)).response == written
    assert Example(({**text, "content": "I look."},)).response == "I look."


def test_make_example_from_two_strings() -> None:
    row = make_example("a", "b", label="bad", source="f:1")
    assert (row.question, row.response, row.label, row.source) == ("a", "b", "bad", "f:1")
    assert (row.id, row.tools, row.rejected) == ("", (), None)


def test_example_equality_ignores_the_id() -> None:
    assert Example(make_example("a", "b").messages, id="x") == make_example("a", "b")
    assert Example(make_example("a", "b").messages, rejected="c") != make_example("a", "b")


def test_shorten_truncates_long_values() -> None:
    assert shorten("x" * 81) == "x" * 79 + "…"
    assert shorten("x" * 80) == "x" * 80
    assert shorten([1, "a"]) == "[1, 'a']"
    assert shorten("abc", 2) == "a…"


def test_shorten_escapes_control_characters() -> None:
    assert shorten("é 漢 😀 it's") == "é 漢 😀 it's"
    assert shorten("a\nb\x1b[2J\u202e\ud83d") == r"a\nb\x1b[2J\u202e\ud83d"


def test_copied_row_equals_one_from_dataclasses_replace() -> None:
    row = Example(make_example("a", "b").messages, "bad", "f:1", "x", loss_from=1, marks=(LossMark("weight 0"),))
    changes = {"id": "y", "rejected": "c", "marks": (), "messages": row.messages[:1]}
    copy, expected = copy_row(row, **changes), replace(row, **changes)
    assert {name: getattr(copy, name) for name in vars(expected)} == vars(expected)
    assert vars(copy_row(row)) == vars(row) and copy_row(row) is not row
