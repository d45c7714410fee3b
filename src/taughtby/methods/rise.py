"""Readout: all the gradient that the last layer shows, forward only. RISE, arXiv 2604.16197, section 3.

A token's gradient with respect to the head is exactly r_t ⊗ h_t, the residual softmax(z_t) − onehot(y_t) times the
last state, so two rows are alike as Σ_t Σ_u ⟨r_t, r_u⟩⟨h_t, h_u⟩ is large. The paper's: the two channels, the small
support, a count sketch of each factor, each at length 1, and the inner product at the end. From its released code:
the numbers, among them the temperature 0.1, which the paper does not name though its results rest on it. Ours: only
the learned tokens count, where RISE takes a training row's prompt in as well; a long row is one sum, where RISE
averages windows of 256 tokens; and Wᵀr goes through the model's own head, with whatever that does to the logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch

from taughtby.capture.capture import HEAD_CHUNK, answer_states
from taughtby.data.batching import Batch
from taughtby.errors import OptionError
from taughtby.methods.base import Features, Method, QueryFeatures, feature_name
from taughtby.methods.feature_store import FeatureStore
from taughtby.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

LEAST = 1e-8  # as in RISE: a residual shorter than this is no lesson, and is not stretched to length 1
LIKELY = 4  # so many tokens are in the support however sure the model is


class Factors(NamedTuple):
    """The sketched states, residuals and projected residuals of the learned tokens, each of length 1 or 0."""

    h: Float[Tensor, "B R h"]
    r: Float[Tensor, "B R r"]
    g: Float[Tensor, "B R g"]


@dataclass(frozen=True)
class RISE(Method):
    """Score = cos(φ, φ') with φ = [lexical · Σ_t w_t r̂_t ⊗ ĥ_t, semantic · Σ_t w_t ĝ_t ⊗ ĥ_t].

    ĥ, r̂ and ĝ are count sketches, `states`, `residuals` and `errors` wide (0: not sketched), of the last state, of
    r = softmax(z / temperature) − onehot(y) and of Wᵀr, each at length 1. r lives on the `support` likeliest tokens
    (0: all), of them no more than hold `mass` of the probability, and on y. w_t is 1; in a query, on the words
    pointed at.
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

    def __post_init__(self) -> None:
        for key in ("states", "residuals", "errors", "support"):
            if getattr(self, key) < 0:
                raise OptionError(f"rise: {key} is below 0", got=str(getattr(self, key)), do="give 0 for all")
        if not self.temperature > 0:
            raise OptionError("rise: the temperature is not above 0", got=str(self.temperature), do="give 0.1")
        if not 0 < self.mass <= 1:
            raise OptionError("rise: mass is no share of probability", got=str(self.mass), do="give 0.92, or 1")

    def feature_names(self, depth: int) -> tuple[str, ...]:
        """`rh_L`, Σ r̂ ⊗ ĥ laid flat, and `gh_L`; with `_temperature1` and the like where an option is another."""
        rh, gh = (self.variant("temperature", "states", width, "support", "mass", "seed")
                  for width in ("residuals", "errors"))  # fmt: skip
        return feature_name("rh", depth, depth) + rh, feature_name("gh", depth, depth) + gh

    def features(self, model: Model, batch: Batch, weights: Float[Tensor, "B R"] | None = None) -> Features:
        """Both channels, summed over the learned tokens."""
        found = self.factors(model, batch)
        state = found.h if weights is None else found.h * weights.to(found.h.device)[..., None]
        rh, gh = (torch.einsum("brk,brh->bkh", part, state).flatten(1).cpu() for part in (found.r, found.g))
        return dict(zip(self.feature_names(model.depth), (rh, gh), strict=True))

    def score_components(self, asked: QueryFeatures, index: FeatureStore) -> Iterator[dict[str, Float[Tensor, "Q B"]]]:
        """Each channel's share of the cosine."""
        names = tuple(asked.features)
        queries = [torch.as_tensor(asked.features[name]) for name in names]
        shares = (self.lexical**2, self.semantic**2)
        norm = _length(shares, [query.norm(dim=1) for query in queries])[:, None]
        for rows in index.scan([*names, *(f"{name}_norm" for name in names)]):
            lengths = [rows[f"{name}_norm"] for name in names]
            whole = (norm * _length(shares, lengths)).clamp(min=1e-30)
            yield {
                name: share * (query @ rows[name].T) * length / whole
                for name, share, query, length in zip(names, shares, queries, lengths, strict=True)
            }

    def token_gradients(self, model: Model, batch: Batch) -> Float[Tensor, "B R k"]:
        """φ of each single token, so that a word's score is its share in the row's."""
        found = self.factors(model, batch)
        channels = ((self.lexical, found.r), (self.semantic, found.g))
        return torch.cat([torch.einsum("brk,brh->brkh", by * part, found.h).flatten(2) for by, part in channels], -1)

    def factors(self, model: Model, batch: Batch) -> Factors:
        """ĥ, r̂ and ĝ at every response place, by chunks of the head; zero where a row has none."""
        states, valid = answer_states(model, batch), batch.loss_mask
        flat, wanted = states[valid.to(model.device)], batch.targets[valid].to(model.device)
        chunks = zip(flat.split(HEAD_CHUNK), wanted.split(HEAD_CHUNK), strict=True)
        made = [self._sketched(model, some, y) for some, y in chunks]
        filled: list[Tensor] = []
        for part in zip(*made, strict=True):
            whole = torch.zeros(*valid.shape, part[0].shape[-1], device=model.device)
            whole[valid.to(model.device)] = torch.cat(part)
            filled.append(whole)
        return Factors(*filled)

    def _sketched(self, model: Model, states: Float[Tensor, "N d"], targets: Int[Tensor, " N"]) -> list[Tensor]:
        with torch.enable_grad():
            leaf = states.detach().requires_grad_()
            logits = model.head(leaf)
            ids, residual = self._residual(logits.detach().float(), targets)
            slope = torch.zeros_like(logits).scatter_(1, ids, residual.to(logits.dtype))
            (error,) = torch.autograd.grad(logits, leaf, slope)  # through the head alone: Wᵀr, and a cap's slope
        d, v = states.shape[-1], logits.shape[-1]
        where = torch.arange(d, device=states.device).expand_as(states)
        return [
            _counted(where, states.float(), d, self.states, self.seed),
            _counted(ids, residual, v, self.residuals, self.seed + 2),
            _counted(where, error.float(), d, self.errors, self.seed + 1),
        ]

    def _residual(
        self, logits: Float[Tensor, "N V"], targets: Int[Tensor, " N"]
    ) -> tuple[Int[Tensor, "N K"], Float[Tensor, "N K"]]:
        """The tokens of the support, and r there."""
        width = logits.shape[-1]
        some = min(self.support or width, width)
        likely, ids = (logits / self.temperature).topk(some, -1)
        ours = targets[:, None]
        lost = ~(ids == ours).any(-1)
        ids[lost, -1] = targets[lost]
        likely[lost, -1] = logits[lost].gather(1, ours[lost])[:, 0] / self.temperature
        p = likely.softmax(-1)
        if self.support:
            # up to the token with which the mass is reached
            kept = (p.cumsum(-1) - p < self.mass) | (torch.arange(some, device=p.device) < LIKELY) | (ids == ours)
            p = p * kept
            p = p / p.sum(-1, keepdim=True)
        others = p.masked_fill(ids == ours, 0)
        # 1 − p(y) as what the others have: taken as a difference it would be rounding where the model is sure
        return ids, others - (ids == ours) * others.sum(-1, keepdim=True)


def _counted(
    at: Int[Tensor, "N K"], values: Float[Tensor, "N K"], size: int, width: int, seed: int
) -> Float[Tensor, "N k"]:
    """The count sketch, at length 1, of sparse vectors of `size`: each place goes, with a sign, into a bin."""
    if 0 < width < size:
        draw = torch.Generator().manual_seed(seed)  # on the CPU, so that every machine has the same one
        bins = torch.randint(0, width, (size,), generator=draw).to(at.device)
        signs = (torch.randint(0, 2, (size,), generator=draw) * 2 - 1).to(at.device)
        at, values, size = bins[at], values * signs[at], width
    sketch = torch.zeros(len(at), size, device=at.device).scatter_add_(1, at, values)
    return sketch / sketch.norm(dim=-1, keepdim=True).clamp(min=LEAST)


def _length(shares: tuple[float, float], lengths: list[Tensor]) -> Tensor:
    """The length of φ from those of its channels; the shares are squared already."""
    return sum((share * length**2 for share, length in zip(shares, lengths, strict=True)), torch.zeros(())).sqrt()
