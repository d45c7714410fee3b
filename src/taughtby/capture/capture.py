"""Hidden states and representation gradients of a batch, in one forward and one backward pass.

All weights are frozen, so the graph starts at the lowest layer that a caller needs. The head runs at response positions
only (`lm_head.py`) and gives ∂loss/∂h_L in closed form; one `autograd.grad` gives the layers below. The common prefix
of the rows runs once (`decoder_inputs.py`), and linear layers skip prompts and padding in the backward pass
(`sparse_backward.py`). RepT, arXiv 2510.02334, section 3.

Layers are numbered as in Hugging Face's `hidden_states`: 0 is the embedding, ℓ the output of block ℓ, and L (or -1) the
output after the final norm.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from taughtby.capture.decoder_inputs import full_inputs, needed_inputs
from taughtby.capture.lm_head import final_state_gradient, logit_gradient
from taughtby.capture.sparse_backward import SparseBackward
from taughtby.capture.transfer import to_device
from taughtby.data.batching import Batch
from taughtby.errors import OptionError
from taughtby.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor


@dataclass(frozen=True)
class Capture:
    """States, gradients and log probabilities at the R loss positions of each row (R is the longest row's count).

    All values are float32 on the model's device. Except for `prompt_states`, they are zero where `loss_mask` is False.

    Attributes:
        states: hidden states by layer.
        prompt_states: states of the last prompt token by layer, whether or not the first response token has a loss.
        grads: ∂loss/∂state by layer, where the loss is the row's mean cross entropy.
        logp: log probability of the target token at each position.
        loss: mean cross entropy of each row, in nats.
        loss_mask: which positions have a loss.
    """

    states: dict[int, Float[Tensor, "B R d"]]
    prompt_states: dict[int, Float[Tensor, "B d"]]
    grads: dict[int, Float[Tensor, "B R d"]]
    logp: Float[Tensor, "B R"]
    loss: Float[Tensor, " B"]
    loss_mask: Bool[Tensor, "B R"]


def resolve_layer(layer: int, depth: int) -> int:
    """Return a layer as a number from 0 to `depth`; -1 is the last.

    Raises:
        OptionError: the model has no such layer.
    """
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
    """Capture states and gradients of a batch by one forward and one backward pass.

    Args:
        model: a frozen model.
        batch: the rows.
        layers: layers whose states and gradients are captured.
        weights: weight of each token in the loss that `grads` differentiate; None is 1/n each.
        states_only: layers whose states are captured without gradients. The backward pass does not reach them.
        full_sequence: run every token of every row through both passes, as gradients of weights require.
    """
    gradient_layers = sorted({resolve_layer(layer, model.depth) for layer in layers})
    state_layers = sorted({resolve_layer(layer, model.depth) for layer in states_only} - set(gradient_layers))
    inputs = full_inputs(model, batch) if full_sequence else needed_inputs(model, batch, batch.loss_positions)
    positions, loss_mask = inputs.positions, to_device(batch.loss_mask, model.device)
    mask = loss_mask[..., None]
    columns = batch.attention_mask if full_sequence else inputs.response_columns(batch)
    sparse_backward = SparseBackward(inputs.shape, columns, model.device)
    with (
        torch.enable_grad(),
        _record_states(model, sorted([*gradient_layers, *state_layers]), leaf=gradient_layers[0]) as recorded,
    ):
        with sparse_backward:
            last = model.decoder(**inputs.kwargs).last_hidden_state
        final = _gather(last, positions)
        final_gradient, logp = final_state_gradient(model, final.detach(), batch, weights)
        inner = [layer for layer in gradient_layers if layer < model.depth]
        inner_gradients = (
            torch.autograd.grad(final, [recorded[layer] for layer in inner], final_gradient) if inner else ()
        )
    grads = {layer: _gather(grad, positions).float() * mask for layer, grad in zip(inner, inner_gradients, strict=True)}
    states, prompt_states = dict[int, torch.Tensor](), dict[int, torch.Tensor]()
    for layer in (*gradient_layers, *state_layers):
        values = (final if layer == model.depth else _gather(recorded[layer], positions)).detach().float()
        states[layer], prompt_states[layer] = values * mask, batch.at_last_prompt_token(values)
    if model.depth in gradient_layers:
        grads[model.depth] = final_gradient.float() * mask
    return Capture(states, prompt_states, grads, logp, -logp.sum(1) / loss_mask.sum(1).clamp(min=1), loss_mask)


@torch.no_grad()
def prompt_states(model: Model, batch: Batch, layers: Iterable[int]) -> dict[int, Float[Tensor, "B d"]]:
    """Return the last prompt token's states by layer; runs the prompts only, up to the highest of the layers."""
    numbers = sorted({resolve_layer(layer, model.depth) for layer in layers})
    inputs = needed_inputs(model, batch, batch.last_prompt_position[:, None])
    with _record_states(model, numbers, stop=True) as recorded, contextlib.suppress(_StopForward):
        recorded[model.depth] = model.decoder(**inputs.kwargs).last_hidden_state
    return {layer: _gather(recorded[layer], inputs.positions)[:, 0].float() for layer in numbers}


def prompt_gradients(model: Model, batch: Batch) -> tuple[Float[Tensor, "B d"], Float[Tensor, "B d"]]:
    """Return (H, g_1) at the last layer; runs the prompts only.

    g_1 is computed from H, the first response token and the number of tokens with a loss. It is zero if that token has
    no loss.
    """
    state = prompt_states(model, batch, [-1])[model.depth]
    next_position = batch.last_prompt_position[:, None] + 1
    targets = to_device(batch.ids.gather(1, next_position)[:, 0], model.device)
    gradient, _ = logit_gradient(model, state.to(model.dtype), targets)
    share = ~batch.masked.gather(1, next_position) / batch.loss_mask.sum(1, keepdim=True).clamp(min=1)
    return state, gradient.float() * to_device(share, model.device)


@torch.no_grad()
def answer_states(model: Model, batch: Batch, layer: int = -1) -> Float[Tensor, "B R d"]:
    """Return a layer's states at the loss positions, in the model's dtype and zero where a row has no loss.

    Forward only, up to that layer.
    """
    number = resolve_layer(layer, model.depth)
    inputs = needed_inputs(model, batch, batch.loss_positions)
    with _record_states(model, [number], stop=True) as recorded, contextlib.suppress(_StopForward):
        recorded[model.depth] = model.decoder(**inputs.kwargs).last_hidden_state
    return _gather(recorded[number], inputs.positions) * to_device(batch.loss_mask, model.device)[..., None]


class _StopForward(Exception):
    """Ends a forward pass early, once all states are recorded."""


@contextlib.contextmanager
def _record_states(
    model: Model, layers: list[int], *, leaf: int = -1, stop: bool = False
) -> Generator[dict[int, Tensor]]:
    """Record state ℓ where it enters block ℓ+1; at `leaf` a detached copy replaces it and starts the graph."""
    recorded: dict[int, Tensor] = {}

    def recorder(layer: int) -> Any:
        def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            state = args[0] if args else kwargs["hidden_states"]
            if layer == leaf:
                state = state.detach().requires_grad_()
            recorded[layer] = state
            if stop and layer == layers[-1]:
                raise _StopForward
            return ((state, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": state})

        return hook

    handles = [
        model.blocks[layer].register_forward_pre_hook(recorder(layer), with_kwargs=True)
        for layer in layers
        if layer < model.depth
    ]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


def _gather(states: Float[Tensor, "B T d"], positions: Int[Tensor, "B R"]) -> Float[Tensor, "B R d"]:
    # a model may be spread over several devices; the result is on the device of the positions
    index = positions.to(states.device)[..., None].expand(-1, -1, states.shape[-1])
    return states.gather(1, index).to(positions.device)
