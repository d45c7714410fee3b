"""Lesson: what a row taught, word by word, read off the model that had not yet learned it. Ours; docs/methods.md.

After fine-tuning a learned word has no loss and so no gradient; before it, the gradient at that word *is* its
lesson. A row taught an answer if, for each word that fine-tuning put into it, the row has a word that pushed the
untuned model the same way. The best match per word is the late interaction of ColBERT (arXiv 2004.12832), here
between representation gradients (RepT, arXiv 2510.02334) instead of embeddings.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from whence.capture import Capture, capture, prompt_states
from whence.columns import Ragged
from whence.errors import OptionError
from whence.index import Index
from whence.methods.method import Asked, Blocks, Layer, Method, block, cosine, unit
from whence.model import Model
from whence.tokens import Batch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class Lesson(Method):
    """Score = Σ_t w_t max_u cos(g_t, g'_u) √(1 − p'_u) · (1 + gate · cos(H, H')), with Σ_t w_t = 1.

    g are gradients at answer tokens of the untuned model at `layer`, in `sketch` dimensions by a fixed Gaussian
    matrix (0: all d), the `keep` most surprising of a row; p' is the untuned model's probability of the row's
    token: what it knew already is no lesson. w_t is how much likelier fine-tuning made the answer's token, or 1
    on the words pointed at. H is the tuned model's state of the last prompt token at `topic`, centred on the rows.
    """

    layer: Layer = "90%"
    topic: Layer = "80%"
    gate: float = 1.0
    sketch: int = 128
    keep: int = 32
    seed: int = 0

    name: ClassVar[str] = "lesson"
    baked: ClassVar[tuple[str, ...]] = ("sketch", "seed")

    def __post_init__(self) -> None:
        for key in ("sketch", "keep"):
            if getattr(self, key) < 0:
                raise OptionError(f"lesson: {key} is below 0", got=str(getattr(self, key)), do="give 0 for all")

    def names(self, depth: int) -> tuple[str, ...]:
        """`grads_ℓ_base`, a vector a token, and `h_topic`."""
        return block("grads", int(self.layer), depth, base=True), block("h", int(self.topic), depth)

    def blocks(self, model: Model, batch: Batch, weights: Float[Tensor, "B R"] | None = None) -> Blocks:
        """Of a row, its most surprising tokens' gradients, √(1 − p) long; of a query, all, w_t long."""
        seen = self._untuned(model, batch)
        if weights is None:
            lengths = (1 - seen.logp.exp()).clamp(min=0).sqrt() * seen.valid
        else:
            lengths = (weights / weights.sum(1, keepdim=True)).to(seen.logp.device)
        words = unit(self._sketched(seen.grads[int(self.layer)])) * lengths[..., None]
        kept = None
        if weights is None and self.keep:
            kept = lengths.masked_fill(~seen.valid, -1).topk(min(self.keep, lengths.shape[1])).indices
        grads, topic = self.names(model.depth)
        rows = [_chosen(words[b], seen.valid[b], None if kept is None else kept[b]).cpu() for b in range(len(words))]
        tuned = prompt_states(model, batch, [int(self.topic)])[int(self.topic)]
        return {grads: rows, topic: tuned.cpu(), "loss_base": seen.loss.cpu()}

    def weights(self, model: Model, batch: Batch) -> Float[Tensor, "B R"]:
        """How much likelier fine-tuning made each token, in nats; all alike where it did nothing."""
        news = (capture(model, batch, [-1]).logp - self._untuned(model, batch).logp).clamp(min=0).cpu()
        none = news.sum(1, keepdim=True) < 1e-3
        return torch.where(none, batch.valid.cpu().float(), news)

    def parts(self, asked: Asked, index: Index) -> Iterator[dict[str, Float[Tensor, "Q B"]]]:
        """The words' agreement and the centred cosine of the topics."""
        grads, topic = asked.blocks
        words = asked.blocks[grads]
        assert isinstance(words, list)
        for rows in index.scan([grads, topic]):
            yield {
                grads: torch.stack([_best(query, rows[grads]) for query in words]),
                topic: cosine(asked, index, topic, rows[topic], centred=True),
            }

    def joined(self, parts: dict[str, Float[Tensor, "Q B"]]) -> Float[Tensor, "Q B"]:
        """The words' agreement, raised or lowered by the topic's."""
        words, topic = parts.values()
        return words * (1 + self.gate * topic)

    def gradients(self, model: Model, batch: Batch) -> Float[Tensor, "B R d"]:
        """Of the untuned model, at the lesson's layer."""
        return self._untuned(model, batch).grads[int(self.layer)]

    def _untuned(self, model: Model, batch: Batch) -> Capture:
        with model.untuned() as before:
            return capture(before, batch, [int(self.layer)])

    def _sketched(self, vectors: Float[Tensor, "B R d"]) -> Float[Tensor, "B R k"]:
        width = vectors.shape[-1]
        if not 0 < self.sketch < width:
            return vectors
        # drawn on the CPU, so that every machine has the same one
        matrix = torch.randn(width, self.sketch, generator=torch.Generator().manual_seed(self.seed))
        return vectors @ matrix.to(vectors.device)


def _chosen(words: Float[Tensor, "R k"], valid: Tensor, kept: Tensor | None) -> Float[Tensor, "n k"]:
    """One row's words: the real ones among the kept, in the order of the text."""
    places = valid.nonzero()[:, 0] if kept is None else kept[valid[kept]].sort().values
    return words[places]


def _best(query: Float[Tensor, "n k"], rows: Tensor | Ragged) -> Float[Tensor, " B"]:
    """Σ_t max_u of the products, for each row."""
    assert isinstance(rows, Ragged)
    best = torch.zeros(len(query), len(rows.lengths))
    best.scatter_reduce_(1, rows.owner.expand(len(query), -1), query @ rows.flat.T, "amax", include_self=False)
    return best.sum(0)
