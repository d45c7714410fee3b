"""A training row as a conversation whose last message is the response."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from taughtby.data.content import Record, UnclearRow, read_content, reject_foreign_message
from taughtby.data.message_parts import convert_parts, tools_of_functions
from taughtby.errors import DataError
from taughtby.text import shorten

Message = dict[str, Any]  # role and content, both text; tool_calls and other fields of the row's message
CharRanges = tuple[tuple[int, int], ...]  # of characters, [begin, end)


class Question(str):
    """A user's question as plain text, with the source of the row that it was read from.

    Attributes:
        source: As in `Example`.
    """

    source: str

    def __new__(cls, text: str, source: str) -> Question:
        """Return the text with its source."""
        question = super().__new__(cls, text)
        question.source = source
        return question


def prompt_source(prompt: str | Example) -> str:
    """Return the row that a prompt was read from; empty if it was read from none."""
    return prompt.source if isinstance(prompt, Question | Example) else ""


# role names of other formats, such as ShareGPT, by OpenAI's role
ROLES = {
    name: role
    for role, names in {
        "system": "system developer",
        "user": "user human",
        "assistant": "assistant gpt chatgpt model bot",
        "tool": "tool function observation function_response tool_response ipython",
    }.items()
    for name in names.split()
}
# roles that the chat template gets unchanged: one template writes the name, another drops the message
WRITTEN_ROLES = ("developer", "function", "ipython")
_STORED_ROLES = frozenset((*ROLES.values(), *WRITTEN_ROLES))
# arguments of apply_chat_template that a row must not set
_RESERVED_KWARGS = {
    "conversation", "messages", "tools", "documents", "chat_template", "add_generation_prompt", "tokenize",
    "continue_final_message", "padding", "truncation", "max_length", "return_tensors", "return_dict",
    "return_assistant_tokens_mask", "tokenizer_kwargs",
}  # fmt: skip
CALLS = ("function_call", "tool_call")  # ShareGPT's roles for tool calls, whose text is JSON


@dataclass(frozen=True)
class LossMark:
    """A mark in the data that says what had a loss, such as `weight 0`, and whether taughtby follows it."""

    name: str
    followed: bool = True


@dataclass(frozen=True)
class Example:
    """One training row.

    Attributes:
        messages: The conversation; roles are system, user, assistant and tool, and those of `WRITTEN_ROLES`. The last
            message is the response.
        label: A label of the row, for evaluation.
        source: `file:line` counted from 1, or `dataset:row` counted from 0; `file:line#turn` if every turn is a row.
        id: Hash of the content and of how often it occurred before; independent of the path of the file.
        tools: Tool definitions for the chat template.
        rejected: The rejected response of a preference.
        masked: Characters of the response without a loss; they do not change the id.
        template_kwargs: Additional arguments for the chat template.
        after: The messages after the response, which may change how a chat template writes the response.
        loss_from: Index of the first message with a loss, for a completion or a preference: everything from there on
            has a loss, regardless of `{% generation %}` tags in the chat template.
        no_loss: Why the row had no loss; such a row is skipped. Empty for all other rows.
        token_ids: The tokens of a pretokenized row, from which its messages are decoded.
        loss_positions: The positions in `token_ids` that have a loss.
        marks: The loss marks found in the data.
        raw: Whether the texts are plain, as of a layout to which no chat template is applied.
    """

    messages: tuple[Message, ...]
    label: str | None = None
    source: str = ""
    id: str = field(default="", compare=False)
    tools: tuple[dict[str, Any], ...] = ()
    rejected: str | None = None
    masked: CharRanges = ()
    template_kwargs: tuple[tuple[str, Any], ...] = ()
    after: tuple[Message, ...] = ()
    loss_from: int | None = None
    no_loss: str = ""
    token_ids: tuple[int, ...] = ()
    loss_positions: tuple[int, ...] = ()
    marks: tuple[LossMark, ...] = field(default=(), compare=False)
    raw: bool = field(default=False, compare=False)

    @property
    def prompt(self) -> tuple[Message, ...]:
        """Everything before the response."""
        return self.messages[:-1]

    @property
    def response(self) -> str:
        """The text of the response, or its tool calls as JSON if it has no text."""
        answer = self.messages[-1]
        calls = (json.dumps(call, ensure_ascii=False) for call in answer.get("tool_calls", ()))
        return str(answer["content"]) or "\n".join(calls)

    @property
    def question(self) -> str:
        """The text of the last user message, or of the last message before the response."""
        users = [m for m in self.prompt if m["role"] == "user"] or list(self.prompt)
        return str(users[-1]["content"]) if users else ""


def copy_row(row: Example, **changes: Any) -> Example:
    """Return a copy of a row with other values.

    `dataclasses.replace` is five times as slow, and every row of the training data is copied several times.
    """
    copy = object.__new__(Example)
    copy.__dict__.update(row.__dict__, **changes)
    return copy


def make_example(prompt: str, response: str, *, label: str | None = None, source: str = "") -> Example:
    """Return a single-turn Example from two strings."""
    messages = ({"role": "user", "content": prompt}, {"role": "assistant", "content": response})
    return Example(messages, label, source)


def validate_messages(messages: Any, source: str) -> list[Message]:
    """Validate messages and normalize their roles and contents."""
    if not isinstance(messages, list | tuple) or not messages:
        raise DataError(
            f"{source}: a row needs a list of messages",
            got=shorten(messages),
            do='write {"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}]}',
        )
    return [_message(message, source) for message in messages]


def _message(message: Any, source: str) -> Message:
    if type(message) is dict and len(message) == 2:  # fast path for the usual message
        role, content = message.get("role"), message.get("content")
        if type(content) is str and type(role) is str and role in _STORED_ROLES:
            return {"role": role, "content": content}
    extra = {key: value for key, value in message.items() if value is not None} if isinstance(message, dict) else {}
    written = extra.get("role") in WRITTEN_ROLES
    name = extra.pop("role", None) or extra.pop("from", None)
    if not isinstance(name, str):
        do = 'write each message as {"role": "user", "content": "…"}'
        raise DataError(f"{source}: a message is an object with `role` and `content`", got=shorten(message), do=do)
    content = extra.pop("content", None)
    content = extra.pop("value", None) if content is None else content
    if name.lower() in CALLS and isinstance(content, str):
        name, content, extra = "assistant", *_call(content, extra)
    content, extra = convert_parts(content, extra, source)
    role = ROLES.get(name.lower())
    if role is None:
        others = sorted({*ROLES, *CALLS} - set(ROLES.values()))
        do = f"rename it to system, user, assistant or tool (also accepted: {', '.join(others)})"
        raise DataError(f"{source}: unknown role", got=shorten(name), do=do)
    reject_foreign_message(extra, role, source)
    calls = extra.get("tool_calls", [])
    if isinstance(calls, str):  # from CSV
        calls = extra["tool_calls"] = parse_json(calls or "[]")
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        do = 'give a list of objects, such as [{"function": {"name": …, "arguments": …}}]'
        raise DataError(
            f"{source}: `tool_calls` of the {role} message is not a list of calls", got=shorten(calls), do=do
        )
    content = "" if content is None and calls else content
    _check_depth(list(extra.values()))
    return {"role": name if written else role, "content": read_content(content, role, source), **extra}


def _check_depth(value: Any, room: int = 64) -> None:
    """Raise RecursionError for a value that is nested so deeply that later code would fail on it."""
    if room == 0:
        raise RecursionError
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            _check_depth(inner, room - 1)


def _call(text: str, extra: Message) -> tuple[str, Message]:
    """Convert a ShareGPT tool call to OpenAI's `tool_calls`; text that is not a call is returned unchanged."""
    try:
        calls = json.loads(text)
    except (ValueError, RecursionError):
        return text, extra
    calls = calls if isinstance(calls, list) else [calls]
    if not calls or not all(isinstance(call, dict) and "name" in call for call in calls):
        return text, extra
    return "", {**extra, "tool_calls": [{"type": "function", "function": call} for call in calls]}


def parse_json(text: str) -> Any:
    """Parse a string as JSON; return it unchanged if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def read_tools(record: Record, source: str) -> tuple[dict[str, Any], ...]:
    """Read tool definitions: a list of objects, or that list as JSON."""
    value = record.get("tools") or tools_of_functions(record.get("functions"))
    if value is None:
        return ()
    try:
        definitions = json.loads(value.strip() or "[]") if isinstance(value, str) else value
        tools = [json.loads(tool) if isinstance(tool, str) else tool for tool in definitions or []]
    except (ValueError, TypeError, RecursionError):
        tools = [None]
    _check_depth(tools)
    if not all(isinstance(tool, dict) for tool in tools):
        do = "give a list of objects, or that list as JSON; or remove the column"
        raise DataError(f"{source}: the tools are not a list of definitions", got=shorten(value), do=do)
    return tuple(cast("list[dict[str, Any]]", tools))


def read_template_kwargs(record: Record, source: str) -> tuple[tuple[str, Any], ...]:
    """Read TRL's `chat_template_kwargs`, an object or its JSON, as sorted pairs."""
    value = record.get("chat_template_kwargs")
    if value is None:
        return ()
    value = parse_json(value.strip() or "{}") if isinstance(value, str) else value
    _check_depth(value)
    if not isinstance(value, dict) or not all(isinstance(name, str) and name.isidentifier() for name in value):
        do = 'give an object, such as {"enable_thinking": false}; or remove the column'
        raise DataError(f"{source}: chat_template_kwargs is not an object", got=shorten(value), do=do)
    if reserved := sorted(_RESERVED_KWARGS & value.keys()):
        do = "remove it from chat_template_kwargs, which is for variables of the template"
        raise DataError(f"{source}: a row cannot set this template argument", got=reserved[0], do=do)
    return tuple(sorted(value.items()))


def read_unlearned(record: Record, source: str) -> tuple[tuple[int, ...], ...]:
    """Read the field that `taughtby clean --mask-words` writes: sorted ranges [begin, end) of the answer's characters.

    If every turn is an Example, the ranges are [begin, end, turn].
    """
    if not (value := record.get("unlearned")):
        return ()
    try:
        ranges = tuple(sorted(tuple(part) for part in (json.loads(value) if isinstance(value, str) else value)))
        valid = all(len(part) in (2, 3) and 0 <= part[0] < part[1] and {*map(type, part)} == {int} for part in ranges)
    except (ValueError, TypeError, RecursionError):
        valid, ranges = False, ()
    if not valid:
        do = "write [[begin, end], …], counted in characters of the answer; or rename the column"
        raise DataError(f"{source}: `unlearned` is not a list of ranges", got=shorten(value), do=do)
    return ranges


@contextmanager
def reject_deep_nesting(source: str) -> Generator[None]:
    """Raise a DataError with the row's source if the row is nested too deeply or ambiguous."""
    try:
        yield
    except UnclearRow as fault:
        raise DataError(f"{source}: {fault.what}", got=fault.got, do=fault.do) from None
    except RecursionError:
        raise DataError(f"{source}: the row is nested too deeply", do="remove the row") from None
