"""Pretokenized rows: token ids and loss masks, as trainers store their prepared data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from taughtby.data.chat_template import SkippedRow
from taughtby.data.example import Example, LossMark, Record, parse_json, shorten
from taughtby.errors import DataError

IGNORED = -100  # the label of a token without a loss
MASKS = ("completion_mask", "assistant_masks", "assistant_mask", "loss_mask")  # 1 or true means a loss
# columns with document boundaries, and their length for a single document
ONE_DOCUMENT = {"seq_lengths": 1, "seq_start_id": 1, "cu_seqlens": 2, "cu_seq_lens_q": 2}


def read_token_row(record: Record, source: str) -> tuple[tuple[int, ...], tuple[int, ...], tuple[LossMark, ...]]:
    """Read the token ids of a row, the positions with a loss, and the columns that determine them.

    As in TRL, `labels` decide if they exist, else all masks together; without either, all tokens have a loss. Padding
    is removed. The first token is never predicted and has no loss.

    Raises:
        DataError: Columns and ids differ in length, labels differ from the ids, or several documents are packed.
    """
    ids = _integers(record, "input_ids", source)
    columns = (
        ["labels"] if record.get("labels") is not None else [name for name in MASKS if record.get(name) is not None]
    )
    values = {name: _integers(record, name, source) for name in columns}
    attention = (
        _integers(record, "attention_mask", source) if record.get("attention_mask") is not None else [1] * len(ids)
    )
    for name, column in {**values, "attention_mask": attention}.items():
        if len(column) != len(ids):
            do = "prepare the data again, with one value per id"
            raise DataError(
                f"{source}: `{name}` and `input_ids` have different lengths", got=f"{len(column)}, {len(ids)}", do=do
            )
    _refuse_packing(record, attention, source)
    labels = values.get("labels", ids)
    differences = [
        f"{label} for {token}" for token, label in zip(ids, labels, strict=True) if label not in (token, IGNORED)
    ]
    if differences:
        do = f"give unshifted labels that equal the ids or {IGNORED}: the loss shifts them"
        raise DataError(f"{source}: `labels` differ from `input_ids`", got=", ".join(differences[:3]), do=do)
    masked = {place for column in values.values() for place, value in enumerate(column) if value in (0, IGNORED)}
    if "labels" in values:
        masked = {place for place, label in enumerate(labels) if label == IGNORED}
    places = [place for place, real in enumerate(attention) if real]
    positions = tuple(new for new, place in enumerate(places) if new and place not in masked)
    marks = tuple(LossMark(name) for name in columns) or (LossMark("input_ids without a mask: loss on all tokens"),)
    return tuple(ids[place] for place in places), positions, marks


def _integers(record: Record, name: str, source: str) -> list[int]:
    value = record[name]
    try:
        numbers = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        numbers = None
    numbers = (
        numbers[0] if isinstance(numbers, list) and len(numbers) == 1 and isinstance(numbers[0], list) else numbers
    )
    if not isinstance(numbers, list) or not all(map(_is_whole, numbers)):
        raise DataError(f"{source}: `{name}` is not a list of integers", got=shorten(value),
                        do="give a list of token ids, or remove the column")  # fmt: skip
    return [int(number) for number in numbers]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())  # masks may be floats


def _refuse_packing(record: Record, attention: Sequence[int], source: str) -> None:
    """Refuse a row with several packed documents, whose tokens must not attend to each other."""
    lists = {name: parse_json(record[name]) if isinstance(record[name], str) else record[name]
             for name in ("position_ids", *ONE_DOCUMENT) if record.get(name) is not None}  # fmt: skip
    positions = lists.pop("position_ids", None)
    if isinstance(positions, list) and len(positions) == len(attention):  # those of padding restart or repeat
        positions = [place for place, real in zip(positions, attention, strict=True) if real]
    restarts = isinstance(positions, list) and any(later <= before for before, later in pairwise(positions))
    several = [value for name, value in lists.items() if isinstance(value, list) and len(value) > ONE_DOCUMENT[name]]
    numbered = max(attention, default=1) > 1  # LLaMA-Factory numbers the documents of a row: 1, 1, 2, 2, 2, 0
    if restarts or several or numbered:
        got = several[0] if several else positions if restarts else list(attention)
        do = "prepare the data without packing, so that each row is one document"
        raise DataError(f"{source}: several documents are packed into the row", got=shorten(got), do=do)


def decode_row(tokenizer: Any, row: Example) -> Example:
    """Decode the messages of a row: the tokens before the first loss as the prompt, the rest as the response.

    Rows that have text, and rows with ids outside the vocabulary, are returned unchanged.
    """
    if not row.token_ids or row.messages[-1]["content"] or _unknown_tokens(tokenizer, row):
        return row
    start = row.loss_positions[0] if row.loss_positions else len(row.token_ids)
    texts = (tokenizer.decode(row.token_ids[part]) for part in (slice(0, start), slice(start, None)))
    messages = tuple({"role": role, "content": text} for role, text in zip(("user", "assistant"), texts, strict=True))
    return replace(row, messages=messages)


def decode_rows(tokenizer: Any, rows: Sequence[Example]) -> list[Example]:
    """Apply `decode_row` to each row."""
    return [decode_row(tokenizer, row) for row in rows]


def skip_reason(tokenizer: Any, row: Example) -> SkippedRow | None:
    """Return why a pretokenized row cannot be used; None if it can."""
    if not row.loss_positions:
        return SkippedRow("no token of the row has a loss")
    if other := _unknown_tokens(tokenizer, row):
        return SkippedRow(f"token {other[0]} is not in this tokenizer's vocabulary of {len(tokenizer)}")
    return None


def _unknown_tokens(tokenizer: Any, row: Example) -> list[int]:
    return [token for token in row.token_ids if not 0 <= token < len(tokenizer)]
