"""RepSim: cosine of the last prompt token's states. The released RepT computes the same, to four digits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from taughtby.capture.capture import prompt_states
from taughtby.capture.transfer import to_host
from taughtby.data.batching import Batch
from taughtby.methods.base import CosineMethod, Features, StateMethod
from taughtby.methods.layers import Layer, feature_name
from taughtby.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class RepSim(CosineMethod, StateMethod):
    """Score = cos(H, H'), with H the last prompt token's state at `layer`. It does not depend on responses."""

    layer: Layer = "80%"

    name: ClassVar[str] = "repsim"

    def feature_names(self, depth: int) -> tuple[str, ...]:
        """Return `h_ℓ`."""
        return (feature_name("h", int(self.layer), depth),)

    def needs_prompts_only(self, depth: int) -> bool:
        """Whether `features` runs no response tokens: always."""
        return True

    def backward_blocks(self, depth: int) -> int:
        """Return the number of blocks whose activations the backward pass needs: none."""
        return 0

    def features(self, model: Model, batch: Batch, weights: Float[Tensor, "B R"] | None = None) -> Features:
        """Return H of each row."""
        state = prompt_states(model, batch, [int(self.layer)])[int(self.layer)]
        return {self.feature_names(model.depth)[0]: to_host(state)}
