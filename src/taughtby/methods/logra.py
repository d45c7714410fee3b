"""LoGra: an influence function in low-rank projected gradients. arXiv 2405.13954, sections 3.1 and 3.2.

Each weight's gradient is projected on both sides before it is formed, by random matrices (the paper's LoGra-random;
its PCA start needs a pass over the data before the first row is stored, and is left out). The Fisher matrix is taken
weight by weight in what is kept, and damped by a share of its mean eigenvalue: both decide everything, so both are
options.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from taughtby.capture.weight_gradients import TrainedWeights, TwoSidedProjection, find_trained_weights, weight_gradients
from taughtby.data.batching import Batch
from taughtby.errors import OptionError
from taughtby.methods.base import Features, Method, QueryFeatures, inner_products, seeded, stored_vectors
from taughtby.methods.feature_store import FeatureStore
from taughtby.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class LoGra(Method):
    """Score = Σ_w vᵀ (F_w + λ_w)⁻¹ g over the weights w that learned, with F_w = 1/N Σ_i g_i g_iᵀ.

    v and g are P_out (Σ_t δ_t ⊗ x_t) P_inᵀ of the query and of the row, with `rank` rows in each P;
    λ_w = damping · tr(F_w) / its width.
    """

    rank: int = 16
    damping: float = 0.1
    seed: int = 0

    name: ClassVar[str] = "logra"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise OptionError("logra: the rank is below 1", got=str(self.rank), do="give 16")
        if not self.damping > 0:
            raise OptionError("logra: damping is not above 0", got=str(self.damping), do="give 0.1")

    def feature_names(self, depth: int) -> tuple[str, ...]:
        """`logra16_0` …, one for each block of the model."""
        return tuple(f"{seeded(f'logra{self.rank}', self.seed)}_{at}" for at in range(depth))

    def features(self, model: Model, batch: Batch, weights: Float[Tensor, "B R"] | None = None) -> Features:
        """The projected gradients of each block's weights, one after the other."""
        found = weight_gradients(model, batch, TwoSidedProjection(self.rank, self.seed), weights)
        return {
            **dict(zip(self.feature_names(model.depth), found.blocks(model.depth), strict=True)),
            "loss": found.loss,
        }

    def index_notes(self, model: Model) -> dict[str, Any]:
        """Which weights these are: the score needs their sizes."""
        return find_trained_weights(model).notes()

    def scores(self, asked: QueryFeatures, index: FeatureStore) -> Float[Tensor, "Q N"]:
        """Block by block: the rows are read for F, then for the scores."""
        total = torch.zeros(len(asked.prompts), len(index))
        blocks = TrainedWeights.from_json(index.manifest["settings"]["notes"]["weights"]).blocks
        for (name, found), shapes in zip(asked.features.items(), blocks, strict=True):
            widths = [TwoSidedProjection(self.rank).width(shape) for shape in shapes.values()]
            fisher = [torch.zeros(width, width, dtype=torch.float64) for width in widths]
            for rows in stored_vectors(index, name):
                for matrix, part in zip(fisher, rows.double().split(widths, 1), strict=True):
                    matrix += part.T @ part / len(index)
            solved = [self._solved(*pair) for pair in zip(fisher, torch.as_tensor(found).split(widths, 1), strict=True)]
            total += inner_products(index, name, torch.cat(solved, 1))
        return total

    def _solved(self, fisher: Float[Tensor, "k k"], queries: Float[Tensor, "Q k"]) -> Float[Tensor, "Q k"]:
        damped = fisher + self.damping * fisher.trace() / len(fisher) * torch.eye(len(fisher), dtype=fisher.dtype)
        if not damped.any():  # no row moves this weight
            return torch.zeros_like(queries)
        return torch.linalg.solve(damped, queries.double().T).T.float()
