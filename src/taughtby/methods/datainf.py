"""DataInf: an influence function whose inverse has a closed form. arXiv 2310.00902, eq. 5.

The mean of the inverses of rank-one terms stands for the inverse of their mean, weight by weight. The paper's score is
how much the query's loss grows when the row is weighted up; the released RepT turns its sign and then ranks from the
top. Here higher is more responsible. RepT's code also damps a hundred times less than the paper (`damping=0.001`).
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


@dataclass(frozen=True)
class DataInf(WeightMethod):
    """Score = Σ_w 1/λ_w (⟨v, g⟩ − 1/N Σ_i ⟨v, g_i⟩⟨g_i, g⟩ / (λ_w + ‖g_i‖²)) over the weights w that learned.

    v is the query's gradient of w, g the row's, g_i those of all N rows; λ_w = damping · mean_i ‖g_i‖² / d_w, with
    d_w the size of w.
    """

    damping: float = 0.1

    name: ClassVar[str] = "datainf"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.damping > 0:
            raise OptionError("datainf: damping is not above 0", got=str(self.damping), do="give 0.1")

    def scores(self, asked: QueryFeatures, index: FeatureStore) -> Float[Tensor, "Q N"]:
        """Block by block: the rows are read for λ, for what they take off the query, and for their scores."""
        total = torch.zeros(len(asked.prompts), len(index))
        for (name, found), weights in zip(asked.features.items(), self.pieces(index), strict=True):
            widths, sizes = zip(*weights, strict=True)
            squares = sum((_squares(rows, widths).sum(0) for rows in stored_vectors(index, name)), torch.zeros(()))
            damped = self.damping * squares / len(index) / torch.tensor(sizes)
            query = torch.as_tensor(found)
            taken = torch.zeros_like(query)
            for rows in stored_vectors(index, name):
                heights = (damped + _squares(rows, widths)).clamp(min=1e-30)
                parts = zip(query.split(widths, 1), rows.split(widths, 1), heights.T, strict=True)
                taken += torch.cat([v @ g.T / height @ g for v, g, height in parts], 1) / len(index)
            # a weight that no row moves has λ = 0, and moves nothing
            inverse = torch.where(damped > 0, 1 / damped, 0).repeat_interleave(torch.tensor(widths))
            total += inner_products(index, name, (query - taken) * inverse)
        return total


def _squares(rows: Float[Tensor, "B d"], widths: tuple[int, ...]) -> Float[Tensor, "B W"]:
    """‖g‖² of each row, weight by weight."""
    return torch.stack([part.square().sum(1) for part in rows.split(widths, 1)], 1)
