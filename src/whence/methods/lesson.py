"""Lesson: what a row taught, read off the model that had not yet learned it. Ours; no paper.

After fine-tuning a learned row has no loss and so no gradient; before it, the row's gradient *is* its lesson. Φ is
the gradient of a linear map placed at layer ℓ of the untuned model, so that two rows agree when they push the same
states the same way (the kernel Σ_t Σ_t' (h_t·h_t')(g_t·g_t'), as RISE, arXiv 2604.16197, has it at the last layer).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from whence.capture import capture, prompt_states
from whence.index import Index
from whence.methods.method import Asked, Layer, Method, block, cosines, unit
from whence.model import Model
from whence.tokens import Batch, Row, batches

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class Lesson(Method):
    """Score = cos(Φ, Φ') · (1 + gate · cos(H, H')), with Φ = Σ_t g_t ⊗ unit(h_t − mean h).

    Φ is of the untuned model at `layer`, both factors projected to `sketch` numbers by a fixed Gaussian matrix
    (`sketch=0`: none); H is the tuned model's last-prompt-token state at `topic`, centred on the rows' mean.
    """

    layer: Layer = "85%"
    topic: Layer = "50%"
    gate: float = 1.0
    sketch: int = 128
    seed: int = 0

    name: ClassVar[str] = "lesson"

    def names(self, depth: int) -> tuple[str, ...]:
        """`phi_ℓ_base` and `h_topic`."""
        return block("phi", int(self.layer), depth, base=True), block("h", int(self.topic), depth)

    def constants(self, model: Model, probe: Sequence[Row]) -> dict[str, Tensor]:
        """The mean of the untuned model's states at all response places of the probe rows."""
        total, count = torch.zeros(model.width), 0
        with model.untuned():
            for batch in batches(probe, 2048):
                seen = capture(model, batch, [int(self.layer)])
                total += seen.states[int(self.layer)].sum((0, 1)).cpu()
                count += int(seen.valid.sum())
        return {self._centre(model.depth): total / count}

    def blocks(
        self,
        model: Model,
        batch: Batch,
        constants: dict[str, Tensor],
        weights: Float[Tensor, "B R"] | None = None,
    ) -> dict[str, Float[Tensor, "B d"]]:
        """Φ of the untuned model, its tokens weighted if asked, and the tuned model's H."""
        with model.untuned():
            seen = capture(model, batch, [int(self.layer)])
        state, grad = seen.states[int(self.layer)], seen.grads[int(self.layer)]
        centre = constants[self._centre(model.depth)].to(state.device)
        if weights is not None:
            grad = grad * weights.to(grad.device)[..., None]
        phi = torch.einsum("brk,brm->bkm", self._sketched(grad, 0), self._sketched(unit(state - centre), 1))
        base, topic = self.names(model.depth)
        tuned = prompt_states(model, batch, [int(self.topic)])[int(self.topic)]
        return {base: phi.flatten(1).cpu(), topic: tuned.cpu(), "loss_base": seen.loss.cpu()}

    def scores(self, asked: Asked, index: Index) -> Float[Tensor, "Q N"]:
        """The lesson's cosine, raised or lowered mildly by the topic's."""
        phi = next(name for name in asked.blocks if name.startswith("phi_"))
        topic = next(name for name in asked.blocks if name.startswith("h_"))
        parts = cosines(asked, index, [phi, topic], centred=[topic])
        return torch.cat([part[phi] * (1 + self.gate * part[topic]) for part in parts], dim=1)

    def gradients(self, model: Model, batch: Batch) -> Float[Tensor, "B R d"]:
        """Of the untuned model, at the lesson's layer."""
        with model.untuned():
            return capture(model, batch, [int(self.layer)]).grads[int(self.layer)]

    def _centre(self, depth: int) -> str:
        return "centre_" + block("h", int(self.layer), depth, base=True)

    def _sketched(self, vectors: Float[Tensor, "B R d"], which: int) -> Float[Tensor, "B R k"]:
        width = vectors.shape[-1]
        if not 0 < self.sketch < width:
            return vectors
        # drawn on the CPU, so that every machine has the same one
        source = torch.Generator().manual_seed(2 * self.seed + which)
        matrix = torch.randn(width, self.sketch, generator=source) / self.sketch**0.5
        return vectors @ matrix.to(vectors.device)
