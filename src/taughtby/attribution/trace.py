"""Trace queries: score every row of the index, flag rows against controls, explain the top rows token by token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from taughtby.attribution.controls import match_controls
from taughtby.attribution.method_choice import choose_method
from taughtby.attribution.pooling import TILE, pool_same_kind, pool_weights
from taughtby.attribution.query import PreparedQueries, Query, contrast_desired, prepare_queries
from taughtby.attribution.query_notes import ambiguity_notes, base_notes, excess_notes, tie_notes, truncation_notes
from taughtby.attribution.result import QueryResult, RankedRow, TokenScore, Trace, TraceOrigin, flagged_rows
from taughtby.attribution.sanity_checks import index_warnings
from taughtby.attribution.significance import DEFAULT_FDR, MIN_GAIN, Significance, assess, stability
from taughtby.attribution.token_scores import ProgressCallback, Ranking, TokenScores, TraceTask, strip_end
from taughtby.data.tokenize import Encoding, token_texts
from taughtby.errors import ModelError
from taughtby.index.model_sources import resolved_address
from taughtby.index.reader import Index, IndexedRow
from taughtby.methods import Method, QueryFeatures
from taughtby.methods.scoring import top_positions
from taughtby.models.model import Model
from taughtby.models.torch_state import with_plain_torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

CONTRAST = (
    "No row is flagged: with a desired answer, a score is the difference between two answers, and how large that "
    "difference is by chance is not known. Trace without the desired answer to see which rows are flagged."
)


@with_plain_torch
def trace_queries(
    index: Index, model: Model, queries: Sequence[Query], *, method: Method | str | None = None, top_k: int = 20,
    score_tokens: bool = True, fdr: float = DEFAULT_FDR, progress: ProgressCallback | None = None,
) -> Trace:  # fmt: skip
    """Rank the rows of an index for each query, flag rows, and score the tokens of the top and the flagged rows.

    A method that pools queries explains queries with similar rankings together: their scores, score components and
    token scores are weighted means. Only queries of one kind are pooled (with or without a span, with or without a
    desired answer), because the kinds have different controls. No row is flagged for a query with a desired answer.
    Rows with equal scores keep the order of the data.

    Args:
        index: The index to search.
        model: The model the index was made with.
        queries: The prompts and responses to explain.
        method: A method whose features the index holds; the index's first method by default.
        top_k: Number of rows to rank and explain per query.
        score_tokens: Whether to score the response tokens of the ranked and the flagged rows.
        fdr: Nominal false discovery rate at which rows are flagged.
        progress: Called with (done, total) rows while tokens are scored.

    Raises:
        StoreError: The index does not hold the features that the method needs.
        OptionError: A query cannot be read, such as a span that is not in its response.
    """
    selected = choose_method(index, model, method)
    encoding = Encoding(**index.manifest["settings"]["encoding"])
    prepared = prepare_queries(model, selected, queries, encoding)
    contrast = contrast_desired(model, selected, queries, prepared.features, encoding)
    task = TraceTask(index, model, selected, encoding, queries, prepared, contrast)
    ranking = _score(task, top_k)
    significance = _flag(task, ranking, fdr)
    flagged = [_positions(significance, ranking, q, significance.threshold) for q in range(len(queries))]
    likely = [_positions(significance, ranking, q, significance.likely_threshold) for q in range(len(queries))]
    positions = sorted({*ranking.rows.tolist(), *(position for each in flagged + likely for position in each or ())})
    rows = dict(zip(positions, index.take(positions), strict=True))
    tokens = TokenScores.of(ranking, flagged)
    if score_tokens and selected.scores_tokens:
        tokens.compute(task, ranking.shares, rows, progress)
    ranked = _explain(task, ranking, significance, rows, tokens)
    increased = significance.increased_by_finetuning.tolist()
    results = tuple(
        QueryResult(query, answer, ranked[q], ranking.scores[q], flagged[q], increased[q],
                    _no_evidence(selected, query), significance.grade(q), likely[q] or (),
                    tuple(rows[position].example.id for position in likely[q] or ()), tokens.words[q])
        for q, (query, answer) in enumerate(zip(queries, _answers(model, prepared), strict=True))
    )  # fmt: skip
    notes = (*base_notes(model, selected), *index_warnings(index, selected), *ambiguity_notes(queries),
             *truncation_notes(prepared), *excess_notes(flagged, len(index)), *tie_notes(ranking.scores))  # fmt: skip
    return Trace(selected, index, results, _origin(index, selected), flagged_rows(results, rows), fdr, notes)


def _score(task: TraceTask, top_k: int) -> Ranking:
    scores = task.contrast.difference(lambda features: task.method.scores(features, task.index))
    if broken := (~scores.sum(1).isfinite()).nonzero()[:, 0].tolist():  # of a sum, since it needs no memory
        got = f"query {broken[0] + 1}" + (f" and {len(broken) - 1} more" if len(broken) > 1 else "")
        raise ModelError("scores are not finite", got=got, do="give another --dtype, or other options of the method")
    shares = torch.eye(len(task.queries))
    if task.method.pools_queries and len(task.queries) > 1:
        shares = pool_same_kind(pool_weights(scores), task.queries)
        for tile in scores.split(TILE, 1):  # in place, since only the scores grow with the number of rows
            tile.copy_(shares @ tile)
    top = torch.stack([top_positions(row, min(top_k, len(task.index))) for row in scores])
    rows, row_numbers = top.unique(return_inverse=True)
    return Ranking(scores, shares, top, rows, row_numbers)


def _flag(task: TraceTask, ranking: Ranking, fdr: float) -> Significance:
    controls = match_controls(
        task.method, task.index, task.model.depth, task.queries, task.prepared.weights, ranking.shares
    )
    increased = ranking.shares @ torch.tensor(task.prepared.gains) > MIN_GAIN
    return assess(ranking.scores, controls, increased, fdr)


def _positions(
    significance: Significance, ranking: Ranking, q: int, threshold: Float[Tensor, " Q"]
) -> tuple[int, ...] | None:
    """The positions of the rows from a query's threshold on, best first; None without controls."""
    if not significance.has_controls(q):
        return None
    scores = ranking.scores[q]
    return tuple(top_positions(scores, int((scores >= threshold[q]).sum())).tolist())


def _explain(
    task: TraceTask, ranking: Ranking, significance: Significance, rows: dict[int, IndexedRow], tokens: TokenScores
) -> list[tuple[RankedRow, ...]]:
    """The top rows of each query, with score components, token scores and evidence."""
    components, own_scores = _components(task, ranking)

    def ranked(q: int) -> Iterator[RankedRow]:
        scores = ranking.scores[q][ranking.top[q]]
        own = None if own_scores is None else own_scores[:, ranking.row_numbers[q]]
        evidence = _evidence(significance, q, scores, own, ranking.shares[q])
        top = zip(scores.tolist(), ranking.top[q].tolist(), evidence, strict=True)
        for k, (score, position, row_evidence) in enumerate(top):
            parts = {name: float(values[q, k]) for name, values in components.items()}
            yield RankedRow(
                k + 1, score, rows[position].example, position, parts, tokens.ranked[q][position], *row_evidence
            )

    return [tuple(ranked(q)) for q in range(len(task.queries))]


def _components(
    task: TraceTask, ranking: Ranking
) -> tuple[dict[str, Float[Tensor, "Q K"]], Float[Tensor, "Q R"] | None]:
    """The score components of the top rows by feature, and for pooled queries each query's own scores of them."""
    method = task.method
    if not method.has_components:
        return {}, None
    names = method.feature_names(task.model.depth)
    subset = task.index.subset(ranking.rows.tolist(), names)

    def components(features: QueryFeatures) -> Float[Tensor, "Q P R"]:
        return torch.cat([torch.stack([*piece.values()], 1) for piece in method.score_components(features, subset)], -1)

    pooled = torch.einsum("qr,rpn->pqn", ranking.shares, task.contrast.difference(components))
    own = task.contrast.difference(lambda features: method.scores(features, subset)) if method.pools_queries else None
    return {name: part.gather(1, ranking.row_numbers) for name, part in zip(names, pooled, strict=True)}, own


def _evidence(
    significance: Significance, q: int, scores: Float[Tensor, " K"], own: Float[Tensor, "Q K"] | None,
    shares: Float[Tensor, " Q"],
) -> Iterator[tuple[float | None, bool | None, float | None]]:  # fmt: skip
    """The p-value of each top row of a query, whether it is flagged, and the stability of that."""
    if not significance.has_controls(q):
        yield from [(None, None, None)] * len(scores)
        return
    stable: list[float | None] = [None] * len(scores)
    if own is not None and int((shares > 0).sum()) > 1:
        stable = stability(own, shares, float(significance.threshold[q])).tolist()
    yield from zip(
        significance.p_values(q, scores).tolist(), significance.flagged(q, scores).tolist(), stable, strict=True
    )


def _answers(model: Model, prepared: PreparedQueries) -> list[tuple[TokenScore, ...]]:
    """The response tokens of each query, with their weights relative to the highest one."""
    return [
        strip_end(token_texts(model.tokenizer, row.response), (weights / weights.max().clamp(min=1e-30)).tolist())
        for row, weights in zip(prepared.rows, prepared.weights, strict=True)
    ]


def _no_evidence(method: Method, query: Query) -> str | None:
    """Why no row can be flagged for a query although the method has controls."""
    return CONTRAST if query.desired and method.supports_significance else None


def _origin(index: Index, method: Method) -> TraceOrigin:
    settings, curve = index.manifest["settings"], index.manifest["layers"]
    adapter: str | list[str] | None = settings["adapter"]
    if adapter:
        adapter = index.located(adapter) if isinstance(adapter, str) else [index.located(name) for name in adapter]
    used = sorted({layer for option, layer in method.spec().items() if option in ("layer", "state_layer")})
    layers = curve and {"similarity": curve["similarity"], "chosen": curve["layer"], "used": used}
    place, model = resolved_address(index.path), index.located(settings["model"])
    return TraceOrigin(place, model, adapter, len(index), layers, settings["fingerprint"])
