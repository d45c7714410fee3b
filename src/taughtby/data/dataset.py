"""Training sets in and out: every form in every kind of file, as Examples with ids; streaming."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from taughtby.data.example import (
    Example,
    Message,
    Record,
    read_tools,
    read_unlearned,
    reject_deep_nesting,
    shorten,
    validate_messages,
)
from taughtby.data.formats import (
    COLUMN_NAMES,
    COMMON_COLUMNS,
    FORMATS,
    DataFormat,
    rejected_answer,
    rename_columns,
    select_format,
)
from taughtby.data.readers import STDIN, Rows, read_records
from taughtby.data.row_ids import IdAssigner
from taughtby.errors import DataError, OptionError


@dataclass(frozen=True)
class ReadOptions:
    """How a data set is to be read, where its own columns do not say.

    `columns` are pairs of what a column is and its name, such as ("prompt", "question"). `turns="all"` makes every
    assistant turn an Example of its own, the turns before it its prompt. `response_template` splits a plain text,
    behind its last occurrence, into prompt and answer. `split` is that of a hub data set or folder, train if None.
    """

    columns: tuple[tuple[str, str], ...] = ()
    turns: Literal["last", "all"] = "last"
    response_template: str | None = None
    split: str | None = None

    def __post_init__(self) -> None:
        # a manifest gives them back as lists
        object.__setattr__(self, "columns", tuple((what, column) for what, column in self.columns))
        if self.turns not in ("last", "all"):
            raise OptionError("turns are `last` or `all`", got=str(self.turns), do="give one of them")
        named = [what for what, _ in self.columns]
        for what in named:
            if what not in COLUMN_NAMES or named.count(what) > 1:
                fault = f"{what} is given twice" if what in COLUMN_NAMES else f"no column can be {what}"
                raise OptionError(
                    fault, got=str(dict(self.columns)), do=f"name once each: {', '.join(sorted(COLUMN_NAMES))}"
                )
        if not any(set(named) - COMMON_COLUMNS <= form.all_columns for form in FORMATS):
            known = "; ".join(dict.fromkeys(", ".join(form.columns) for form in FORMATS))
            raise OptionError(
                "these columns make no row together", got=", ".join(named), do=f"name those of one: {known}"
            )


DEFAULT_READ_OPTIONS = ReadOptions()


def parse_columns(text: str) -> tuple[tuple[str, str], ...]:
    """What `prompt=question,response=reply` says, for `Reading.columns`."""
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(what.strip() and column.strip() for what, _, column in pairs):
        do = "write what each is and its name, as in prompt=question,response=reply"
        raise OptionError("columns cannot be read", got=text, do=do)
    return tuple((what.strip(), column.strip()) for what, _, column in pairs)


def read_examples(data: str | Path, read_options: ReadOptions = DEFAULT_READ_OPTIONS) -> Iterator[Example]:
    """Stream the Examples of a file, folder, pipe or hub data set, in order."""
    yield from open_dataset(data, read_options)[1]


def detect_format(data: str | Path, read_options: ReadOptions = DEFAULT_READ_OPTIONS) -> DataFormat:
    """The form of the first row, of data that is read again afterwards; a pipe cannot be, and is refused."""
    path = Path(data)
    if str(data) in STDIN or (path.exists() and not (path.is_file() or path.is_dir())):
        do = "write it to a file first; `taughtby inspect` reads pipes"
        raise DataError(f"{data} is a pipe, and its rows are needed more than once", do=do)
    return open_dataset(data, read_options)[0]


def open_dataset(
    data: str | Path, read_options: ReadOptions = DEFAULT_READ_OPTIONS
) -> tuple[DataFormat, Iterator[Example]]:
    """The form of the first row, and the Examples of all, in one pass."""
    rows = read_records(str(data), read_options.split)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{data} has no rows", do="give a file with at least one training row")
    return _formed(first[1], first[0], read_options)[0], _examples(chain([first], rows), read_options)


def _formed(record: Record, source: str, reading: ReadOptions) -> tuple[DataFormat, Record]:
    record = rename_columns(record, reading.columns, source)
    return select_format(record, source, frozenset(what for what, _ in reading.columns)), record


def _examples(rows: Rows, reading: ReadOptions) -> Iterator[Example]:
    ids = IdAssigner()
    for source, record in rows:
        with reject_deep_nesting(source):
            marked = read_unlearned(record, source)
            found = [_masked(row, marked) for row in _turns(_example(record, source, reading), reading)]
            made = [replace(row, id=ids.assign(row)) for row in found]
        yield from made


def _example(record: Record, source: str, reading: ReadOptions) -> Example:
    """The row as one Example: the whole conversation, whatever its last message is."""
    form, record = _formed(record, source, reading)
    messages, rejected = validate_messages(form.convert(record), source), rejected_answer(form, record, source)
    if reading.response_template:
        messages, rejected = _split(form, messages, rejected, reading.response_template, source)
    label: Any = record.get("label")
    empty = label is None or label == "" or label != label  # NaN is pandas' word for nothing
    tools = () if form.raw else read_tools(record, source)
    return Example(tuple(messages), None if empty else str(label), source, "", tools, rejected)


def _split(
    form: DataFormat, messages: list[Message], rejected: str | None, template: str, source: str
) -> tuple[list[Message], str | None]:
    """Plain texts with the answer beginning behind the last response template."""
    if not form.raw:
        do = "leave the response template out: in this form the answer is known"
        raise OptionError(f"{source}: the row is no plain text to be split", got=f"form {form.name}", do=do)
    before, answer = (message["content"] for message in messages)
    at = (before + answer).rfind(template) + len(template)
    if template not in before + answer:
        do = "give the words that stand before each answer, as they stand there"
        raise DataError(f"{source}: the response template is not in the text", got=shorten(template), do=do)
    said = (before + answer)[:at], (before + answer)[at:]
    other = None if rejected is None else (before + rejected).rpartition(template)[2]
    return [{**message, "content": text} for message, text in zip(messages, said, strict=True)], other


def _turns(row: Example, reading: ReadOptions) -> Iterator[Example]:
    """The row with its last message as the answer, or one for each turn that was learned."""
    places = [place for place, message in enumerate(row.messages) if message["role"] == "assistant"]
    last = row.messages[-1]
    if reading.turns == "last" and places[-1:] == [len(row.messages) - 1] and _says(last):
        yield row
        return
    learned = [(turn, place) for turn, place in enumerate(places, 1) if _learned(row.messages[place])]
    if reading.turns == "last" or not learned:
        do = "end each row with a non-empty assistant message, or take the row out"
        if learned:
            do += "; or make a row of every assistant turn (--turns all)"
        got = f"last message: {last['role']}, {shorten(last['content']) or 'empty'}"
        raise DataError(f"{row.source}: the row has no answer to learn from", got=got, do=do)
    for turn, place in learned:
        rejected = row.rejected if place == places[-1] else None
        yield replace(row, messages=row.messages[: place + 1], source=f"{row.source}#{turn}", rejected=rejected)


def _masked(row: Example, marked: tuple[tuple[int, ...], ...]) -> Example:
    """The row with what is not to be learned of its answer: of those ranges that name a turn, its own."""
    if not marked:
        return row
    turn = sum(message["role"] == "assistant" for message in row.messages)
    ranges = tuple((part[0], part[1]) for part in marked if part[2:] in ((), (turn,)))
    if ranges and ranges[-1][1] > len(row.response):
        got = f"up to character {ranges[-1][1]} of {len(row.response)}: {shorten(row.response)}"
        do = "clean the data again: the row was changed since"
        raise DataError(f"{row.source}: `unlearned` reaches beyond the answer", got=got, do=do)
    return replace(row, masked=ranges)


def _says(message: Message) -> bool:
    return bool(message["content"].strip() or message.get("tool_calls"))


def _learned(message: Message) -> bool:
    """Whether the loss was taken on a turn: OpenAI's `weight` and Axolotl's `train` may leave it out."""
    return _says(message) and message.get("weight") != 0 and message.get("train") is not False


def write_examples(examples: Iterable[Example], path: str | Path) -> int:
    """Write Examples as JSONL, `label`, `tools`, `rejected` and `unlearned` where there are; the number of rows."""
    count = 0
    # UTF-8 has no lone surrogates: what `backslashreplace` writes for one is JSON's own escape
    with Path(path).open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as out:
        for count, row in enumerate(examples, 1):  # noqa: B007
            record: Record = {"messages": list(row.messages)}
            more = {"label": row.label, "tools": list(row.tools) or None, "rejected": row.rejected,
                    "unlearned": list(row.masked) or None}  # fmt: skip
            record |= {name: value for name, value in more.items() if value is not None}
            out.write(json.dumps(record, ensure_ascii=False) + "\n")
    return count
