"""Gradients of the trained weights, projected weight by weight: the feature of TracIn, DataInf and LiSSA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from taughtby.capture.projections import compact_gradient, fold
from taughtby.capture.weight_gradients import TrainedWeights, weight_gradients
from taughtby.capture.weights import Weight
from taughtby.data.batching import Batch
from taughtby.errors import OptionError
from taughtby.methods.base import Features, WeightMethod
from taughtby.methods.feature_store import FeatureStore
from taughtby.methods.layers import name_with_seed
from taughtby.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class ProjectedGradientMethod(WeightMethod):
    """Base of methods that compare the gradients of each block ℓ, stored as `p128_ℓ`.

    Each weight's gradient is stored as `project` numbers, by a random projection that `seed` fixes; 0 stores an
    adapter's gradients in full.
    """

    project: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        if self.project < 0:
            raise OptionError(f"{self.name}: project is below 0", got=str(self.project), do="give 0 for all")

    def feature_names(self, depth: int) -> tuple[str, ...]:
        """Return `p128_0` …, the same for all methods of this kind, so that an index stores them once."""
        prefix = name_with_seed(f"p{self.project or ''}", self.seed)
        return tuple(f"{prefix}_{block}" for block in range(depth))

    def features(self, model: Model, batch: Batch, weights: Float[Tensor, "B R"] | None = None) -> Features:
        """Return the gradients of each block's weights, concatenated."""

        def project(weight: Weight, x: Float[Tensor, "B T i"], delta: Float[Tensor, "B T o"]) -> Tensor:
            gradient = compact_gradient(weight, x, delta)
            if not 0 < self.project < gradient.shape[1]:
                return gradient
            return fold(gradient, self.project, f"{self.seed} {weight.name}")

        return weight_gradients(model, batch, project, weights).features(self.feature_names(model.depth))

    def weight_sizes(self, index: FeatureStore) -> list[list[tuple[int, int]]]:
        """Return for each block its weights' sizes: (numbers stored, numbers in the gradient)."""
        sizes = TrainedWeights.from_json(index.manifest["settings"]["notes"]["weights"]).sizes
        return [[(min(self.project or size, size), size) for size in block] for block in sizes]
