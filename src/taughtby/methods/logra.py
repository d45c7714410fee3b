"""LoGra: an influence function on low-rank projected gradients. arXiv 2405.13954, sections 3.1 and 3.2.

Each weight's gradient is projected on both sides before it is formed, by random matrices (the paper's LoGra-random;
its PCA initialization needs a pass over the data before the first row is stored, and is not implemented). The Fisher
matrix is computed weight by weight in the projected space, and damped by a share of its mean eigenvalue. Rank and
damping affect the ranking, so both are options.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from taughtby.capture.projections import TwoSidedProjection
from taughtby.capture.weight_gradients import TrainedWeights, weight_gradients
from taughtby.data.batching import Batch
from taughtby.errors import OptionError
from taughtby.methods.base import Features, QueryFeatures, WeightMethod
from taughtby.methods.feature_store import FeatureStore
from taughtby.methods.layers import name_with_seed
from taughtby.methods.scoring import inner_products, stored_vectors
from taughtby.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class LoGra(WeightMethod):
    """Score = Σ_w vᵀ (F_w + λ_w)⁻¹ g over the trained weights w, with F_w = 1/N Σ_i g_i g_iᵀ.

    v and g are P_out (Σ_t δ_t ⊗ x_t) P_inᵀ of the query and of the row, with `rank` rows in each P;
    λ_w = damping · tr(F_w) / its width.
    """

    rank: int = 16
    damping: float = 0.1
    seed: int = 0

    name: ClassVar[str] = "logra"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise OptionError("logra: rank is below 1", got=str(self.rank), do="give 16")
        if not self.damping > 0:
            raise OptionError("logra: damping is not above 0", got=str(self.damping), do="give 0.1")

    def feature_names(self, depth: int) -> tuple[str, ...]:
        """Return `logra16_0` …, one for each block of the model."""
        prefix = name_with_seed(f"logra{self.rank}", self.seed)
        return tuple(f"{prefix}_{block}" for block in range(depth))

    def features(self, model: Model, batch: Batch, weights: Float[Tensor, "B R"] | None = None) -> Features:
        """Return the projected gradients of each block's weights, concatenated."""
        gradients = weight_gradients(model, batch, TwoSidedProjection(self.rank, self.seed), weights)
        return gradients.features(self.feature_names(model.depth))

    def scores(self, queries: QueryFeatures, index: FeatureStore) -> Float[Tensor, "Q N"]:
        """Score block by block. The rows are read twice: for F, and for the scores."""
        total = torch.zeros(len(queries.prompts), len(index))
        blocks = TrainedWeights.from_json(index.manifest["settings"]["notes"]["weights"]).blocks
        for (name, feature), shapes in zip(queries.features.items(), blocks, strict=True):
            if not shapes:  # an adapter need not be on every block
                continue
            widths = [TwoSidedProjection(self.rank).width(shape) for shape in shapes.values()]
            fisher = [torch.zeros(width, width, dtype=torch.float64) for width in widths]
            for rows in stored_vectors(index, name):
                for matrix, part in zip(fisher, rows.double().split(widths, 1), strict=True):
                    matrix += part.T @ part / len(index)
            parts = zip(fisher, torch.as_tensor(feature).split(widths, 1), strict=True)
            total += inner_products(index, name, torch.cat([self._solve(*part) for part in parts], 1))
        return total

    def _solve(self, fisher: Float[Tensor, "k k"], queries: Float[Tensor, "Q k"]) -> Float[Tensor, "Q k"]:
        identity = torch.eye(len(fisher), dtype=fisher.dtype)
        matrix = fisher + self.damping * fisher.trace() / len(fisher) * identity
        if not matrix.any():  # all rows' gradients of this weight are 0
            return torch.zeros_like(queries)
        return torch.linalg.solve(matrix, queries.double().T).T.float()
