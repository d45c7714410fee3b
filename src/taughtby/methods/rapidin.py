"""RapidIn: normalized gradients of layers, folded with random signs. arXiv 2405.11724, section 3.

All rows and queries share one shuffle and one choice of signs. The released RepT draws new ones for every row, so its
vectors cannot be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from taughtby.capture.projections import compact_gradient, fold
from taughtby.capture.transfer import to_host
from taughtby.capture.weight_gradients import weight_gradients
from taughtby.capture.weights import Weight
from taughtby.data.batching import Batch
from taughtby.errors import OptionError
from taughtby.methods.base import Features, QueryFeatures, WeightMethod
from taughtby.methods.feature_store import FeatureStore
from taughtby.methods.layers import name_with_seed
from taughtby.methods.scoring import inner_products
from taughtby.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class RapidIn(WeightMethod):
    """Score = ⟨φ, φ'⟩ with φ = fold(∇_1 / ‖∇_1‖, …, ∇_L / ‖∇_L‖), the gradients of all blocks' trained weights.

    Folding shuffles the numbers, multiplies each by a random sign and sums them in `k` groups (65,536 and more in the
    paper). The error of inner products is about √(L / k), for scores of up to L.
    """

    k: int = 16384
    seed: int = 0

    name: ClassVar[str] = "rapidin"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise OptionError("rapidin: k is below 1", got=str(self.k), do="give 16384")

    def feature_names(self, depth: int) -> tuple[str, ...]:
        """Return `rapidin16384`, or `rapidin16384s1` with the seed 1."""
        return (name_with_seed(f"rapidin{self.k}", self.seed),)

    def features(self, model: Model, batch: Batch, weights: Float[Tensor, "B R"] | None = None) -> Features:
        """Return φ. Weights are folded before the division by the layer's norm, which needs all of them."""
        sums: dict[int, Tensor] = {}
        squares: dict[int, Tensor] = {}

        def add(weight: Weight, x: Float[Tensor, "B T i"], delta: Float[Tensor, "B T o"]) -> Tensor:
            gradient, block = compact_gradient(weight, x, delta), weight.block
            square, part = gradient.square().sum(1), fold(gradient, self.k, f"{self.seed} {weight.name}")
            sums[block] = sums[block] + part if block in sums else part
            squares[block] = squares[block] + square if block in squares else square
            return gradient[:, :0]

        loss = weight_gradients(model, batch, add, weights).loss
        parts = [sums[block] / squares[block].sqrt().clamp(min=1e-30)[:, None] for block in sums]
        return {self.feature_names(model.depth)[0]: to_host(torch.stack(parts).sum(0)), "loss": loss}

    def scores(self, queries: QueryFeatures, index: FeatureStore) -> Float[Tensor, "Q N"]:
        """Return the inner product."""
        ((name, feature),) = queries.features.items()
        return inner_products(index, name, torch.as_tensor(feature))
