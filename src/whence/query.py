"""What is asked: a prompt and the answer to explain, which of its words count, and how a method sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from whence.errors import DataError, OptionError
from whence.example import example, records
from whence.methods import Asked, Blocks, Method
from whence.methods.method import gathered, unit
from whence.model import Model
from whence.tokens import Batch, Row, Skip, batches, encode, span_places, texts

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

BUDGET = 1024


@dataclass(frozen=True)
class Query:
    """A prompt and the answer to explain; `span` points at words of it, `desired` is what should have been said."""

    prompt: str
    response: str
    span: str | None = None
    desired: str | None = None


@dataclass(frozen=True)
class Asking:
    """Queries made ready: their ids, how much each answer token counts, and what the method compares.

    `toward[q]` is Σ_i w_i ĝ_i / Σ_i w_i, along which rows' words are scored; None where the method scores none.
    """

    rows: tuple[Row, ...]
    weights: tuple[Float[Tensor, " n"], ...]
    asked: Asked
    toward: Float[Tensor, "Q d"] | None


def read_queries(path: str | Path) -> list[Query]:
    """Queries from a file of `prompt` and `response`, with `span` and `desired` where given."""
    queries: list[Query] = []
    for source, record in records(str(path)):
        for key in ("prompt", "response"):
            if not isinstance(record.get(key), str) or not record[key].strip():
                raise DataError(
                    f"{source}: a query has no {key}",
                    got=", ".join(map(str, record)) or "no columns",
                    do='write {"prompt": "…", "response": "…"}, and "span" or "desired" if you like',
                )
        span, desired = (str(record[key]) if record.get(key) else None for key in ("span", "desired"))
        queries.append(Query(record["prompt"], record["response"], span, desired))
    if not queries:
        raise DataError(f"{path} has no queries", do="give at least one prompt and response")
    return queries


def ask(model: Model, how: Method, queries: Sequence[Query], max_length: int) -> Asking:
    """Run the model over the queries, in batches."""
    rows = [_encoded(model, query, max_length) for query in queries]
    blocks: list[Blocks] = [{} for _ in rows]
    counts: list[Tensor] = [torch.empty(0) for _ in rows]
    toward: list[Tensor | None] = [None for _ in rows]
    for batch in batches(rows, BUDGET):
        weights = _weights(model, how, batch, rows, queries)
        made, grads = how.blocks(model, batch, weights), how.gradients(model, batch)
        for place, q in enumerate(batch.rows):
            blocks[q] = {name: made[name][place] for name in how.names(model.depth)}
            counts[q] = weights[place, : rows[q].n_response]
            if grads is not None:
                shares = weights[place] / weights[place].sum()
                toward[q] = (unit(grads[place]).cpu() * shares[:, None]).sum(0)
    joined = gathered(blocks, how.names(model.depth))
    asked = Asked(tuple(query.prompt for query in queries), tuple(query.response for query in queries), joined)
    directions = [direction for direction in toward if direction is not None]
    return Asking(tuple(rows), tuple(counts), asked, torch.stack(directions) if directions else None)


def _encoded(model: Model, query: Query, max_length: int) -> Row:
    row = encode(model.tokenizer, example(query.prompt, query.response), min(model.window, max_length))
    if isinstance(row, Skip):
        raise OptionError(
            "this query cannot be traced",
            got=f"{row.reason}; prompt: {query.prompt[:60]}",
            do="shorten the prompt, or index with a greater --max-length",
        )
    return row


def _weights(
    model: Model, how: Method, batch: Batch, rows: Sequence[Row], queries: Sequence[Query]
) -> Float[Tensor, "B R"]:
    """1 on the words pointed at; where nobody pointed, as the method has it; else all alike."""
    found = None if all(queries[q].span for q in batch.rows) else how.weights(model, batch)
    weights = batch.valid.float() if found is None else found
    for place, q in enumerate(batch.rows):
        span = queries[q].span
        if span is None:
            continue
        places = span_places(texts(model.tokenizer, rows[q].response), span)
        if not places:
            raise OptionError(
                "the span does not occur in the answer",
                got=f"{span!r} in {queries[q].response[:80]!r}",
                do="copy the words out of the answer as they stand there",
            )
        weights[place] = 0
        weights[place, places] = 1
    return weights
