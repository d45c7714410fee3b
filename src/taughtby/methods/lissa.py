"""LiSSA: an influence function whose inverse Hessian is computed iteratively.

Koh and Liang, arXiv 1703.04730, section 3; Agarwal and others, arXiv 1602.03943. The released RepT iterates 0 times,
which is TracIn. Here the iteration runs until it converges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from taughtby.errors import OptionError
from taughtby.methods.base import QueryFeatures
from taughtby.methods.feature_store import FeatureStore
from taughtby.methods.projected_gradient import ProjectedGradientMethod
from taughtby.methods.scoring import inner_products, stored_vectors

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

TOLERANCE = 1e-3  # relative distance of a query's scores from their limit
MAX_KERNEL_ROWS = 16384  # rows whose inner products with each other are held in memory: 1 GB


@dataclass(frozen=True)
class LiSSA(ProjectedGradientMethod):
    """Score = ⟨r, g⟩ with r ← v + (1 − damping) r − H r / scale until convergence: r = (damping + H / scale)⁻¹ v.

    v is the query's gradient and g the row's, over all trained weights at once; H = 1/N Σ_i g_i g_iᵀ is the Fisher
    matrix of the N rows' mean losses, in place of the Hessian. `scale` 0 is its trace, with which the iteration always
    converges.
    """

    iterations: int = 2000
    damping: float = 0.01
    scale: float = 0.0

    name: ClassVar[str] = "lissa"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.damping < 1:
            raise OptionError("lissa: damping is not between 0 and 1", got=str(self.damping), do="give 0.01")
        if self.iterations < 1:
            raise OptionError("lissa: iterations is below 1", got=str(self.iterations), do="use the method tracin")

    def scores(self, queries: QueryFeatures, index: FeatureStore) -> Float[Tensor, "Q N"]:
        """Iterate on the scores themselves: s = G r obeys s ← G v + (1 − damping) s − G Gᵀ s / (N scale)."""
        start, kernel = torch.zeros(len(queries.prompts), len(index)), _Kernel(index, list(queries.features))
        for name, gradient in queries.features.items():
            start += inner_products(index, name, torch.as_tensor(gradient))
        scale = self.scale or kernel.trace / len(index)
        scores, error = start, torch.full((len(start),), torch.inf)
        for _ in range(self.iterations):
            step = start + (1 - self.damping) * scores - kernel.times(scores) / (len(index) * max(scale, 1e-30))
            # the distance to the limit is at most the last step over the damping
            error = (step - scores).norm(dim=1) / scores.norm(dim=1).clamp(min=1e-30) / self.damping
            scores = step
            if not bool(scores.isfinite().all()):
                raise OptionError("lissa: the iteration diverges", got=f"scale={self.scale}",
                                  do="omit the scale, or raise it")  # fmt: skip
            if bool((error < TOLERANCE).all()):
                return scores
        raise OptionError("lissa did not converge",
                          got=f"{float(error.max()):.1%} off after {self.iterations} iterations",
                          do=f"raise iterations, or the damping of {self.damping}")  # fmt: skip


class _Kernel:
    """G Gᵀ, the inner products of all rows: in memory if they fit, else computed from the index."""

    def __init__(self, index: FeatureStore, names: list[str]) -> None:
        self.index, self.names, self.trace = index, names, 0.0
        self.matrix = torch.zeros(len(index), len(index)) if len(index) <= MAX_KERNEL_ROWS else None
        for name in names:
            start = 0
            for rows in stored_vectors(index, name):
                self.trace += float(rows.square().sum())
                if self.matrix is not None:
                    self.matrix[start : start + len(rows)] += inner_products(index, name, rows)
                    start += len(rows)

    def times(self, scores: Float[Tensor, "Q N"]) -> Float[Tensor, "Q N"]:
        if self.matrix is not None:
            return scores @ self.matrix
        total = torch.zeros_like(scores)
        for name in self.names:
            product, start = torch.zeros(()), 0
            for rows in stored_vectors(self.index, name):
                product, start = product + scores[:, start : start + len(rows)] @ rows, start + len(rows)
            total += inner_products(self.index, name, product)
        return total
