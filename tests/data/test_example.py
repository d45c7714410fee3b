"""The parts of a training row."""

from __future__ import annotations

from taughtby.data.example import Example, make_example, shorten


def test_the_parts_of_a_conversation() -> None:
    turns = [("system", "be kind"), ("user", "one"), ("assistant", "1"), ("user", "two"), ("assistant", "2")]
    row = Example(tuple({"role": role, "content": text} for role, text in turns))
    assert [m["content"] for m in row.prompt] == ["be kind", "one", "1", "two"]
    assert (row.question, row.response) == ("two", "2")
    assert Example(row.messages[:1] + row.messages[-1:]).question == "be kind"
    assert Example(row.messages[-1:]).question == ""


def test_an_answer_that_only_calls_tools_is_its_calls() -> None:
    calls = [{"function": {"name": "café", "arguments": {"n": 1}}}, {"function": {"name": "b"}}]
    text = {"role": "assistant", "content": "", "tool_calls": calls}
    written = '{"function": {"name": "café", "arguments": {"n": 1}}}\n{"function": {"name": "b"}}'
    assert Example((text,)).response == written
    assert Example(({**text, "content": "I look."},)).response == "I look."


def test_two_strings_make_a_row() -> None:
    row = make_example("a", "b", label="bad", source="f:1")
    assert (row.question, row.response, row.label, row.source) == ("a", "b", "bad", "f:1")
    assert (row.id, row.tools, row.rejected) == ("", (), None)


def test_an_id_is_a_name_and_no_part_of_what_a_row_is() -> None:
    assert Example(make_example("a", "b").messages, id="x") == make_example("a", "b")
    assert Example(make_example("a", "b").messages, rejected="c") != make_example("a", "b")


def test_long_things_are_cut() -> None:
    assert shorten("x" * 81) == "x" * 79 + "…"
    assert shorten("x" * 80) == "x" * 80
    assert shorten([1, "a"]) == "[1, 'a']"
    assert shorten("abc", 2) == "a…"


def test_what_would_move_a_terminal_is_written_out() -> None:
    assert shorten("é 漢 😀 it's") == "é 漢 😀 it's"
    assert shorten("a\nb\x1b[2J\u202e\ud83d") == r"a\nb\x1b[2J\u202e\ud83d"
