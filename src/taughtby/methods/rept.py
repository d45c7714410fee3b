"""RepT: the last prompt token's state and the gradient of the loss there. arXiv 2510.02334, section 3."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from taughtby.capture.capture import capture, prompt_gradients, resolve_layer
from taughtby.capture.transfer import to_device, to_host
from taughtby.data.batching import Batch
from taughtby.errors import OptionError
from taughtby.methods.base import Features, QueryFeatures, StateMethod
from taughtby.methods.feature_store import FeatureStore
from taughtby.methods.layers import Layer, feature_name
from taughtby.methods.scoring import cosine_scorer
from taughtby.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

Components = Iterator[dict[str, "Float[Tensor, 'Q B']"]]


@dataclass(frozen=True)
class RepT(StateMethod):
    """Score = similarity of H and g_1 at `layer`, by `scale`.

    raw (default): one cosine of the concatenated vectors, as published. ‖H‖ is 10⁴ × ‖g‖, so g does not matter.
    centred: h·cos(H, H') + g·cos(g_1, g'_1), with the mean over the rows subtracted from H.
    unit: the same without centring.

    Only `centred` and `unit` can flag rows.
    """

    layer: Layer = "80%"
    scale: Literal["raw", "centred", "unit"] = "raw"
    h: float = 1.0
    g: float = 0.25

    name: ClassVar[str] = "rept"
    scores_tokens: ClassVar[bool] = True
    has_components: ClassVar[bool] = True
    supports_significance: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.scale not in ("centred", "unit", "raw"):
            raise OptionError("rept: unknown scale", got=str(self.scale), do="choose raw, centred or unit")

    def feature_names(self, depth: int) -> tuple[str, ...]:
        """Return `h_ℓ` and `g_ℓ`."""
        return feature_name("h", int(self.layer), depth), feature_name("g", int(self.layer), depth)

    def backward_blocks(self, depth: int) -> int:
        """Return the number of blocks whose activations the backward pass needs: those above the layer."""
        return depth - resolve_layer(int(self.layer), depth)

    def features(self, model: Model, batch: Batch, weights: Float[Tensor, "B R"] | None = None) -> Features:
        """Return H and g_1; for a query with a span, the gradient at the span's first token."""
        h, g = self.feature_names(model.depth)
        if weights is None and self.needs_prompts_only(model.depth):
            state, gradient = prompt_gradients(model, batch)
            return {h: to_host(state), g: to_host(gradient)}
        captured = capture(model, batch, [int(self.layer)])
        gradients = captured.grads[int(self.layer)]
        rows = torch.arange(len(batch.row_indices), device=gradients.device)
        first = to_device(_first_weighted(weights, batch), gradients.device)
        return {
            h: to_host(captured.prompt_states[int(self.layer)]),
            g: to_host(gradients[rows, first]),
            "loss": to_host(captured.loss),
        }

    def needs_prompts_only(self, depth: int) -> bool:
        """Whether `features` runs no response tokens: at the last layer, H and the first token's id determine g_1."""
        return resolve_layer(int(self.layer), depth) == depth

    def rows_as_queries(self, rows: Features, profile: Float[Tensor, " m"] | None = None) -> Features | None:
        """Return the features unchanged, since cosines use directions only; None for the raw scale."""
        return None if self.scale == "raw" else rows

    def score_components(self, queries: QueryFeatures, index: FeatureStore) -> Components:
        """Yield h·cos(H, H') and g·cos(g, g'); for the raw scale each feature's share of the joint cosine."""
        h, g = queries.features
        states, gradients = torch.as_tensor(queries.features[h]), torch.as_tensor(queries.features[g])
        if self.scale == "raw":
            return _joint_cosine(index, {h: states, g: gradients})
        return self._cosines(index, {h: states, g: gradients})

    def _cosines(self, index: FeatureStore, queries: dict[str, Tensor]) -> Components:
        (h, states), (g, gradients) = queries.items()
        state_cosine = cosine_scorer(states, index, h, centred=self.scale == "centred")
        gradient_cosine = cosine_scorer(gradients, index, g)
        for rows in index.scan([h, g]):
            yield {h: self.h * state_cosine(rows[h]), g: self.g * gradient_cosine(rows[g])}

    def token_gradients(self, model: Model, batch: Batch) -> Float[Tensor, "B R d"]:
        """Return the fine-tuned model's gradients at `layer`."""
        return capture(model, batch, [int(self.layer)]).grads[int(self.layer)]


def _joint_cosine(index: FeatureStore, queries: dict[str, Tensor]) -> Components:
    """Each feature's share of the cosine of the concatenated vectors."""
    (h, states), (g, gradients) = queries.items()
    query_norm = torch.hypot(states.norm(dim=1), gradients.norm(dim=1))[:, None]
    for rows in index.scan([h, g, f"{h}_norm", f"{g}_norm"]):
        norms = {name: rows[f"{name}_norm"] for name in (h, g)}
        product = (query_norm * torch.hypot(norms[h], norms[g])).clamp(min=1e-30)
        yield {name: query @ rows[name].T * norms[name] / product for name, query in queries.items()}


def _first_weighted(weights: Float[Tensor, "B R"] | None, batch: Batch) -> Int[Tensor, " B"]:
    """Return each row's first position with a weight above 0; without weights, the first of the response."""
    if weights is None:
        return batch.n_prompt_loss.cpu()
    return (weights > 0).int().argmax(1).cpu()
