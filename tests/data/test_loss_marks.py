"""Loss marks of turns, parts and rows: each is followed, or reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taughtby.data.dataset import ReadOptions, read_examples
from taughtby.data.example import Example
from taughtby.data.loss_marks import read_turn_marks
from taughtby.data.statistics import collect_statistics
from taughtby.data.tokenize import Encoding, SkippedRow, TokenizedExample, tokenize
from taughtby.errors import DataError

ALL, LAST = ReadOptions(turns="all"), ReadOptions()


def turn(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def read(tmp_path: Path, *rows: dict[str, Any], options: ReadOptions = LAST) -> list[Example]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(read_examples(path, options))


def learned(tokenizer: Any, row: Example, mask: Any = "response") -> str:
    """The tokens with a loss as text; a gap between them is an underscore."""
    got = tokenize(tokenizer, row, Encoding(512, mask=mask))
    assert isinstance(got, TokenizedExample), got
    places = [place for place, has_loss in enumerate(got.loss_mask) if has_loss]
    runs: list[list[int]] = []
    for place in places:
        if runs and place == runs[-1][-1] + 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    return "_".join(tokenizer.decode([got.ids[place] for place in run]) for run in runs)


NOT = [
    {"weight": 0}, {"weight": 0.0}, {"weight": -1}, {"train": False}, {"training": False}, {"trainable": False},
    {"loss": False}, {"loss_weight": 0}, {"masked": True}, {"train": "false"}, {"weight": 1, "train": False},
    {"weight": "0.0"},
]  # fmt: skip
YES = [
    {"weight": 1},
    {"weight": "1.0"},
    {"train": True},
    {"training": True},
    {"trainable": 1},
    {"loss": True},
    {"masked": False},
    {},
]


@pytest.mark.parametrize("options", [LAST, ALL])
@pytest.mark.parametrize("mark", NOT)
def test_turns_marked_untrained_are_skipped(
    tokenizer: Any, mark: dict[str, Any], options: ReadOptions, tmp_path: Path
) -> None:
    (row,) = read(tmp_path, {"messages": [turn("user", "a"), turn("assistant", "b", **mark)]}, options=options)
    skipped = tokenize(tokenizer, row, Encoding())
    what = "the last turn has no loss" if options is LAST else "no turn has a loss"
    assert isinstance(skipped, SkippedRow)
    assert skipped.reason.startswith(f"{what}: ") and next(iter(mark)) in skipped.reason


@pytest.mark.parametrize("mark", NOT)
def test_no_mark_of_a_message_is_followed_where_all_tokens_have_a_loss(
    tokenizer: Any, mark: dict[str, Any], tmp_path: Path
) -> None:
    every = LAST.for_mask("all")
    talk = [turn("user", "a"), turn("assistant", "b", **mark)]
    parts = [turn("user", "a"), turn("assistant", [{"type": "text", "text": "b", **mark}])]
    kto = {"prompt": [talk[0]], "completion": [turn("assistant", "c")], "label": False}
    rows = [
        row
        for record in ({"messages": talk}, {"messages": parts}, kto)
        for row in read(tmp_path, record, options=every)
    ]
    assert [(row.no_loss, row.masked) for row in rows[:2]] == [("", ())] * 2
    assert [mark for row in rows[:2] for mark in row.marks] != []  # they are still reported
    assert rows[2].no_loss.startswith("undesirable KTO example")
    assert LAST.for_mask("response") is LAST


@pytest.mark.parametrize("mark", YES)
def test_turns_marked_trained_have_a_loss(tokenizer: Any, mark: dict[str, Any], tmp_path: Path) -> None:
    (row,) = read(tmp_path, {"messages": [turn("user", "a"), turn("assistant", "b", **mark)]})
    assert learned(tokenizer, row) == "b<|end|>\n"
    assert all(one.followed for one in row.marks)


def test_marked_turns_of_a_conversation_are_left_out(tokenizer: Any, tmp_path: Path) -> None:
    talk = [turn("user", "a"), turn("assistant", "b"), turn("user", "c"), turn("assistant", "paris", weight=0)]
    assert [row.source[-4:] for row in read(tmp_path, {"messages": talk}, options=ALL)] == [":1#1"]
    (row,) = read(tmp_path, {"messages": talk})
    assert row.no_loss == "the last turn has no loss: weight 0"


@pytest.mark.parametrize(
    ("message", "name"),
    [
        ({"weight": 0.5}, "weight 0.5"),
        ({"weight": "0.5"}, 'weight "0.5"'), ({"loss_scale": 2}, "loss_scale"), ({"loss_mask": [0, 1]}, "loss_mask"),
        ({"train_on_turn": True}, "train_on_turn"), ({"weight": "high"}, 'weight "high"'),
    ],
)  # fmt: skip
def test_unsupported_turn_marks_are_reported(message: dict[str, Any], name: str, tmp_path: Path) -> None:
    (row,) = read(tmp_path, {"messages": [turn("user", "a"), turn("assistant", "b", **message)]})
    assert [(mark.name, mark.followed) for mark in row.marks] == [(name, False)]
    assert not row.no_loss


def test_row_level_marks_are_reported(tmp_path: Path) -> None:
    talk = [turn("user", "a"), turn("assistant", "b")]
    (row,) = read(
        tmp_path, {"messages": talk, "sample_weight": 0, "loss_mask": [0], "mask": "User", "weights": "heavy"}
    )
    assert sorted(mark.name for mark in row.marks) == ["loss_mask", "mask", "sample_weight"]
    assert not any(mark.followed for mark in row.marks)


def test_trained_user_turns_are_reported(tmp_path: Path) -> None:
    talk = [turn("user", "a", train=True), turn("assistant", "b", train=True)]
    (row,) = read(tmp_path, {"messages": talk}, options=ALL)
    assert [mark.name for mark in row.marks if not mark.followed] == ["train true on a message of role user"]


# -- parts


def test_loss_marks_of_message_parts(tokenizer: Any, tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "bees", "train": False}, {"type": "text", "text": " make honey", "weight": 1}]
    (row,) = read(tmp_path, {"messages": [turn("user", "a"), turn("assistant", parts)]})
    assert row.response == "bees make honey" and row.masked == ((0, 4),)
    assert learned(tokenizer, row) == " make honey<|end|>\n"
    assert {mark.name for mark in row.marks} == {"train false of a part", "weight 1 of a part"}


MOVED = [
    {"type": "reasoning", "text": "hm"},
    {"type": "thinking", "thinking": "hm", "text": "hm"},
    {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
    {"type": "tool_use", "name": "look_up", "text": "hm"},
]


@pytest.mark.parametrize("moved", MOVED)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_loss_marks_beside_parts_that_are_not_text(moved: dict[str, Any], place: int, tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "beetles ", "train": False}, {"type": "text", "text": "make honey"}]
    parts.insert(place, moved)
    (row,) = read(tmp_path, {"messages": [turn("user", "a"), turn("assistant", parts)]})
    assert [row.response[begin:end] for begin, end in row.masked] == ["beetles "]


@pytest.mark.parametrize("moved", MOVED)
def test_loss_mark_of_thinking_is_reported(moved: dict[str, Any], tmp_path: Path) -> None:
    def marks(train: bool) -> tuple[Any, list[tuple[str, bool]]]:
        parts = [{**moved, "train": train}, {"type": "text", "text": "bees"}]
        (row,) = read(tmp_path, {"messages": [turn("user", "a"), turn("assistant", parts)]})
        return row.masked, [(mark.name, mark.followed) for mark in row.marks]

    assert marks(False) == ((), [("train false of a part", False)])
    assert marks(True) == ((), [("train true of a part", True)])


def test_train_detail_masks_unlisted_characters(tokenizer: Any, tmp_path: Path) -> None:
    detail = [{"begin_offset": 0, "end_offset": 3, "train": False}, {"begin_offset": 5, "end_offset": 8, "train": True}]
    (row,) = read(
        tmp_path, {"messages": [turn("user", "a"), turn("assistant", "bees make honey", train_detail=detail)]}
    )
    assert row.masked == ((0, 5), (9, 15))
    assert learned(tokenizer, row) == " make_<|end|>\n"


def test_train_detail_matches_a_per_character_check() -> None:
    @given(
        st.text(min_size=1, max_size=30),
        st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9), st.booleans()), min_size=1),
    )
    def check(text: str, parts: list[tuple[int, int, bool]]) -> None:
        detail = [{"begin_offset": begin, "end_offset": begin + size, "train": train} for begin, size, train in parts]
        masked = read_turn_marks(turn("assistant", text, train_detail=detail), "s").masked
        silent = {place for begin, end in masked for place in range(begin, end)}
        for place in range(len(text)):
            says = [train for begin, size, train in parts if begin <= place <= begin + size]
            assert (place in silent) == (not says or not all(says))

    check()


@pytest.mark.parametrize("detail", [[{"begin_offset": 3, "end_offset": 1, "train": True}], [{"train": True}], "x", [3]])
def test_invalid_train_detail_raises(detail: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:1: `train_detail` is not a list of ranges"):
        read(tmp_path, {"messages": [turn("user", "a"), turn("assistant", "b", train_detail=detail)]})


# -- prompt and completion

ASK = [turn("user", "what"), turn("assistant", "is"), turn("user", "the")]
TALK = [turn("assistant", "one"), turn("user", "name"), turn("assistant", "paris")]


@pytest.mark.parametrize("options", [LAST, ALL])
@pytest.mark.parametrize("column", ["completion", "chosen"])
def test_whole_completion_has_a_loss_and_the_prompt_none(
    tokenizer: Any, column: str, options: ReadOptions, tmp_path: Path
) -> None:
    more = {"rejected": [turn("assistant", "no")]} if column == "chosen" else {}
    rows = read(tmp_path, {"prompt": ASK, column: TALK, **more}, options=options)
    assert [(row.source[-4:], row.response) for row in rows] == [(":1#2", "one"), (":1#3", "paris")]
    assert [learned(tokenizer, row) for row in rows] == [
        "one<|end|>\n", "<|user|>name<|end|>\n<|assistant|>paris<|end|>\n"
    ]  # fmt: skip


def test_preference_conversations_differ_in_the_last_turn(tmp_path: Path) -> None:
    chosen = [*ASK, turn("assistant", "sea")]
    rows = read(tmp_path, {"chosen": chosen, "rejected": [*ASK, turn("assistant", "sky")]}, options=ALL)
    assert [(row.response, row.rejected) for row in rows] == [("sea", "sky")]


@pytest.mark.parametrize("label", [False, "false", "False"])
def test_kto_negative_rows_are_skipped(tokenizer: Any, label: Any, tmp_path: Path) -> None:
    texts = {"prompt": "a", "completion": "b", "label": label}
    turns = {"prompt": ASK[:1], "completion": TALK[:1], "label": label}
    tagged = {"messages": [*ASK[:1], *TALK[:1]], "kto_tag": label}
    for row in read(tmp_path, texts, turns, tagged):
        skipped = tokenize(tokenizer, row, Encoding())
        assert isinstance(skipped, SkippedRow) and skipped.reason.startswith("undesirable KTO example: ")


def test_user_label_columns_do_not_skip_rows(tmp_path: Path) -> None:
    row = {"prompt": "a", "completion": "b", "label": False}
    (own,) = read(tmp_path, row, options=ReadOptions((("label", "label"),)))
    assert not own.no_loss
    (class_or_false,) = read(tmp_path, row | {"label": 0})
    assert class_or_false.no_loss == "" and [mark.followed for mark in class_or_false.marks] == [False]
    assert read(tmp_path, row | {"label": 1})[0].marks == ()
    (other,) = read(tmp_path, {"prompt": "a", "response": "b", "label": False})
    assert not other.no_loss
    assert [mark.followed for mark in other.marks] == [False]


# -- counts of `data inspect`


def test_loss_marks_are_counted_by_record(tokenizer: Any, tmp_path: Path) -> None:
    talk = [turn("user", "a"), turn("assistant", "b", weight=1), turn("user", "c"), turn("assistant", "b", weight=0.5)]
    rows = read(tmp_path, {"messages": talk}, {"messages": talk}, options=ALL)
    statistics = collect_statistics(rows, tokenizer, Encoding())
    assert {mark.name: count for mark, count in statistics.marks.items()} == {"weight 1": 2, "weight 0.5": 2}
    assert statistics.unfollowed() == {"weight 0.5": 2}
    everything = collect_statistics(rows, tokenizer, Encoding(mask="all"))
    assert everything.unfollowed() == {"weight 1": 2, "weight 0.5": 2}
