"""Which word of a row answers to which word of the answer: what a click on a word shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from taughtby.attribution.query import BUDGET, PreparedQueries, prepare_queries
from taughtby.attribution.trace import Trace
from taughtby.data.tokenize import Encoding, TokenizedExample, make_batches, tokenize
from taughtby.methods import QueryFeatures, StateMethod
from taughtby.methods.base import normalize
from taughtby.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

FAINT = 0.1  # of a row's strongest link: what is below says nothing

Link = tuple[int, int, float]  # token of the row, token of the answer, how much the one answers to the other


def links(
    trace: Trace, model: Model, progress: Callable[[int, int], Any] | None = None
) -> dict[tuple[int, int], list[Link]]:
    """The links of each ranked row, by (query, place); empty for a method that scores no words.

    Each token of an answer is asked about alone, as heavy as it was in the whole.
    """
    how = trace.method
    wanted = {found.position: found.example for traced in trace.queries for found in traced.rows if found.tokens}
    if not (isinstance(how, StateMethod) and how.scores_tokens) or not wanted:
        return {}
    encoding = Encoding(**trace.index.manifest["settings"]["encoding"])
    asking = prepare_queries(model, how, [traced.query for traced in trace.queries], encoding)
    asked = _word_by_word(how, model, asking)
    begins = torch.tensor([0, *(len(row) for row in asking.weights)]).cumsum(0).tolist()
    ranked = {(q, found.position): found for q, traced in enumerate(trace.queries) for found in traced.rows}
    usable = [(place, row) for place, text in wanted.items()
              if isinstance(row := tokenize(model.tokenizer, text, encoding), TokenizedExample)]  # fmt: skip
    made: dict[tuple[int, int], list[Link]] = {}
    done = 0
    for batch in make_batches([row for _, row in usable], BUDGET):
        heard = how.token_scores(model, batch, asked)
        assert heard is not None
        for b, at in enumerate(batch.row_indices):
            place, row = usable[at]
            for q, traced in enumerate(trace.queries):
                if found := ranked.get((q, place)):
                    mine = heard[begins[q] : begins[q] + len(traced.answer), b, row.n_prompt_loss :]
                    made[q, place] = _strong(mine[:, : len(found.tokens)])
        done += len(batch.row_indices)
        if progress:
            progress(done, len(usable))
    return made


def _word_by_word(how: StateMethod, model: Model, asking: PreparedQueries) -> QueryFeatures:
    """Every token of every answer as a query of its own, answer after answer."""
    blocks = {name: [vector[None] for answer in block for vector in answer]
              for name, block in asking.features.features.items() if isinstance(block, list)}  # fmt: skip
    toward = None if asking.features.mean_token_gradient is None else torch.cat(_directions(how, model, asking))
    return QueryFeatures((), (), {**blocks}, toward)


def _directions(how: StateMethod, model: Model, asking: PreparedQueries) -> list[Float[Tensor, "n d"]]:
    """Each answer's unit gradients token by token, as long as the tokens' shares."""
    made: dict[int, Tensor] = {}
    for batch in make_batches(asking.rows, BUDGET):
        grads = how.token_gradients(model, batch)
        assert grads is not None
        for place, q in enumerate(batch.row_indices):
            shares = asking.weights[q] / asking.weights[q].sum().clamp(min=1e-30)
            made[q] = normalize(grads[place, : len(shares)]).cpu() * shares[:, None]
    return [made[q] for q in range(len(asking.rows))]


def _strong(heard: Float[Tensor, "n m"]) -> list[Link]:
    """The links that say something, the strongest first."""
    if not heard.numel() or float(heard.max()) <= 0:
        return []
    kept = (heard >= FAINT * heard.max()).nonzero().tolist()
    found = [(u, t, round(float(heard[t, u]), 4)) for t, u in kept]
    return sorted(found, key=lambda link: -link[2])
