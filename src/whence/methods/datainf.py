"""DataInf: an influence function whose inverse has a closed form. arXiv 2310.00902, eq. 5.

The mean of the inverses of rank-one terms stands for the inverse of their mean, weight by weight. The paper's score is
how much the query's loss grows when the row is weighted up; the released RepT turns its sign and then ranks from the
top. Here higher is more responsible. RepT's code also damps a hundred times less than the paper (`damping=0.001`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from whence.errors import OptionError
from whence.index import Index
from whence.methods.method import Asked, WeightMethod, products

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

    def scores(self, asked: Asked, index: Index) -> Float[Tensor, "Q N"]:
        """Block by block: the rows are read for λ, for what all of them take off the query, and for the scores."""
        total = torch.zeros(len(asked.prompts), len(index))
        for (name, found), weights in zip(asked.blocks.items(), self.pieces(index), strict=True):
            widths = [width for width, _ in weights]
            query = torch.as_tensor(found).split(widths, 1)
            squares = [torch.zeros(()) for _ in weights]
            for rows in index.scan([name, f"{name}_norm"]):
                for w, part in enumerate((rows[name] * rows[f"{name}_norm"][:, None]).split(widths, 1)):
                    squares[w] = squares[w] + part.square().sum()
            scale = [float(s) * self.damping / len(index) / size for s, (_, size) in zip(squares, weights, strict=True)]
            taken = [torch.zeros_like(v) for v in query]
            for rows in index.scan([name, f"{name}_norm"]):
                for w, part in enumerate((rows[name] * rows[f"{name}_norm"][:, None]).split(widths, 1)):
                    share = query[w] @ part.T / (scale[w] + part.square().sum(1)).clamp(min=1e-30)
                    taken[w] += share @ part / len(index)
            # a weight that no row moves has λ = 0, and moves nothing
            solved = [(v - t) / s if s else v * 0 for v, t, s in zip(query, taken, scale, strict=True)]
            total += products(index, name, torch.cat(solved, 1))
        return total
