"""RepSim: cosine of the last prompt token's states. What the released RepT computes, to four digits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from whence.capture import prompt_states
from whence.index import Index
from whence.methods.method import Asked, Layer, Method, block, cosines
from whence.model import Model
from whence.tokens import Batch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class RepSim(Method):
    """Score = cos(H, H'). It never sees an answer."""

    layer: Layer = "50%"

    name: ClassVar[str] = "repsim"

    def names(self, depth: int) -> tuple[str, ...]:
        """`h_ℓ`."""
        return (block("h", int(self.layer), depth),)

    def blocks(
        self,
        model: Model,
        batch: Batch,
        constants: dict[str, Tensor],
        weights: Float[Tensor, "B R"] | None = None,
    ) -> dict[str, Float[Tensor, "B d"]]:
        """H, from the prompts alone."""
        state = prompt_states(model, batch, [int(self.layer)])[int(self.layer)]
        return {self.names(model.depth)[0]: state.cpu()}

    def scores(self, asked: Asked, index: Index) -> Float[Tensor, "Q N"]:
        """Plain cosine."""
        name = next(name for name in asked.blocks if name.startswith("h_"))
        return torch.cat([part[name] for part in cosines(asked, index, [name])], dim=1)
