"""How alike neighbouring layers are over a set of rows, and the layer where the representation turns.

RepT, arXiv 2510.02334, section 3.3: mean cosine between the last-prompt-token states of layers ℓ and ℓ+1; the phase
transition is where it is lowest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from taughtby.capture.capture import prompt_states
from taughtby.data.batching import make_batches
from taughtby.data.tokenize import TokenizedExample
from taughtby.models.model import Model


@dataclass(frozen=True)
class LayerSimilarity:
    """`similarity[i]` is the mean cosine between layers i+1 and i+2; L-1 numbers for a model of L blocks."""

    similarity: tuple[float, ...]

    @property
    def transition_layer(self) -> int:
        """The phase-transition layer: the upper one of the least alike pair; -1 where no pair is the least alone.

        Two pairs do not take part: the last, which has the final norm in it, and the first, whose jump is the
        embedding's end and no transition (the reference keeps it, and gets layer 2 for it on SmolLM2).
        """
        return _lowest(self.similarity, skip=1)

    @property
    def reference_layer(self) -> int:
        """The layer that the reference's code chooses from this curve."""
        return _lowest(self.similarity, skip=0)

    def to_json(self) -> dict[str, object]:
        """The curve and both choices."""
        return {"similarity": list(self.similarity), "layer": self.transition_layer, "reference": self.reference_layer}


def stored(known: dict[str, Any] | None) -> LayerSimilarity | None:
    """The curve that `to_json` wrote; None where there is none."""
    return LayerSimilarity(tuple(known["similarity"])) if known and "similarity" in known else None


def _lowest(similarity: Sequence[float], skip: int) -> int:
    inner = similarity[skip:-1]
    if not inner or sum(value <= min(inner) + 1e-6 for value in inner) != 1:
        return -1
    return skip + inner.index(min(inner)) + 2


def measure_layer_similarity(model: Model, rows: Sequence[TokenizedExample], budget: int = 4096) -> LayerSimilarity:
    """The similarity curve over a probe set of rows (their prompts alone are read)."""
    total = torch.zeros(model.depth - 1)
    for batch in make_batches(rows, budget):
        states = prompt_states(model, batch, range(1, model.depth + 1))
        stack = torch.stack([states[layer] for layer in range(1, model.depth + 1)])
        total += torch.cosine_similarity(stack[:-1], stack[1:], dim=-1).sum(1).cpu()
    return LayerSimilarity(tuple((total / len(rows)).tolist()))
