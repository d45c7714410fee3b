"""RapidIn: gradients of layers at length 1, shuffled, signed at random and folded. arXiv 2405.11724, section 3.

One shuffle and one choice of signs serve all rows and queries: the released RepT draws new ones for every row, after
which no two can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from taughtby.capture.weight_gradients import Weight, compact_gradient, find_trained_weights, fold, weight_gradients
from taughtby.data.batching import Batch
from taughtby.errors import OptionError
from taughtby.methods.base import Features, Method, QueryFeatures, inner_products, seeded
from taughtby.methods.feature_store import FeatureStore
from taughtby.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class RapidIn(Method):
    """Score = ⟨φ, φ'⟩, φ = fold(∇_1 / ‖∇_1‖, …, ∇_L / ‖∇_L‖): the gradients of all blocks' weights that learned.

    The fold shuffles them, gives each a sign and sums them in `k` groups (the paper's: 65,536 and more). Its products
    are off by about √(L / k), against scores of up to L.
    """

    k: int = 16384
    seed: int = 0

    name: ClassVar[str] = "rapidin"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise OptionError("rapidin: k is below 1", got=str(self.k), do="give 16384")

    def feature_names(self, depth: int) -> tuple[str, ...]:
        """`rapidin16384`, or `rapidin16384s1` with the seed 1."""
        return (seeded(f"rapidin{self.k}", self.seed),)

    def features(self, model: Model, batch: Batch, weights: Float[Tensor, "B R"] | None = None) -> Features:
        """φ. Folding goes before the division by a layer's length, which has to wait for all its weights."""
        sums: dict[int, Tensor] = {}
        squares: dict[int, Tensor] = {}

        def add(weight: Weight, x: Float[Tensor, "B T i"], delta: Float[Tensor, "B T o"]) -> Tensor:
            gradient = compact_gradient(weight, x, delta)
            at, square = weight.block, gradient.square().sum(1)
            part = fold(gradient, self.k, f"{self.seed} {weight.name}")
            sums[at], squares[at] = (sums[at] + part, squares[at] + square) if at in sums else (part, square)
            return gradient[:, :0]

        found = weight_gradients(model, batch, add, weights)
        parts = [(sums[at] / squares[at].sqrt().clamp(min=1e-30)[:, None]).cpu() for at in sums]
        return {self.feature_names(model.depth)[0]: torch.stack(parts).sum(0), "loss": found.loss}

    def index_notes(self, model: Model) -> dict[str, Any]:
        """Which weights these are."""
        return find_trained_weights(model).notes()

    def scores(self, asked: QueryFeatures, index: FeatureStore) -> Float[Tensor, "Q N"]:
        """The inner product."""
        ((name, query),) = asked.features.items()
        return inner_products(index, name, torch.as_tensor(query))
