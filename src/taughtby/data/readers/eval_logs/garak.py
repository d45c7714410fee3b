"""Logs of garak: the hit log, in which all answers failed, and the report, which has every attempt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from taughtby.data.example import Record
from taughtby.data.readers.eval_logs.answers import LeftOut, LogForm, LoggedAnswer, logged_answer

HIT = 0.5  # minimum detector score of a hit, as in garak's default
EVALUATED = 2  # status of an evaluated attempt
ENTRIES = ("start_run setup", "init", "attempt")  # possible types of a report's first entry


def _accepts(row: Record) -> bool:
    return {"goal", "prompt", "output", "probe", "detector"} <= set(row) or row.get("entry_type") in ENTRIES


def _answers(row: Record) -> Iterator[LoggedAnswer | LeftOut]:
    if "entry_type" in row:
        yield from _attempt(row)
        return
    # several detectors may hit one answer
    key = f"{row['attempt_id']} {row.get('attempt_idx')}" if row.get("attempt_id") else ""
    yield _answer(row.get("prompt"), row.get("output"), {str(row["detector"]): 0}, key)


def _attempt(row: Record) -> Iterator[LoggedAnswer | LeftOut]:
    """Yield the outputs of an attempt; other lines of a report have no answers."""
    outputs, results = row.get("outputs"), row.get("detector_results")
    if row["entry_type"] != "attempt" or row.get("status") != EVALUATED or not isinstance(outputs, list):
        return
    for number, output in enumerate(outputs):
        scores = {
            name: float(values[number] < HIT)
            for name, values in (results if isinstance(results, dict) else {}).items()
            if isinstance(values, list) and number < len(values) and isinstance(values[number], int | float)
        }
        yield _answer(row.get("prompt"), output, scores, "")


def _answer(prompt: Any, output: Any, scores: Record, key: str) -> LoggedAnswer | LeftOut:
    text = _text(output)
    if text is None:
        return LeftOut("without an answer", key)
    turns = prompt.get("turns") if isinstance(prompt, dict) else None
    turns = [{"role": "user", "content": prompt}] if turns is None else turns
    messages = [
        {"role": turn.get("role"), "content": _text(turn.get("content"))} if isinstance(turn, dict) else turn
        for turn in (turns if isinstance(turns, list) else [turns])
    ]
    if any(isinstance(turn, dict) and turn["content"] is None for turn in messages):
        return LeftOut("with more than text", key)
    return logged_answer([*messages, {"role": "assistant", "content": text}], scores=scores, key=key)


def _text(message: Any) -> str | None:
    """Return the text of a garak message or of a string; None without text, or with a file."""
    if isinstance(message, dict):
        return None if message.get("data_path") else _text(message.get("text"))
    return message if isinstance(message, str) else None


FORM = LogForm("garak log", _accepts, _answers)
