"""A query against an index: ranked rows, and for the top ones the words that answer to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from whence.errors import StoreError
from whence.example import Example
from whence.index import Index, Stored
from whence.methods import Asked, Method, method
from whence.methods.method import unit
from whence.model import Model
from whence.notebook import cell, table
from whence.query import Asking, Query, ask
from whence.tokens import Encoding, Row, batches, encode, texts

if TYPE_CHECKING:
    import pyarrow as pa
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class Token:
    """A token's text and number: its score in a row, its weight in a query."""

    text: str
    score: float


@dataclass(frozen=True)
class Found:
    """One ranked row. `blocks` are the parts of its score; `tokens` are its answer's, scored; each may be empty."""

    rank: int
    score: float
    row: Example
    place: int
    blocks: dict[str, float]
    tokens: tuple[Token, ...]


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

    def __repr__(self) -> str:
        ranked = max((len(traced.rows) for traced in self.queries), default=0)
        return f"Trace({len(self.queries)} queries × {ranked} rows by {self.method!r} in {self.index!r})"

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        return cell(self.to_json())

    def to_arrow(self) -> pa.Table:
        """A line for each query's ranked row, with the parts of its score and its strongest word."""
        return table(self.to_json())

    def to_pandas(self) -> Any:
        """The same as a data frame."""
        return self.to_arrow().to_pandas()

    def to_json(self) -> dict[str, Any]:
        """The document that scripts and the page read."""
        settings, curve = self.index.manifest["settings"], self.index.manifest["layers"]
        used = sorted({at for key, at in self.method.spec().items() if key in ("layer", "topic")})
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
    around = {"before": query.before, "after": query.after, "tools": query.tools}
    return {
        "prompt": query.prompt,
        "response": query.response,
        **{name: list(said) for name, said in around.items() if said},
        "span": query.span,
        "desired": query.desired,
        "answer": [{"text": token.text, "weight": token.score} for token in traced.answer],
        "rows": [
            {
                "rank": found.rank,
                "id": found.row.id,
                "score": found.score,
                "source": found.row.source,
                "label": found.row.label,
                "messages": list(found.row.messages),
                "blocks": found.blocks,
                "tokens": [{"text": token.text, "score": token.score} for token in found.tokens],
            }
            for found in traced.rows
        ],
    }


def trace_queries(
    index: Index,
    model: Model,
    queries: Sequence[Query],
    *,
    by: Method | str | None = None,
    top: int = 20,
    words: bool = True,
    progress: Callable[[int, int], Any] | None = None,
) -> Trace:
    """Rank the index's rows for each query, and with `words` score the answer tokens of the `top` ones.

    `by` is a method the index holds the blocks of; without one, the first it was made for.
    """
    how = chosen(index, model, by)
    encoding = Encoding(**index.manifest["settings"]["encoding"])
    asking = ask(model, how, queries, encoding)
    scores, toward = how.scores(asking.asked, index), asking.toward
    contrasted = [q for q, query in enumerate(queries) if query.desired]
    if contrasted:
        # what speaks for the answer that should have been counts against a row
        wanted = [replace(queries[q], response=str(queries[q].desired), span=None) for q in contrasted]
        other = ask(model, how, wanted, encoding)
        scores[contrasted] -= how.scores(other.asked, index)
        if toward is not None and other.toward is not None:
            toward[contrasted] -= other.toward
    best = scores.topk(min(top, len(index)), dim=1)
    parts = _parts(how, asking.asked, index, best.indices)
    found = {stored.place: stored for stored in index.take(sorted(set(best.indices.flatten().tolist())))}
    scored = _words(model, how, toward, found, encoding, progress) if words and toward is not None else {}

    def ranked(q: int) -> Iterator[Found]:
        for rank, (score, place) in enumerate(zip(best.values[q].tolist(), best.indices[q].tolist(), strict=True)):
            blocks = {name: float(part[q, rank]) for name, part in parts.items()}
            yield Found(rank + 1, score, found[place].example, place, blocks, scored.get((q, place), ()))

    answers = _answers(model, asking)
    return Trace(how, index, tuple(
        Traced(query, answer, tuple(ranked(q)), scores[q])
        for q, (query, answer) in enumerate(zip(queries, answers, strict=True))
    ))  # fmt: skip


def chosen(index: Index, model: Model, by: Method | str | None) -> Method:
    """The method to trace by; options that its name leaves open are as the index was made with."""
    made: dict[str, dict[str, Any]] = index.manifest["settings"]["methods"]
    if by is None:
        by = next(iter(made))
    if isinstance(by, str):
        name, _, said = by.partition(":")
        known = [f"{key}={value}" for key, value in made.get(name, {}).items() if key != "name"]
        by = method(f"{name}:{','.join([*known, said])}")  # what is said last holds
    by = by.resolved(model.depth, None)
    index.require(by.names(model.depth), by.name)
    stored = made.get(by.name, by.spec())
    if other := [key for key in by.baked if stored[key] != getattr(by, key)]:
        raise StoreError(
            f"the blocks of {by.name} in {index.path} were made otherwise",
            got="; ".join(f"{key}: index has {stored[key]}, asked {getattr(by, key)}" for key in other),
            do=f"leave out {', '.join(other)}, or index again",
        )
    return by


def _parts(how: Method, asked: Asked, index: Index, places: Tensor) -> dict[str, Float[Tensor, "Q K"]]:
    """What the scores at these places are made of, without holding all of them."""
    kept: dict[str, Tensor] = {}
    start = 0
    for parts in how.parts(asked, index):
        size = next(iter(parts.values())).shape[1]
        here = (places >= start) & (places < start + size)
        for name, part in parts.items():
            values = part.gather(1, (places - start).clamp(0, size - 1))
            kept[name] = torch.where(here, values, kept.get(name, torch.zeros_like(values)))
        start += size
    return kept


def _words(
    model: Model,
    how: Method,
    toward: Float[Tensor, "Q d"],
    found: dict[int, Stored],
    encoding: Encoding,
    progress: Callable[[int, int], Any] | None,
) -> dict[tuple[int, int], tuple[Token, ...]]:
    """RepT's token level, a mean so that it does not grow with the answer: ⟨ĝ_query,i⟩_w · ĝ_row,j; by (q, place)."""
    encoded = {place: encode(model.tokenizer, stored.example, encoding) for place, stored in found.items()}
    usable = [(place, row) for place, row in encoded.items() if isinstance(row, Row)]
    scored: dict[tuple[int, int], tuple[Token, ...]] = {}
    for batch in batches([row for _, row in usable], 1024):
        grads = how.gradients(model, batch)
        assert grads is not None
        scores = torch.einsum("qk,brk->qbr", toward, unit(grads).cpu())
        for b, at in enumerate(batch.rows):
            place, row = usable[at]
            pieces = texts(model.tokenizer, row.response)
            for q in range(len(toward)):
                scored[q, place] = _tokens(pieces, scores[q, b, row.ahead :][: row.n_response].tolist())
        if progress:
            progress(len({place for _, place in scored}), len(usable))
    return scored


def _answers(model: Model, asking: Asking) -> list[tuple[Token, ...]]:
    """The queries' tokens, each with the share of the heaviest one that it counts."""
    return [
        _tokens(texts(model.tokenizer, row.response), (weights / weights.max().clamp(min=1e-30)).tolist())
        for row, weights in zip(asking.rows, asking.weights, strict=True)
    ]


def _tokens(pieces: Sequence[str], numbers: Sequence[float]) -> tuple[Token, ...]:
    """The answer's tokens as shown: without the template's closing ones."""
    end = len(pieces)
    while end and not pieces[end - 1].strip():
        end -= 1
    return tuple(Token(text, value) for text, value in zip(pieces[:end], numbers[:end], strict=True))
