"""Rows of token ids: their own masks decide the loss, and their texts are decoded for display."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taughtby.data.dataset import open_dataset, read_examples
from taughtby.data.pretokenized import decode_rows
from taughtby.data.tokenize import Encoding, SkippedRow, TokenizedExample, tokenize
from taughtby.errors import DataError


def read(tmp_path: Path, row: dict[str, Any]) -> Any:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (example,) = read_examples(path)
    return example


def test_a_row_without_tokens_is_skipped(tokenizer: Any, tmp_path: Path) -> None:
    for row in ({"input_ids": [], "labels": []}, {"input_ids": [4, 5], "attention_mask": [0, 0]}):
        result = tokenize(tokenizer, read(tmp_path, row), Encoding())
        assert isinstance(result, SkippedRow) and result.reason == "the row has no tokens"


def masked(ids: list[int], has: list[bool], name: str) -> dict[str, Any]:
    values = (
        [token if one else -100 for token, one in zip(ids, has, strict=True)]
        if name == "labels"
        else list(map(int, has))
    )
    return {"input_ids": ids, name: values}


@pytest.mark.parametrize("name", ["labels", "completion_mask", "assistant_masks", "loss_mask"])
def test_loss_mask_is_exactly_the_row_mask(tokenizer: Any, name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("ids")

    @given(st.lists(st.tuples(st.integers(7, 380), st.booleans()), min_size=2, max_size=20))
    def check(tokens: list[tuple[int, bool]]) -> None:
        ids, has = [token % len(tokenizer) for token, _ in tokens], [one for _, one in tokens]
        for mask in ("response", "all"):  # the row's own mask counts
            got = tokenize(tokenizer, read(folder, masked(ids, has, name)), Encoding(mask=mask))
            if any(has[1:]):
                assert isinstance(got, TokenizedExample)
                assert (list(got.ids), got.loss_mask) == (ids, [False, *has[1:]])
            else:
                assert got == SkippedRow("no token of the row has a loss")

    check()


def test_token_ids_are_decoded_to_messages(tokenizer: Any, tmp_path: Path) -> None:
    ask, answer = (tokenizer(text)["input_ids"] for text in ("who makes honey", " bees"))
    row = read(tmp_path, {"input_ids": ask + answer, "labels": [-100] * len(ask) + answer})
    assert [message["content"] for message in decode_rows(tokenizer, [row])[0].messages] == ["who makes honey", " bees"]
    assert open_dataset(tmp_path / "rows.jsonl")[0].name == "input_ids"


def test_masks_are_intersected_and_padding_is_removed(tokenizer: Any, tmp_path: Path) -> None:
    row = {"input_ids": [0, 8, 9, 10, 11], "completion_mask": [0, 0, 1, 1, 1], "assistant_masks": [0, 1, 1, 0, 1],
           "attention_mask": [0, 1, 1, 1, 1]}  # fmt: skip
    got = tokenize(tokenizer, read(tmp_path, row), Encoding())
    assert isinstance(got, TokenizedExample)
    assert (got.ids, got.loss_mask) == ((8, 9, 10, 11), [False, True, False, True])


def test_rows_without_a_mask_learn_all_tokens_with_a_note(tokenizer: Any, tmp_path: Path) -> None:
    row = read(tmp_path, {"input_ids": [8, 9, 10]})
    got = tokenize(tokenizer, row, Encoding())
    assert isinstance(got, TokenizedExample) and got.loss_mask == [False, True, True]
    assert [mark.name for mark in row.marks] == ["input_ids without a mask: loss on all tokens"]


def test_ids_are_truncated_and_checked_against_the_vocabulary(tokenizer: Any, tmp_path: Path) -> None:
    row = read(tmp_path, {"input_ids": [8, 9, 10, 11], "labels": [-100, 9, -100, 11]})
    got = tokenize(tokenizer, row, Encoding(3))
    assert isinstance(got, TokenizedExample) and got.loss_mask == [False, True, False]
    foreign = tokenize(tokenizer, read(tmp_path, {"input_ids": [8, 99_999]}), Encoding())
    assert isinstance(foreign, SkippedRow) and foreign.reason.startswith("token 99999 is not in this tokenizer's")


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"labels": [8, 9]}, "`labels` and `input_ids` have different lengths"),
        ({"labels": [9, 10, -100]}, "`labels` differ from `input_ids`"),
        ({"completion_mask": "no"}, "`completion_mask` is not a list of integers"),
        ({"input_ids": [8.5, 9, 10]}, "`input_ids` is not a list of integers"),
        ({"position_ids": [0, 1, 0]}, "several documents are packed into the row"),
        ({"seq_lengths": [1, 2]}, "several documents are packed into the row"),
    ],
)
def test_invalid_pretokenized_rows_raise(more: dict[str, Any], expected: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"rows\.jsonl:1: {expected}"):
        read(tmp_path, {"input_ids": [8, 9, 10], **more})


def test_index_of_pretokenized_rows_stores_decoded_texts(tokenizer: Any, tiny: Any, tmp_path: Path) -> None:
    import taughtby

    ids = tokenizer("who makes honey bees")["input_ids"]
    rows = [masked(ids, [place > turn for place in range(len(ids))], "labels") for turn in (1, 2)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    index = taughtby.build_index(tiny, path, tmp_path / "idx", "repsim", progress=False)
    assert len(index) == 2
    trace = index.trace("who makes honey", "bees", model=tiny)
    row = trace.queries[0].rows[0].example
    assert row.prompt[0]["content"] + row.response == "who makes honey bees"
    got = tokenize(tokenizer, row, Encoding())
    assert isinstance(got, TokenizedExample) and list(got.ids) == ids
    masks = [tokenize(tokenizer, row, Encoding()).loss_mask for row in index.examples()]  # type: ignore[union-attr]
    assert [list(mask) for mask in masks] == [[place > turn for place in range(len(ids))] for turn in (1, 2)]


@pytest.mark.parametrize(
    "marks",
    [
        {"attention_mask": [1, 1, 1, 2, 2, 2]}, {"attention_mask": [1, 1, 2, 2, 0, 0]}, {"cu_seqlens": [0, 3, 6]},
        {"seq_start_id": [0, 3]}, {"seq_lengths": [3, 3]}, {"position_ids": [0, 1, 2, 0, 1, 2]},
        {"position_ids": "[0, 1, 2, 0, 1, 2]"}, {"cu_seq_lens_q": [0, 3, 6]},
    ],
)  # fmt: skip
def test_packed_rows_are_rejected(tmp_path: Path, marks: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="several documents are packed into the row"):
        read(tmp_path, {"input_ids": [1, 7, 2, 1, 8, 2], **marks})


def test_single_document_boundaries_are_accepted(tmp_path: Path) -> None:
    one = {"cu_seqlens": [0, 3], "seq_start_id": [0], "seq_lengths": [3], "position_ids": [0, 1, 2]}
    assert read(tmp_path, {"input_ids": [1, 7, 2], **one}).loss_positions == (1, 2)


@pytest.mark.parametrize(
    ("attention", "positions"), [([0, 0, 1, 1, 1], [1, 1, 0, 1, 2]), ([1, 1, 1, 0, 0], [0, 1, 2, 0, 0])], ids=str
)
def test_positions_of_padding_are_no_documents(tmp_path: Path, attention: list[int], positions: list[int]) -> None:
    ids = [7 if real else 0 for real in attention]
    row = read(tmp_path, {"input_ids": ids, "attention_mask": attention, "position_ids": positions})
    assert row.token_ids == (7, 7, 7)


def test_float_masks_must_be_whole_numbers(tmp_path: Path) -> None:
    assert read(tmp_path, {"input_ids": [1, 7, 2], "loss_mask": [0.0, 0.0, 1.0]}).loss_positions == (2,)
    with pytest.raises(DataError, match="`loss_mask` is not a list of integers"):
        read(tmp_path, {"input_ids": [1, 7, 2], "loss_mask": [0.0, 0.5, 1.0]})
