"""Shift: cosine of how fine-tuning moved the states of the answers. Described in docs/reference/methods.md.

It compares no tokens, so it does not need words in common. Persona vectors (arXiv 2507.21509) are directions of this
kind, of one trait; DDA (arXiv 2410.01285) subtracts the base model's attribution in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from taughtby.capture.capture import answer_states
from taughtby.capture.transfer import to_device, to_host
from taughtby.data.batching import Batch
from taughtby.errors import OptionError
from taughtby.methods.base import CosineMethod, Features, StateMethod
from taughtby.methods.layers import Layer, feature_name
from taughtby.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class Shift(CosineMethod, StateMethod):
    """Score = cos(Δ − Δ̄, Δ' − Δ̄), with Δ the mean over the response of the change of the states at `layer`.

    The change is that from the base model to the fine-tuned one, and Δ̄ its mean over all rows. With `pool_queries`, the
    queries of an incident are scored together.
    """

    layer: Layer = "50%"
    pool_queries: bool = True

    name: ClassVar[str] = "shift"
    centred: ClassVar[bool] = True

    @property
    def pools_queries(self) -> bool:
        """Whether the queries of an incident are scored together."""
        return self.pool_queries

    @property
    def compares_with_base(self) -> bool:
        """Whether the method reads the base model too: always."""
        return True

    def feature_names(self, depth: int) -> tuple[str, ...]:
        """Return `shift_ℓ`, which `lesson` stores too, so its index serves both."""
        return (feature_name("shift", int(self.layer), depth),)

    def backward_blocks(self, depth: int) -> int:
        """Return the number of blocks whose activations the backward pass needs: none."""
        return 0

    def features(self, model: Model, batch: Batch, weights: Float[Tensor, "B R"] | None = None) -> Features:
        """Return Δ of each row.

        Raises:
            OptionError: there is no base model.
        """
        if not model.has_base:
            do = "give the adapter, or the base model of a full fine-tune; or choose another method"
            raise OptionError("shift needs the base model", got=f"only {model.name}", do=do)
        layer = int(self.layer)
        with model.base_model() as base:
            before = answer_states(base, batch, layer)
        shift = answer_states(model, batch, layer).float() - before
        count = to_device(batch.loss_mask, shift.device).sum(1, keepdim=True)
        return {self.feature_names(model.depth)[0]: to_host(shift.sum(1) / count)}
