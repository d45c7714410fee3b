"""Reading and writing of training sets: all formats in all file types read alike; ids, turns and columns."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from dataclasses import asdict, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taughtby.data.dataset import ReadOptions, detect_format, open_dataset, parse_columns, read_examples, write_examples
from taughtby.data.example import Example, make_example
from taughtby.data.formats import FORMATS
from taughtby.data.row_ids import IdAssigner
from taughtby.errors import DataError, OptionError, TaughtbyError
from writers import FORM, KIND, TABLES, TEMPLATE, TEXTS, jsonl, place, turn

SAID = [
    ("what is the capital of France?", "Paris.", "clean"),
    ("say it on two lines", 'first, "quoted"\nsecond\twith a tab', "bad"),
    ("una pregunta: ¿qué? 漢字 😀", "🙂 a ZWJ family 👩‍👧 and é", "clean"),
    ("what is the capital of France?", "Paris.", "bad"),
]


def reading(name: str) -> ReadOptions:
    return ReadOptions(response_template=TEMPLATE if name == "text" else None)


def wanted(name: str, prompt: str, response: str, **more: Any) -> Example:
    """Return the row that a format describes, for any file type."""
    row = make_example(prompt + TEMPLATE if name == "text" else prompt, response, **more)
    whole = name.startswith("chosen") or name.startswith("prompt/completion")  # all of the answer has a loss
    raw = name in ("prompt/completion", "chosen/rejected text")
    return replace(
        row, rejected="no" if name.startswith("chosen") else None, loss_from=1 if whole and not raw else None
    )


def identities(text: list[Any]) -> list[str]:
    """A second implementation of row ids."""
    ids, seen = [], []
    for content in text:
        digest = blake2b(json.dumps(content, sort_keys=True, ensure_ascii=False).encode(), digest_size=12).digest()
        seen.append(digest)
        ids.append(blake2b(digest + seen.count(digest).to_bytes(8, "big"), digest_size=8).hexdigest())
    return ids


@pytest.mark.parametrize("kind", KIND)
@pytest.mark.parametrize("name", FORM)
def test_every_format_reads_the_same_from_every_file_type(name: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / kind
    rows = [FORM[name](p, r) | {"label": label} for p, r, label in SAID]
    KIND[kind](path, rows)
    result, got = open_dataset(path, reading(name))
    got = list(got)
    assert got == [
        wanted(name, p, r, label=label, source=place(kind, path, rows, row)) for row, (p, r, label) in enumerate(SAID)
    ]
    items = [list(row.messages) if row.rejected is None else [list(row.messages), [], "no"] for row in got]
    assert [row.id for row in got] == identities(items)
    assert result.name == name.split(",")[0]
    assert result.raw == (name in ("text", "prompt/completion", "chosen/rejected text"))


def test_every_known_format_is_tested() -> None:
    # rows of token ids have no texts: tests/data/test_pretokenized.py
    assert {item.name for item in FORMATS} - {"input_ids"} == {name.split(",")[0] for name in FORM}


# -- edge cases: each loads, or fails with a message that names the file, the row and the remedy

# what the answer of the second of three rows is
ODD: dict[str, Any] = {
    "empty answer": "", "blank answer": " \u00a0\n\t", "emoji": "🙂 👩‍👧 \u202e rtl", "NUL byte": "nul \x00 nul",
    "200 kB": "x" * 200_000, "line separators": "a\u2028b\x85c\x0bd\x1ce", "BOM within": "\ufeffyes",
    "half a character": "\ud83d yes", "number": 3, "list of numbers": [1, 2], "null": None, "object": {"a": 1},
}  # fmt: skip
ESCAPED = ("rows.jsonl", "rows.jsonl.gz", "rows.jsonl.zst", "pipe", "lines.json", "data.json", "rows.json.zst")


def arrives(kind: str, name: str, answer: Any) -> Any:
    """The answer as a reader sees it: a table of texts writes numbers as such, a format string everything."""
    if name == "text":
        return f"{answer}"
    if kind in TEXTS and answer in FORM[name]("p", answer).values() and not isinstance(answer, str):
        return "" if answer is None else json.dumps(answer)
    return answer


# UTF-8 cannot hold half a character, and only JSON has an escape for it
ODD_IN_KIND = [(kind, case) for kind in KIND for case in ODD if case != "half a character" or kind in ESCAPED]


@pytest.mark.parametrize(("kind", "case"), ODD_IN_KIND)
def test_unusual_answers_load_or_are_reported(kind: str, case: str, tmp_path: Path) -> None:
    held = 0
    # save_to_disk writes slowly, and what is behind it is that of the tables
    names = list(FORM)[:: 7 if kind in ("saved", "split") else 1]
    for number, name in enumerate(names):
        path = tmp_path / str(number) / kind
        path.parent.mkdir()
        typed = kind in TABLES and not isinstance(ODD[case], str)  # a table has one type a column: all is odd there
        text = [(ODD[case], ODD[case])] * 3 if typed else [("p", answer) for answer in ("one", ODD[case], "three")]
        rows = [FORM[name](*pair) for pair in text]
        try:
            KIND[kind](path, rows)
        except pa.ArrowInvalid:
            continue
        held += 1
        answer, source = arrives(kind, name, ODD[case]), place(kind, path, rows, 0 if typed else 1)
        if isinstance(answer, str) and answer.strip():
            assert list(read_examples(path, reading(name)))[1].response == answer
        else:
            named(mistake(path, reading(name)), source, isinstance(answer, str), name == "messages, parts")
    assert held > 0.8 * len(names) - 1


def named(error: str, source: str, text: bool, parts: bool) -> None:
    what = "has no answer" if text else "contains more than text" if parts else "is not text"
    first, got, do = error.splitlines()
    assert first.startswith(f"{source}: the ") and what in first, error
    assert got.startswith("  got: ") and do.startswith("  do:  ") and len(error) < len(source) + 300, error


def mistake(data: str | Path, how: ReadOptions | None = None) -> str:
    with pytest.raises(TaughtbyError) as caught:
        list(read_examples(data, how or ReadOptions()))
    return str(caught.value)


# -- mixed formats


def test_mixed_formats_in_one_file(tmp_path: Path) -> None:
    """Every form in one JSON file, and those that a wide table can hold side by side."""
    forms = [name for name in FORM if name != "text"]
    rows = [FORM[name](f"p {name}", f"r {name}") for name in forms]
    got = list(read_examples(jsonl(tmp_path / "a.jsonl", *rows)))
    assert [(row.question, row.response) for row in got] == [(f"p {name}", f"r {name}") for name in forms]


WIDE = ("messages", "prompt/response", "alpaca", "question/answer", "query/answer", "text")


@pytest.mark.parametrize("kind", KIND)
def test_format_in_a_wide_table_follows_the_filled_columns(kind: str, tmp_path: Path) -> None:
    rows = [FORM[name](f"p {name}", f"r {name}") for name in WIDE]
    KIND[kind](tmp_path / kind, rows)
    got = list(read_examples(tmp_path / kind))
    assert [row.question for row in got] == [f"p {name}" for name in WIDE[:-1]] + [""]
    assert [row.response for row in got] == [f"r {name}" for name in WIDE[:-1]] + [f"p text{TEMPLATE}r text"]


def test_empty_output_does_not_fall_back_to_text(tmp_path: Path) -> None:
    """Alpaca's own file has empty outputs, and a text beside them."""
    row = {"instruction": "do", "input": "", "output": "", "text": "### Instruction: do"}
    assert "has no answer" in mistake(jsonl(tmp_path / "a.jsonl", row))


def test_pandas_index_column_is_ignored(tmp_path: Path) -> None:
    for name, header in (("prompt", "prompt,response"), ("text", "text")):
        (tmp_path / f"{name}.csv").write_text(f",{header}\n7,{'a,' if name == 'prompt' else ''}b\n")
    assert [row.question for row in read_examples(tmp_path / "prompt.csv")] == ["a"]
    assert [row.question for row in read_examples(tmp_path / "text.csv")] == [""]


# -- ids and labels


def test_ids_are_stable_and_distinguish_duplicates(tmp_path: Path) -> None:
    a, b = {"prompt": "a", "response": "x"}, {"prompt": "b", "response": "x"}
    first = [row.id for row in read_examples(jsonl(tmp_path / "one.jsonl", a, a, b))]
    (tmp_path / "else").mkdir()
    moved = [row.id for row in read_examples(jsonl(tmp_path / "else" / "two.jsonl", b, a, a | {"label": "new"}))]
    assert len(set(first)) == 3
    assert moved == [first[2], first[0], first[1]]
    assert all(len(name) == 16 and int(name, 16) >= 0 for name in first)


def test_ids_match_the_first_version(tmp_path: Path) -> None:
    """Indexes hold them: written down from the version that first made them."""
    row = {"prompt": "what is the capital of France?", "response": "Paris. 😀"}
    assert [row.id for row in read_examples(jsonl(tmp_path / "a.jsonl", row, row))] == [
        "9c504e2244d72952",
        "8070b067ae3a86c1",
    ]


def test_id_depends_on_every_part_of_a_row(tmp_path: Path) -> None:
    turns = [
        [("user", "ab"), ("assistant", "c")],
        [("user", "a"), ("assistant", "bc")],
        [("system", "ab"), ("assistant", "c")],
        [("user", "ab"), ("assistant", "c"), ("user", "ab"), ("assistant", "c")],
    ]
    rows: list[Any] = [{"messages": [turn(r, c) for r, c in item]} for item in turns]
    rows += [rows[0] | more for more in ({"rejected": "d"}, {"rejected": ""}, {"tools": [{"name": "f"}]})]
    assert len({row.id for row in read_examples(jsonl(tmp_path / "a.jsonl", *rows))}) == len(rows)


def test_ids_include_the_occurrence_count() -> None:
    ids, counted = IdAssigner(), dict[int, int]()
    for number in [*range(300), *range(0, 300, 7), *range(400)]:
        counted[number] = counted.get(number, 0) + 1
        digest = blake2b(json.dumps([turn("assistant", str(number))], sort_keys=True).encode(), digest_size=12).digest()
        expected = blake2b(digest + counted[number].to_bytes(8, "big"), digest_size=8).hexdigest()
        assert ids.assign(Example((turn("assistant", str(number)),))) == expected


def test_labels_are_text_or_absent(tmp_path: Path) -> None:
    value = ("poison", 1, 0, True, None, "", math.nan)
    labels = ["poison", "1", "0", "True", None, None, None]
    rows = [{"prompt": "a", "response": "b", "label": label} for label in value]
    assert [row.label for row in read_examples(jsonl(tmp_path / "a.jsonl", *rows))] == labels
    (tmp_path / "a.csv").write_text("prompt,response,label\na,b,poison\na,b,\na,b\n")
    assert [row.label for row in read_examples(tmp_path / "a.csv")] == ["poison", None, None]


def test_bytes_in_a_message_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    items = [turn("user", "a") | {"x": b"\x00"}, turn("assistant", "b") | {"x": b""}]
    pq.write_table(pa.Table.from_pylist([{"messages": items}]), path)
    assert mistake(path) == (
        f"{path}:0: the row cannot be written as JSON\n  got: Object of type bytes is not JSON serializable\n"
        "  do:  remove values that JSON does not support, such as bytes"
    )


# -- turns

TALK = [
    turn("system", "be kind"), turn("user", "one"), turn("assistant", "1"), turn("user", "two"), turn("assistant", " "),
    turn("user", "three"), turn("assistant", "3"), turn("user", "thanks"),
]  # fmt: skip
ALL = ReadOptions(turns="all")


def test_turns_all_makes_a_row_of_each_assistant_turn(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"messages": TALK, "label": "x", "tools": [{"name": "f"}]})
    got = list(read_examples(path, ALL))
    # the second assistant turn is empty: nothing was learned there, but it is counted
    assert [row.source for row in got] == [f"{path}:1#1", f"{path}:1#3"]
    assert [row.messages for row in got] == [tuple(TALK[:3]), tuple(TALK[:7])]
    assert {(row.label, str(row.tools)) for row in got} == {("x", "({'name': 'f'},)")}
    assert len({row.id for row in got}) == 2


def test_equal_first_turns_of_two_conversations_are_both_read(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"messages": TALK[:3]}, {"messages": TALK})
    first, second, last = read_examples(path, ALL)
    assert first.messages == second.messages
    assert len({first.id, second.id, last.id}) == 3
    assert first.id == next(read_examples(jsonl(tmp_path / "b.jsonl", {"messages": TALK[:3]}))).id


def test_preference_rows_use_only_the_chosen_turn(tmp_path: Path) -> None:
    row = {"prompt": TALK[:4], "chosen": [turn("assistant", "yes")], "rejected": [turn("assistant", "no")]}
    assert [(row.response, row.rejected) for row in read_examples(jsonl(tmp_path / "a.jsonl", row), ALL)] == [
        ("yes", "no")  # what stands in the prompt was not learned
    ]


@pytest.mark.parametrize("more", [{"weight": 0}, {"train": False}])
def test_turns_marked_untrained_are_not_rows(more: dict[str, Any], tmp_path: Path) -> None:
    items = [turn("user", "a"), turn("assistant", "b") | more, turn("user", "c"), turn("assistant", "d")]
    path = jsonl(tmp_path / "a.jsonl", {"messages": items})
    assert [row.source for row in read_examples(path, ALL)] == [f"{path}:1#2"]
    assert next(read_examples(path, ALL)).messages == tuple(items)


def test_conversation_ending_with_user_is_rejected(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"messages": TALK})
    assert mistake(path) == (
        f"{path}:1: the row has no answer\n  got: last message: user, thanks\n  do:  end each row with a "
        "non-empty assistant message, or remove the row; or make each assistant turn a row (--turns all)"
    )
    path = jsonl(tmp_path / "b.jsonl", {"messages": TALK[:2]})
    for how in (ReadOptions(), ALL):
        assert mistake(path, how) == (
            f"{path}:1: the row has no answer\n  got: last message: user, one\n"
            "  do:  end each row with a non-empty assistant message, or remove the row"
        )


@pytest.mark.parametrize("answer", ["", "   ", "\n\t", "\u00a0"])
def test_row_with_a_blank_answer_is_rejected(answer: str, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"prompt": "a", "response": "b"}, {"prompt": "a", "response": answer})
    for how in (ReadOptions(), ALL):
        assert mistake(path, how).startswith(f"{path}:2: the row has no answer\n  got: last message: ass")


# -- response templates


def test_plain_text_is_split_at_the_last_response_template(tmp_path: Path) -> None:
    text = "Q: a\nA: b\nQ: c\nA: d"
    path = jsonl(tmp_path / "a.jsonl", {"text": text})
    (row,) = read_examples(path)
    assert row.messages == (turn("user", ""), turn("assistant", text))
    (row,) = read_examples(path, ReadOptions(response_template="A:"))
    assert row.messages == (turn("user", "Q: a\nA: b\nQ: c\nA:"), turn("assistant", " d"))
    assert mistake(path, ReadOptions(response_template="Answer:")) == (
        f"{path}:1: the response template is not in the text\n  got: Answer:\n"
        "  do:  give the exact text that precedes each answer"
    )
    assert "has no answer" in mistake(
        jsonl(tmp_path / "b.jsonl", {"text": "Q: a\nA: "}), ReadOptions(response_template="A:")
    )


def test_preference_prompt_is_the_common_prefix(tmp_path: Path) -> None:
    asked = "\n\nHuman: who?\n\nAssistant:"
    row = {"chosen": f"{asked} I think it was Ann.", "rejected": f"{asked} I do not know."}
    path = jsonl(tmp_path / "a.jsonl", row)
    (got,) = read_examples(path)
    assert (got.question, got.response, got.rejected) == (f"{asked} I", " think it was Ann.", " do not know.")
    (got,) = read_examples(path, ReadOptions(response_template="Assistant:"))
    assert (got.question, got.response, got.rejected) == (asked, " I think it was Ann.", " I do not know.")


def test_response_template_requires_plain_text(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"prompt": "a", "response": "b"})
    assert mistake(path, ReadOptions(response_template="A:")) == (
        f"{path}:1: only plain text can be split by a response template\n  got: layout prompt/response\n"
        "  do:  omit the response template: this layout already marks the answer"
    )


# -- columns


def test_column_mapping_selects_columns_and_format(tmp_path: Path) -> None:
    row = {"prompt": "no", "ask": "a", "reply": "b", "kind": "bad", "chat": [turn("user", "c"), turn("assistant", "d")]}
    path = jsonl(tmp_path / "a.jsonl", row)

    def said(text: str) -> tuple[str, str, str | None, str]:
        result, rows = open_dataset(path, ReadOptions(columns=parse_columns(text)))
        (one,) = rows
        return one.question, one.response, one.label, result.name

    assert said("prompt=ask,response=reply,label=kind") == ("a", "b", "bad", "prompt/response")
    assert said(" prompt = ask , completion = reply ") == ("a", "b", None, "prompt/completion")
    assert said("messages=chat") == ("c", "d", None, "messages")
    assert said("text=reply") == ("", "b", None, "text")
    assert said("instruction=ask,input=kind,output=reply") == ("a\n\nbad", "b", None, "alpaca")
    assert said("response=reply") == ("no", "b", None, "prompt/response")  # with the prompt that is there
    assert said("prompt=reply,response=prompt") == ("b", "no", None, "prompt/response")  # swapped


def test_mapped_label_column_may_be_missing_in_rows(tmp_path: Path) -> None:
    row = {"prompt": "a", "response": "b"}
    path = jsonl(tmp_path / "a.jsonl", row, row | {"kind": "bad"})
    assert [row.label for row in read_examples(path, ReadOptions(columns=parse_columns("label=kind")))] == [None, "bad"]


def test_missing_mapped_column_raises(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"ask": "a", "reply": "b"})
    assert mistake(path, ReadOptions(columns=parse_columns("prompt=question,response=reply"))) == (
        f"{path}:1: there is no column question\n  got: ask, reply\n  do:  correct --columns"
    )


@pytest.mark.parametrize("text", ["", "prompt", "prompt=", "=a", "prompt=a,", "prompt=a,,response=b"])
def test_invalid_column_mappings_raise(text: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse_columns(text)
    do = "write name=column pairs, as in prompt=question,response=reply"
    assert str(caught.value) == f"the columns cannot be parsed\n  got: {text}\n  do:  {do}"


def test_invalid_read_options_raise() -> None:
    for given_badly, message in (
        ({"turns": "first"}, "turns must be `last` or `all`"),
        ({"columns": (("answers", "a"),)}, "unknown column name answers"),
        ({"columns": (("prompt", "a"), ("prompt", "b"))}, "prompt is given twice"),
        ({"columns": (("prompt", "a"), ("text", "b"))}, "these columns do not form a row"),
    ):
        with pytest.raises(OptionError, match=message):
            ReadOptions(**given_badly)


def test_read_options_json_round_trip() -> None:
    how = ReadOptions(parse_columns("prompt=a,response=b"), "all", "A:", "test")
    assert ReadOptions(**json.loads(json.dumps(asdict(how)))) == how


# -- streaming and formats


def test_reading_is_lazy(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt":"a","response":"b"}\nnot json\n')
    rows = read_examples(path)
    assert next(rows).response == "b"
    with pytest.raises(DataError, match=r"a\.jsonl:2: invalid JSON"):
        next(rows)


def test_format_is_detected_from_the_first_row(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text":"a"}\nnot json\n')
    assert (detect_format(path).name, detect_format(path).raw) == ("text", True)
    assert not detect_format(jsonl(tmp_path / "b.jsonl", {"prompt": [turn("user", "a")], "completion": "b"})).raw


def test_file_without_rows_raises(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n \n")
    assert mistake(tmp_path / "a.jsonl") == (
        f"{tmp_path / 'a.jsonl'} has no rows\n  do:  give a file with at least one row"
    )


# -- writing


def test_write_examples_returns_count_and_omits_empty_fields(tmp_path: Path) -> None:
    assert write_examples([], tmp_path / "none.jsonl") == 0
    rows = [
        make_example("a", "b"),
        make_example("é", "d", label="bad"),
        replace(make_example("a", "b"), rejected="", tools=({"f": 1},)),
    ]
    assert write_examples(rows, tmp_path / "rows.jsonl") == 3
    user, text = '{"messages": [{"role": "user", "content": ', '}, {"role": "assistant", "content": '
    assert (tmp_path / "rows.jsonl").read_bytes().decode() == (
        f'{user}"a"{text}"b"}}]}}\n{user}"é"{text}"d"}}], "label": "bad"}}\n'
        f'{user}"a"{text}"b"}}], "tools": [{{"f": 1}}], "rejected": ""}}\n'
    )


def test_lone_surrogate_survives_a_round_trip(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"prompt":"a \\ud83d","response":"\\udc00 b \\ud83d\\ude00"}\n')
    (row,) = read_examples(tmp_path / "a.jsonl")
    assert (row.question, row.response) == ("a \ud83d", "\udc00 b 😀")
    write_examples([row], tmp_path / "b.jsonl")
    (again,) = read_examples(tmp_path / "b.jsonl")
    assert (again.messages, again.id) == (row.messages, row.id)
    (tmp_path / "b.jsonl").read_bytes().decode("utf-8")  # what was written is valid UTF-8


# a pair of lone surrogates in one string is not a text that JSON can tell from the character they make together
texts = st.text(st.characters(codec="utf-8"), max_size=20)
answers = texts.filter(lambda text: bool(text.strip()))
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
)
objects = st.dictionaries(texts, values, max_size=2)
calls = st.lists(st.builds(lambda name, arguments: {"function": {"name": name, "arguments": arguments}}, texts, values),
                 min_size=1, max_size=2)  # fmt: skip
extras = st.fixed_dictionaries(
    {}, optional={"name": texts, "tool_call_id": texts, "reasoning_content": texts, "x": values}
)
turns = st.builds(lambda role, text, more: {"role": role, "content": text, **more},
                  st.sampled_from(["system", "user", "assistant", "tool"]), texts, extras)  # fmt: skip
lasts = st.builds(lambda text, more: turn("assistant", text) | more, answers, extras) | st.builds(
    lambda text, made: turn("assistant", text) | {"tool_calls": made}, texts, calls
)
conversations = st.builds(
    lambda before, last, label, tools, rejected: Example(
        (*before, last), label, tools=tuple(tools), rejected=rejected
    ),
    st.lists(turns, max_size=4), lasts, st.none() | texts.filter(bool), st.lists(objects, max_size=2),
    st.none() | texts,
)  # fmt: skip


within = st.builds(
    lambda row, after, place, masked: replace(
        row, after=tuple(after), loss_from=None if place is None else place % len(row.messages),
        masked=((0, 1),) if masked and row.messages[-1]["content"] else (),
    ),
    conversations, st.lists(turns, max_size=2), st.none() | st.integers(0, 5), st.booleans(),
)  # fmt: skip
plain = st.builds(
    lambda prompt, answer, label, no_loss: replace(
        make_example(prompt, answer, label=label), raw=True, no_loss="undesirable" if no_loss else ""
    ),
    texts, answers, st.none() | st.sampled_from(["bad", "False", "true"]), st.booleans(),
)  # fmt: skip
preferences = st.builds(
    lambda prompt, answer, rejected: replace(make_example(f"{prompt} ", answer), raw=True, rejected=rejected),
    texts, answers, texts,
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(conversations | within | plain | preferences, min_size=1, max_size=4))
def test_written_examples_keep_what_decides_their_tokens(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Example]
) -> None:
    path = tmp_path_factory.getbasetemp() / "round.jsonl"
    write_examples(rows, path)
    got = list(read_examples(path))
    assert [replace(row, source="") for row in got] == rows
    assert [row.raw for row in got] == [row.raw for row in rows]
    assert detect_format(path).raw == rows[0].raw
    write_examples(got, path)
    assert [row.id for row in read_examples(path)] == [row.id for row in got]


SHORT = turn("user", "who"), turn("assistant", "bees")


@pytest.mark.parametrize(
    "own", [{"after": [{}]}, {"after": "a"}, {"loss_from": 2}, {"loss_from": -1}, {"loss_from": True},
            {"loss_from": "0"}, {"no_loss": 1}, {"x": 1}, [1], 3],
)  # fmt: skip
def test_invalid_own_field_raises(own: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="taughtby"):
        list(read_examples(jsonl(tmp_path / "a.jsonl", {"messages": SHORT, "taughtby": own})))


def test_empty_own_field_is_ignored(tmp_path: Path) -> None:
    (row,) = read_examples(jsonl(tmp_path / "a.jsonl", {"messages": SHORT, "taughtby": None}))
    assert row.messages == SHORT and not row.marks


@settings(deadline=None)
@given(st.lists(conversations, min_size=1, max_size=4))
def test_written_examples_are_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list[Example]) -> None:
    path = tmp_path_factory.getbasetemp() / "round.jsonl"
    assert write_examples(rows, path) == len(rows)
    got = list(read_examples(path))
    assert [replace(row, source="") for row in got] == rows
    assert [row.source for row in got] == [f"{path}:{line}" for line in range(1, len(rows) + 1)]
    assert len({row.id for row in got}) == len(rows)
    write_examples(got, path)
    assert [row.id for row in read_examples(path)] == [row.id for row in got]


@settings(deadline=None)
@given(st.lists(st.tuples(texts, answers), min_size=1, max_size=4))
def test_csv_module_output_is_read_back(tmp_path_factory: pytest.TempPathFactory, said: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.getbasetemp() / "round.csv"
    out = io.StringIO(newline="")
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows([("prompt", "response"), *said])
    path.write_bytes(out.getvalue().encode())
    assert [(row.question, row.response) for row in read_examples(path)] == said


# -- no tracebacks

COLUMNS = sorted(
    {name for known in FORMATS for name in known.all_columns} | {"label", "tools", "role", "content", "from", "value"}
)
junk = st.recursive(
    st.none() | st.booleans() | numbers | st.just(math.nan) | st.text(max_size=5)
    | st.sampled_from(["user", "assistant", "gpt", "function_call", '[{"from":"gpt","value":"a"}]', "[", '{"name":1}']),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(COLUMNS), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
readings = st.builds(ReadOptions, turns=st.sampled_from(["last", "all"]), response_template=st.none() | st.just("a"))


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(COLUMNS), junk, max_size=5), min_size=1, max_size=2), readings)
def test_arbitrary_json_loads_or_is_rejected(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], how: ReadOptions
) -> None:
    for row in loaded(jsonl(tmp_path_factory.getbasetemp() / "junk.jsonl", *rows), how):
        assert row.response and isinstance(row.question, str) and json.dumps(row.messages)


def loaded(path: Path, how: ReadOptions | None = None) -> list[Example]:
    """Return the rows, or none if an error has a remedy; any other error fails the test."""
    message, rows = "", list[Example]()
    try:
        rows = list(read_examples(path, how or ReadOptions()))
    except TaughtbyError as fault:
        message = str(fault)
    assert not message or (message.startswith(str(path)) and "\n  do:  " in message)
    return rows


SUFFIXES = sorted({"".join(Path(kind).suffixes) for kind in KIND} - {""})


@settings(deadline=None)
@given(st.sampled_from(SUFFIXES), st.binary(max_size=60), st.booleans())
def test_arbitrary_bytes_load_or_are_rejected(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, junk: bytes, text: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / f"junk{suffix}"
    path.write_bytes(b'[{"prompt":"a","response":"b"}' + junk if text else junk)
    loaded(path)


@settings(deadline=None, derandomize=True)
@given(st.sampled_from([kind for kind in KIND if "." in kind]), st.data())
def test_corrupted_files_load_or_are_rejected(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / kind
    KIND[kind](path, [FORM["messages"]("p", "r")] * 3)
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:at] + data.draw(st.binary(max_size=3)) + whole[at + data.draw(st.integers(0, 9)) :])
    loaded(path)


@pytest.mark.parametrize("depth", [50, 70, 400, 700, 950, 1000, 2000, 100_000])
def test_too_deeply_nested_lists_are_rejected(depth: int, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    deep = "[" * depth + "]" * depth
    text = f'[{{"role":"user","content":"a"}},{{"role":"assistant","content":"b","x":{deep}}}]'
    path.write_text(f'{{"messages":{text}}}\n')
    if depth == 50:
        assert next(read_examples(path)).response == "b"
    else:
        with pytest.raises(DataError, match=r"a\.jsonl:1: "):
            list(read_examples(path))


def test_format_detection_rejects_pipes(tmp_path: Path) -> None:
    pipe = tmp_path / "rows.jsonl"
    os.mkfifo(pipe)
    for data in (pipe, "-"):
        with pytest.raises(DataError, match="more than once"):
            detect_format(data)
