"""TracIn: how much a step on the row's loss changes the query's. arXiv 2002.08484, eq. 1, at the last checkpoint.

Rows with short responses have large gradients and so rank high. TracIn-LN, from RepT's tables (arXiv 2510.02334), first
scales every layer's gradient to unit norm. The reference adds 1e-5 to the mean square before it normalizes, which is
about as large as the mean square itself, so small gradients stay small and the order differs (`eps=1e-5`). It also
splits the adapter's numbers into as many equal parts as the model has layers, which are the layers only if all have
the same weights. Here a layer is one block's trained weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from taughtby.methods.base import QueryFeatures
from taughtby.methods.feature_store import FeatureStore
from taughtby.methods.projected_gradient import ProjectedGradientMethod
from taughtby.methods.scoring import inner_products

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class TracIn(ProjectedGradientMethod):
    """Score = Σ_ℓ ⟨∇_ℓ row, ∇_ℓ query⟩ over the trained weights of all blocks ℓ."""

    name: ClassVar[str] = "tracin"

    def scores(self, queries: QueryFeatures, index: FeatureStore) -> Float[Tensor, "Q N"]:
        """Return the sum over blocks."""
        total = torch.zeros(len(queries.prompts), len(index))
        for name, gradient in queries.features.items():
            total += inner_products(index, name, torch.as_tensor(gradient))
        return total


@dataclass(frozen=True)
class TracInLN(ProjectedGradientMethod):
    """Score = Σ_ℓ d_ℓ cos(∇_ℓ row, ∇_ℓ query) / Σ_ℓ d_ℓ, with d_ℓ the number of weights in block ℓ.

    Each norm in the cosine is √(‖∇_ℓ‖² + d_ℓ · eps).
    """

    eps: float = 0.0

    name: ClassVar[str] = "tracin-ln"

    def scores(self, queries: QueryFeatures, index: FeatureStore) -> Float[Tensor, "Q N"]:
        """Return the weighted mean over blocks."""
        total, total_size = torch.zeros(len(queries.prompts), len(index)), 0
        for (name, feature), sizes in zip(queries.features.items(), self.weight_sizes(index), strict=True):
            size, gradient = sum(full for _, full in sizes), torch.as_tensor(feature)
            row_norms = torch.cat([rows[f"{name}_norm"] for rows in index.scan([f"{name}_norm"])])
            query_norms, smoothed_row_norms = (
                (norm**2 + size * self.eps).sqrt().clamp(min=1e-30) for norm in (gradient.norm(dim=1), row_norms)
            )
            total += size * inner_products(index, name, gradient) / query_norms[:, None] / smoothed_row_norms
            total_size += size
        return total / total_size
