"""The head's part of the backward pass: ∂loss/∂h_L in closed form, at the loss positions only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from taughtby.capture.transfer import to_device
from taughtby.data.batching import Batch
from taughtby.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

HEAD_CHUNK = 512  # tokens per call of the head: 512 x V float32 logits, 100 MB at V = 50k
CPU_CHUNK = 2**20  # logits per softmax on a CPU: 4 MB, which fit into its cache


def final_state_gradient(
    model: Model, states: Float[Tensor, "B R d"], batch: Batch, weights: Float[Tensor, "B R"] | None = None
) -> tuple[Float[Tensor, "B R d"], Float[Tensor, "B R"]]:
    """Return (∂loss/∂h_L, log p) at the loss positions: g_t = w_t (∂z/∂h)ᵀ (softmax(z_t) − onehot(y_t)).

    Args:
        model: the model whose head is used.
        states: h_L at the loss positions.
        batch: the rows.
        weights: weight of each token in the loss, normalized here to a sum of 1 per row; None is 1/n each.
    """
    loss_mask, device = batch.loss_mask, states.device
    counts = loss_mask.float() if weights is None else weights.to(loss_mask.device) * loss_mask
    share = to_device((counts / counts.sum(1, keepdim=True).clamp(min=1e-30))[loss_mask], device)
    # nonzero() runs on the CPU, since it would make the host wait for an accelerator
    flat_positions = to_device(loss_mask.flatten().nonzero()[:, 0], device)
    targets = to_device(batch.targets[loss_mask], device)
    gradients, target_logp = logit_gradient(model, states.flatten(0, 1)[flat_positions], targets)
    gradient = torch.zeros_like(states)
    gradient.view(-1, gradient.shape[-1])[flat_positions] = gradients * share[:, None].to(gradients)
    logp = torch.zeros(loss_mask.shape, device=device)
    logp.view(-1)[flat_positions] = target_logp
    return gradient, logp


def logit_gradient(
    model: Model, states: Float[Tensor, "N d"], targets: Int[Tensor, " N"]
) -> tuple[Float[Tensor, "N d"], Float[Tensor, " N"]]:
    """Return ((∂z/∂h)ᵀ (softmax(z) − onehot(y)), log p(y)) of each state, in chunks of `HEAD_CHUNK`.

    ∂z/∂h is W in most models. The product goes through the model's own head, so that it includes a scale or a soft cap
    on the logits.
    """
    gradients, log_probabilities = [], []
    for chunk, y in zip(states.split(HEAD_CHUNK), targets.split(HEAD_CHUNK), strict=True):
        with torch.enable_grad():
            leaf = chunk.detach().requires_grad_()
            logits = model.head(leaf)
        residual, logp = torch.empty_like(logits), torch.empty(len(y), device=y.device)
        step = max(1, CPU_CHUNK // logits.shape[1]) if logits.device.type == "cpu" else len(y)
        for start in range(0, len(y), step):
            part = slice(start, start + step)
            dtype = torch.promote_types(logits.dtype, torch.float32)
            values = logits.detach()[part].to(dtype).log_softmax(-1)
            logp[part] = values.gather(1, y[part, None])[:, 0]
            values.exp_().scatter_add_(1, y[part, None], torch.full_like(y[part, None], -1, dtype=dtype))
            residual[part] = values
        log_probabilities.append(logp)
        gradients.append(torch.autograd.grad(logits, leaf, residual)[0])
    return torch.cat(gradients), torch.cat(log_probabilities)
