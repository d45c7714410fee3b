"""Results of promptfoo: `-o results.json` or `-o results.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from taughtby.data.example import Record
from taughtby.data.readers.eval_logs.answers import LeftOut, LogForm, LoggedAnswer, as_turns, logged_answer

ERROR = 2  # failureReason: 0 none, 1 an assertion, 2 a provider error


def _accepts(row: Record) -> bool:
    return {"prompt", "success"} <= set(row) and bool({"testCase", "promptIdx", "gradingResult"} & set(row))


def _unpack(whole: Record) -> list[Any] | None:
    results = whole.get("results")
    results = results.get("results") if isinstance(results, dict) else results
    named = {"evalId", "config", "shareableUrl"} & set(whole)
    return results if named and isinstance(results, list) else None


def _answers(row: Record) -> Iterator[LoggedAnswer | LeftOut]:
    prompt, response = row.get("prompt"), row.get("response")
    output = response.get("output") if isinstance(response, dict) else None
    if row.get("failureReason") == ERROR or output is None:
        yield LeftOut("with an error")
        return
    turns = as_turns(prompt.get("raw") if isinstance(prompt, dict) else prompt)
    if turns is None:
        yield LeftOut("without a question")
        return
    success = row.get("success")
    yield logged_answer([*turns, _message(output)], scores={} if success is None else {"its assertions": success})


def _message(output: Any) -> Record:
    """Convert a provider's output to a message; it may be a string, a message, tool calls, or JSON."""
    if isinstance(output, list) and output and all(isinstance(one, dict) and "function" in one for one in output):
        return {"role": "assistant", "content": "", "tool_calls": output}
    if isinstance(output, dict) and {"content", "tool_calls"} & set(output):
        return {**output, "role": "assistant"}
    text = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
    return {"role": "assistant", "content": text}


FORM = LogForm("promptfoo results", _accepts, _answers, _unpack)
