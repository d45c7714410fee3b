"""RepSim: cosine of the last prompt token's states. What the released RepT computes, to four digits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from taughtby.capture.capture import prompt_states
from taughtby.data.tokenize import Batch
from taughtby.methods.base import Blocks, CosineMethod, Layer, block
from taughtby.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class RepSim(CosineMethod):
    """Score = cos(H, H'). It never sees an answer."""

    layer: Layer = "80%"

    name: ClassVar[str] = "repsim"

    def names(self, depth: int) -> tuple[str, ...]:
        """`h_ℓ`."""
        return (block("h", int(self.layer), depth),)

    def prompts_alone(self, depth: int) -> bool:
        """It never sees an answer."""
        return True

    def blocks(self, model: Model, batch: Batch, weights: Float[Tensor, "B R"] | None = None) -> Blocks:
        """H, from the prompts alone."""
        state = prompt_states(model, batch, [int(self.layer)])[int(self.layer)]
        return {self.names(model.depth)[0]: state.cpu()}
