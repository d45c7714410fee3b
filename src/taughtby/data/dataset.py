"""Training data of every format and column layout as a stream of Examples with ids."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from taughtby.data.conversation import apply_format, read_conversation, unread_columns
from taughtby.data.example import (
    Example,
    LossMark,
    Message,
    Record,
    copy_row,
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
)
from taughtby.data.loss_marks import NO_MARKS, read_row_marks, read_turn_marks
from taughtby.data.pretokenized import IGNORED, read_token_row
from taughtby.data.readers import STDIN, Rows, read_records
from taughtby.data.row_ids import IdAssigner
from taughtby.data.turns import select_turns
from taughtby.errors import DataError, OptionError
from taughtby.models.training_metadata import TrainingMetadata


@dataclass(frozen=True)
class ReadOptions:
    """Options for reading a data set whose columns do not determine them.

    Attributes:
        columns: Pairs of taughtby's name and the data's name of a column, such as ("prompt", "question").
        turns: `all` makes every assistant turn an Example, with the turns before it as its prompt.
        response_template: Splits a plain text after its last occurrence into prompt and response.
        join: Separates an instruction from its input; an empty line if None.
        split: The split of a hub data set or folder; `train` if None.
        follow_marks: Whether loss marks of messages and their parts determine what had a loss.
    """

    columns: tuple[tuple[str, str], ...] = ()
    turns: Literal["last", "all"] = "last"
    response_template: str | None = None
    split: str | None = None
    join: str | None = None
    follow_marks: bool = True

    def __post_init__(self) -> None:
        # manifests store them as lists
        object.__setattr__(self, "columns", tuple((what, column) for what, column in self.columns))
        if self.turns not in ("last", "all"):
            raise OptionError("turns must be `last` or `all`", got=str(self.turns), do="give one of them")
        named = [what for what, _ in self.columns]
        for what in named:
            if what not in COLUMN_NAMES or named.count(what) > 1:
                fault = f"{what} is given twice" if what in COLUMN_NAMES else f"unknown column name {what}"
                raise OptionError(
                    fault,
                    got=str(dict(self.columns)),
                    do=f"use each of these at most once: {', '.join(sorted(COLUMN_NAMES))}",
                )
        if not any(set(named) - COMMON_COLUMNS <= form.all_columns for form in FORMATS):
            column_sets = "; ".join(dict.fromkeys(", ".join(form.columns) for form in FORMATS))
            raise OptionError(
                "these columns do not form a row",
                got=", ".join(named),
                do=f"name the columns of one layout: {column_sets}",
            )

    def to_json(self) -> dict[str, Any]:
        """Return the options as a manifest has them; `follow_marks`, which older ones lack, only if it is false."""
        return {name: value for name, value in asdict(self).items() if name != "follow_marks" or not value}

    def for_mask(self, mask: str | None) -> ReadOptions:
        """Return the options for this loss mask: with `all`, every token has a loss, whatever a message says."""
        return replace(self, follow_marks=False) if mask == "all" else self


DEFAULT_READ_OPTIONS = ReadOptions()
OWN = "taughtby"  # a field of written Examples: what neither their layout nor their messages have


def default_read_options(metadata: TrainingMetadata) -> ReadOptions:
    """Return the ReadOptions that the trainer's files imply."""
    columns = parse_columns(metadata.columns) if metadata.columns else ()
    return ReadOptions(columns, turns=metadata.turns or "last", join=metadata.join)


def parse_columns(text: str) -> tuple[tuple[str, str], ...]:
    """Parse `prompt=question,response=reply` into `ReadOptions.columns`."""
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(what.strip() and column.strip() for what, _, column in pairs):
        do = "write name=column pairs, as in prompt=question,response=reply"
        raise OptionError("the columns cannot be parsed", got=text, do=do)
    return tuple((what.strip(), column.strip()) for what, _, column in pairs)


def read_examples(data: str | Path, read_options: ReadOptions = DEFAULT_READ_OPTIONS) -> Iterator[Example]:
    """Stream the Examples of a file, folder, pipe or hub data set, in order."""
    yield from open_dataset(data, read_options)[1]


def detect_format(data: str | Path, read_options: ReadOptions = DEFAULT_READ_OPTIONS) -> DataFormat:
    """Return the column layout of the first row. A pipe is refused, because the data is read again afterwards."""
    path = Path(data)
    if str(data) in STDIN or (path.exists() and not (path.is_file() or path.is_dir())):
        do = "write it to a file first; `taughtby data inspect` reads pipes"
        raise DataError(f"{data} is a pipe, but its rows must be read more than once", do=do)
    return open_dataset(data, read_options)[0]


def open_dataset(
    data: str | Path, read_options: ReadOptions = DEFAULT_READ_OPTIONS
) -> tuple[DataFormat, Iterator[Example]]:
    """Return the column layout of the first row, and all Examples, in one pass."""
    rows = read_records(str(data), read_options.split)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{data} has no rows", do="give a file with at least one row")
    return apply_format(first[1], first[0], read_options.columns)[0], _examples(chain([first], rows), read_options)


def _examples(rows: Rows, reading: ReadOptions) -> Iterator[Example]:
    ids = IdAssigner()
    for source, record in rows:
        with reject_deep_nesting(source):
            unlearned = read_unlearned(record, source)
            turns = [_with_masks(row, unlearned) for row in _record_examples(record, source, reading)]
            examples = [copy_row(row, id=ids.assign(row)) for row in turns]
        yield from examples


def _record_examples(record: Record, source: str, reading: ReadOptions) -> Iterator[Example]:
    """Yield an Example for each turn with a loss, or a single one with the reason in `no_loss`."""
    form, record = apply_format(record, source, reading.columns)
    if form.tokenized:
        yield _token_example(record, source)
        return
    turns, row = form.convert(record), read_conversation(form, record, source, reading.join)
    messages, rejected = list(row.messages), rejected_answer(form, record, source)
    if reading.response_template:
        messages, rejected = _split_text(form, messages, rejected, reading.response_template, source)
    named = {what for what, _ in reading.columns}
    row_marks, no_loss = read_row_marks(
        record, form.all_columns, completion=form.name.startswith("prompt/completion"), named=named
    )
    row = copy_row(
        row, messages=tuple(messages), label=_label(record), rejected=rejected, no_loss=no_loss, raw=form.raw
    )
    marks = [read_turn_marks(turn, source) for turn in turns]
    followed = marks if reading.follow_marks else [NO_MARKS] * len(marks)
    if own := record.get(OWN):
        examples = (_restore(row, own) for row in select_turns(row, followed, "last"))
    else:
        examples = select_turns(row, followed, reading.turns, form.trained(record))
    unread = (LossMark(f"column {name} (ignored)", followed=False) for name in unread_columns(form, record))
    names = dict.fromkeys((*row_marks, *unread, *(mark for turn in marks for mark in turn.marks)))
    for number, example in enumerate(examples):
        yield copy_row(example, marks=(*example.marks, *names)) if names and number == 0 else example


def _label(record: Record) -> str | None:
    label: Any = record.get("label")
    empty = label is None or label == "" or label != label  # pandas stores missing values as NaN
    return None if empty else str(label)


def _token_example(record: Record, source: str) -> Example:
    """Read a pretokenized row; its messages are empty until a tokenizer decodes it."""
    ids, positions, marks = read_token_row(record, source)
    messages = tuple({"role": role, "content": ""} for role in ("user", "assistant"))
    no_loss = "" if ids else "the row has no tokens"
    return Example(
        messages, _label(record), source, no_loss=no_loss, token_ids=ids, loss_positions=positions, marks=marks
    )


def _split_text(
    form: DataFormat, messages: list[Message], rejected: str | None, template: str, source: str
) -> tuple[list[Message], str | None]:
    """Split plain text after the last response template, where the answer begins."""
    if not form.raw:
        do = "omit the response template: this layout already marks the answer"
        raise OptionError(
            f"{source}: only plain text can be split by a response template", got=f"layout {form.name}", do=do
        )
    before, answer = (message["content"] for message in messages)
    position = (before + answer).rfind(template) + len(template)
    if template not in before + answer:
        do = "give the exact text that precedes each answer"
        raise DataError(f"{source}: the response template is not in the text", got=shorten(template), do=do)
    texts = (before + answer)[:position], (before + answer)[position:]
    rejected_text = None if rejected is None else (before + rejected).rpartition(template)[2]
    return [{**message, "content": text} for message, text in zip(messages, texts, strict=True)], rejected_text


def _with_masks(row: Example, unlearned: tuple[tuple[int, ...], ...]) -> Example:
    """Mask the `unlearned` ranges in the row's answer; ranges with a turn number apply to that turn only."""
    if not unlearned:
        return row
    turn = sum(message["role"] == "assistant" for message in row.messages)
    ranges = tuple((part[0], part[1]) for part in unlearned if part[2:] in ((), (turn,)))
    if ranges and ranges[-1][1] > len(row.response):
        got = f"up to character {ranges[-1][1]} of {len(row.response)}: {shorten(row.response)}"
        do = "run `taughtby clean` again: the row has changed since"
        raise DataError(f"{row.source}: `unlearned` has a range beyond the end of the answer", got=got, do=do)
    return copy_row(row, masked=tuple(sorted({*row.masked, *ranges})))


def write_examples(examples: Iterable[Example], path: str | Path) -> int:
    """Write Examples as JSON Lines, and return the number of rows.

    Plain texts are written in their layout, conversations as `messages`. What neither has is in a field `taughtby`, so
    that every row is read back with the same tokens and the same loss, if `read_options` are not given.
    """
    count = 0
    # UTF-8 has no lone surrogates; `backslashreplace` writes them as JSON escapes
    with Path(path).open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as out:
        for count, row in enumerate(examples, 1):  # noqa: B007
            own = {"after": list(row.after) or None, "loss_from": row.loss_from,
                   # also if empty: a label `false` is not KTO's
                   "no_loss": row.no_loss if row.no_loss or (row.raw and row.label) else None}  # fmt: skip
            more = {"label": row.label, "tools": list(row.tools) or None, "rejected": row.rejected,
                    "unlearned": list(row.masked) or None,
                    "chat_template_kwargs": dict(row.template_kwargs) or None,
                    OWN: {name: value for name, value in own.items() if value is not None} or None}  # fmt: skip
            record = _texts(row) | {name: value for name, value in more.items() if value is not None}
            out.write(json.dumps(record, ensure_ascii=False) + "\n")
    return count


def _texts(row: Example) -> Record:
    """Return the columns of the texts, or of the token ids, of a row."""
    if row.token_ids:
        has_loss = set(row.loss_positions)
        labels = [token if place in has_loss else IGNORED for place, token in enumerate(row.token_ids)]
        return {"input_ids": list(row.token_ids), "labels": labels}
    if row.raw:
        prompt = "".join(str(message["content"]) for message in row.prompt)
        if row.rejected is not None:
            return {"prompt": prompt, "chosen": row.response}
        return {"prompt": prompt, "completion": row.response} if prompt else {"text": row.response}
    *before, answer = row.messages
    return {"messages": [*before, {**answer, "weight": 0} if row.no_loss else answer]}


def _restore(row: Example, own: Any) -> Example:
    """Return a row with what `write_examples` wrote into the field `taughtby`."""
    values = {"after": [], "loss_from": None, "no_loss": row.no_loss} | (own if isinstance(own, dict) else {"": own})
    after, place, no_loss = values.pop("after"), values.pop("loss_from"), values.pop("no_loss")
    fits = place is None or (type(place) is int and 0 <= place < len(row.messages))
    if values or not fits or not isinstance(after, list) or not isinstance(no_loss, str):
        do = "rename the column, or write the rows again with this version"
        raise DataError(f"{row.source}: the field `{OWN}` is not as taughtby writes it", got=shorten(own), do=do)
    messages = validate_messages(after, f"{row.source}: {OWN}") if after else ()
    return copy_row(row, after=tuple(messages), loss_from=place, no_loss=no_loss)
