"""TracIn: how far a step on the row's loss moves the query's. arXiv 2002.08484, eq. 1, at the one checkpoint there is.

Single rows with short answers have long gradients, and win by length; TracIn-LN, of RepT's tables (arXiv 2510.02334),
gives every layer length 1 first. The reference normalises with 1e-5 added to the mean square of a layer's gradient,
which is about as large as that: short gradients stay short, so the order is another one (`eps=1e-5`). It also cuts
the adapter's numbers into as many equal parts as the model has layers, which are the layers only if all have the same
weights. Here a layer is what learned in one block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from taughtby.methods.base import QueryFeatures, WeightMethod, inner_products
from taughtby.methods.feature_store import FeatureStore

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class TracIn(WeightMethod):
    """Score = Σ_ℓ ⟨∇_ℓ row, ∇_ℓ query⟩ over the weights that learned."""

    name: ClassVar[str] = "tracin"

    def scores(self, asked: QueryFeatures, index: FeatureStore) -> Float[Tensor, "Q N"]:
        """The sum over blocks."""
        total = torch.zeros(len(asked.prompts), len(index))
        for name, query in asked.features.items():
            total += inner_products(index, name, torch.as_tensor(query))
        return total


@dataclass(frozen=True)
class TracInLN(WeightMethod):
    """Score = Σ_ℓ d_ℓ cos(∇_ℓ row, ∇_ℓ query) / Σ_ℓ d_ℓ, with d_ℓ the number of weights in block ℓ.

    Each length is √(‖∇_ℓ‖² + d_ℓ · eps).
    """

    eps: float = 0.0

    name: ClassVar[str] = "tracin-ln"

    def scores(self, asked: QueryFeatures, index: FeatureStore) -> Float[Tensor, "Q N"]:
        """The mean over blocks."""
        total, width = torch.zeros(len(asked.prompts), len(index)), 0
        for (name, found), weights in zip(asked.features.items(), self.pieces(index), strict=True):
            size, query = sum(whole for _, whole in weights), torch.as_tensor(found)
            for_rows = torch.cat([rows[f"{name}_norm"] for rows in index.scan([f"{name}_norm"])])
            lengths = [(norm**2 + size * self.eps).sqrt().clamp(min=1e-30) for norm in (query.norm(dim=1), for_rows)]
            total += size * inner_products(index, name, query) / lengths[0][:, None] / lengths[1]
            width += size
        return total / width
