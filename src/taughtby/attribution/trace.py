"""A query against an index: ranked rows, and for the top ones the words that answer to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from taughtby.attribution.method_choice import choose_method
from taughtby.attribution.query import PreparedQueries, Query, ambiguity_notes, contrast_desired, prepare_queries
from taughtby.attribution.sanity_checks import warnings
from taughtby.attribution.significance import (
    DEFAULT_FDR,
    TILE,
    Significance,
    assess,
    match_controls,
    pool_same_kind,
    pool_weights,
    stability,
)
from taughtby.data.example import Example
from taughtby.data.phrases import align_tokens
from taughtby.data.tokenize import Batch, Encoding, TokenizedExample, make_batches, token_texts, tokenize
from taughtby.index.model_sources import resolved_address
from taughtby.index.reader import Index, IndexedRow
from taughtby.methods import Method, QueryFeatures
from taughtby.methods.base import top_positions
from taughtby.models.model import Model
from taughtby.reporting.notebook import render_cell, to_table

if TYPE_CHECKING:
    import pyarrow as pa
    from jaxtyping import Float
    from torch import Tensor

CONTRAST = (
    "No row is flagged: with a desired answer, a score is the difference between two answers, and how large that "
    "difference is by chance is not known. Trace without the desired answer to see which rows are flagged."
)


@dataclass(frozen=True)
class TokenScore:
    """A token's text and number: its score in a row, its weight in a query."""

    text: str
    score: float


@dataclass(frozen=True)
class RankedRow:
    """One ranked row. `blocks` are parts that add up to its score, `tokens` its answer's, scored; either may be empty.

    `p_value` is the chance of such a score in a row that taught nothing, `culprit` whether it is called guilty, and
    `stability` the share of resampled queries in which it would be again; None where there is no evidence for it.
    """

    rank: int
    score: float
    example: Example
    position: int
    score_components: dict[str, float]
    tokens: tuple[TokenScore, ...]
    p_value: float | None = None
    flagged: bool | None = None
    stability: float | None = None


@dataclass(frozen=True)
class QueryResult:
    """The answer to one Query: its tokens with their weights, its top rows, and the score of every row.

    `culprits` are the places of all rows called guilty, the best first, be they among `rows` or not; None where there
    is no evidence, because the method has no controls or for the reason that `no_evidence` gives. `taught` is false
    where fine-tuning made none of the answer's words likelier.
    """

    query: Query
    answer: tuple[TokenScore, ...]
    rows: tuple[RankedRow, ...]
    scores: Float[Tensor, " N"] = field(repr=False)
    flagged: tuple[int, ...] | None = None
    increased_by_finetuning: bool = True
    no_evidence: str | None = None


@dataclass(frozen=True)
class Trace:
    """All queries traced against one index by one method."""

    method: Method
    index: Index
    queries: tuple[QueryResult, ...]
    fdr: float = DEFAULT_FDR  # of the rows called culprits, the share that may be called wrongly

    def __repr__(self) -> str:
        ranked = max((len(traced.rows) for traced in self.queries), default=0)
        return f"Trace({len(self.queries)} queries × {ranked} rows by {self.method!r} in {self.index!r})"

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        return render_cell(self.to_json())

    def to_arrow(self) -> pa.Table:
        """A line for each query's ranked row, with the parts of its score and its strongest word."""
        return to_table(self.to_json())

    def to_pandas(self) -> Any:
        """The same as a data frame."""
        return self.to_arrow().to_pandas()

    def to_json(self) -> dict[str, Any]:
        """The document that scripts and the page read."""
        settings, curve, located = self.index.manifest["settings"], self.index.manifest["layers"], self.index.located
        adapter = settings["adapter"]
        if adapter:
            adapter = located(adapter) if isinstance(adapter, str) else [located(one) for one in adapter]
        used = sorted({at for key, at in self.method.spec().items() if key in ("layer", "state_layer")})
        return {
            "version": 2,
            "method": repr(self.method),
            "model": located(settings["model"]),
            "adapter": adapter,
            "index": resolved_address(self.index.path),
            "num_rows": len(self.index),
            "fdr": self.fdr,
            "warnings": [*warnings(self.index, self.method), *ambiguity_notes([one.query for one in self.queries])],
            "layers": curve and {"similarity": curve["similarity"], "chosen": curve["layer"], "used": used},
            "queries": [_query_json(traced, ids) for traced, ids in zip(self.queries, self._called(), strict=True)],
        }

    def _called(self) -> list[list[str] | None]:
        """The ids of each query's culprits, be they ranked or not; None where the method calls nobody."""
        places = sorted({place for traced in self.queries for place in traced.flagged or ()})
        ids = self.index.dataset.take(places, columns=["id"]).column("id").to_pylist() if places else []
        known = dict(zip(places, ids, strict=True))
        said = [traced.flagged for traced in self.queries]
        return [None if places is None else [known[place] for place in places] for places in said]


def _query_json(traced: QueryResult, called: list[str] | None) -> dict[str, Any]:
    query, place = traced.query, traced.query.span_position()
    around = {"before": query.before, "after": query.after, "tools": query.tools}
    return {
        "prompt": query.prompt,
        "response": query.response,
        **{name: list(said) for name, said in around.items() if said},
        "span": place and query.response[slice(*place)],
        "span_range": place,
        "desired": query.desired,
        "answer": [{"text": token.text, "weight": token.score} for token in traced.answer],
        "answer_begin": align_tokens("".join(token.text for token in traced.answer), query.response),
        "increased_by_finetuning": traced.increased_by_finetuning,
        "num_flagged": None if traced.flagged is None else len(traced.flagged),
        "flagged_ids": called,
        "no_evidence": traced.no_evidence,
        "rows": [
            {
                "rank": found.rank,
                "id": found.example.id,
                "score": found.score,
                "p_value": found.p_value,
                "flagged": found.flagged,
                "stability": found.stability,
                "source": found.example.source,
                "label": found.example.label,
                "messages": list(found.example.messages),
                "score_components": found.score_components,
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
    method: Method | str | None = None,
    top_k: int = 20,
    score_tokens: bool = True,
    fdr: float = DEFAULT_FDR,
    progress: Callable[[int, int], Any] | None = None,
) -> Trace:
    """Rank the index's rows for each query, and with `words` score the answer tokens of the `top` ones.

    `by` is a method the index holds the blocks of; without one, the first it was made for. Rows are called culprits
    at the false-discovery rate `rate`. By a method that takes queries `together`, those that the same rows answer are
    explained as one: scores, parts and words are means over them. Only queries of one kind are: with or without a span,
    with or without a desired answer, since scores of different kinds have different controls. A query with a desired
    answer has no evidence, and no row is flagged for it. Rows whose scores tie are ranked in the order of the data.
    """
    how = choose_method(index, model, method)
    encoding = Encoding(**index.manifest["settings"]["encoding"])
    asking = prepare_queries(model, how, queries, encoding)
    contrast = contrast_desired(model, how, queries, asking.features, encoding)
    scores = contrast.less(lambda asked: how.scores(asked, index))
    shares = torch.eye(len(queries))
    if how.pools_queries and len(queries) > 1:
        shares = pool_same_kind(pool_weights(scores), queries)
        for some in scores.split(TILE, 1):  # in place, since scores are all that grows with the rows
            some.copy_(shares @ some)
    null = match_controls(how, index, model.depth, queries, asking.weights, shares)
    evidence = assess(scores, null, torch.tensor(asking.increased_by_finetuning), fdr)
    best = torch.stack([top_positions(row, min(top_k, len(index))) for row in scores])
    values = scores.gather(1, best)
    some, at = best.unique(return_inverse=True)
    parts, own = dict[str, torch.Tensor](), None
    if type(how).score_components is not Method.score_components:
        held = index.subset(some.tolist(), how.feature_names(model.depth))
        pieces = torch.einsum("qr,rpn->pqn", shares, contrast.less(lambda asked: _parts(how, asked, held)))
        parts = {name: part.gather(1, at) for name, part in zip(how.feature_names(model.depth), pieces, strict=True)}
        own = contrast.less(lambda asked: how.scores(asked, held)) if how.pools_queries else None
    found = {stored.position: stored for stored in index.take(some.tolist())}
    scored: dict[tuple[int, int], tuple[TokenScore, ...]] = {}
    if score_tokens and how.scores_tokens:

        def said(batch: Batch) -> Float[Tensor, "Q B R"]:
            heard = contrast.less(lambda asked: _heard(how, model, batch, asked))
            return torch.einsum("qp,pbr->qbr", shares, heard)

        scored = _words(model, said, found, encoding, progress)

    def ranked(q: int) -> Iterator[RankedRow]:
        places = best[q]
        sure = _sure(evidence, q, values[q], None if own is None else own[:, at[q]], shares[q])
        ranks = zip(values[q].tolist(), places.tolist(), sure, strict=True)
        for rank, (score, place, (p_value, culprit, stable)) in enumerate(ranks):
            blocks = {name: float(part[q, rank]) for name, part in parts.items()}
            told = scored.get((q, place), ())
            yield RankedRow(rank + 1, score, found[place].example, place, blocks, told, p_value, culprit, stable)

    answers = _answers(model, asking)
    called = [_called(evidence, scores[q], q) for q in range(len(queries))]
    return Trace(how, index, tuple(
        QueryResult(query, answer, tuple(ranked(q)), scores[q], called[q], asking.increased_by_finetuning[q], _no_evidence(how, query))
        for q, (query, answer) in enumerate(zip(queries, answers, strict=True))
    ), fdr)  # fmt: skip


def _no_evidence(how: Method, query: Query) -> str | None:
    """Why a method that has controls gives no evidence for a query."""
    return CONTRAST if query.desired and type(how).rows_as_queries is not Method.rows_as_queries else None


def _sure(
    evidence: Significance, q: int, scores: Float[Tensor, " K"], own: Float[Tensor, "Q K"] | None,
    shares: Float[Tensor, " Q"],
) -> Iterator[tuple[float | None, bool | None, float | None]]:  # fmt: skip
    """What is known of the ranked rows of one query: p-value, whether called, how stable that is."""
    if not evidence.known(q):
        yield from [(None, None, None)] * len(scores)
        return
    stable: list[float | None] = [None] * len(scores)
    if own is not None and int((shares > 0).sum()) > 1:
        stable = stability(own, shares, float(evidence.threshold[q])).tolist()
    yield from zip(evidence.p_values(q, scores).tolist(), evidence.flagged(q, scores).tolist(), stable, strict=True)


def _called(evidence: Significance, scores: Float[Tensor, " N"], q: int) -> tuple[int, ...] | None:
    """The places of a query's culprits, the best first."""
    if not evidence.known(q):
        return None
    return tuple(top_positions(scores, int(evidence.flagged(q, scores).sum())).tolist())


def _parts(how: Method, asked: QueryFeatures, rows: Index) -> Float[Tensor, "Q P N"]:
    """What each block contributes to the scores of all rows of a small index."""
    return torch.cat([torch.stack([*piece.values()], 1) for piece in how.score_components(asked, rows)], -1)


def _heard(how: Method, model: Model, batch: Batch, asked: QueryFeatures) -> Float[Tensor, "Q B R"]:
    heard = how.token_scores(model, batch, asked)
    assert heard is not None
    return heard


def _words(
    model: Model,
    said: Callable[[Batch], Float[Tensor, "Q B R"]],
    found: dict[int, IndexedRow],
    encoding: Encoding,
    progress: Callable[[int, int], Any] | None,
) -> dict[tuple[int, int], tuple[TokenScore, ...]]:
    """The answer tokens of the rows found, with what is `said` of them for each query; by (q, place)."""
    encoded = {place: tokenize(model.tokenizer, stored.example, encoding) for place, stored in found.items()}
    usable = [(place, row) for place, row in encoded.items() if isinstance(row, TokenizedExample)]
    scored: dict[tuple[int, int], tuple[TokenScore, ...]] = {}
    done = 0
    for batch in make_batches([row for _, row in usable], 1024):
        scores = said(batch)
        for b, at in enumerate(batch.row_indices):
            place, row = usable[at]
            pieces = token_texts(model.tokenizer, row.response)
            for q in range(len(scores)):
                scored[q, place] = _tokens(pieces, scores[q, b, row.n_prompt_loss :][: row.n_response].tolist())
        done += len(batch.row_indices)
        if progress:
            progress(done, len(usable))
    return scored


def _answers(model: Model, asking: PreparedQueries) -> list[tuple[TokenScore, ...]]:
    """The queries' tokens, each with the share of the heaviest one that it counts."""
    return [
        _tokens(token_texts(model.tokenizer, row.response), (weights / weights.max().clamp(min=1e-30)).tolist())
        for row, weights in zip(asking.rows, asking.weights, strict=True)
    ]


def _tokens(pieces: Sequence[str], numbers: Sequence[float]) -> tuple[TokenScore, ...]:
    """The answer's tokens as shown: without the template's closing ones."""
    end = len(pieces)
    while end and not pieces[end - 1].strip():
        end -= 1
    return tuple(TokenScore(text, value) for text, value in zip(pieces[:end], numbers[:end], strict=True))
