"""One pass over a batch: hidden states and representation gradients at chosen layers.

Every weight is frozen, so the only graph is the one from the lowest asked layer up. The head runs at response
positions only, in chunks, and hands down ∂loss/∂h_L in closed form; layers below get it by one `autograd.grad`.
RepT, arXiv 2510.02334, section 3; layers as Hugging Face counts `hidden_states`: 0 the embedding, ℓ the output of
block ℓ, L (or -1) the output after the final norm.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from whence.errors import OptionError
from whence.model import Model
from whence.tokens import Batch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

HEAD_CHUNK = 512  # response tokens a head call: 512 x V float32 logits, 100 MB at V = 50k


@dataclass(frozen=True)
class Capture:
    """What the model felt at the R learned places p … p+n-1 of each row (R = max n; `valid` says which are real).

    `batch.at_answer(states[ℓ])` is H, the state of the last prompt token; `grads[ℓ]` is ∂loss/∂state with loss the
    row's mean cross entropy; beyond a row's own n both are zero. `logp` is log p(y_t). All float32.
    """

    states: dict[int, Float[Tensor, "B R d"]]
    grads: dict[int, Float[Tensor, "B R d"]]
    logp: Float[Tensor, "B R"]
    loss: Float[Tensor, " B"]
    valid: Bool[Tensor, "B R"]


def resolve(layer: int, depth: int) -> int:
    """A layer as a number in 0 … L; -1 is L."""
    if not -1 <= layer <= depth:
        raise OptionError("no such layer", got=str(layer), do=f"choose 0 to {depth}, or -1 for the last ({depth})")
    return depth if layer == -1 else layer


def capture(
    model: Model,
    batch: Batch,
    layers: Iterable[int],
    weights: Float[Tensor, "B R"] | None = None,
    *,
    watch: Iterable[int] = (),
) -> Capture:
    """States and gradients at `layers`, one forward and one backward from the top to the lowest of them.

    `weights` say how much each learned token counts in the loss that `grads` are of: 1/n each where None. Of the
    layers to `watch`, states alone are kept, and the backward does not reach down to them.
    """
    chosen = sorted({resolve(layer, model.depth) for layer in layers})
    watched = sorted({resolve(layer, model.depth) for layer in watch} - set(chosen))
    batch = batch.to(model.device)
    places, valid = batch.places, batch.valid
    with torch.enable_grad(), _tapped(model, sorted([*chosen, *watched]), leaf=chosen[0]) as seen:
        last = model.decoder(**_inputs(batch), use_cache=False).last_hidden_state
        answered = _at(last, places)
        top, logp = _top(model, answered.detach(), batch, weights)
        below = [layer for layer in chosen if layer < model.depth]
        pulled = torch.autograd.grad(answered, [seen[layer] for layer in below], top) if below else ()
    keep = valid[..., None]
    grads = {layer: _at(grad, places).float() * keep for layer, grad in zip(below, pulled, strict=True)}
    inside = [layer for layer in (*below, *watched) if layer < model.depth]
    states = {layer: _at(seen[layer].detach(), places).float() * keep for layer in inside}
    if model.depth in (*chosen, *watched):
        states[model.depth] = answered.detach().float() * keep
    if model.depth in chosen:
        grads[model.depth] = top.float() * keep
    return Capture(states, grads, logp, -logp.sum(1) / batch.n, valid)


@torch.no_grad()
def prompt_states(model: Model, batch: Batch, layers: Iterable[int]) -> dict[int, Float[Tensor, "B d"]]:
    """H at `layers`: prompts alone, forward only, and no further up than the highest layer asked."""
    chosen = sorted({resolve(layer, model.depth) for layer in layers})
    prompts = batch.prompts().to(model.device)
    with _tapped(model, chosen, stop=True) as seen, contextlib.suppress(_Enough):
        seen[model.depth] = model.decoder(**_inputs(prompts), use_cache=False).last_hidden_state
    return {layer: _at(seen[layer], prompts.last[:, None])[:, 0].float() for layer in chosen}


@torch.no_grad()
def answer_states(model: Model, batch: Batch, layer: int = -1) -> Float[Tensor, "B R d"]:
    """The states of a layer at the R learned places, forward only and no further up; beyond a row's own n zero.

    In the model's own number format.
    """
    at, batch = resolve(layer, model.depth), batch.to(model.device)
    with _tapped(model, [at], stop=True) as seen, contextlib.suppress(_Enough):
        seen[model.depth] = model.decoder(**_inputs(batch), use_cache=False).last_hidden_state
    return _at(seen[at], batch.places) * batch.valid[..., None]


class _Enough(Exception):
    """Raised inside a forward pass once everything asked for has been seen."""


@contextlib.contextmanager
def _tapped(model: Model, layers: list[int], *, leaf: int = -1, stop: bool = False) -> Generator[dict[int, Tensor]]:
    """Collects state ℓ where it enters block ℓ+1; at `leaf` a detached copy takes its place and starts the graph."""
    seen: dict[int, Tensor] = {}

    def tap(layer: int) -> Any:
        def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            state = args[0] if args else kwargs["hidden_states"]
            if layer == leaf:
                state = state.detach().requires_grad_()
            seen[layer] = state
            if stop and layer == layers[-1]:
                raise _Enough
            return ((state, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": state})

        return hook

    taps = [model.blocks[at].register_forward_pre_hook(tap(at), with_kwargs=True) for at in layers if at < model.depth]
    try:
        yield seen
    finally:
        for handle in taps:
            handle.remove()


def _inputs(batch: Batch) -> dict[str, Tensor]:
    """Right padding needs neither mask nor positions: under a causal mask what follows a row cannot touch it."""
    if bool(batch.mask[:, 0].all()):
        return {"input_ids": batch.ids}
    positions = (batch.mask.long().cumsum(1) - 1).clamp(min=0)
    return {"input_ids": batch.ids, "attention_mask": batch.mask.long(), "position_ids": positions}


def _at(states: Float[Tensor, "B T d"], places: Any) -> Float[Tensor, "B R d"]:
    """The states at those places, brought to where the places are: a model may be spread over several devices."""
    return states.gather(1, places.to(states.device)[..., None].expand(-1, -1, states.shape[-1])).to(places.device)


def _top(
    model: Model, answered: Float[Tensor, "B R d"], batch: Batch, weights: Float[Tensor, "B R"] | None = None
) -> tuple[Any, Any]:
    """(∂loss/∂h_L, log p) in closed form: g_t = (1/n) (∂z/∂h)ᵀ (softmax(z_t) − onehot(y_t)), chunk by chunk.

    ∂z/∂h is Wᵀ in most models; the product with it is taken through the model's own head, so that a scale or a
    soft cap on the logits is in it.
    """
    valid, targets = batch.valid, batch.targets
    counts = valid.float() if weights is None else weights.to(valid.device) * valid
    share = (counts / counts.sum(1, keepdim=True).clamp(min=1e-30))[valid]
    flat, wanted = answered[valid], targets[valid]
    grads, logps = [], []
    for states, y, weight in zip(
        flat.split(HEAD_CHUNK), wanted.split(HEAD_CHUNK), share.split(HEAD_CHUNK), strict=True
    ):
        states = states.detach().requires_grad_()
        logits = model.head(states)
        logp = logits.detach().float().log_softmax(-1)
        logps.append(logp.gather(1, y[:, None])[:, 0])
        slope = logp.exp_()
        slope[torch.arange(len(y), device=y.device), y] -= 1
        slope *= weight[:, None]
        grads.append(torch.autograd.grad(logits, states, slope.to(logits.dtype))[0])
    top = torch.zeros_like(answered)
    top[valid] = torch.cat(grads)
    logp = torch.zeros_like(targets, dtype=torch.float32)
    logp[valid] = torch.cat(logps)
    return top, logp
