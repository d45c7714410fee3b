"""Training sets in and out: every form in every kind of file, as Examples with ids; streaming."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from taughtby.data.example import (
    Example,
    Message,
    Record,
    nested,
    read_tools,
    read_unlearned,
    shorten,
    validate_messages,
)
from taughtby.data.formats import ANYWHERE, FORMS, NAMES, DataFormat, format_of, rejected_answer, rename_columns
from taughtby.data.readers import STDIN, Rows, read_records
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
            if what not in NAMES or named.count(what) > 1:
                fault = f"{what} is given twice" if what in NAMES else f"no column can be {what}"
                raise OptionError(fault, got=str(dict(self.columns)), do=f"name once each: {', '.join(sorted(NAMES))}")
        if not any(set(named) - ANYWHERE <= form.uses for form in FORMS):
            known = "; ".join(dict.fromkeys(", ".join(form.columns) for form in FORMS))
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


def read_examples(data: str | Path, reading: ReadOptions = DEFAULT_READ_OPTIONS) -> Iterator[Example]:
    """Stream the Examples of a file, folder, pipe or hub data set, in order."""
    yield from open_dataset(data, reading)[1]


def detect_format(data: str | Path, reading: ReadOptions = DEFAULT_READ_OPTIONS) -> DataFormat:
    """The form of the first row, of data that is read again afterwards; a pipe cannot be, and is refused."""
    path = Path(data)
    if str(data) in STDIN or (path.exists() and not (path.is_file() or path.is_dir())):
        do = "write it to a file first; `taughtby data inspect` reads pipes"
        raise DataError(f"{data} is a pipe, and its rows are needed more than once", do=do)
    return open_dataset(data, reading)[0]


def open_dataset(data: str | Path, reading: ReadOptions = DEFAULT_READ_OPTIONS) -> tuple[DataFormat, Iterator[Example]]:
    """The form of the first row, and the Examples of all, in one pass."""
    rows = read_records(str(data), reading.split)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{data} has no rows", do="give a file with at least one training row")
    return _formed(first[1], first[0], reading)[0], _examples(chain([first], rows), reading)


def _formed(record: Record, source: str, reading: ReadOptions) -> tuple[DataFormat, Record]:
    record = rename_columns(record, reading.columns, source)
    return format_of(record, source, frozenset(what for what, _ in reading.columns)), record


def _examples(rows: Rows, reading: ReadOptions) -> Iterator[Example]:
    seen = IdAssigner()
    for source, record in rows:
        with nested(source):
            marked = read_unlearned(record, source)
            found = [_masked(row, marked) for row in _turns(_example(record, source, reading), reading)]
            made = [replace(row, id=seen.name(row)) for row in found]
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


class IdAssigner:
    """How often each content was read before: 8 bytes of its hash in an open table, 12 to 36 bytes a row.

    A dict would take 94 to 130. Two contents in 10^9 rows may share their 8 bytes: the later is then named as the
    earlier's second, a name no other row has.
    """

    def __init__(self) -> None:
        self.table = array("Q", bytes(8 << 10))
        self.count = 0
        self.again: dict[int, int] = {}  # of what was read more than once

    def name(self, row: Example) -> str:
        """The id of a row: a hash of its content and of how often that content has been read."""
        found = content(row)
        return named(found, self._times(int.from_bytes(found[:8], "little") or 1))

    def _times(self, key: int) -> int:
        if not self._added(key):
            self.again[key] = self.again.get(key, 1) + 1
            return self.again[key]
        self.count += 1
        if 3 * self.count > 2 * len(self.table):
            known, self.table = self.table, array("Q", bytes(16 * len(self.table)))
            for one in known:
                if one:
                    self._added(one)
        return 1

    def _added(self, key: int) -> bool:
        """Put the key where its search ends, unless it is found on the way."""
        size, table = len(self.table), self.table
        at = key % size
        while table[at] not in (0, key):
            at = (at + 1) % size
        added = not table[at]
        table[at] = key
        return added


def content(row: Example) -> bytes:
    """A hash of what a row says."""
    said: Any = list(row.messages)
    if row.tools or row.rejected is not None:
        said = [said, list(row.tools), row.rejected]
    try:
        text = json.dumps(said, sort_keys=True, ensure_ascii=False)
    except TypeError as fault:  # bytes, which a table may hold
        do = "take out of the messages what is no text, number or list"
        raise DataError(f"{row.source}: the row cannot be written as JSON", got=str(fault), do=do) from None
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).digest()


def named(found: bytes, times: int) -> str:
    """The id of the row that says this for the so manieth time."""
    return hashlib.blake2b(found + times.to_bytes(8, "big"), digest_size=8).hexdigest()


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
