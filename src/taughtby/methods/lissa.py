"""LiSSA: an influence function whose inverse is found by iteration. Koh and Liang, arXiv 1703.04730, section 3;
Agarwal and others, arXiv 1602.03943.

The released RepT iterates 0 times, which is TracIn. Here the iteration runs until it stands still.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from taughtby.errors import OptionError
from taughtby.methods.base import QueryFeatures, WeightMethod, inner_products, stored_vectors
from taughtby.methods.feature_store import FeatureStore

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

STILL = 1e-3  # how far from its limit, of its own size, a query's scores may be
KERNEL = 16384  # rows whose products with each other are held: 1 GB


@dataclass(frozen=True)
class LiSSA(WeightMethod):
    """Score = ⟨r, g⟩, with r ← v + (1 − damping) r − H r / scale until it stands still: (damping + H / scale)⁻¹ v.

    v is the query's gradient and g the row's, over all weights that learned at once; H = 1/N Σ_i g_i g_iᵀ is the
    Fisher matrix of the N rows (that of their mean losses, which stands for the Hessian). `scale` 0 is its trace,
    with which the iteration always ends.
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
            raise OptionError("lissa: no iterations are TracIn", got=str(self.iterations), do="use the method tracin")

    def scores(self, asked: QueryFeatures, index: FeatureStore) -> Float[Tensor, "Q N"]:
        """Iterated on the scores themselves: s = G r obeys s ← G v + (1 − damping) s − G Gᵀ s / (N scale)."""
        start, kernel = torch.zeros(len(asked.prompts), len(index)), _Kernel(index, list(asked.features))
        for name, query in asked.features.items():
            start += inner_products(index, name, torch.as_tensor(query))
        scale = self.scale or kernel.trace / len(index)
        scores, off = start, torch.full((len(start),), torch.inf)
        for _ in range(self.iterations):
            after = start + (1 - self.damping) * scores - kernel.times(scores) / (len(index) * max(scale, 1e-30))
            # what is still missing is at most a step over the damping
            off = (after - scores).norm(dim=1) / scores.norm(dim=1).clamp(min=1e-30) / self.damping
            scores = after
            if not bool(scores.isfinite().all()):
                raise OptionError("lissa: the iteration runs away", got=f"scale={self.scale}",
                                  do="leave the scale out, or raise it")  # fmt: skip
            if bool((off < STILL).all()):
                return scores
        raise OptionError("lissa has not come to rest",
                          got=f"{float(off.max()):.1%} off after {self.iterations} iterations",
                          do=f"raise iterations, or the damping of {self.damping}")  # fmt: skip


class _Kernel:
    """G Gᵀ, the products of all rows with each other: held where there is room, else taken by reading the index."""

    def __init__(self, index: FeatureStore, names: list[str]) -> None:
        self.index, self.names, self.trace = index, names, 0.0
        self.held = torch.zeros(len(index), len(index)) if len(index) <= KERNEL else None
        for name in names:
            at = 0
            for rows in stored_vectors(index, name):
                self.trace += float(rows.square().sum())
                if self.held is not None:
                    self.held[at : at + len(rows)] += inner_products(index, name, rows)
                    at += len(rows)

    def times(self, scores: Float[Tensor, "Q N"]) -> Float[Tensor, "Q N"]:
        if self.held is not None:
            return scores @ self.held
        total = torch.zeros_like(scores)
        for name in self.names:
            gathered, at = torch.zeros(()), 0
            for rows in stored_vectors(self.index, name):
                gathered, at = gathered + scores[:, at : at + len(rows)] @ rows, at + len(rows)
            total += inner_products(self.index, name, gathered)
        return total
