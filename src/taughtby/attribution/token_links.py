"""Links between the tokens of a row and the tokens of an answer: what the page shows when a word is selected."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from taughtby.attribution.query import PreparedQueries, prepare_queries
from taughtby.attribution.result import Trace
from taughtby.data.batching import make_batches
from taughtby.data.tokenize import Encoding, TokenizedExample, tokenize
from taughtby.methods import QueryFeatures, StateMethod
from taughtby.methods.base import normalize
from taughtby.models.model import Model
from taughtby.models.torch_state import with_plain_torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

MIN_STRENGTH = 0.1  # links weaker than this share of the row's strongest one are left out

Link = tuple[int, int, float]  # token of the row, token of the answer, score


@with_plain_torch
def token_links(
    trace: Trace, model: Model, progress: Callable[[int, int], Any] | None = None
) -> dict[tuple[int, int], list[Link]]:
    """Score the tokens of each ranked row for each token of the answer, with its weight in the whole answer.

    Returns:
        The links by (query, position of the row), strongest first; empty if the method does not score tokens.
    """
    method = trace.method
    examples = {row.position: row.example for result in trace.queries for row in result.rows if row.tokens}
    if not (isinstance(method, StateMethod) and method.scores_tokens) or not examples:
        return {}
    encoding = Encoding(**trace.index.manifest["settings"]["encoding"])
    prepared = prepare_queries(model, method, [result.query for result in trace.queries], encoding)
    features = _tokens_as_queries(method, model, prepared)
    begins = torch.tensor([0, *(len(weights) for weights in prepared.weights)]).cumsum(0).tolist()
    ranked = {(q, row.position): row for q, result in enumerate(trace.queries) for row in result.rows}
    usable = [(position, row) for position, example in examples.items()
              if isinstance(row := tokenize(model.tokenizer, example, encoding), TokenizedExample)]  # fmt: skip
    links: dict[tuple[int, int], list[Link]] = {}
    done = 0
    budget = method.token_budget(model, per_token=True)
    for batch in make_batches([row for _, row in usable], budget):
        scores = method.token_scores(model, batch, features)
        assert scores is not None
        for b, number in enumerate(batch.row_indices):
            position, tokenized = usable[number]
            for q, result in enumerate(trace.queries):
                if row := ranked.get((q, position)):
                    pairs = scores[begins[q] : begins[q] + len(result.answer), b, tokenized.n_prompt_loss :]
                    links[q, position] = _strongest(pairs[:, : len(row.tokens)])
        done += len(batch.row_indices)
        if progress:
            progress(done, len(usable))
    return links


def _tokens_as_queries(method: StateMethod, model: Model, prepared: PreparedQueries) -> QueryFeatures:
    """Every token of every answer as a query of its own, answer after answer."""
    features = {name: [vector[None] for answer in feature for vector in answer]
                for name, feature in prepared.features.features.items() if isinstance(feature, list)}  # fmt: skip
    gradients = None
    if prepared.features.mean_token_gradient is not None:
        gradients = torch.cat(_weighted_gradients(method, model, prepared))
    return QueryFeatures((), (), {**features}, gradients)


def _weighted_gradients(method: StateMethod, model: Model, prepared: PreparedQueries) -> list[Float[Tensor, "n d"]]:
    """The unit gradients of each answer's tokens, times the tokens' shares of the weight."""
    gradients: dict[int, Tensor] = {}
    for batch in make_batches(prepared.rows, method.token_budget(model, per_token=True)):
        batch_gradients = method.token_gradients(model, batch)
        assert batch_gradients is not None
        for b, q in enumerate(batch.row_indices):
            shares = prepared.weights[q] / prepared.weights[q].sum().clamp(min=1e-30)
            gradients[q] = normalize(batch_gradients[b, : len(shares)]).cpu() * shares[:, None]
    return [gradients[q] for q in range(len(prepared.rows))]


def _strongest(scores: Float[Tensor, "n m"]) -> list[Link]:
    if not scores.numel() or float(scores.max()) <= 0:
        return []
    pairs = (scores >= MIN_STRENGTH * scores.max()).nonzero().tolist()
    links = [(u, t, round(float(scores[t, u]), 4)) for t, u in pairs]
    return sorted(links, key=lambda link: -link[2])
