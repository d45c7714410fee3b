"""RepT: the state of the last prompt token and the gradient of the loss there. arXiv 2510.02334, section 3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from whence.capture import capture
from whence.errors import OptionError
from whence.index import Index
from whence.methods.method import Asked, Layer, Method, block, cosines, first, unit
from whence.model import Model
from whence.tokens import Batch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class RepT(Method):
    """Score = h·cos(H, H') + g·cos(g, g'), by `scale`:

    centred  cosines block by block, H less its mean over the rows first (default)
    unit     cosines block by block
    raw      one cosine of the unscaled concatenation, as the reference has it; ‖H‖ is 10⁴ × ‖g‖, so it is H alone
    """

    layer: Layer = "50%"
    scale: Literal["centred", "unit", "raw"] = "centred"
    h: float = 1.0
    g: float = 1.0

    name: ClassVar[str] = "rept"

    def __post_init__(self) -> None:
        if self.scale not in ("centred", "unit", "raw"):
            raise OptionError("rept has no such scale", got=str(self.scale), do="choose centred, unit or raw")

    def names(self, depth: int) -> tuple[str, ...]:
        """`h_ℓ` and `g_ℓ`."""
        return block("h", int(self.layer), depth), block("g", int(self.layer), depth)

    def blocks(
        self,
        model: Model,
        batch: Batch,
        constants: dict[str, Tensor],
        weights: Float[Tensor, "B R"] | None = None,
    ) -> dict[str, Float[Tensor, "B d"]]:
        """H and g_1; where words of a query were pointed at, the gradient at the first of them."""
        seen = capture(model, batch, [int(self.layer)])
        state, grad = seen.states[int(self.layer)], seen.grads[int(self.layer)]
        h, g = self.names(model.depth)
        rows = torch.arange(len(batch.rows))
        return {h: state[:, 0].cpu(), g: grad.cpu()[rows, first(weights, batch)], "loss": seen.loss.cpu()}

    def scores(self, asked: Asked, index: Index) -> Float[Tensor, "Q N"]:
        """Weighted sum of block cosines, or the reference's raw cosine."""
        h, g = (name for name in asked.blocks if name.split("_")[0] in ("h", "g"))
        if self.scale == "raw":
            return self._raw(asked, index, h, g)
        centred = [h] if self.scale == "centred" else []
        parts = cosines(asked, index, [h, g], centred=centred)
        return torch.cat([self.h * part[h] + self.g * part[g] for part in parts], dim=1)

    def _raw(self, asked: Asked, index: Index, h: str, g: str) -> Float[Tensor, "Q N"]:
        query = unit(torch.cat([asked.blocks[h], asked.blocks[g]], dim=1))
        found: list[Tensor] = []
        for rows in index.scan([h, g, f"{h}_norm", f"{g}_norm"]):
            whole = torch.cat(
                [rows[h] * rows[f"{h}_norm"][:, None], rows[g] * rows[f"{g}_norm"][:, None]], dim=1
            )
            found.append(query @ unit(whole).T)
        return torch.cat(found, dim=1)

    def gradients(self, model: Model, batch: Batch) -> Float[Tensor, "B R d"]:
        """Of the tuned model, at the method's own layer."""
        return capture(model, batch, [int(self.layer)]).grads[int(self.layer)]
