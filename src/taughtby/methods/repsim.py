"""RepSim: cosine of the last prompt token's states. What the released RepT computes, to four digits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from taughtby.capture.capture import prompt_states
from taughtby.data.batching import Batch
from taughtby.methods.base import CosineMethod, Features, Layer, feature_name
from taughtby.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class RepSim(CosineMethod):
    """Score = cos(H, H'). It never sees an answer."""

    layer: Layer = "80%"

    name: ClassVar[str] = "repsim"

    def feature_names(self, depth: int) -> tuple[str, ...]:
        """`h_ℓ`."""
        return (feature_name("h", int(self.layer), depth),)

    def needs_prompts_only(self, depth: int) -> bool:
        """It never sees an answer."""
        return True

    def features(self, model: Model, batch: Batch, weights: Float[Tensor, "B R"] | None = None) -> Features:
        """H, from the prompts alone."""
        state = prompt_states(model, batch, [int(self.layer)])[int(self.layer)]
        return {self.feature_names(model.depth)[0]: state.cpu()}
