"""RepT: the state of the last prompt token and the gradient of the loss there. arXiv 2510.02334, section 3."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from taughtby.capture.capture import capture, prompt_gradients, resolve_layer
from taughtby.data.batching import Batch
from taughtby.errors import OptionError
from taughtby.methods.base import Features, Layer, Method, QueryFeatures, cosine_scorer, feature_name, first_weighted
from taughtby.methods.feature_store import FeatureStore
from taughtby.models.model import Model

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

    layer: Layer = "80%"
    scale: Literal["centred", "unit", "raw"] = "centred"
    h: float = 1.0
    g: float = 0.25

    name: ClassVar[str] = "rept"

    def __post_init__(self) -> None:
        if self.scale not in ("centred", "unit", "raw"):
            raise OptionError("rept has no such scale", got=str(self.scale), do="choose centred, unit or raw")

    def feature_names(self, depth: int) -> tuple[str, ...]:
        """`h_ℓ` and `g_ℓ`."""
        return feature_name("h", int(self.layer), depth), feature_name("g", int(self.layer), depth)

    def features(self, model: Model, batch: Batch, weights: Float[Tensor, "B R"] | None = None) -> Features:
        """H and g_1; where words of a query were pointed at, the gradient at the first of them."""
        if weights is None and self.needs_prompts_only(model.depth):
            return dict(
                zip(
                    self.feature_names(model.depth),
                    (part.cpu() for part in prompt_gradients(model, batch)),
                    strict=True,
                )
            )
        seen = capture(model, batch, [int(self.layer)])
        state, grad = seen.states[int(self.layer)], seen.grads[int(self.layer)]
        h, g = self.feature_names(model.depth)
        rows = torch.arange(len(batch.row_indices))
        return {
            h: batch.at_last_prompt_token(state).cpu(),
            g: grad.cpu()[rows, first_weighted(weights, batch)],
            "loss": seen.loss.cpu(),
        }

    def needs_prompts_only(self, depth: int) -> bool:
        """At the last layer g_1 is known from H and the answer's first token."""
        return resolve_layer(int(self.layer), depth) == depth

    def rows_as_queries(self, rows: Features, n_span_tokens: int = 0) -> Features | None:
        """As they are, where directions alone count."""
        return None if self.scale == "raw" else rows

    def score_components(self, asked: QueryFeatures, index: FeatureStore) -> Iterator[dict[str, Float[Tensor, "Q B"]]]:
        """h·cos(H, H') and g·cos(g, g'); for the raw scale each one's share of the joint cosine."""
        h, g = asked.features
        if self.scale == "raw":
            return self._shares(asked, index, h, g)
        return self._cosines(asked, index, h, g)

    def _cosines(
        self, asked: QueryFeatures, index: FeatureStore, h: str, g: str
    ) -> Iterator[dict[str, Float[Tensor, "Q B"]]]:
        about, gradient = (
            cosine_scorer(asked, index, h, centred=self.scale == "centred"),
            cosine_scorer(asked, index, g),
        )
        for rows in index.scan([h, g]):
            yield {h: self.h * about(rows[h]), g: self.g * gradient(rows[g])}

    def _shares(
        self, asked: QueryFeatures, index: FeatureStore, h: str, g: str
    ) -> Iterator[dict[str, Float[Tensor, "Q B"]]]:
        states, grads = asked.features[h], asked.features[g]
        assert isinstance(states, torch.Tensor)
        assert isinstance(grads, torch.Tensor)
        norm = torch.hypot(states.norm(dim=1), grads.norm(dim=1))[:, None]
        for rows in index.scan([h, g, f"{h}_norm", f"{g}_norm"]):
            lengths = {name: rows[f"{name}_norm"] for name in (h, g)}
            whole = norm * torch.hypot(lengths[h], lengths[g])
            yield {name: query @ rows[name].T * lengths[name] / whole for name, query in ((h, states), (g, grads))}

    def token_gradients(self, model: Model, batch: Batch) -> Float[Tensor, "B R d"]:
        """Of the tuned model, at the method's own layer."""
        return capture(model, batch, [int(self.layer)]).grads[int(self.layer)]
