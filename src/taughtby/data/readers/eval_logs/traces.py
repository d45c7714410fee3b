"""Exports of tracing tools: Langfuse's traces and observations, and Weave's calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from taughtby.data.content import from_json
from taughtby.data.example import Record
from taughtby.data.readers.eval_logs.answers import LeftOut, LogForm, LoggedAnswer, as_turns, logged_answer

_LANGFUSE = {"trace_id", "traceId", "session_id", "sessionId", "project_id", "projectId", "bookmarked", "trace_name",
             "traceName", "environment"}  # fmt: skip


def _is_langfuse(row: Record) -> bool:
    return {"input", "output"} <= set(row) and len(_LANGFUSE & set(row)) >= 2


def _langfuse(row: Record) -> Iterator[LoggedAnswer | LeftOut]:
    """Yield the answer of a trace, or of an observation that is a model call."""
    if row.get("type") not in (None, "", "GENERATION"):
        return  # the calls in a span have their own rows
    if row.get("level") == "ERROR":
        yield LeftOut("with an error")
        return
    request = from_json(row.get("input"))
    tools = from_json(row.get("tool_definitions"))
    tools = (
        [{"name": name, **tool} for name, tool in tools.items() if isinstance(tool, dict)]
        if isinstance(tools, dict)
        else tools
    )
    tools = tools or (from_json(request.get("tools")) if isinstance(request, dict) else ())
    yield _answer(request, row.get("output"), _scores(from_json(row.get("scores"))), tools)


def _scores(scores: Any) -> Record:
    """Read scores from a list of objects with name and value, or from an object by name (the last of several)."""
    if isinstance(scores, list):
        named = [one for one in scores if isinstance(one, dict) and "name" in one]
        return {str(one["name"]): one.get("value", one.get("stringValue")) for one in named}
    values = scores if isinstance(scores, dict) else {}
    return {name: value[-1] if isinstance(value, list) and value else value for name, value in values.items()}


def _is_weave(row: Record) -> bool:
    return "op_name" in row and any(name.split(".")[0] == "inputs" for name in row)


def _weave(row: Record) -> Iterator[LoggedAnswer | LeftOut]:
    """Yield the answer of a call; tables have a column for each input, such as `inputs.messages`."""
    if row.get("exception"):
        yield LeftOut("with an error")
        return
    inputs, output = _nested(row, "inputs"), _nested(row, "output")
    scores = output.get("scores") if isinstance(output, dict) else None
    tools = inputs.get("tools") if isinstance(inputs, dict) else ()
    if isinstance(inputs, dict) and "messages" not in inputs:
        inputs = {name: value for name, value in inputs.items() if name not in ("self", "model")}
    yield _answer(inputs, output, _scores(scores), from_json(tools))


def _nested(row: Record, name: str) -> Any:
    if row.get(name) not in (None, ""):
        return from_json(row[name])
    prefix = f"{name}."
    return {key.removeprefix(prefix): from_json(value) for key, value in row.items() if key.startswith(prefix)}


def _answer(request: Any, output: Any, scores: Record, tools: Any) -> LoggedAnswer | LeftOut:
    turns, answer = as_turns(request) or as_turns(_only_text(request)), _message(from_json(output))
    if not turns:
        return LeftOut("not a conversation")
    if answer is None:
        return LeftOut("without an answer")
    return logged_answer([*turns, answer], scores=scores, tools=tools)


def _only_text(value: Any) -> str | None:
    """Return the only string in an object, such as {"question": "…"}; None if there are several."""
    texts = [one for one in value.values() if isinstance(one, str) and one] if isinstance(value, dict) else []
    return texts[0] if len(texts) == 1 else None


def _message(output: Any) -> Record | None:
    """Return the assistant message of an output: a string, a message, the last of several, or a completion."""
    if isinstance(output, dict) and isinstance(output.get("choices"), list) and output["choices"]:
        choice = output["choices"][0]
        return _message(choice.get("message") or choice.get("text")) if isinstance(choice, dict) else None
    if isinstance(output, list) and output:
        return _message(output[-1])
    if isinstance(output, dict) and {"content", "tool_calls"} & set(output):
        return {**output, "role": "assistant"}
    text = output if isinstance(output, str) else _only_text(output)
    return {"role": "assistant", "content": text} if text else None


LANGFUSE = LogForm("Langfuse export", _is_langfuse, _langfuse)
WEAVE = LogForm("Weave export", _is_weave, _weave)
