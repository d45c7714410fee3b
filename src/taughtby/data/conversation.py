"""One record as a conversation: what training rows, queries, prompts and answers are all read by."""

from __future__ import annotations

from collections.abc import Sequence

from taughtby.data.cells import settle_cells
from taughtby.data.content import is_filled, reject_media
from taughtby.data.example import Example, Message, Record, read_template_kwargs, read_tools, validate_messages
from taughtby.data.formats import FORMATS, INPUT_JOIN, DataFormat, rename_columns, select_format

_FOR_TEMPLATES = {"tools", "functions", "chat_template_kwargs"}  # columns that only a chat template reads
_MEANT = _FOR_TEMPLATES.union(*(form.all_columns for form in FORMATS if not form.tokenized))
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
