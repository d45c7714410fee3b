"""Outputs of OpenAI's batch API, and logs of requests with their responses."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from taughtby.data.example import Record, shorten
from taughtby.data.readers import read_records
from taughtby.data.readers.eval_logs.answers import LeftOut, LogForm, LoggedAnswer, as_turns, logged_answer
from taughtby.data.readers.stream import Rows
from taughtby.errors import DataError

PROMPTS = ("messages", "input", "prompt")  # of the Chat Completions, Responses and Completions APIs
MAX_NEIGHBOURS = 64  # files beside a batch output that are searched for its requests


def _accepts(row: Record) -> bool:
    batch = "custom_id" in row and ("response" in row or isinstance(row.get("body"), dict))
    return batch or (_completion(row) is not None and _request(row) is not None)


def _accepts_rows(rows: list[Record]) -> bool:
    """Whether one of the rows is accepted; the first requests may have failed."""
    return any(map(_accepts, rows))


def _join(path: Path, rows: Rows) -> Rows:
    """Join the responses of a batch with their requests, from the same file or one beside it; keep other rows."""
    all_rows = list(rows)
    requests = {row["custom_id"]: row["body"] for _, row in all_rows if _is_request(row)}
    responses = [(source, row) for source, row in all_rows if not _is_request(row)]
    missing = {str(row.get("custom_id")) for _, row in responses if "custom_id" in row and _request(row) is None} - set(
        requests
    )
    if missing:
        requests |= _neighbouring_requests(path, missing)
    for source, row in responses:
        yield source, {"request": requests[row["custom_id"]], **row} if row.get("custom_id") in requests else row


def _is_request(row: Record) -> bool:
    return isinstance(row.get("custom_id"), str) and isinstance(row.get("body"), dict)


def _neighbouring_requests(path: Path, ids: set[str]) -> Record:
    """Return the requests of a batch from the only file in the same folder that has them all."""
    matches: dict[Path, Record] = {}
    for file in islice(sorted(path.parent.glob("*.jsonl")), MAX_NEIGHBOURS):
        if file.name == path.name or not file.is_file():
            continue
        try:
            rows = read_records(str(file))
            if not _is_request(next(rows)[1]):
                continue
            requests = {row["custom_id"]: row["body"] for _, row in read_records(str(file)) if _is_request(row)}
        except (DataError, StopIteration):
            continue
        if ids <= set(requests):
            matches[file] = requests
    if len(matches) == 1:
        return next(iter(matches.values()))
    got = ", ".join(file.name for file in matches) or f"no file in its folder has the request {shorten(min(ids))}"
    raise DataError(f"{path}: a batch output contains answers but no prompts", got=got,
                    do="prepend the requests: cat requests.jsonl output.jsonl > batch.jsonl")  # fmt: skip


def _answers(row: Record) -> Iterator[LoggedAnswer | LeftOut]:
    request, completion = _request(row), _completion(row)
    if request is None or completion is None:
        yield LeftOut("with an error" if row.get("error") or completion is None else "without a question")
        return
    for message in _outputs(completion):
        turns = [_with_refusals(turn) for turn in (*_prompt(request), message)]
        yield logged_answer(turns, tools=request.get("tools"))


def _request(row: Record) -> Record | None:
    """Return the request, an object with `messages`, `input` or `prompt` under one of the usual keys."""
    outer = [row.get(name) for name in ("request", "body", "kwargs")]
    inner = [one.get("body") for one in outer if isinstance(one, dict)]
    for one in (*inner, *outer, row):
        if isinstance(one, dict) and any(isinstance(one.get(name), list | str) for name in PROMPTS):
            return one
    return None


def _completion(row: Record) -> Record | None:
    """Return the completion, an object with `choices` or with the `output` of the Responses API."""
    response = row.get("response")
    if isinstance(response, str):
        return None  # training data may have columns with such names
    for one in (response.get("body") if isinstance(response, dict) else None, response, row):
        if isinstance(one, dict) and (
            _objects(one.get("choices"), "message", "text") or _objects(one.get("output"), "type")
        ):
            return one
    return None


def _objects(value: Any, *keys: str) -> bool:
    """Whether a value is a non-empty list of objects that each have one of the keys."""
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) and {*keys} & {*one} for one in value)


def _prompt(request: Record) -> list[Any]:
    turns = next((request[name] for name in PROMPTS if request.get(name)), "")
    system = request.get("instructions")  # in the Responses API
    first = [{"role": "system", "content": system}] if isinstance(system, str) else []
    return [*first, *(turns if isinstance(turns, list) else as_turns(turns) or [])]


def _outputs(completion: Record) -> Iterator[Record]:
    if completion.get("choices"):
        for choice in completion["choices"]:
            message = choice.get("message")
            message = message if isinstance(message, dict) else {"content": choice.get("text")}
            yield {**message, "role": "assistant", "content": message.get("content") or message.get("refusal")}
        return
    for item in completion["output"]:
        if item.get("type") == "message":
            yield {"role": "assistant", "content": item.get("content")}


def _with_refusals(message: Any) -> Any:
    """Return a message with its refusals as text; in the Responses API they are parts of their own type."""
    if not isinstance(message, dict) or not isinstance(message.get("content"), list):
        return message
    parts = [
        {"type": "text", "text": part.get("refusal")}
        if isinstance(part, dict) and part.get("type") == "refusal"
        else part
        for part in message["content"]
    ]
    return {**message, "content": parts}


FORM = LogForm("OpenAI log", _accepts, _answers, join=_join, accepts_rows=_accepts_rows)
