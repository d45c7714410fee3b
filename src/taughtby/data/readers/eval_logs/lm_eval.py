"""Samples of the LM Evaluation Harness: `samples_*.jsonl`, as `--log_samples` writes them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from taughtby.data.example import Record
from taughtby.data.readers.eval_logs.answers import LeftOut, LogForm, LoggedAnswer, as_turns, logged_answer

LOWER_IS_BETTER = {"brier_score", "ter", "wer", "perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte"}
_NO_SCORES = {"doc_id", "target", "doc_hash", "prompt_hash", "target_hash"}
_RENDERED = (  # messages in the chat templates of ChatML, Llama 3 and Gemma
    re.compile(r"<\|im_start\|>(\w+)\n(.*?)(?:<\|im_end\|>|\Z)", re.DOTALL),
    re.compile(r"<\|start_header_id\|>(\w+)<\|end_header_id\|>\n\n(.*?)(?:<\|eot_id\|>|\Z)", re.DOTALL),
    re.compile(r"<start_of_turn>(\w+)\n(.*?)(?:<end_of_turn>|\Z)", re.DOTALL),
)


def _accepts(row: Record) -> bool:
    return {"doc_id", "arguments", "resps"} <= set(row)


def _answers(row: Record) -> Iterator[LoggedAnswer | LeftOut]:
    """Yield the generated texts of a document, or the most likely choice."""
    requests, responses = _requests(row["arguments"]), row["resps"]
    if not isinstance(responses, list) or len(responses) != len(requests):
        requests, responses = [], []
    choices = all(isinstance(request[1], str) for request in requests)
    if choices:
        requests, responses = _choices(requests, responses)
    # a single continuation is the reference, of which the harness logs how likely it is
    if len(requests) < (2 if choices else 1):
        yield LeftOut("without an answer", f"{row['doc_id']} {row.get('doc_hash')}")
        return
    if choices:
        likelihoods = [_likelihood(response) for response in responses]
        best = max(range(len(requests)), key=lambda n: likelihoods[n])
        pairs = [(requests[best][0], requests[best][1].strip())]
    else:
        pairs = [
            (request[0], text)
            for request, texts in zip(requests, responses, strict=True)
            for text in (texts if isinstance(texts, list) else [texts])
        ]
    for prompt, text in pairs:
        turns = _turns(prompt)
        # each filter of a task logs the same answer again
        key = f"{row['doc_id']} {row.get('doc_hash')} {text}"
        if turns is None or not isinstance(text, str):
            yield LeftOut("without an answer", key)
            continue
        yield logged_answer([*turns, {"role": "assistant", "content": text}], scores=_scores(row), key=key)


def _requests(arguments: Any) -> list[list[Any]]:
    """Return the requests of a document, each a context and its continuation or generation options."""
    requests = list(arguments.values()) if isinstance(arguments, dict) else arguments
    parts = [list(one.values()) if isinstance(one, dict) else one for one in requests or ()]
    return [[*one, None][:2] for one in parts if isinstance(one, list) and one]


def _choices(requests: list[list[Any]], responses: list[Any]) -> tuple[list[list[Any]], list[Any]]:
    """Leave out requests without a context if others have one: acc_mutual_info also scores each choice alone."""
    kept = [n for n, request in enumerate(requests) if request[0]] or range(len(requests))
    return [requests[n] for n in kept], [responses[n] for n in kept]


def _likelihood(response: Any) -> float:
    """Return the log-likelihood of a continuation, which is the first number in its response."""
    if isinstance(response, list):
        return _likelihood(response[0]) if response else float("-inf")
    try:
        return float(response)
    except (TypeError, ValueError):
        return float("-inf")


def _turns(prompt: Any) -> list[Any] | None:
    """Return the messages of a context, which may be messages as JSON, or text rendered by a chat template."""
    prompt = prompt[0] if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str) else prompt
    turns = as_turns(prompt)
    if not isinstance(prompt, str) or turns != [{"role": "user", "content": prompt}]:
        return turns
    for pattern in _RENDERED:
        if messages := [{"role": role, "content": text.strip()} for role, text in pattern.findall(prompt)]:
            return [turn for turn in messages if turn["content"]]  # drops the empty generation prompt
    return turns


def _scores(row: Record) -> Record:
    names = row.get("metrics")
    names = names if isinstance(names, list) else set(row) - _NO_SCORES
    return {name: row[name] for name in names if name in row and name not in LOWER_IS_BETTER
            and isinstance(row[name], int | float)}  # fmt: skip


FORM = LogForm("LM Evaluation Harness log", _accepts, _answers)
