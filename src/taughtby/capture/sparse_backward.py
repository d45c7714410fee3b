"""A backward pass that skips prompts and padding in linear layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from taughtby.capture.transfer import to_device

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor

MAX_SHARE = 0.95  # above this share of all positions, selecting them costs more than it saves
MIN_WIDTH = 64  # the same holds for narrower linear layers


class SparseBackward(TorchFunctionMode):
    """Restrict the backward pass of linear layers to some positions, while active.

    In a causal model, gradients at prompt positions flow to earlier positions only, and padding has none, so gradients
    at response positions stay the same. All other operations have their usual backward pass. In half precision on a
    CPU, attention runs in float32.
    """

    def __init__(self, shape: tuple[int, int], positions: Bool[Tensor, "B T"], device: torch.device) -> None:
        super().__init__()
        self.shape = shape
        flat_positions = positions.flatten().nonzero()[:, 0]
        self.flat_positions = to_device(flat_positions, device)
        self.enabled = len(flat_positions) < MAX_SHARE * positions.numel()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.linear and self.enabled and not kwargs:
            x, weight, *bias = args
            dense = weight.requires_grad or weight.shape[0] < MIN_WIDTH
            if x.requires_grad and x.shape[:-1] == self.shape and not dense:
                return _SparseLinear.apply(x, weight, bias[0] if bias else None, self.flat_positions.to(x.device))
        if func is functional.scaled_dot_product_attention and _is_slow_attention(args[0]):
            mask = kwargs.get("attn_mask")
            if mask is not None and mask.is_floating_point():
                kwargs = {**kwargs, "attn_mask": mask.float()}
            return func(*(part.float() for part in args[:3]), *args[3:], **kwargs).to(args[0].dtype)
        return func(*args, **kwargs)


def _is_slow_attention(query: Tensor) -> bool:
    """Whether attention is in half precision on a CPU, where its backward pass takes three times as long (measured)."""
    return query.requires_grad and query.device.type == "cpu" and query.dtype != torch.float32


class _SparseLinear(torch.autograd.Function):
    """x Wᵀ + b, whose gradient is computed at `positions` of the flattened rows and zero elsewhere."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, positions: Tensor) -> Tensor:
        ctx.save_for_backward(weight, positions)
        return functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad,), (weight, positions) = grads, ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        grad_input = grad.new_zeros(len(rows), weight.shape[1])
        grad_input.index_copy_(0, positions, rows.index_select(0, positions) @ weight)
        return grad_input.view(*grad.shape[:-1], -1), None, None, None
