"""A training row: a conversation whose last message is the answer that was learned. Knows no file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]  # role and content, both text; tool_calls and whatever else the row gave
Record = dict[str, Any]


@dataclass(frozen=True)
class Example:
    """One training row: a conversation whose last message is the answer that was learned.

    Roles are system, user, assistant and tool. `source` says where it stood (`file:line` counted from 1, or
    `dataset:row` counted from 0; with every turn an Example, `file:line#turn`); `id` is a hash of its content and of
    how often that content had been read before, so it survives a move of the file. `tools` are the definitions that
    the chat template is given; `rejected` is the answer that was not chosen, where the row is a preference.
    """

    messages: tuple[Message, ...]
    label: str | None = None
    source: str = ""
    id: str = field(default="", compare=False)
    tools: tuple[dict[str, Any], ...] = ()
    rejected: str | None = None

    @property
    def prompt(self) -> tuple[Message, ...]:
        """Everything before the answer."""
        return self.messages[:-1]

    @property
    def response(self) -> str:
        """The text of the answer; of one that only calls tools, the calls as JSON."""
        answer = self.messages[-1]
        calls = (json.dumps(call, ensure_ascii=False) for call in answer.get("tool_calls", ()))
        return str(answer["content"]) or "\n".join(calls)

    @property
    def question(self) -> str:
        """The text of the last user message, or of whatever stands before the answer."""
        users = [m for m in self.prompt if m["role"] == "user"] or list(self.prompt)
        return str(users[-1]["content"]) if users else ""


def example(prompt: str, response: str, *, label: str | None = None, source: str = "") -> Example:
    """A single-turn Example from two strings."""
    messages = ({"role": "user", "content": prompt}, {"role": "assistant", "content": response})
    return Example(messages, label, source)


def short(thing: Any, limit: int = 80) -> str:
    """A thing as an error shows it: no longer than `limit`, and on a terminal nothing but letters and blanks."""
    text = thing if isinstance(thing, str) else repr(thing)
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return text if text.isprintable() else repr(text)[1:-1]
