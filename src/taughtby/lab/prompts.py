"""Read prompts and answers from files in any format that training data can have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from taughtby.data.conversation import Columns, apply_format, read_conversation, require_one_answer
from taughtby.data.dataset import DEFAULT_READ_OPTIONS, ReadOptions
from taughtby.data.example import Example, Message, Question, Record, reject_deep_nesting, shorten
from taughtby.data.formats import DataFormat
from taughtby.data.readers.eval_logs import read_log_or_records
from taughtby.errors import DataError

T = TypeVar("T")
Note = Callable[[str], None] | None
Prompt = str | Example  # a question, or a conversation whose last message, the answer, is empty
_WRITE = 'write {"prompt": "…", "response": "…"}, or rows as trainers have them'  # prompts need no response
_ANSWER_COLUMNS = ("response", "output", "answer", "completion")  # optional in a file of prompts


def read_prompts(
    path: str | Path, *, failed_only: bool = True, note: Note = None, reading: ReadOptions = DEFAULT_READ_OPTIONS
) -> list[Prompt]:
    """Read prompts from a .txt file with one per line, or from the rows of any other file.

    The prompt of a row is everything before its answer: a system prompt, earlier turns and tools. The answer is
    ignored, and may be missing. From an evaluation log with scores, `failed_only` reads only the prompts of failed
    answers; `note` is called with what was read and what was left out. Rows that have the columns of `reading` are read
    by them, and others as their own columns say.
    """
    path = Path(path)
    if path.suffix == ".txt" and path.is_file():
        lines = enumerate(_text(path).split("\n"), 1)
        prompts: list[Prompt] = [Question(line.strip(), f"{path}:{number}") for number, line in lines if line.strip()]
    else:
        prompts = list(_read(path, partial(_to_prompt, reading=reading), failed_only, note))
    if not prompts:
        raise DataError(f"{path} has no prompts", do="give at least one")
    return prompts


def read_answers(path: str | Path, *, failed_only: bool = True, note: Note = None) -> list[tuple[Prompt, str]]:
    """Read prompts and answers from the rows of a file. Answers may be empty.

    From an evaluation log with scores, `failed_only` reads only the answers that failed; `note` is called with what was
    read and what was left out.
    """
    answers = list(_read(path, _to_pair, failed_only, note))
    if not answers:
        raise DataError(f"{path} has no answers", do="give at least one prompt and response")
    return answers


def prompt_text(prompt: Prompt) -> str:
    """Return the question, in a conversation the last one."""
    return prompt if isinstance(prompt, str) else prompt.question


def to_record(prompt: Prompt, answer: str) -> dict[str, Any]:
    """Return a row that every command can read: a prompt and a response, or the messages of a conversation."""
    if isinstance(prompt, str):
        return {"prompt": prompt, "response": answer}
    messages = [*prompt.prompt, {**prompt.messages[-1], "content": answer}]
    more = {"tools": list(prompt.tools), "chat_template_kwargs": dict(prompt.template_kwargs)}
    return {"messages": messages} | {name: value for name, value in more.items() if value}


def _read(path: str | Path, convert: Callable[[Record, str], T], failed_only: bool, note: Note) -> Iterator[T]:
    for source, record in read_log_or_records(path, failed_only=failed_only, note=note):
        with reject_deep_nesting(source):
            yield convert(record, source)


def _to_prompt(record: Record, source: str, reading: ReadOptions) -> Prompt:
    form, named = _apply_format(record, source, reading.columns)
    _require_text(form, source)
    row = read_conversation(form, named, source, reading.join)
    turns = row.messages
    return _prompt(replace(row, messages=turns[:-1] if turns[-1]["role"] == "assistant" else turns), {}, record)


def _apply_format(record: Record, source: str, columns: Columns) -> tuple[DataFormat, Record]:
    """The layout of a prompt's row, whose answer may be missing."""
    answers = {*_ANSWER_COLUMNS, *(column for what, column in columns if what in _ANSWER_COLUMNS)}
    for names in dict.fromkeys((tuple(columns), ())):
        for row in (record, {**dict.fromkeys(answers, ""), **record}):
            with suppress(DataError):
                return apply_format(row, source, names)
    try:
        return apply_format(record, source)
    except DataError as fault:
        raise DataError(fault.what, got=fault.got, do=_WRITE) from None


def _to_pair(record: Record, source: str) -> tuple[Prompt, str]:
    try:
        form, named = apply_format(record, source)
    except DataError as fault:
        raise DataError(fault.what, got=fault.got, do=_WRITE) from None
    _require_text(form, source)
    require_one_answer(form, record, source)
    row = read_conversation(form, named, source)
    *turns, answer = row.messages
    if answer["role"] != "assistant":
        do = 'end it with an assistant message, or write {"prompt": "…", "response": "…"}'
        raise DataError(f"{source}: the row has no answer", got=f"last message: {answer['role']}", do=do)
    return _prompt(replace(row, messages=tuple(turns)), answer, record), row.response


def _require_text(form: DataFormat, source: str) -> None:
    if form.tokenized:
        raise DataError(
            f"{source}: the row is token ids, not text", got=", ".join(form.columns), do=f"decode them: {_WRITE}"
        )


def _prompt(row: Example, answer: Message, record: Record) -> Prompt:
    """A single question as a str, anything else as a conversation.

    The empty last message keeps the answer's fields other than its text, such as its reasoning.
    """
    turns = row.messages
    if not any(turn["content"].strip() for turn in turns):
        got = shorten(", ".join(map(str, record)), 200) or "no columns"
        raise DataError(f"{row.source}: no prompt", got=got, do='write {"prompt": "…"}')
    empty = {"role": "assistant", **{key: value for key, value in answer.items() if key != "role"}, "content": ""}
    alone = turns == ({"role": "user", "content": turns[0]["content"]},) and len(empty) == 2
    if alone and not row.tools and not row.template_kwargs:
        return Question(turns[0]["content"], row.source)
    return replace(row, messages=(*turns, empty))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as fault:
        raise DataError(f"{path}: not UTF-8", got=f"byte {fault.start}", do="save the file as UTF-8") from None
