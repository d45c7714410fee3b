"""What is asked of a model and what it answered, read from any file of prompts or conversations. Knows no model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from taughtby.data.example import Example, Message, Record, read_tools, reject_deep_nesting, shorten, validate_messages
from taughtby.data.formats import select_format
from taughtby.data.readers import read_records
from taughtby.errors import DataError

Prompt = str | Example  # a question by itself, or a conversation whose last message, the answer, is yet empty
_ANSWERS = ("response", "output", "answer", "completion")  # columns that a file of prompts has no need of


def read_prompts(path: str | Path) -> list[Prompt]:
    """Prompts from a .txt file, one a line, or from the rows of any other: all that stands before the answer.

    Earlier turns, a system prompt and tools belong to the prompt; an answer may be missing, and is not read.
    """
    path = Path(path)
    if path.suffix == ".txt" and path.is_file():
        prompts: list[Prompt] = [line.strip() for line in _text(path).split("\n") if line.strip()]
    else:
        prompts = [_prompt(record, source) for source, record in read_records(str(path))]
    if not prompts:
        raise DataError(f"{path} has no prompts", do="give at least one")
    return prompts


def read_answers(path: str | Path) -> list[tuple[Prompt, str]]:
    """Prompts and what was answered, which may be nothing, from the rows of any file."""
    found: list[tuple[Prompt, str]] = []
    for source, record in read_records(str(path)):
        with reject_deep_nesting(source):
            found.append(_answered(record, source))
    if not found:
        raise DataError(f"{path} has no answers", do="give at least one prompt and response")
    return found


def _answered(record: Record, source: str) -> tuple[Prompt, str]:
    turns = _turns(record, source)
    if turns[-1]["role"] != "assistant":
        do = 'end it with an assistant message, or write {"prompt": "…", "response": "…"}'
        raise DataError(f"{source}: the row has no answer", got=f"last message: {turns[-1]['role']}", do=do)
    return _asked(turns[:-1], record, source), Example(tuple(turns)).response


def prompt_text(prompt: Prompt) -> str:
    """The text that was asked last."""
    return prompt if isinstance(prompt, str) else prompt.question


def to_record(prompt: Prompt, answer: str) -> dict[str, Any]:
    """Both as a row that all verbs read: a prompt and a response, or the messages of a conversation."""
    if isinstance(prompt, str):
        return {"prompt": prompt, "response": answer}
    messages = [*prompt.prompt, {"role": "assistant", "content": answer}]
    return {"messages": messages} | ({"tools": list(prompt.tools)} if prompt.tools else {})


def _prompt(record: Record, source: str) -> Prompt:
    with reject_deep_nesting(source):
        return _unanswered(record, source)


def _unanswered(record: Record, source: str) -> Prompt:
    try:
        select_format(record, source)
    except DataError as fault:
        record = {**dict.fromkeys(_ANSWERS, ""), **record}
        try:
            select_format(record, source)
        except DataError:
            raise fault from None
    turns = _turns(record, source)
    return _asked(turns[:-1] if turns[-1]["role"] == "assistant" else turns, record, source)


def _turns(record: Record, source: str) -> list[Message]:
    return validate_messages(select_format(record, source).convert(record), source)


def _asked(turns: list[Message], record: Record, source: str) -> Prompt:
    """A lone question as its text, anything more as a conversation."""
    if not any(turn["content"].strip() for turn in turns):
        got = shorten(", ".join(map(str, record)), 200) or "no columns"
        raise DataError(f"{source}: no prompt", got=got, do='write {"prompt": "…"}')
    tools = read_tools(record, source)
    if len(turns) == 1 and turns[0] == {"role": "user", "content": turns[0]["content"]} and not tools:
        return turns[0]["content"]
    return Example((*turns, {"role": "assistant", "content": ""}), source=source, tools=tools)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as fault:
        raise DataError(f"{path}: not UTF-8", got=f"byte {fault.start}", do="save the file as UTF-8") from None
