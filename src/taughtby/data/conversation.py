"""One record as a conversation: what training rows, queries, prompts and answers are all read by."""

from __future__ import annotations

import re
from collections.abc import Sequence

from taughtby.data.cells import settle_cells
from taughtby.data.content import is_filled, reject_media
from taughtby.data.example import Example, Message, Record, read_template_kwargs, read_tools, shorten, validate_messages
from taughtby.data.formats import FORMATS, INPUT_JOIN, DataFormat, rename_columns, select_format
from taughtby.errors import DataError

_FOR_TEMPLATES = {"tools", "functions", "chat_template_kwargs"}  # columns that only a chat template reads
_THOUGHTS = {"thinking", "reasoning", "reasoning_content"}  # which a message has, and no column of a layout
_MEANT = _FOR_TEMPLATES.union(_THOUGHTS, *(form.all_columns for form in FORMATS if not form.tokenized))
# a column with what a model answered, by its name: model_output, generated_text; not answer_id
_ANSWER = re.compile(r"(^|_)(answer|output|response|completion|prediction|generation|generated_text|generated|reply)$")
Columns = Sequence[tuple[str, str]]  # pairs of a role and the column that has it


def apply_format(record: Record, source: str, columns: Columns = ()) -> tuple[DataFormat, Record]:
    """The column layout of a record, and the record under the names of that layout.

    Raises:
        DataError: No layout has its columns.
    """
    record = settle_cells(rename_columns(record, columns, source))
    return select_format(record, source, frozenset(what for what, _ in columns)), record


def read_conversation(form: DataFormat, record: Record, source: str, join: str | None = None) -> Example:
    """The messages, tools and template arguments of a record, whatever its last message is.

    With `join`, an input follows its instruction behind that, and is kept in its message for the trainer's wording.

    Raises:
        DataError: A message is no text, the row has pictures, or says two things.
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
    """The filled columns that have a meaning in some layout of texts, and are not read in this one."""
    read = form.all_columns | {"label"} | (set() if form.raw else _FOR_TEMPLATES)
    return [name for name in record if name in _MEANT - read and is_filled(record[name])]


def require_one_answer(form: DataFormat, record: Record, source: str) -> None:
    """Refuse a query with another text that may be its answer, such as the reference beside what the model said.

    Raises:
        DataError: A column that the layout does not read is named as an answer is.
    """
    others = [name for name, value in record.items() if isinstance(value, str) and value.strip()
              and name not in form.all_columns and _ANSWER.search(str(name))]  # fmt: skip
    if others:
        raise DataError(f"{source}: a query has one answer, and several columns may be it",
                        got=shorten(", ".join([*form.columns[-1:], *others]), 200),
                        do="name the one to explain `response`, beside `prompt`, and leave the others out; the one "
                           "that was wanted may be `desired`")  # fmt: skip
