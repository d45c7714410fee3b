"""Converts messages of other APIs to OpenAI's: tool calls and thinking in content parts, and `function_call`."""

from __future__ import annotations

import json
from typing import Any

from taughtby.errors import DataError

Fields = dict[str, Any]
THOUGHT_PARTS = {"thinking": "thinking", "reasoning": "text"}  # part type: key of its text
OTHER_MESSAGES = {  # part types that cannot be converted, with advice
    "tool_result": 'make it a message: {"role": "tool", "tool_call_id": …, "content": "…"}',
    "redacted_thinking": "remove the part: it has no text",
}


def convert_parts(content: Any, extra: Fields, source: str) -> tuple[Any, Fields]:
    """Return the content and other fields of a message, with calls as `tool_calls` and thinking as `thinking`.

    Raises:
        DataError: A part cannot be converted: a tool result, or redacted thinking.
    """
    if isinstance(call := extra.get("function_call"), dict) and "tool_calls" not in extra:
        extra = {key: value for key, value in extra.items() if key != "function_call"}
        return content, {**extra, "tool_calls": [{"type": "function", "function": call}]}
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        return content, extra
    texts: list[Any] = []
    thoughts: list[str] = []
    calls: list[Fields] = []
    for part in content:
        kind = part.get("type")
        if kind in OTHER_MESSAGES:
            raise DataError(f"{source}: a message has a part of type {kind}", do=OTHER_MESSAGES[kind])
        if (thought := _thought(part)) is not None:
            thoughts.append(thought)
        elif _is_call(part):
            function = {"name": part["name"], "arguments": part.get("input") or {}}
            calls.append({"id": part.get("id"), "type": "function", "function": function})
        else:
            texts.append(part)
    if thoughts:
        extra = {**extra, "thinking": "\n".join(thoughts)}
    if calls:
        extra = {**extra, "tool_calls": [*extra.get("tool_calls", ()), *calls]}
    return (texts or ("" if thoughts or calls else content)), extra


def is_moved(part: Fields) -> bool:
    """Whether `convert_parts` moves a part out of the content: thinking, or a tool call."""
    return _thought(part) is not None or _is_call(part)


def _is_call(part: Fields) -> bool:
    return part.get("type") == "tool_use" and isinstance(part.get("name"), str)


def _thought(part: Fields) -> str | None:
    """Return the text of a thinking part, which is a string or Mistral's list of text parts; None for other parts."""
    key = THOUGHT_PARTS.get(str(part.get("type")))
    value = part.get(key) if key else None
    if isinstance(value, list) and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in value):
        return "".join(part["text"] for part in value)
    return value if isinstance(value, str) else None


def tools_of_functions(functions: Any) -> list[Fields] | None:
    """Convert OpenAI's older column `functions` to `tools`; None if it is not a list of functions."""
    try:
        parsed = json.loads(functions) if isinstance(functions, str) else functions
    except (ValueError, RecursionError):
        return None
    if not isinstance(parsed, list) or not all(isinstance(one, dict) and "name" in one for one in parsed):
        return None
    return [{"type": "function", "function": one} for one in parsed]
