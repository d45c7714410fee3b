"""Reads a record as a conversation. Training rows, queries, prompts and answers are all read this way."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from taughtby.data.cells import settle_cells
from taughtby.data.content import is_filled, reject_media
from taughtby.data.example import Example, Message, Record, read_template_kwargs, read_tools, shorten, validate_messages
from taughtby.data.formats import FORMATS, INPUT_JOIN, DataFormat, rename_columns, select_format
from taughtby.errors import DataError

_FOR_TEMPLATES = {"tools", "functions", "chat_template_kwargs"}  # columns that only a chat template reads
_THOUGHTS = {"thinking", "reasoning", "reasoning_content"}  # fields of messages; no layout has them as columns
_KNOWN_COLUMNS = frozenset(
    _FOR_TEMPLATES.union(_THOUGHTS, *(form.all_columns for form in FORMATS if not form.tokenized))
)
# names of columns with a model's answer, such as model_output or generated_text, but not answer_id
ANSWER_NAME = re.compile(
    r"(^|_)(answer|output|response|completion|prediction|generation|generated_text|generated|reply)$"
)
Columns = Sequence[tuple[str, str]]  # pairs (taughtby's name, column)


def apply_format(record: Record, source: str, columns: Columns = ()) -> tuple[DataFormat, Record]:
    """Return the column layout of a record, and the record with its columns renamed to that layout's.

    Raises:
        DataError: No layout matches the columns, or a named column is missing.
    """
    record = settle_cells(rename_columns(record, columns, source))
    return select_format(record, source, frozenset(what for what, _ in columns)), record


def read_conversation(form: DataFormat, record: Record, source: str, join: str | None = None) -> Example:
    """Read the messages, tools and template arguments of a record; the last message may have any role.

    `join` separates an instruction from its input; the message then keeps the input for the trainer's prompt format.

    Raises:
        DataError: A message is not text, the row has images or other media, or it is ambiguous.
    """
    reject_media(record, source)
    messages = validate_messages(form.convert(record), source)
    if join is not None:
        messages = [_rejoin(message, record, join) for message in messages]
    tools, kwargs = ((), ()) if form.raw else (read_tools(record, source), read_template_kwargs(record, source))
    return Example(tuple(messages), source=source, tools=tools, template_kwargs=kwargs)


def _rejoin(message: Message, record: Record, join: str) -> Message:
    for name in ("input", "context"):
        extra = record.get(name)
        if message["role"] == "user" and is_filled(extra) and message["content"].endswith(f"{INPUT_JOIN}{extra}"):
            instruction = message["content"].removesuffix(f"{INPUT_JOIN}{extra}")
            return {**message, "content": f"{instruction}{join}{extra}", "input": extra}
    return message


def unread_columns(form: DataFormat, record: Record) -> list[str]:
    """Return the non-empty columns that some text layout reads, but this one does not."""
    unread = _unread(form)
    return [name for name in record if name in unread and is_filled(record[name])]


@cache
def _unread(form: DataFormat) -> frozenset[str]:
    return _KNOWN_COLUMNS - form.all_columns - {"label"} - (set() if form.raw else _FOR_TEMPLATES)


def require_one_answer(form: DataFormat, record: Record, source: str) -> None:
    """Refuse a query with a second text that may be its answer, such as a reference answer.

    Raises:
        DataError: A column that the layout does not read has the name of an answer.
    """
    others = [name for name, value in record.items() if isinstance(value, str) and value.strip()
              and name not in form.all_columns and ANSWER_NAME.search(str(name))]  # fmt: skip
    if others:
        raise DataError(f"{source}: several columns may be the answer of the query",
                        got=shorten(", ".join([*form.columns[-1:], *others]), 200),
                        do="rename the answer to explain to `response`, beside `prompt`, and remove the others; the "
                           "reference answer may be `desired`")  # fmt: skip
