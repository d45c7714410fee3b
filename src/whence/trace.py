"""A query against an index: ranked rows, and for the top ones the words that answer to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from whence.check import warnings
from whence.evidence import RATE, TILE, Evidence, controls, stability, together, weigh
from whence.example import Example
from whence.index import Index, Stored
from whence.methods import Asked, Method, chosen
from whence.model import Model
from whence.notebook import cell, table
from whence.paths import address
from whence.query import Asking, Query, ask
from whence.tokens import Batch, Encoding, Row, batches, encode, texts

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
    """One ranked row. `blocks` are the parts of its score; `tokens` are its answer's, scored; each may be empty.

    `p_value` is the chance of such a score in a row that taught nothing, `culprit` whether it is called guilty, and
    `stability` the share of resampled queries in which it would be again; None where there is no evidence for it.
    """

    rank: int
    score: float
    row: Example
    place: int
    blocks: dict[str, float]
    tokens: tuple[Token, ...]
    p_value: float | None = None
    culprit: bool | None = None
    stability: float | None = None


@dataclass(frozen=True)
class Traced:
    """The answer to one Query: its tokens with their weights, its top rows, and the score of every row.

    `culprits` are the places of all rows called guilty, the best first, be they among `rows` or not; None where the
    method has no controls. `taught` is false where fine-tuning made none of the answer's words likelier.
    """

    query: Query
    answer: tuple[Token, ...]
    rows: tuple[Found, ...]
    scores: Float[Tensor, " N"] = field(repr=False)
    culprits: tuple[int, ...] | None = None
    taught: bool = True


@dataclass(frozen=True)
class Trace:
    """All queries traced against one index by one method."""

    method: Method
    index: Index
    queries: tuple[Traced, ...]
    rate: float = RATE  # of the rows called culprits, the share that may be called wrongly

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
        settings, curve, located = self.index.manifest["settings"], self.index.manifest["layers"], self.index.located
        adapter = settings["adapter"]
        if adapter:
            adapter = located(adapter) if isinstance(adapter, str) else [located(one) for one in adapter]
        used = sorted({at for key, at in self.method.spec().items() if key in ("layer", "middle")})
        return {
            "version": 1,
            "method": repr(self.method),
            "model": located(settings["model"]),
            "adapter": adapter,
            "index": address(self.index.path),
            "count": len(self.index),
            "rate": self.rate,
            "warnings": warnings(self.index, self.method),
            "layers": curve and {"similarity": curve["similarity"], "chosen": curve["layer"], "used": used},
            "queries": [_query_json(traced, ids) for traced, ids in zip(self.queries, self._called(), strict=True)],
        }

    def _called(self) -> list[list[str] | None]:
        """The ids of each query's culprits, be they ranked or not; None where the method calls nobody."""
        places = sorted({place for traced in self.queries for place in traced.culprits or ()})
        ids = self.index.rows.take(places, columns=["id"]).column("id").to_pylist() if places else []
        known = dict(zip(places, ids, strict=True))
        said = [traced.culprits for traced in self.queries]
        return [None if places is None else [known[place] for place in places] for places in said]


def _query_json(traced: Traced, called: list[str] | None) -> dict[str, Any]:
    query = traced.query
    around = {"before": query.before, "after": query.after, "tools": query.tools}
    return {
        "prompt": query.prompt,
        "response": query.response,
        **{name: list(said) for name, said in around.items() if said},
        "span": query.span,
        "desired": query.desired,
        "answer": [{"text": token.text, "weight": token.score} for token in traced.answer],
        "taught": traced.taught,
        "culprits": None if traced.culprits is None else len(traced.culprits),
        "called": called,
        "rows": [
            {
                "rank": found.rank,
                "id": found.row.id,
                "score": found.score,
                "p_value": found.p_value,
                "culprit": found.culprit,
                "stability": found.stability,
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
    rate: float = RATE,
    progress: Callable[[int, int], Any] | None = None,
) -> Trace:
    """Rank the index's rows for each query, and with `words` score the answer tokens of the `top` ones.

    `by` is a method the index holds the blocks of; without one, the first it was made for. Rows are called culprits
    at the false-discovery rate `rate`. By a method that takes queries `together`, those that the same rows answer are
    explained as one: scores, parts and words are means over them.
    """
    how = chosen(index, model, by)
    encoding = Encoding(**index.manifest["settings"]["encoding"])
    asking = ask(model, how, queries, encoding)
    wanted, contrasted = None, [q for q, query in enumerate(queries) if query.desired]
    if contrasted:
        instead = [replace(queries[q], response=str(queries[q].desired), span=None) for q in contrasted]
        wanted = ask(model, how, instead, encoding).asked

    def compared(rows: Index) -> Float[Tensor, "Q N"]:
        found = how.scores(asking.asked, rows)
        if wanted is not None:
            # what speaks for the answer that should have been counts against a row
            found[contrasted] -= how.scores(wanted, rows)
        return found

    scores, shares = compared(index), torch.eye(len(queries))
    if how.pools and len(queries) > 1:
        shares = together(scores)
        for some in scores.split(TILE, 1):  # in place, since scores are all that grows with the rows
            some.copy_(shares @ some)
    taught = torch.tensor(asking.taught)
    counts = [int((weights > 0).sum()) for weights in asking.weights]
    null = controls(how, index, model.depth, round(median(counts)) if all(query.span for query in queries) else 0)
    evidence = None if null is None else weigh(scores, null, taught, rate)
    best = scores.topk(min(top, len(index)), dim=1)
    some, at = best.indices.unique(return_inverse=True)
    parts, own = dict[str, torch.Tensor](), None
    if type(how).parts is not Method.parts:
        held = index.part(some.tolist(), how.names(model.depth))
        parts = {name: (shares @ part).gather(1, at) for name, part in _parts(how, asking.asked, held).items()}
        own = compared(held) if how.pools else None
    found = {stored.place: stored for stored in index.take(some.tolist())}
    scored: dict[tuple[int, int], tuple[Token, ...]] = {}
    if words and how.tells_words:

        def said(batch: Batch) -> Float[Tensor, "Q B R"]:
            heard = _heard(how, model, batch, asking.asked)
            if wanted is not None:
                heard[contrasted] -= _heard(how, model, batch, wanted)
            return torch.einsum("qp,pbr->qbr", shares, heard)

        scored = _words(model, said, found, encoding, progress)

    def ranked(q: int) -> Iterator[Found]:
        places = best.indices[q]
        sure = _sure(evidence, q, best.values[q], None if own is None else own[:, at[q]], shares[q])
        ranks = zip(best.values[q].tolist(), places.tolist(), sure, strict=True)
        for rank, (score, place, (p_value, culprit, stable)) in enumerate(ranks):
            blocks = {name: float(part[q, rank]) for name, part in parts.items()}
            told = scored.get((q, place), ())
            yield Found(rank + 1, score, found[place].example, place, blocks, told, p_value, culprit, stable)

    answers = _answers(model, asking)
    called = [_called(evidence, scores[q], q) for q in range(len(queries))]
    return Trace(how, index, tuple(
        Traced(query, answer, tuple(ranked(q)), scores[q], called[q], asking.taught[q])
        for q, (query, answer) in enumerate(zip(queries, answers, strict=True))
    ), rate)  # fmt: skip


def _sure(
    evidence: Evidence | None, q: int, scores: Float[Tensor, " K"], own: Float[Tensor, "Q K"] | None,
    shares: Float[Tensor, " Q"],
) -> Iterator[tuple[float | None, bool | None, float | None]]:  # fmt: skip
    """What is known of the ranked rows of one query: p-value, whether called, how stable that is."""
    if evidence is None:
        yield from [(None, None, None)] * len(scores)
        return
    stable: list[float | None] = [None] * len(scores)
    if own is not None and int((shares > 0).sum()) > 1:
        stable = stability(own, shares, float(evidence.least[q])).tolist()
    yield from zip(evidence.p_values(q, scores).tolist(), evidence.culprits(q, scores).tolist(), stable, strict=True)


def _called(evidence: Evidence | None, scores: Float[Tensor, " N"], q: int) -> tuple[int, ...] | None:
    """The places of a query's culprits, the best first."""
    if evidence is None:
        return None
    places = evidence.culprits(q, scores).nonzero()[:, 0]
    return tuple(places[scores[places].argsort(descending=True, stable=True)].tolist())


def _parts(how: Method, asked: Asked, rows: Index) -> dict[str, Float[Tensor, "Q N"]]:
    """What the scores of all rows of a small index are made of."""
    pieces = list(how.parts(asked, rows))
    return {name: torch.cat([piece[name] for piece in pieces], 1) for name in pieces[0]}


def _heard(how: Method, model: Model, batch: Batch, asked: Asked) -> Float[Tensor, "Q B R"]:
    heard = how.words(model, batch, asked)
    assert heard is not None
    return heard


def _words(
    model: Model,
    said: Callable[[Batch], Float[Tensor, "Q B R"]],
    found: dict[int, Stored],
    encoding: Encoding,
    progress: Callable[[int, int], Any] | None,
) -> dict[tuple[int, int], tuple[Token, ...]]:
    """The answer tokens of the rows found, with what is `said` of them for each query; by (q, place)."""
    encoded = {place: encode(model.tokenizer, stored.example, encoding) for place, stored in found.items()}
    usable = [(place, row) for place, row in encoded.items() if isinstance(row, Row)]
    scored: dict[tuple[int, int], tuple[Token, ...]] = {}
    done = 0
    for batch in batches([row for _, row in usable], 1024):
        scores = said(batch)
        for b, at in enumerate(batch.rows):
            place, row = usable[at]
            pieces = texts(model.tokenizer, row.response)
            for q in range(len(scores)):
                scored[q, place] = _tokens(pieces, scores[q, b, row.ahead :][: row.n_response].tolist())
        done += len(batch.rows)
        if progress:
            progress(done, len(usable))
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
