"""Lesson: compares gradients at answer tokens in the base model. Described in docs/reference/methods.md.

After fine-tuning, a learned token has almost no loss and so almost no gradient; in the base model, its gradient is what
the row taught. A row is responsible for a response if, for each token that fine-tuning made more likely, it has a token
whose gradient has the same direction. The best match per token is the late interaction of ColBERT (arXiv 2004.12832),
here with representation gradients (RepT, arXiv 2510.02334) instead of embeddings. For behaviours without tokens of
their own, the second component compares changes of the hidden states: fine-tuned minus base (as in DDA, 2410.01285).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch

from taughtby.capture.capture import Capture, answer_states, capture
from taughtby.capture.projections import gaussian_sketch
from taughtby.capture.ragged import Ragged
from taughtby.capture.transfer import to_device, to_host
from taughtby.data.batching import Batch
from taughtby.errors import OptionError
from taughtby.methods.base import Features, QueryFeatures, StateMethod
from taughtby.methods.feature_store import FeatureStore
from taughtby.methods.layers import Layer, feature_name
from taughtby.methods.scoring import cosine_scorer, normalize, top_positions
from taughtby.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

MIN_RECURRENCE = 0.1  # share of a token's weight that remains if no other response has a similar token
QUERY_TOKENS = 1024  # query tokens that are compared at a time, which bounds memory


@dataclass(frozen=True)
class Lesson(StateMethod):
    """Score = Σ_t w_t max_u cos(g_t, g'_u) √(1 − p'_u) + state_weight · cos(Δ, Δ'), with Σ_t w_t = 1.

    g are gradients of the base model at `layer`, projected to `sketch_dim` dimensions by a fixed Gaussian matrix
    (0: not projected), of the `tokens_per_row` least likely tokens of a row (0: all). p' is the base model's
    probability of the row's token: a token that it already predicted was not taught. w_t is proportional to the nats
    by which fine-tuning raised the log probability of the response's token, or equal on all tokens of a span. Δ is the
    mean over the response of the fine-tuned model's states minus the base model's at `state_layer`, centred by the mean
    of all rows. With `pool_queries`, the queries of an incident are scored together.
    """

    layer: Layer = "90%"
    state_layer: Layer = "50%"
    state_weight: float = 0.2
    sketch_dim: int = 128
    tokens_per_row: int = 32
    seed: int = 0
    pool_queries: bool = True

    name: ClassVar[str] = "lesson"
    scores_tokens: ClassVar[bool] = True
    has_components: ClassVar[bool] = True
    supports_significance: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for key in ("sketch_dim", "tokens_per_row"):
            if getattr(self, key) < 0:
                raise OptionError(f"lesson: {key} is below 0", got=str(getattr(self, key)), do="give 0 for all")

    @property
    def pools_queries(self) -> bool:
        """Whether the queries of an incident are scored together."""
        return self.pool_queries

    def feature_names(self, depth: int) -> tuple[str, ...]:
        """Return `grads_ℓ_base`, with one vector per token, and `shift_ℓ`; with `_sketch64` for another sketch."""
        labels = {"sketch_dim": "sketch", "tokens_per_row": "keep"} | ({"seed": "seed"} if self.sketch_dim else {})
        grads = feature_name("grads", int(self.layer), depth, base=True) + self.option_suffix(**labels)
        return grads, feature_name("shift", int(self.state_layer), depth)

    def backward_blocks(self, depth: int) -> int:
        """Return the number of blocks whose activations the backward pass needs: those above the layer."""
        return depth - int(self.layer)

    def features(self, model: Model, batch: Batch, weights: Float[Tensor, "B R"] | None = None) -> Features:
        """Return gradients by token, and the mean shift of the states.

        The norms of the gradients are √(1 − p) for rows, where only the least likely tokens are kept, and w_t for
        queries.
        """
        base = self._capture_base(model, batch)
        directions = self._directions(base)
        if weights is None:
            lengths = _surprise(base)
            priority = lengths.masked_fill(~base.loss_mask, -1)
            grads = _select_tokens(directions * lengths[..., None], priority, self.tokens_per_row, batch)
        else:
            shares = to_device(weights / weights.sum(1, keepdim=True), base.logp.device)
            # tokens without a loss stay, as zeros, so that the vectors are those of the response's tokens
            vectors = to_host(directions * shares[..., None])
            grads = [row[:n] for row, n in zip(vectors, batch.n_loss.tolist(), strict=True)]
        shift = answer_states(model, batch, int(self.state_layer)) - base.states[int(self.state_layer)]
        mean_shift = shift.sum(1) / base.loss_mask.sum(1, keepdim=True)
        grads_name, shift_name = self.feature_names(model.depth)
        return {
            grads_name: grads,
            shift_name: to_host(mean_shift),
            "loss_base": to_host(base.loss),
        }

    def logprob_gain(self, model: Model, batch: Batch) -> Float[Tensor, "B R"] | None:
        """Return by how many nats fine-tuning raised each token's log probability; None without a base model."""
        if not model.has_base:
            return None
        return (capture(model, batch, [-1]).logp - self._capture_base(model, batch).logp).clamp(min=0).cpu()

    def reweight_queries(
        self, queries: QueryFeatures, weights: Sequence[Float[Tensor, " n"]]
    ) -> tuple[QueryFeatures, list[Float[Tensor, " n"]]]:
        """Raise the weights of tokens that recur in the other responses of the incident.

        w_t is multiplied by 0.1 + the mean over the others of max_u cos(g_t, g_u) √(w_u / max w).
        """
        name = next(iter(queries.features))
        gradients = queries.features[name]
        assert isinstance(gradients, list)
        if not self.pool_queries or len(gradients) < 2:
            return queries, list(weights)
        lengths = [vectors.norm(dim=1) for vectors in gradients]
        directions = [normalize(vectors) for vectors in gradients]
        scaled = [
            unit * (n / n.max().clamp(min=1e-30)).sqrt()[:, None] for unit, n in zip(directions, lengths, strict=True)
        ]
        recurrence = [
            torch.stack([(mine @ other.T).amax(1).clamp(min=0) for i, other in enumerate(scaled) if i != q]).mean(0)
            for q, mine in enumerate(directions)
        ]
        factors = [n * (MIN_RECURRENCE + factor) for n, factor in zip(lengths, recurrence, strict=True)]
        shares = [factor / factor.sum() for factor in factors]
        vectors = [unit * share[:, None] for unit, share in zip(directions, shares, strict=True)]
        return replace(queries, features={**queries.features, name: vectors}), shares

    def rows_as_queries(self, rows: Features, profile: Float[Tensor, " m"] | None = None) -> Features:
        """Return rows as queries: tokens weighted by √(1 − p), or the least likely ones by the profile."""
        grads, shift = rows
        return {grads: [_query_vectors(vectors, profile) for vectors in rows[grads]], shift: rows[shift]}

    def score_components(
        self, queries: QueryFeatures, index: FeatureStore
    ) -> Iterator[dict[str, Float[Tensor, "Q B"]]]:
        """Yield the tokens' matches, and `state_weight` times the centred cosine of the shifts."""
        grads, shift = queries.features
        gradients = queries.features[grads]
        assert isinstance(gradients, list)
        shift_cosine = cosine_scorer(torch.as_tensor(queries.features[shift]), index, shift, centred=True)
        for rows in index.scan([grads, shift]):
            yield {grads: _best_matches(gradients, rows[grads]), shift: self.state_weight * shift_cosine(rows[shift])}

    def token_scores(self, model: Model, batch: Batch, queries: QueryFeatures) -> Float[Tensor, "Q B R"]:
        """Return each token's best match with a token of the query."""
        base = self._capture_base(model, batch)
        vectors = (self._directions(base) * _surprise(base)[..., None]).cpu()
        gradients = queries.features[self.feature_names(model.depth)[0]]
        return torch.stack([(vectors @ query.T).amax(-1) for query in gradients])

    def _capture_base(self, model: Model, batch: Batch) -> Capture:
        with model.base_model() as base:
            return capture(base, batch, [int(self.layer)], states_only=[int(self.state_layer)])

    def _directions(self, base: Capture) -> Float[Tensor, "B R k"]:
        return normalize(gaussian_sketch(base.grads[int(self.layer)], self.sketch_dim, self.seed))


def _surprise(base: Capture) -> Float[Tensor, "B R"]:
    """√(1 − p) of each token, 0 where there is no loss."""
    return (1 - base.logp.exp()).clamp(min=0).sqrt() * base.loss_mask


def _select_tokens(
    vectors: Float[Tensor, "B R k"], priority: Float[Tensor, "B R"], limit: int, batch: Batch
) -> list[Float[Tensor, "n k"]]:
    """Select each row's `limit` tokens of the highest priority, or all it has (0), in the order of the text.

    Ties go to the earlier tokens, independent of the width of the batch.
    """
    limit = limit or priority.shape[1]
    best = priority.argsort(descending=True, stable=True)[:, :limit]
    order = best.masked_fill(priority.gather(1, best) < 0, priority.shape[1]).sort(1).values
    index = order.clamp(max=priority.shape[1] - 1)[..., None].expand(-1, -1, vectors.shape[-1])
    # all rows at once, since each transfer from an accelerator blocks
    selection = to_host(vectors.gather(1, index))
    return [row[: min(limit, n)] for row, n in zip(selection, batch.loss_mask.sum(1).tolist(), strict=True)]


def _query_vectors(vectors: Float[Tensor, "n k"], profile: Float[Tensor, " m"] | None) -> Float[Tensor, "m k"]:
    """Scale a row's vectors to norms that sum to 1, as those of a query do."""
    lengths = vectors.norm(dim=1)
    if profile is not None:
        best = top_positions(lengths, len(profile))
        vectors, lengths = normalize(vectors[best]) * profile[: len(best), None], profile[: len(best)]
    return vectors / lengths.sum().clamp(min=1e-30)


def _best_matches(queries: list[Tensor], rows: Tensor | Ragged) -> Float[Tensor, "Q B"]:
    """Compute Σ_t max_u of the inner products for each query and row; 0 for a row without tokens."""
    assert isinstance(rows, Ragged)
    tokens = torch.cat(queries)
    owner = torch.repeat_interleave(torch.arange(len(queries)), torch.tensor([len(query) for query in queries]))
    scores = torch.zeros(len(queries), len(rows.lengths))
    for chunk, chunk_owner in zip(tokens.split(QUERY_TOKENS), owner.split(QUERY_TOKENS), strict=True):
        best = torch.segment_reduce(rows.flat @ chunk.T, "max", lengths=rows.lengths, axis=0)
        scores.index_add_(0, chunk_owner, best.masked_fill(rows.lengths[:, None] == 0, 0).T)
    return scores
