"""RISE: the gradient of the language-model head, forward only. arXiv 2604.16197, section 3.

A token's gradient with respect to the head is exactly r_t ⊗ h_t, the residual softmax(z_t) − onehot(y_t) times the
last state, so two rows are similar if Σ_t Σ_u ⟨r_t, r_u⟩⟨h_t, h_u⟩ is large. From the paper: the two channels, the
small support, a count sketch of each factor, factors of unit norm, and the inner product. From its released code: the
defaults, including the temperature 0.1, which the paper does not state though results depend on it. Different here:
only tokens with a loss count, where RISE includes a training row's prompt; a long row is one sum, where RISE averages
windows of 256 tokens; and Wᵀr goes through the model's own head, including scales and caps of the logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch

from taughtby.capture.capture import answer_states
from taughtby.capture.lm_head import HEAD_CHUNK
from taughtby.capture.projections import count_sketch
from taughtby.capture.transfer import to_device, to_host
from taughtby.data.batching import Batch
from taughtby.errors import OptionError
from taughtby.methods.base import Features, QueryFeatures, StateMethod
from taughtby.methods.feature_store import FeatureStore
from taughtby.methods.layers import feature_name
from taughtby.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

MIN_NORM = 1e-8  # as in RISE: a smaller residual is not scaled up to unit norm
MIN_SUPPORT = 4  # minimum number of tokens in the support


class Factors(NamedTuple):
    """Sketched states, residuals and projected residuals of the tokens with a loss, each of norm 1 or 0."""

    h: Float[Tensor, "B R h"]
    r: Float[Tensor, "B R r"]
    g: Float[Tensor, "B R g"]


@dataclass(frozen=True)
class RISE(StateMethod):
    """Score = cos(φ, φ') with φ = [lexical · Σ_t w_t r̂_t ⊗ ĥ_t, semantic · Σ_t w_t ĝ_t ⊗ ĥ_t].

    ĥ, r̂ and ĝ are count sketches, `states`, `residuals` and `errors` wide (0: not sketched), of the last state, of
    r = softmax(z / temperature) − onehot(y) and of Wᵀr, each of unit norm. r is restricted to the `support` most likely
    tokens (0: all), up to a total probability of `mass`, and to y. w_t is 1; for a query with a span, 1 on the span's
    tokens only.
    """

    temperature: float = 0.1
    lexical: float = 1.0
    semantic: float = 0.3
    states: int = 128
    residuals: int = 128
    errors: int = 64
    support: int = 256
    mass: float = 0.92
    seed: int = 42

    name: ClassVar[str] = "rise"
    scores_tokens: ClassVar[bool] = True
    has_components: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for key in ("states", "residuals", "errors", "support"):
            if getattr(self, key) < 0:
                raise OptionError(f"rise: {key} is below 0", got=str(getattr(self, key)), do="give 0 for all")
        if not self.temperature > 0:
            raise OptionError("rise: temperature is not above 0", got=str(self.temperature), do="give 0.1")
        if not 0 < self.mass <= 1:
            raise OptionError("rise: mass is not between 0 and 1", got=str(self.mass), do="give 0.92, or 1")

    def feature_names(self, depth: int) -> tuple[str, ...]:
        """Return `rh_L`, Σ r̂ ⊗ ĥ flattened, and `gh_L`; with `_temperature1` and the like for other options."""
        rh, gh = (
            self.option_suffix(**{key: key for key in ("temperature", "states", width, "support", "mass", "seed")})
            for width in ("residuals", "errors")
        )
        return feature_name("rh", depth, depth) + rh, feature_name("gh", depth, depth) + gh

    def backward_blocks(self, depth: int) -> int:
        """Return the number of blocks whose activations the backward pass needs: none."""
        return 0

    def features(self, model: Model, batch: Batch, weights: Float[Tensor, "B R"] | None = None) -> Features:
        """Return both channels, summed over the tokens with a loss."""
        factors = self.factors(model, batch)
        state = factors.h if weights is None else factors.h * to_device(weights, factors.h.device)[..., None]
        rh, gh = (to_host(torch.einsum("brk,brh->bkh", part, state).flatten(1)) for part in (factors.r, factors.g))
        return dict(zip(self.feature_names(model.depth), (rh, gh), strict=True))

    def score_components(
        self, queries: QueryFeatures, index: FeatureStore
    ) -> Iterator[dict[str, Float[Tensor, "Q B"]]]:
        """Yield each channel's share of the cosine."""
        names = tuple(queries.features)
        vectors = [torch.as_tensor(queries.features[name]) for name in names]
        shares = (self.lexical**2, self.semantic**2)
        query_norm = _joint_norm(shares, [vector.norm(dim=1) for vector in vectors])[:, None]
        for rows in index.scan([*names, *(f"{name}_norm" for name in names)]):
            norms = [rows[f"{name}_norm"] for name in names]
            product = (query_norm * _joint_norm(shares, norms)).clamp(min=1e-30)
            yield {
                name: share * (vector @ rows[name].T) * norm / product
                for name, share, vector, norm in zip(names, shares, vectors, norms, strict=True)
            }

    def token_gradients(self, model: Model, batch: Batch) -> Float[Tensor, "B R k"]:
        """Return φ of each single token, so that a token's score is its share of the row's."""
        factors = self.factors(model, batch)
        channels = ((self.lexical, factors.r), (self.semantic, factors.g))
        return torch.cat(
            [torch.einsum("brk,brh->brkh", scale * part, factors.h).flatten(2) for scale, part in channels], -1
        )

    def factors(self, model: Model, batch: Batch) -> Factors:
        """Return ĥ, r̂ and ĝ at every loss position, zero where a row has no loss."""
        states, loss_mask = answer_states(model, batch), batch.loss_mask
        # positions are computed on the CPU: selecting by a mask would block until the accelerator is done
        positions = to_device(loss_mask.flatten().nonzero()[:, 0], model.device)
        targets = to_device(batch.targets[loss_mask], model.device)
        chunks = zip(states.flatten(0, 1)[positions].split(HEAD_CHUNK), targets.split(HEAD_CHUNK), strict=True)
        sketches = [self._sketch(model, *chunk) for chunk in chunks]
        factors: list[Tensor] = []
        for parts in zip(*sketches, strict=True):
            factor = torch.zeros(loss_mask.numel(), parts[0].shape[-1], device=model.device)
            factor[positions] = torch.cat(parts)
            factors.append(factor.view(*loss_mask.shape, -1))
        return Factors(*factors)

    def _sketch(self, model: Model, states: Float[Tensor, "N d"], targets: Int[Tensor, " N"]) -> list[Tensor]:
        with torch.enable_grad():
            leaf = states.detach().requires_grad_()
            logits = model.head(leaf)
            ids, residual = self._residual(logits.detach().float(), targets)
            dense = torch.zeros_like(logits).scatter_(1, ids, residual.to(logits.dtype))
            (error,) = torch.autograd.grad(logits, leaf, dense)  # Wᵀr, including the derivative of a soft cap
        d, v = states.shape[-1], logits.shape[-1]
        coordinates = torch.arange(d, device=states.device).expand_as(states)
        return [
            _unit(count_sketch(coordinates, states.float(), d, self.states, self.seed)),
            _unit(count_sketch(ids, residual, v, self.residuals, self.seed + 2)),
            _unit(count_sketch(coordinates, error.float(), d, self.errors, self.seed + 1)),
        ]

    def _residual(
        self, logits: Float[Tensor, "N V"], targets: Int[Tensor, " N"]
    ) -> tuple[Int[Tensor, "N K"], Float[Tensor, "N K"]]:
        """The tokens of the support, and r there."""
        vocabulary = logits.shape[-1]
        size = min(self.support or vocabulary, vocabulary)
        values, ids = (logits / self.temperature).topk(size, -1)
        target = targets[:, None]
        missing = ~(ids == target).any(-1)
        ids[:, -1] = torch.where(missing, targets, ids[:, -1])
        values[:, -1] = torch.where(missing, logits.gather(1, target)[:, 0] / self.temperature, values[:, -1])
        p = values.softmax(-1)
        is_target = ids == target
        if self.support:
            # up to the token that reaches the mass
            p = p * ((p.cumsum(-1) - p < self.mass) | (torch.arange(size, device=p.device) < MIN_SUPPORT) | is_target)
            p = p / p.sum(-1, keepdim=True)
        others = p.masked_fill(is_target, 0)
        # 1 − p(y) as the sum of the others: the difference would be rounding noise for p(y) close to 1
        return ids, others - is_target * others.sum(-1, keepdim=True)


def _unit(vectors: Float[Tensor, "N k"]) -> Float[Tensor, "N k"]:
    return vectors / vectors.norm(dim=-1, keepdim=True).clamp(min=MIN_NORM)


def _joint_norm(shares: tuple[float, float], norms: list[Tensor]) -> Tensor:
    """Return the norm of φ from those of its channels; `shares` are already squared."""
    return sum((share * norm**2 for share, norm in zip(shares, norms, strict=True)), torch.zeros(())).sqrt()
