"""Lesson: what a row taught, word by word, read off the model that had not yet learned it. Ours; docs/methods.md.

After fine-tuning a learned word has no loss and so no gradient; before it, the gradient at that word *is* its
lesson. A row taught an answer if, for each word that fine-tuning put into it, the row has a word that pushed the
untuned model the same way. The best match per word is the late interaction of ColBERT (arXiv 2004.12832), here
between representation gradients (RepT, arXiv 2510.02334) instead of embeddings. Where a behaviour has no words of
its own, what fine-tuning did to the model's states tells: their shift, tuned less untuned (as in DDA, 2410.01285).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch

from taughtby.capture.capture import Capture, answer_states, capture
from taughtby.capture.ragged import Ragged
from taughtby.data.batching import Batch
from taughtby.errors import OptionError
from taughtby.methods.base import (
    Features,
    Layer,
    Method,
    QueryFeatures,
    cosine_scorer,
    feature_name,
    normalize,
    top_positions,
)
from taughtby.methods.feature_store import FeatureStore
from taughtby.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_LEAST = 0.1  # of a word's weight stays where no other answer has the like
WORDS = 1024  # of queries that are compared at a time, so that many long ones take no more room


@dataclass(frozen=True)
class Lesson(Method):
    """Score = Σ_t w_t max_u cos(g_t, g'_u) √(1 − p'_u) + shift · cos(Δ, Δ'), with Σ_t w_t = 1.

    g are gradients at answer tokens of the untuned model at `layer`, in `sketch` dimensions by a fixed Gaussian
    matrix (0: all d), the `keep` most surprising of a row; p' is the untuned model's probability of the row's
    token: what it knew already is no lesson. w_t is how much likelier fine-tuning made the answer's token, or 1
    on the words pointed at. Δ is the mean over the answer of the tuned model's states less the untuned one's at
    `middle`, centred on the rows. `together`: answers that the same rows taught are explained together.
    """

    layer: Layer = "90%"
    state_layer: Layer = "50%"
    state_weight: float = 0.2
    sketch_dim: int = 128
    tokens_per_row: int = 32
    seed: int = 0
    pool_queries: bool = True

    name: ClassVar[str] = "lesson"

    def __post_init__(self) -> None:
        for key in ("sketch_dim", "tokens_per_row"):
            if getattr(self, key) < 0:
                raise OptionError(f"lesson: {key} is below 0", got=str(getattr(self, key)), do="give 0 for all")

    def feature_names(self, depth: int) -> tuple[str, ...]:
        """`grads_ℓ_base`, a vector a token, and `shift_middle`; with `_sketch64` where the sketch is another."""
        sketch = self.variant("sketch", "keep", *(["seed"] if self.sketch_dim else []))
        return feature_name("grads", int(self.layer), depth, base=True) + sketch, feature_name(
            "shift", int(self.state_layer), depth
        )

    def features(self, model: Model, batch: Batch, weights: Float[Tensor, "B R"] | None = None) -> Features:
        """Of a row, its most surprising tokens' gradients, √(1 − p) long; of a query, all, w_t long."""
        seen = self._untuned(model, batch)
        lengths = _surprise(seen) if weights is None else (weights / weights.sum(1, keepdim=True)).to(seen.logp.device)
        words = normalize(self._sketched(seen.grads[int(self.layer)])) * lengths[..., None]
        grads, shift = self.feature_names(model.depth)
        keep = self.tokens_per_row if weights is None else 0
        rows = _most(words, lengths.masked_fill(~seen.loss_mask, -1), keep or words.shape[1], batch)
        moved = answer_states(model, batch, int(self.state_layer)) - seen.states[int(self.state_layer)]
        mean = moved.sum(1) / seen.loss_mask.sum(1, keepdim=True)
        return {grads: rows, shift: mean.cpu(), "loss_base": seen.loss.cpu()}

    def logprob_gain(self, model: Model, batch: Batch) -> Float[Tensor, "B R"] | None:
        """How much likelier fine-tuning made each token, in nats; None where the untuned model is not to be had."""
        if not model.has_base:
            return None
        return (capture(model, batch, [-1]).logp - self._untuned(model, batch).logp).clamp(min=0).cpu()

    def reweight_queries(
        self, asked: QueryFeatures, weights: Sequence[Float[Tensor, " n"]]
    ) -> tuple[QueryFeatures, list[Float[Tensor, " n"]]]:
        """The words that recur in the other answers count more: w_t (0.1 + mean over them of the best match's weight).

        That is max_t' cos(g_t, g_t') √(w_t' / max w').
        """
        grads = next(iter(asked.features))
        words = asked.features[grads]
        assert isinstance(words, list)
        if not self.pool_queries or len(words) < 2:
            return asked, list(weights)
        lengths = [vectors.norm(dim=1) for vectors in words]
        strong = [normalize(vectors) * (n / n.max().clamp(min=1e-30)).sqrt()[:, None]
                  for vectors, n in zip(words, lengths, strict=True)]  # fmt: skip
        recur = [_LEAST + torch.stack([(normalize(mine) @ other.T).amax(1).clamp(min=0)
                                       for at, other in enumerate(strong) if at != q]).mean(0)
                 for q, mine in enumerate(words)]  # fmt: skip
        shares = [n * factor / (n * factor).sum() for n, factor in zip(lengths, recur, strict=True)]
        again = [normalize(vectors) * share[:, None] for vectors, share in zip(words, shares, strict=True)]
        return replace(asked, features={**asked.features, grads: again}), shares

    def rows_as_queries(self, rows: Features, n_span_tokens: int = 0) -> Features:
        """Rows as if they were queries: a word counts by its surprise; the most surprising alone where `pointed`."""
        grads, shift = rows
        words = [_asked(vectors, n_span_tokens) for vectors in rows[grads]]
        return {grads: words, shift: rows[shift]}

    def score_components(self, asked: QueryFeatures, index: FeatureStore) -> Iterator[dict[str, Float[Tensor, "Q B"]]]:
        """The words' agreement, and `shift` times the centred cosine of the shifts."""
        grads, shift = asked.features
        words = asked.features[grads]
        assert isinstance(words, list)
        moved = cosine_scorer(asked, index, shift, centred=True)
        for rows in index.scan([grads, shift]):
            yield {grads: _best(words, rows[grads]), shift: self.state_weight * moved(rows[shift])}

    def token_scores(self, model: Model, batch: Batch, asked: QueryFeatures) -> Float[Tensor, "Q B R"]:
        """Of each word, the best agreement with a word of the query: what it gives to the score, or would."""
        seen = self._untuned(model, batch)
        taught = (normalize(self._sketched(seen.grads[int(self.layer)])) * _surprise(seen)[..., None]).cpu()
        queries = asked.features[self.feature_names(model.depth)[0]]
        return torch.stack([(taught @ query.T).amax(-1) for query in queries])

    def _untuned(self, model: Model, batch: Batch) -> Capture:
        with model.base_model() as before:
            return capture(before, batch, [int(self.layer)], states_only=[int(self.state_layer)])

    def _sketched(self, vectors: Float[Tensor, "B R d"]) -> Float[Tensor, "B R k"]:
        width = vectors.shape[-1]
        if not 0 < self.sketch_dim < width:
            return vectors
        # drawn on the CPU, so that every machine has the same one
        matrix = torch.randn(width, self.sketch_dim, generator=torch.Generator().manual_seed(self.seed))
        return vectors @ matrix.to(vectors.device)


def _surprise(seen: Capture) -> Float[Tensor, "B R"]:
    """√(1 − p) of each token, 0 where there is none."""
    return (1 - seen.logp.exp()).clamp(min=0).sqrt() * seen.loss_mask


def _most(words: Float[Tensor, "B R k"], by: Float[Tensor, "B R"], keep: int, batch: Batch) -> list[Tensor]:
    """Each row's `keep` words that have most, in the order of the text; fewer where it learned fewer.

    Of words that tie, the earlier ones, however wide the batch is.
    """
    most = by.argsort(descending=True, stable=True)[:, :keep]
    order = most.masked_fill(by.gather(1, most) < 0, by.shape[1]).sort(1).values.clamp(max=by.shape[1] - 1)
    # all rows at once: an accelerator would be waited for at each
    kept = words.gather(1, order[..., None].expand(-1, -1, words.shape[-1])).cpu()
    return [row[: min(keep, n)] for row, n in zip(kept, batch.loss_mask.sum(1).tolist(), strict=True)]


def _asked(vectors: Float[Tensor, "n k"], pointed: int) -> Float[Tensor, "m k"]:
    """A row's words with the lengths of a query's: shares of 1, all alike where they were pointed at."""
    lengths = vectors.norm(dim=1)
    if pointed:
        most = top_positions(lengths, pointed)
        vectors, lengths = normalize(vectors[most]), torch.ones(len(most))
    return vectors / lengths.sum().clamp(min=1e-30)


def _best(queries: list[Tensor], rows: Tensor | Ragged) -> Float[Tensor, "Q B"]:
    """Σ_t max_u of the products, for each query and row; 0 for a row without words."""
    assert isinstance(rows, Ragged)
    words = torch.cat(queries)
    owner = torch.repeat_interleave(torch.arange(len(queries)), torch.tensor([len(query) for query in queries]))
    found = torch.zeros(len(queries), len(rows.lengths))
    for some, whose in zip(words.split(WORDS), owner.split(WORDS), strict=True):
        best = torch.segment_reduce(rows.flat @ some.T, "max", lengths=rows.lengths, axis=0)
        found.index_add_(0, whose, best.masked_fill(rows.lengths[:, None] == 0, 0).T)
    return found
