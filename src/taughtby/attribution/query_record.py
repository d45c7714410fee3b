"""Reads one record of a query file like a training row: its conversation, and the words to explain."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from taughtby.data.content import is_filled
from taughtby.data.conversation import Columns, apply_format, read_conversation, require_one_answer
from taughtby.data.example import Example, Message, Record, reject_deep_nesting, shorten
from taughtby.data.phrases import Range
from taughtby.errors import DataError

OPTIONAL = ("span", "span_range", "desired")
_DO = 'write {"prompt": "…", "response": "…"}, optionally with "span" or "desired"'


def read_query(record: Record, source: str, columns: Columns = (), join: str | None = None) -> dict[str, Any]:
    """Return the fields of a Query: its texts, its span, and the rest of its conversation.

    Args:
        record: A record of any layout that training rows have; also `span`, `span_range` and `desired`.
        source: Identifies it in errors.
        columns: How the training rows name their columns; a record with other columns is read by its own names.
        join: The training rows' separator between an instruction and its input.

    Raises:
        DataError: It has no prompt or no answer, or cannot be read.
    """
    _refuse_misspelt(record, source)
    with reject_deep_nesting(source):
        columns = columns if all(column in record for _, column in columns) else ()
        _require_texts(record, source, columns)
        form, named = apply_format(record, source, columns)
        if form.tokenized:
            do = "decode them, and give the prompt and the response as text"
            raise DataError(f"{source}: a query is text, not token ids", got="input_ids", do=do)
        if not columns:
            require_one_answer(form, record, source)
        fields = _fields(read_conversation(form, named, source, join))
    span, desired = (_read_text(record, key, source) for key in ("span", "desired"))
    if desired is not None and not desired.strip():
        raise DataError(
            f"{source}: the desired answer has no text", got=repr(desired), do="give it a text, or remove it"
        )
    return fields | {"span": span, "desired": desired, "span_range": _read_range(record.get("span_range"), source)}


def _read_text(record: Record, key: str, source: str) -> str | None:
    """An optional text; None if it is missing or empty, as in a table where only some rows have one."""
    value = record.get(key)
    if not is_filled(value) or value is False:
        return None
    if not isinstance(value, str | int | float) or value is True:  # a table may have a number as such
        raise DataError(f"{source}: the {key} is not text", got=shorten(value), do="give a string, or remove it")
    return str(value)


def _refuse_misspelt(record: Record, source: str) -> None:
    """Refuse a field whose name is nearly that of an optional one, which would be silently ignored.

    Names may differ in case or separators, or by one letter that is added, missing or swapped with the next. A replaced
    letter does not count: logs and data sets have other fields, such as `spam` and `spin`.
    """
    for name in record:
        plain = re.sub(r"[\W_]", "", name.casefold())
        for field in OPTIONAL if name not in OPTIONAL and record[name] is not None else ():
            if _is_typo(plain, field.replace("_", "")) and record.get(field) is None:
                raise DataError(f"{source}: the field {shorten(name)!r} is not read", got=shorten(record[name]),
                                do=f"name it {field!r}, or remove it")  # fmt: skip


def _is_typo(word: str, name: str) -> bool:
    """Whether a word is a name, or is one with a letter added, left out or swapped with the next."""
    short, long = sorted((word, name), key=len)
    if len(short) == len(long):
        swapped = (name[:at] + name[at + 1] + name[at] + name[at + 2 :] for at in range(len(name) - 1))
        return word == name or word in swapped
    return len(long) == len(short) + 1 and any(long[:at] + long[at + 1 :] == short for at in range(len(long)))


def _require_texts(record: Record, source: str, columns: Columns) -> None:
    """Refuse a record that no layout fits, or a prompt and response of which one is missing."""
    try:
        form, named = apply_format(record, source, columns)
    except DataError:
        missing = [key for key in ("prompt", "response") if not is_filled(record.get(key))]
    else:
        keys = form.columns if form.columns == ("prompt", "response") else ()
        values = {key: named.get(key) for key in keys}
        missing = [key for key, value in values.items() if not isinstance(value, str | list | dict) or not
                   (value.strip() if isinstance(value, str) else value)]  # fmt: skip
    if missing:
        got = ", ".join(map(str, record)) or "no columns"
        raise DataError(f"{source}: a query has no {missing[0]}", got=shorten(got, 200), do=_DO)


def _fields(row: Example) -> dict[str, Any]:
    *turns, answer = row.messages
    last = max((n for n, turn in enumerate(turns) if turn["role"] == "user"), default=None)
    if answer["role"] != "assistant":
        raise DataError(f"{row.source}: the last message of a query is not an answer",
                        got=f"{answer['role']}, {shorten(answer['content']) or 'empty'}",
                        do="end it with the answer to explain, as an assistant message")  # fmt: skip
    if last is None:
        raise DataError(f"{row.source}: a query has no user message", got=_roles(turns),
                        do="put a user message before the answer")  # fmt: skip
    if not answer["content"].strip():
        got = "only tool calls" if answer.get("tool_calls") else "an empty answer"
        raise DataError(f"{row.source}: the answer of a query has no text", got=got, do="give an answer with text")
    if not turns[last]["content"].strip():
        raise DataError(f"{row.source}: a query has no prompt", got="an empty question", do=_DO)
    return {
        "prompt": turns[last]["content"], "response": answer["content"],
        "before": tuple(turns[:last]), "after": tuple(turns[last + 1 :]), "tools": row.tools,
        "prompt_fields": _extras(turns[last]), "response_fields": _extras(answer),
        "template_kwargs": row.template_kwargs,
    }  # fmt: skip


def _roles(turns: Sequence[Message]) -> str:
    return ", ".join(turn["role"] for turn in turns) or "only an answer"


def _extras(message: Message) -> tuple[tuple[str, Any], ...]:
    """The fields of a message besides role and content, such as reasoning, tool calls or a name."""
    return tuple((key, value) for key, value in message.items() if key not in ("role", "content"))


def _read_range(value: Any, source: str) -> Range | None:
    """The span_range of a record; a cell of a table has it as JSON."""
    pair = value
    if isinstance(pair, str):
        with suppress(ValueError):
            pair = json.loads(pair or "null")
    if pair is None or not is_filled(pair):
        return None
    if not isinstance(pair, list | tuple) or [type(part) for part in pair] != [int, int]:  # a bool is an int
        raise DataError(f"{source}: the span_range is not two integers", got=shorten(value),
                        do='write "span_range": [begin, end], in characters of the answer from 0')  # fmt: skip
    return pair[0], pair[1]
