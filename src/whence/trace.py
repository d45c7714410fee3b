"""A query against an index: ranked rows, and for the top ones the words that answer to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from whence.errors import DataError, OptionError
from whence.example import Example, example, records
from whence.index import Index, Stored
from whence.methods import Asked, Method, method
from whence.methods.method import unit
from whence.model import Model
from whence.tokens import Row, Skip, batches, encode, pad, span_places, texts

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class Query:
    """A prompt and the answer to explain; `span` points at words of it, `desired` is what should have been said."""

    prompt: str
    response: str
    span: str | None = None
    desired: str | None = None


@dataclass(frozen=True)
class Token:
    """A token's text and number: its score in a row, its weight in a query."""

    text: str
    score: float


@dataclass(frozen=True)
class Found:
    """One ranked row. `tokens` are its answer's, scored; empty where the method scores none."""

    rank: int
    score: float
    row: Example
    place: int
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True)
class Traced:
    """The answer to one Query: its tokens with their weights, its top rows, and the score of every row."""

    query: Query
    answer: tuple[Token, ...]
    rows: tuple[Found, ...]
    scores: Float[Tensor, " N"] = field(repr=False)


@dataclass(frozen=True)
class Trace:
    """All queries traced against one index by one method."""

    method: Method
    index: Index
    queries: tuple[Traced, ...]

    def to_json(self) -> dict[str, Any]:
        """The document that DESIGN names and the page reads."""
        settings, curve = self.index.manifest["settings"], self.index.manifest.get("layers")
        used = sorted(
            {
                value
                for key, value in self.method.spec().items()
                if key in ("layer", "topic") and isinstance(value, int)
            }
        )
        return {
            "version": 1,
            "method": repr(self.method),
            "model": settings["model"],
            "adapter": settings["adapter"],
            "index": str(self.index.path),
            "count": len(self.index),
            "layers": curve and {"similarity": curve["similarity"], "chosen": curve["layer"], "used": used},
            "queries": [_query_json(traced) for traced in self.queries],
        }


def _query_json(traced: Traced) -> dict[str, Any]:
    query = traced.query
    rows = [
        {
            "rank": found.rank, "id": found.row.id, "score": found.score, "source": found.row.source, "label": found.row.label,
            "messages": list(found.row.messages), "tokens": [{"text": t.text, "score": t.score} for t in found.tokens],
        }
        for found in traced.rows
    ]  # fmt: skip
    answer = [{"text": token.text, "weight": token.score} for token in traced.answer]
    return {
        "prompt": query.prompt,
        "response": query.response,
        "span": query.span,
        "desired": query.desired,
        "answer": answer,
        "rows": rows,
    }


def read_queries(path: str | Path) -> list[Query]:
    """Queries from a file of `prompt` and `response`, with `span` and `desired` where given."""
    queries: list[Query] = []
    for source, record in records(str(path)):
        missing = [
            key
            for key in ("prompt", "response")
            if not isinstance(record.get(key), str) or not record[key].strip()
        ]
        if missing:
            raise DataError(f"{source}: a query has no {missing[0]}", got=", ".join(map(str, record)) or "no columns",
                            do='write {"prompt": "…", "response": "…"}, and "span" or "desired" if you like')  # fmt: skip
        queries.append(
            Query(
                record["prompt"],
                record["response"],
                record.get("span") or None,
                record.get("desired") or None,
            )
        )
    if not queries:
        raise DataError(f"{path} has no queries", do="give at least one prompt and response")
    return queries


def trace_queries(
    index: Index,
    model: Model,
    queries: Sequence[Query],
    *,
    by: Method | str | None = None,
    top: int = 20,
    tokens: bool = True,
    progress: Callable[[int, int], Any] | None = None,
) -> Trace:
    """Rank the index's rows for each query, and score the answer tokens of the `top` ones.

    `by` is a method the index holds the blocks of; without one, the first it was made for.
    """
    how = chosen(index, model, by)
    rows = [_encoded(model, index, query.prompt, query.response) for query in queries]
    weights = [_weights(model, row, query) for row, query in zip(rows, queries, strict=True)]
    blocks: list[dict[str, Tensor]] = []
    for n, (query, row, weight) in enumerate(zip(queries, rows, weights, strict=True)):
        blocks.append(_asked(model, index, how, query, row, weight))
        if progress:
            progress(n + 1, len(queries))
    asked = Asked(
        tuple(query.prompt for query in queries),
        tuple(query.response for query in queries),
        {name: torch.stack([found[name] for found in blocks]) for name in how.names(model.depth)},
    )
    scores = how.scores(asked, index)
    best = scores.topk(min(top, len(index)), dim=1)
    found = {place: stored for place, stored in _stored(index, best.indices)}
    scored = _token_scores(model, index, how, queries, rows, weights, found) if tokens else {}
    return Trace(how, index, tuple(
        Traced(query, _answer(model, row, weight), tuple(
            Found(rank, float(score), found[place].example, place, scored.get((q, place), ()))
            for rank, (score, place) in enumerate(zip(best.values[q].tolist(), best.indices[q].tolist(), strict=True), 1)
        ), scores[q])
        for q, (query, row, weight) in enumerate(zip(queries, rows, weights, strict=True))
    ))  # fmt: skip


def chosen(index: Index, model: Model, by: Method | str | None) -> Method:
    """The method to trace by, its layers as the index has them where not said otherwise."""
    made: dict[str, dict[str, Any]] = index.manifest["settings"]["methods"]
    if by is None:
        by = next(iter(made))
    if isinstance(by, str):
        name, _, options = by.partition(":")
        by = method(made[name]) if name in made and not options else method(by)
    by = by.resolved(model.depth, None)
    index.require(by.names(model.depth), by.name)
    return by


def _stored(index: Index, places: Tensor) -> Iterator[tuple[int, Stored]]:
    wanted = sorted(set(places.flatten().tolist()))
    return ((stored.place, stored) for stored in index.take(wanted))


def _encoded(model: Model, index: Index, prompt: str, response: str) -> Row:
    limit = min(model.window, max(index.manifest["settings"]["max_length"], 1))
    row = encode(model.tokenizer, example(prompt, response), limit)
    if isinstance(row, Skip):
        raise OptionError(
            "this query cannot be traced",
            got=row.reason,
            do="shorten the prompt, or index with a greater --max-length",
        )
    return row


def _weights(model: Model, row: Row, query: Query) -> Float[Tensor, " n"] | None:
    """Which answer tokens the query is about: those of its span, or None for all."""
    if query.span is None:
        return None
    places = span_places(texts(model.tokenizer, row.response), query.span)
    if not places:
        raise OptionError(
            "the span does not occur in the answer",
            got=query.span,
            do="copy the words out of the answer as they stand there",
        )
    weights = torch.zeros(row.n_response)
    weights[places] = 1
    return weights


def _asked(
    model: Model, index: Index, how: Method, query: Query, row: Row, weights: Tensor | None
) -> dict[str, Tensor]:
    """A query's blocks. With a desired answer, observed less desired; H, which sees no answer, stays."""
    constants = index.constants
    observed = _one(how.blocks(model, pad([row], [0]), constants, None if weights is None else weights[None]))
    if query.desired is None:
        return observed
    wanted = _one(
        how.blocks(model, pad([_encoded(model, index, query.prompt, query.desired)], [0]), constants)
    )
    return {
        name: block if name.startswith("h_") else unit(block) - unit(wanted[name])
        for name, block in observed.items()
    }


def _one(blocks: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: block[0] for name, block in blocks.items()}


def _token_scores(
    model: Model, index: Index, how: Method, queries: Sequence[Query], rows: Sequence[Row], weights: Sequence[Tensor | None], found: dict[int, Stored]
) -> dict[tuple[int, int], tuple[Token, ...]]:  # fmt: skip
    """RepT's token level: (Σ_i ĝ_query,i) · ĝ_row,j, over the query's tokens that count; by (query, place)."""
    toward: list[Tensor] = []
    for query, row, weight in zip(queries, rows, weights, strict=True):
        direction = _direction(model, how, row, weight)
        if direction is None:
            return {}
        if query.desired is not None:
            direction = direction - _direction(
                model, how, _encoded(model, index, query.prompt, query.desired), None
            )
        toward.append(direction)
    places = list(found)
    encoded = [
        encode(model.tokenizer, found[place].example, index.manifest["settings"]["max_length"])
        for place in places
    ]
    usable = [(place, row) for place, row in zip(places, encoded, strict=True) if isinstance(row, Row)]
    scored: dict[tuple[int, int], tuple[Token, ...]] = {}
    for batch in batches([row for _, row in usable], 4096):
        grads = how.gradients(model, batch)
        assert grads is not None
        scores = torch.einsum("qk,brk->qbr", torch.stack(toward), unit(grads).cpu())
        for b, at in enumerate(batch.rows):
            place, row = usable[at]
            pieces = texts(model.tokenizer, row.response)
            for q in range(len(toward)):
                scored[q, place] = _tokens(pieces, scores[q, b, : row.n_response].tolist())
    return scored


def _direction(model: Model, how: Method, row: Row, weights: Tensor | None) -> Tensor | None:
    grads = how.gradients(model, pad([row], [0]))
    if grads is None:
        return None
    units = unit(grads[0]).cpu()
    return (units if weights is None else units * weights[:, None]).sum(0)


def _answer(model: Model, row: Row, weights: Tensor | None) -> tuple[Token, ...]:
    counts = torch.ones(row.n_response) if weights is None else weights
    return _tokens(texts(model.tokenizer, row.response), counts.tolist())


def _tokens(pieces: Sequence[str], numbers: Sequence[float]) -> tuple[Token, ...]:
    """The answer's tokens as shown: without the template's closing ones."""
    end = len(pieces)
    while end and not pieces[end - 1].strip():
        end -= 1
    return tuple(Token(text, value) for text, value in zip(pieces[:end], numbers[:end], strict=True))
