"""The similarity of neighbouring layers over a set of rows, and the phase-transition layer.

RepT, arXiv 2510.02334, section 3.3: the mean cosine between the last prompt token's states of layers ℓ and ℓ+1. The
phase transition is where it is lowest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from taughtby.capture.budget import token_budget
from taughtby.capture.capture import prompt_states
from taughtby.data.batching import make_batches
from taughtby.data.tokenize import TokenizedExample
from taughtby.models.model import Model


@dataclass(frozen=True)
class LayerSimilarity:
    """`similarity[i]` is the mean cosine between layers i+1 and i+2: L-1 numbers for a model of L blocks."""

    similarity: tuple[float, ...]

    @property
    def transition_layer(self) -> int:
        """The phase-transition layer: the upper one of the least similar pair, or -1 if that pair is not unique.

        The last pair, which includes the final norm, and the first pair are ignored. The first one's low value comes
        from leaving the embedding; the reference includes it, and so chooses layer 2 on SmolLM2.
        """
        return _least_similar(self.similarity, skip=1)

    @property
    def reference_layer(self) -> int:
        """The layer that RepT's released code chooses."""
        return _least_similar(self.similarity, skip=0)

    def to_json(self) -> dict[str, object]:
        """Return the manifest's entry: the curve and both choices."""
        return {"similarity": list(self.similarity), "layer": self.transition_layer, "reference": self.reference_layer}


def read_layer_similarity(entry: dict[str, Any] | None) -> LayerSimilarity | None:
    """Read what `to_json` returned; None if the manifest has no curve."""
    return LayerSimilarity(tuple(entry["similarity"])) if entry and "similarity" in entry else None


def measure_layer_similarity(
    model: Model, rows: Sequence[TokenizedExample], budget: int | None = None
) -> LayerSimilarity:
    """Measure the similarity curve on the prompts of rows.

    Args:
        model: the model.
        rows: the rows.
        budget: padded tokens per batch; None is as many as fit into memory.
    """
    total = torch.zeros(model.depth - 1)
    for batch in make_batches(rows, budget or token_budget(model, 0)):
        states = prompt_states(model, batch, range(1, model.depth + 1))
        stack = torch.stack([states[layer] for layer in range(1, model.depth + 1)])
        total += torch.cosine_similarity(stack[:-1], stack[1:], dim=-1).sum(1).cpu()
    return LayerSimilarity(tuple((total / len(rows)).tolist()))


def _least_similar(similarity: Sequence[float], skip: int) -> int:
    inner = similarity[skip:-1]
    if not inner or sum(value <= min(inner) + 1e-6 for value in inner) != 1:
        return -1
    return skip + inner.index(min(inner)) + 2
