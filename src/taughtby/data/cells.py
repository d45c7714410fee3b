"""Cells of tables of texts that may be a text or a list of messages: CSV has no types that would say."""

from __future__ import annotations

import json
from typing import Any

from taughtby.data.content import UntypedText, is_filled
from taughtby.data.example import ROLES, Record

_PROMPTS = ("prompt", "prompts", "question", "instruction", "query", "input")
_CONVERSATIONS = ("messages", "conversations", "conversation")
_ANSWERS = ("completion", "response", "output", "answer", "chosen", "rejected")


def settle_cells(record: Record) -> Record:
    """The record with its cells as messages, where all that was asked and answered is a list of them.

    Where only some are, or one is a message alone, it stays unknown and is refused as the text of a message: models
    are tuned to write JSON. A prompt may be a text beside answers that repeat it.
    """
    cells = {name: record[name] for name in (*_PROMPTS, *_ANSWERS) if is_filled(record.get(name))}
    alone = any(is_filled(record.get(name)) for name in _CONVERSATIONS) and "chosen" in cells and "rejected" in cells
    parsed = {name: turns for name, text in cells.items() for turns in [_messages(text, alone)] if turns}
    answers = [turns for name, turns in parsed.items() if name in _ANSWERS]
    contents = [[turn.get("content", turn.get("value")) for turn in turns] for turns in answers]
    texts_fit = all(name in parsed or all(text in texts for texts in contents) for name, text in cells.items())
    return record | parsed if answers and texts_fit and _fit(parsed) else record


def _fit(parsed: dict[str, list[dict[str, Any]]]) -> bool:
    """Whether those who speak fit: no prompt ends with an answer, and an answer is one, or a whole preference."""
    for name, turns in parsed.items():
        roles = [ROLES.get(str(turn.get("role") or turn.get("from")).lower()) for turn in turns]
        begins, ends = roles[0] == "assistant", roles[-1] == "assistant"
        if not (not ends if name in _PROMPTS else ends if name in ("chosen", "rejected") else begins):
            return False
    return True


def _messages(text: Any, alone: bool) -> list[dict[str, Any]] | None:
    """The list of messages, each with its role and content, that a cell may be; where that is known, one `alone`."""
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
