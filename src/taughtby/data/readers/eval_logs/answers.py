"""One answer of an evaluation log, independent of the tool that wrote the log."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from taughtby.data.content import from_json
from taughtby.data.example import ROLES, WRITTEN_ROLES, Message, Record
from taughtby.data.readers.stream import Rows

RIGHT = {"c", "correct", "yes", "true", "pass", "passed"}
WRONG = {"i", "n", "incorrect", "no", "false", "fail", "failed"}  # Inspect's I is incorrect, its N no answer
# types of parts that are not shown to the user, and the keys of their text
NO_TEXT = {"reasoning": ("reasoning", "text"), "thinking": ("thinking",), "redacted_thinking": ()}
THOUGHTS = ("reasoning_content", "reasoning", "thinking")  # fields of a message with thinking


@dataclass(frozen=True)
class LoggedAnswer:
    """One answer of a log.

    Attributes:
        messages: The conversation; the last message is the answer.
        scores: The scores by name: an answer fails at 0 or less, and passes from 1 on.
        tools: Tool definitions.
        key: Identifies repeated entries of one answer; empty if the log has one entry per answer.
        record: The row of a table without its verdicts, which is read as a query in place of messages and tools.
    """

    messages: list[Message]
    scores: Mapping[str, float] = field(default_factory=dict[str, float])
    tools: tuple[Record, ...] = ()
    key: str = ""
    record: Record | None = None

    @property
    def failed_by(self) -> list[str]:
        """The names of the scores that are 0 or less."""
        return [name for name, value in self.scores.items() if value <= 0]

    @property
    def outcome(self) -> str:
        """`failed`, `passed`, `partly right`, or `without a score`."""
        if not self.scores:
            return "without a score"
        if self.failed_by:
            return "failed"
        return "passed" if all(value >= 1 for value in self.scores.values()) else "partly right"


@dataclass(frozen=True)
class LeftOut:
    """An entry of a log that cannot be a query, and why; `key` is as in LoggedAnswer."""

    reason: str
    key: str = ""


Answers = Iterable[LoggedAnswer | LeftOut]


@dataclass(frozen=True)
class LogForm:
    """The log format of one tool.

    Attributes:
        name: Its name in messages.
        accepts: Whether a log with this first row is in this format.
        answers: Returns the answers of one row.
        unpack: Returns the rows of a log that is a single JSON object; None if the object is in another format.
        join: Joins related rows, such as requests and responses.
        accepts_rows: Whether a log with these first rows is in this format, although no format accepts the first one.
    """

    name: str
    accepts: Callable[[Record], bool]
    answers: Callable[[Record], Answers]
    unpack: Callable[[Record], list[Any] | None] = lambda whole: None
    join: Callable[[Path, Rows], Rows] = lambda path, rows: rows
    accepts_rows: Callable[[list[Record]], bool] = lambda rows: False


def read_scores(scores: Mapping[str, Any]) -> dict[str, float]:
    """Convert verdicts and numbers to floats, and drop other scores; each part of a score has its own name."""
    values: dict[str, float] = {}
    for name, value in scores.items():
        parts = {f"{name}/{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
        for part_name, part in parts.items():
            number = _score(part)
            if number is not None:
                values[part_name] = number
    return values


def _score(value: Any) -> float | None:
    text = str(value).strip().lower()
    if text in RIGHT or text in WRONG:
        return float(text in RIGHT)
    if text == "p":  # Inspect's partially correct
        return 0.5
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def logged_answer(
    turns: Any, *, scores: Mapping[str, Any] | None = None, tools: Any = (), key: str = ""
) -> LoggedAnswer | LeftOut:
    """Return the answer that ends a conversation, or why it cannot be traced.

    Messages after the last one of the assistant are dropped.
    """
    messages: list[Message] = []
    for turn in turns if isinstance(turns, list) else [turns]:
        message = _message(turn)
        if isinstance(message, LeftOut):
            return replace(message, key=key)
        messages.append(message)
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()
    if not messages:
        return LeftOut("without an answer", key)
    if not messages[-1]["content"].strip():
        return LeftOut("with tool calls only" if messages[-1].get("tool_calls") else "without an answer", key)
    if not any(message["role"] == "user" for message in messages):
        return LeftOut("without a question", key)
    return LoggedAnswer(messages, read_scores(scores or {}), tool_definitions(tools), key)


def _message(turn: Any) -> Message | LeftOut:
    """Return a message with its text, thinking, tool calls, tool call id and name only."""
    role = ROLES.get(str(turn.get("role")).lower()) if isinstance(turn, dict) else None
    if role is None:
        return LeftOut("not a conversation")
    text = message_text(turn.get("content"))
    if text is None:
        return LeftOut("with more than text")
    message: Message = {"role": turn["role"] if turn["role"] in WRITTEN_ROLES else role, "content": text}
    if role == "assistant" and (thought := _thought(turn)):
        message["reasoning_content"] = thought
    calls = turn.get("tool_calls")
    if isinstance(calls, list) and calls:
        message["tool_calls"] = [_tool_call(call) for call in calls if isinstance(call, dict)]
    if isinstance(turn.get("tool_call_id"), str):
        message["tool_call_id"] = turn["tool_call_id"]
    name = turn.get("name") or (turn.get("function") if role == "tool" else None)
    return message | ({"name": name} if isinstance(name, str) else {})


def _thought(turn: Record) -> str:
    """Return the thinking before an answer, from fields of the message or from content parts."""
    beside = (turn.get(key) for key in THOUGHTS)
    parts = turn["content"] if isinstance(turn.get("content"), list) else []
    keys = [(part, NO_TEXT.get(str(part.get("type")), ())) for part in parts if isinstance(part, dict)]
    within = (part.get(key) for part, names in keys for key in names)
    texts = ([text for text in where if isinstance(text, str) and text] for where in (beside, within))
    return next(("\n".join(found) for found in texts if found), "")


def message_text(content: Any) -> str | None:
    """Return the text of a message's content without thinking; None if it has images, audio or files."""
    if content is None or isinstance(content, str):
        return content or ""
    texts: list[str] = []
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, dict) and part.get("type") in NO_TEXT:
            continue
        text = part.get("text") if isinstance(part, dict) else part
        if not isinstance(text, str):
            return None
        texts.append(text)
    return "".join(texts)


def _tool_call(call: Record) -> Record:
    """Convert a tool call to OpenAI's format; in Inspect's, `function` is the name alone."""
    if not isinstance(call.get("function"), str):
        return call
    function = {"name": call["function"], "arguments": call.get("arguments") or {}}
    return {"id": str(call.get("id") or ""), "type": "function", "function": function}


def tool_definitions(tools: Any) -> tuple[Record, ...]:
    """Convert tool definitions to OpenAI's format."""
    return tuple(
        tool if "function" in tool or "name" not in tool else {"type": "function", "function": tool}
        for tool in (tools if isinstance(tools, list | tuple) else ())
        if isinstance(tool, dict)
    )


def as_turns(prompt: Any) -> list[Any] | None:
    """Convert a prompt to messages: a string, a message, a list of messages, or JSON of them; None for others."""
    value = from_json(prompt)
    if isinstance(value, dict) and isinstance(value.get("messages"), list):
        value = value["messages"]
    value = [value] if isinstance(value, dict) and "role" in value else value
    if isinstance(value, list) and value and all(isinstance(turn, dict) and "role" in turn for turn in value):
        return value
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else None
