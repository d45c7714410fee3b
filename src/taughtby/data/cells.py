"""CSV cells that may be text or a list of messages as JSON: CSV has no types."""

from __future__ import annotations

import json
from typing import Any

from taughtby.data.content import UntypedText, is_filled
from taughtby.data.example import ROLES, Record

_PROMPTS = ("prompt", "prompts", "question", "instruction", "query", "input")
_CONVERSATIONS = ("messages", "conversations", "conversation")
_ANSWERS = ("completion", "response", "output", "answer", "chosen", "rejected")


def settle_cells(record: Record) -> Record:
    """Parse the prompt and answer cells of a record, if all of them are lists of messages.

    Otherwise they stay `UntypedText`, which is refused as the text of a message, because models are also trained to
    write JSON. A prompt may be plain text if every answer contains it as a message.
    """
    if not any(isinstance(value, UntypedText) for value in record.values()):
        return record
    cells = {name: record[name] for name in (*_PROMPTS, *_ANSWERS) if is_filled(record.get(name))}
    alone = any(is_filled(record.get(name)) for name in _CONVERSATIONS) and "chosen" in cells and "rejected" in cells
    parsed = {name: turns for name, text in cells.items() for turns in [_messages(text, alone)] if turns}
    answers = [turns for name, turns in parsed.items() if name in _ANSWERS]
    contents = [[turn.get("content", turn.get("value")) for turn in turns] for turns in answers]
    texts_fit = all(name in parsed or all(text in texts for texts in contents) for name, text in cells.items())
    return record | parsed if answers and texts_fit and _fit(parsed) else record


def _fit(parsed: dict[str, list[dict[str, Any]]]) -> bool:
    """Whether the roles fit: prompts do not end with the assistant, preferences do, other answers begin with it."""
    for name, turns in parsed.items():
        roles = [ROLES.get(str(turn.get("role") or turn.get("from")).lower()) for turn in turns]
        begins, ends = roles[0] == "assistant", roles[-1] == "assistant"
        if not (not ends if name in _PROMPTS else ends if name in ("chosen", "rejected") else begins):
            return False
    return True


def _messages(text: Any, alone: bool) -> list[dict[str, Any]] | None:
    """Parse a cell as a list of messages or, with `alone`, as a single message; None if it is neither."""
    if not isinstance(text, UntypedText):
        return None
    try:
        turns: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    listed: list[Any] = turns if isinstance(turns, list) else [turns] if alone and isinstance(turns, dict) else []
    return listed if listed and all(isinstance(turn, dict) and _is_message(turn) for turn in listed) else None


def _is_message(turn: dict[str, Any]) -> bool:
    return bool({"role", "from"} & turn.keys() and {"content", "value", "tool_calls"} & turn.keys())
