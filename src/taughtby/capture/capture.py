"""One pass over a batch: hidden states and representation gradients at chosen layers.

Every weight is frozen, so the only graph is the one from the lowest asked layer up. The head runs at response
positions only, in chunks, and hands down ∂loss/∂h_L in closed form; layers below get it by one `autograd.grad`.
What no answer depends on is not computed: the rows' common beginning runs once, the last token not at all, and the
way back leaves prompts and padding out. RepT, arXiv 2510.02334, section 3; layers as Hugging Face counts
`hidden_states`: 0 the embedding, ℓ the output of block ℓ, L (or -1) the output after the final norm.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers import DynamicCache

from taughtby.data.batching import Batch
from taughtby.errors import OptionError
from taughtby.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

HEAD_CHUNK = 512  # response tokens a head call: 512 x V float32 logits, 100 MB at V = 50k
CACHED = 2**20  # logits that are turned into slopes together on a CPU: 4 MB, which its caches hold
MOST, WIDE = 0.95, 64  # share of the places, and width of a linear map, from which picking them out does not pay
SAVED = 64  # tokens that a common beginning must save a batch, else a pass of its own costs more


@dataclass(frozen=True)
class Capture:
    """What the model felt at the R learned places p … p+n-1 of each row (R = max n; `valid` says which are real).

    `batch.at_answer(states[ℓ])` is H, the state of the last prompt token; `grads[ℓ]` is ∂loss/∂state with loss the
    row's mean cross entropy; beyond a row's own n both are zero. `logp` is log p(y_t). All float32, where the model is.
    """

    states: dict[int, Float[Tensor, "B R d"]]
    grads: dict[int, Float[Tensor, "B R d"]]
    logp: Float[Tensor, "B R"]
    loss: Float[Tensor, " B"]
    loss_mask: Bool[Tensor, "B R"]


def resolve_layer(layer: int, depth: int) -> int:
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
    states_only: Iterable[int] = (),
    full_sequence: bool = False,
) -> Capture:
    """States and gradients at `layers`, one forward and one backward from the top to the lowest of them.

    `weights` say how much each learned token counts in the loss that `grads` are of: 1/n each where None. Of the
    layers to `watch`, states alone are kept, and the backward does not reach down to them. `whole`: every token of
    every row takes part in both passes, which gradients of weights need.
    """
    chosen = sorted({resolve_layer(layer, model.depth) for layer in layers})
    watched = sorted({resolve_layer(layer, model.depth) for layer in states_only} - set(chosen))
    given = _whole(model, batch) if full_sequence else _given(model, batch, batch.loss_positions)
    places, valid = given.places, batch.loss_mask.to(model.device)
    keep = valid[..., None]
    back = _SparseBackward(
        given.shape, batch.attention_mask if full_sequence else given.answer_columns(batch), model.device
    )
    with torch.enable_grad(), _record_states(model, sorted([*chosen, *watched]), leaf=chosen[0]) as seen:
        with back:
            last = model.decoder(**given.inputs).last_hidden_state
        answered = _at(last, places)
        top, logp = _final_state_gradient(model, answered.detach(), batch, weights)
        below = [layer for layer in chosen if layer < model.depth]
        pulled = torch.autograd.grad(answered, [seen[layer] for layer in below], top) if below else ()
    grads = {layer: _at(grad, places).float() * keep for layer, grad in zip(below, pulled, strict=True)}
    inside = [layer for layer in (*below, *watched) if layer < model.depth]
    states = {layer: _at(seen[layer].detach(), places).float() * keep for layer in inside}
    if model.depth in (*chosen, *watched):
        states[model.depth] = answered.detach().float() * keep
    if model.depth in chosen:
        grads[model.depth] = top.float() * keep
    return Capture(states, grads, logp, -logp.sum(1) / valid.sum(1).clamp(min=1), valid)


@torch.no_grad()
def prompt_states(model: Model, batch: Batch, layers: Iterable[int]) -> dict[int, Float[Tensor, "B d"]]:
    """H at `layers`: prompts alone, forward only, and no further up than the highest layer asked."""
    chosen = sorted({resolve_layer(layer, model.depth) for layer in layers})
    given = _given(model, batch, batch.last_prompt_position[:, None])
    with _record_states(model, chosen, stop=True) as seen, contextlib.suppress(_StopForward):
        seen[model.depth] = model.decoder(**given.inputs).last_hidden_state
    return {layer: _at(seen[layer], given.places)[:, 0].float() for layer in chosen}


def prompt_gradients(model: Model, batch: Batch) -> tuple[Float[Tensor, "B d"], Float[Tensor, "B d"]]:
    """(H, g_1) at the last layer, from the prompts alone: g_1 follows from H, y_1 and n; zero where y_1 is masked."""
    state, following = prompt_states(model, batch, [-1])[model.depth], batch.last_prompt_position[:, None] + 1
    y = batch.ids.gather(1, following)[:, 0].to(model.device)
    slopes, _ = _logit_gradient(model, state.to(model.dtype), y)
    share = ~batch.masked.gather(1, following) / batch.loss_mask.sum(1, keepdim=True).clamp(min=1)
    return state, slopes.float() * share.to(model.device)


@torch.no_grad()
def answer_states(model: Model, batch: Batch, layer: int = -1) -> Float[Tensor, "B R d"]:
    """The states of a layer at the R learned places, forward only and no further up; beyond a row's own n zero.

    In the model's own number format.
    """
    at, given = resolve_layer(layer, model.depth), _given(model, batch, batch.loss_positions)
    with _record_states(model, [at], stop=True) as seen, contextlib.suppress(_StopForward):
        seen[model.depth] = model.decoder(**given.inputs).last_hidden_state
    return _at(seen[at], given.places) * batch.loss_mask[..., None].to(model.device)


# — what is seen on the way


class _StopForward(Exception):
    """Raised inside a forward pass once everything asked for has been seen."""


@contextlib.contextmanager
def _record_states(
    model: Model, layers: list[int], *, leaf: int = -1, stop: bool = False
) -> Generator[dict[int, Tensor]]:
    """Collects state ℓ where it enters block ℓ+1; at `leaf` a detached copy takes its place and starts the graph."""
    seen: dict[int, Tensor] = {}

    def tap(layer: int) -> Any:
        def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            state = args[0] if args else kwargs["hidden_states"]
            if layer == leaf:
                state = state.detach().requires_grad_()
            seen[layer] = state
            if stop and layer == layers[-1]:
                raise _StopForward
            return ((state, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": state})

        return hook

    taps = [model.blocks[at].register_forward_pre_hook(tap(at), with_kwargs=True) for at in layers if at < model.depth]
    try:
        yield seen
    finally:
        for handle in taps:
            handle.remove()


def _at(states: Float[Tensor, "B T d"], places: Any) -> Float[Tensor, "B R d"]:
    """The states at those places, brought to where the places are: a model may be spread over several devices."""
    return states.gather(1, places.to(states.device)[..., None].expand(-1, -1, states.shape[-1])).to(places.device)


# — what the decoder is given


@dataclass(frozen=True)
class _DecoderInputs:
    """A decoder's inputs for the columns that matter, and where in them the asked places are."""

    inputs: dict[str, Any]
    places: Int[Tensor, "B R"]
    start: int
    shape: tuple[int, int]

    def answer_columns(self, batch: Batch) -> Bool[Tensor, "B T"]:
        """The columns from a row's first asked place to its last, masked ones too: later tokens look at those."""
        columns = torch.arange(self.shape[1]) + self.start
        first = (batch.last_prompt_position - batch.n_prompt_loss)[:, None]
        return (columns >= first) & (columns < first + batch.n_loss[:, None])


def _whole(model: Model, batch: Batch) -> _DecoderInputs:
    """All columns."""
    inputs = _inputs(batch, batch.ids.shape[1], model.device)
    return _DecoderInputs(inputs, batch.loss_positions.to(model.device), 0, (batch.ids.shape[0], batch.ids.shape[1]))


def _given(model: Model, batch: Batch, places: Int[Tensor, "B R"]) -> _DecoderInputs:
    """Up to the last place asked; the rows' common beginning as keys and values that one pass made for all."""
    stop = int(places.max()) + 1
    inputs, start = _inputs(batch, stop, model.device), 0
    if "attention_mask" not in inputs:
        start = _common(batch.ids[:, : int(places.min())])
        cache = _kept(model, inputs["input_ids"][:1, :start], len(batch.row_indices)) if start else None
        start = 0 if cache is None else start
        inputs = {"input_ids": inputs["input_ids"][:, start:], "past_key_values": cache, "use_cache": start > 0}
    return _DecoderInputs(inputs, (places - start).to(model.device), start, (len(batch.row_indices), stop - start))


def _inputs(batch: Batch, stop: int, device: torch.device) -> dict[str, Any]:
    """Right padding needs neither mask nor positions: under a causal mask what follows a row cannot touch it."""
    ids, mask = batch.ids[:, :stop].to(device), batch.attention_mask[:, :stop]
    if bool(mask[:, 0].all()):
        return {"input_ids": ids, "use_cache": False}
    positions = (mask.long().cumsum(1) - 1).clamp(min=0).to(device)
    return {"input_ids": ids, "attention_mask": mask.long().to(device), "position_ids": positions, "use_cache": False}


def _common(ids: Int[Tensor, "B T"]) -> int:
    """How many tokens all rows begin with alike; 0 where to run them once would save too little."""
    alike = int((ids == ids[:1]).all(0).long().cumprod(0).sum())
    return alike if alike * (len(ids) - 1) >= SAVED else 0


@torch.no_grad()
def _kept(model: Model, ids: Int[Tensor, "1 T"], rows: int) -> Any:
    """The keys and values of a beginning, for as many rows; None where the model remembers in another way."""
    cache = model.decoder(input_ids=ids, use_cache=True).past_key_values
    if type(cache) is not DynamicCache:
        return None
    cache.batch_repeat_interleave(rows)
    return cache


class _SparseBackward(TorchFunctionMode):
    """Linear maps go back at the places `at` alone, and attention in float32 where it is slow otherwise.

    No gradient at an answer comes through a prompt, which lies before it, nor through padding. Any other operation,
    and a linear map that PyTorch does not see as one, goes back everywhere: slower, and no less right.
    """

    def __init__(self, shape: tuple[int, int], at: Bool[Tensor, "B T"], device: torch.device) -> None:
        super().__init__()
        self.shape, self.at = shape, at.flatten().nonzero()[:, 0].to(device)
        self.worth = len(self.at) < MOST * at.numel()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.linear and self.worth and not kwargs:
            x, weight, *bias = args
            plain = weight.requires_grad or weight.shape[0] < WIDE
            if x.requires_grad and x.shape[:-1] == self.shape and not plain:
                return _SparseLinear.apply(x, weight, bias[0] if bias else None, self.at.to(x.device))
        if func is functional.scaled_dot_product_attention and _slow(args[0]):
            mask = kwargs.get("attn_mask")
            if mask is not None and mask.is_floating_point():
                kwargs = {**kwargs, "attn_mask": mask.float()}
            return func(*(part.float() for part in args[:3]), *args[3:], **kwargs).to(args[0].dtype)
        return func(*args, **kwargs)


def _slow(query: Tensor) -> bool:
    """Whether attention would go back on a CPU in half precision: three times the time of float32 (measured)."""
    return query.requires_grad and query.device.type == "cpu" and query.dtype != torch.float32


class _SparseLinear(torch.autograd.Function):
    """x Wᵀ + b, whose gradient at the flat places outside `at` is left zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, at: Tensor) -> Tensor:
        ctx.save_for_backward(weight, at)
        return functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        (slope,), (weight, at) = slopes, ctx.saved_tensors
        rows = slope.reshape(-1, slope.shape[-1])
        back = slope.new_zeros(len(rows), weight.shape[1])
        back.index_copy_(0, at, rows.index_select(0, at) @ weight)
        return back.view(*slope.shape[:-1], -1), None, None, None


# — the head


def _final_state_gradient(
    model: Model, answered: Float[Tensor, "B R d"], batch: Batch, weights: Float[Tensor, "B R"] | None = None
) -> tuple[Any, Any]:
    """(∂loss/∂h_L, log p) in closed form: g_t = (1/n) (∂z/∂h)ᵀ (softmax(z_t) − onehot(y_t))."""
    valid, device = batch.loss_mask, answered.device
    counts = valid.float() if weights is None else weights.to(valid.device) * valid
    share = (counts / counts.sum(1, keepdim=True).clamp(min=1e-30))[valid].to(device)
    # found here and not there: to count on an accelerator is to wait for it
    where, wanted = valid.flatten().nonzero()[:, 0].to(device), batch.targets[valid].to(device)
    slopes, said = _logit_gradient(model, answered.flatten(0, 1)[where], wanted)
    top = torch.zeros_like(answered)
    top.view(-1, top.shape[-1])[where] = slopes * share[:, None].to(slopes)
    logp = torch.zeros(valid.shape, device=device)
    logp.view(-1)[where] = said
    return top, logp


def _logit_gradient(
    model: Model, states: Float[Tensor, "N d"], targets: Int[Tensor, " N"]
) -> tuple[Float[Tensor, "N d"], Float[Tensor, " N"]]:
    """(∂z/∂h)ᵀ (softmax(z) − onehot(y)) and log p(y) of each state, chunk by chunk.

    ∂z/∂h is Wᵀ in most models; the product with it is taken through the model's own head, so that a scale or a
    soft cap on the logits is in it.
    """
    found, said = [], []
    for some, y in zip(states.split(HEAD_CHUNK), targets.split(HEAD_CHUNK), strict=True):
        with torch.enable_grad():
            leaf = some.detach().requires_grad_()
            logits = model.head(leaf)
        slope, logp = torch.empty_like(logits), torch.empty(len(y), device=y.device)
        step = max(1, CACHED // logits.shape[1]) if logits.device.type == "cpu" else len(y)
        for a in range(0, len(y), step):
            b = slice(a, a + step)
            miss = logits.detach()[b].to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
            logp[b] = miss.gather(1, y[b, None])[:, 0]
            miss.exp_().scatter_add_(1, y[b, None], torch.full_like(y[b, None], -1, dtype=miss.dtype))
            slope[b] = miss
        said.append(logp)
        found.append(torch.autograd.grad(logits, leaf, slope)[0])
    return torch.cat(found), torch.cat(said)
