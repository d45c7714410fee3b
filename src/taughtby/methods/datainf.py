"""DataInf: an influence function whose inverse Hessian has a closed form. arXiv 2310.00902, eq. 5.

The inverse of a mean of rank-one terms is approximated by the mean of their inverses, weight by weight. The paper's
score is how much the query's loss grows when the row's weight grows; the released RepT flips its sign and then ranks
from the top. Here higher is more responsible. RepT's code also uses a hundredth of the damping (`damping=0.001`).
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


@dataclass(frozen=True)
class DataInf(ProjectedGradientMethod):
    """Score = Σ_w 1/λ_w (⟨v, g⟩ − 1/N Σ_i ⟨v, g_i⟩⟨g_i, g⟩ / (λ_w + ‖g_i‖²)) over the trained weights w.

    v is the query's gradient of w, g the row's, g_i those of all N rows; λ_w = damping · mean_i ‖g_i‖² / d_w, with
    d_w the size of w.
    """

    damping: float = 0.1

    name: ClassVar[str] = "datainf"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.damping > 0:
            raise OptionError("datainf: damping is not above 0", got=str(self.damping), do="give 0.1")

    def scores(self, queries: QueryFeatures, index: FeatureStore) -> Float[Tensor, "Q N"]:
        """Score block by block. The rows are read three times: for λ, for the correction, and for the scores."""
        total = torch.zeros(len(queries.prompts), len(index))
        for (name, feature), weights in zip(queries.features.items(), self.weight_sizes(index), strict=True):
            if not weights:  # an adapter need not be on every block
                continue
            widths, sizes = zip(*weights, strict=True)
            squares = sum((_squares(rows, widths).sum(0) for rows in stored_vectors(index, name)), torch.zeros(()))
            damping = self.damping * squares / len(index) / torch.tensor(sizes)
            query = torch.as_tensor(feature)
            correction = torch.zeros_like(query)
            for rows in stored_vectors(index, name):
                denominators = (damping + _squares(rows, widths)).clamp(min=1e-30)
                parts = zip(query.split(widths, 1), rows.split(widths, 1), denominators.T, strict=True)
                correction += torch.cat([v @ g.T / denominator @ g for v, g, denominator in parts], 1) / len(index)
            # a weight in which all rows' gradients are 0 has λ = 0 and contributes nothing
            inverse = torch.where(damping > 0, 1 / damping, 0).repeat_interleave(torch.tensor(widths))
            total += inner_products(index, name, (query - correction) * inverse)
        return total


def _squares(rows: Float[Tensor, "B d"], widths: tuple[int, ...]) -> Float[Tensor, "B W"]:
    """‖g‖² of each row, weight by weight."""
    return torch.stack([part.square().sum(1) for part in rows.split(widths, 1)], 1)
