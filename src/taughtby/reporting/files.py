"""Documents as JSON text, and as files that are easy to compare."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taughtby.data.files import write_atomically
from taughtby.reporting.text import finite_or_none


def save_json(document: Mapping[str, Any], path: str | Path) -> None:
    """Write a document as JSON with a record per line, atomically.

    Raises:
        TaughtbyError: The file cannot be written.
    """
    write_atomically(path, _escape_surrogates(_record_lines(_plain_json(document))) + "\n")


def to_json_text(value: Any) -> str:
    """Return a value as standard JSON: numbers that are not finite become null, lone surrogates their escapes."""
    try:
        text = _one_line(value)  # nearly always possible, and several times as fast
    except (TypeError, ValueError):
        text = _one_line(_plain_json(value))
    return _escape_surrogates(text)


def _escape_surrogates(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _one_line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _record_lines(value: Any, indent: str = "\n") -> str:
    """JSON with values nested at most two deep on one line, so that a change shows as few changed lines."""
    if _depth(value) <= 2:
        return _one_line(value)
    inner = indent + " "
    if isinstance(value, dict):
        parts = [f"{_one_line(key)}: {_record_lines(part, inner)}" for key, part in value.items()]
        return "{" + inner + f",{inner}".join(parts) + indent + "}"
    return "[" + inner + f",{inner}".join(_record_lines(part, inner) for part in value) + indent + "]"


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


def _plain_json(value: Any) -> Any:
    if isinstance(value, float):
        return finite_or_none(value)
    if isinstance(value, Mapping):
        return {str(key): _plain_json(inner) for key, inner in value.items()}
    return [_plain_json(inner) for inner in value] if isinstance(value, list | tuple) else value
