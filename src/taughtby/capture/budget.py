"""Computes how many padded tokens a batch may have, from the device's free memory and the model's shape.

Per token, a block's activations are about as many numbers as the summed widths of its linear layers, which is the
number of its weights divided by the hidden size, plus six states for the norms and the residual stream. At 1 B
parameters, this estimate is 1.4 to 3 times the measured memory.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import nn

from taughtby.models.model import Model

GENERATION = -1  # the key of the budget of `generation_budget`
CPU_GENERATION = 2048  # at 135 M, 48 prompts peak at 2.3 GiB, and at 3.3 with 4096, which is hardly faster
CPU_TOKENS = 1024  # more do not fit into the caches, and are slower
MOST_TOKENS = 65_536  # an accelerator is no faster with more (measured on an H100 at 1 B parameters)
MOST_PER_TOKEN = 8192  # the same if each token has its own result, such as a gradient
FEWEST_TOKENS = 256
MEMORY_SHARE = 0.5  # of the free memory: the rest is for the head's logits, fragmentation and errors of the estimate
STATES = 6  # states per block that are kept for the norms and the residual stream

_budgets: WeakKeyDictionary[nn.Module, dict[int, int]] = WeakKeyDictionary()  # by model, then by blocks


def token_budget(model: Model, blocks: int, *, per_token: bool = False) -> int:
    """Return how many padded tokens a batch may have.

    The result is cached per model, so that batches do not depend on the memory that is free later.

    Args:
        model: the model.
        blocks: number of blocks whose activations the backward pass needs.
        per_token: whether each token has its own result, which needs memory too.
    """
    budgets = _budgets.setdefault(model.lm, {})
    if blocks not in budgets:
        accelerated = model.device.type == "cuda"
        budgets[blocks] = _fitting_tokens(model, bytes_per_token(model, blocks)) if accelerated else CPU_TOKENS
    return min(budgets[blocks], MOST_PER_TOKEN) if per_token else budgets[blocks]


def generation_budget(model: Model) -> int:
    """Return how many padded tokens, of prompts and answers, a batch that generates answers may have; cached as above.

    A token needs the activations of one block, and keys and values in all blocks, at most 2 states each.
    """
    budgets = _budgets.setdefault(model.lm, {})
    if GENERATION not in budgets:
        cache = 2 * model.depth * model.hidden_size * model.dtype.itemsize
        accelerated = model.device.type == "cuda"
        budgets[GENERATION] = (
            _fitting_tokens(model, bytes_per_token(model, 0) + cache) if accelerated else CPU_GENERATION
        )
    return budgets[GENERATION]


def halve_budget(model: Model) -> None:
    """Halve all budgets of a model whose batch did not fit into memory."""
    budgets = _budgets.setdefault(model.lm, {})
    budgets.update({blocks: max(FEWEST_TOKENS, tokens // 2) for blocks, tokens in budgets.items()})


def bytes_per_token(model: Model, blocks: int) -> float:
    """Estimate the memory per token of a pass that keeps the activations of `blocks` blocks."""
    weights = max(sum(weight.numel() for weight in block.parameters()) for block in model.blocks)
    width = weights / model.hidden_size + STATES * model.hidden_size
    return (blocks + 1) * width * model.dtype.itemsize


def _fitting_tokens(model: Model, token_bytes: float) -> int:
    """Return how many tokens of `token_bytes` bytes fit into a share of the free memory."""
    device = model.device
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + cached
    tokens = int(MEMORY_SHARE * free / token_bytes) // FEWEST_TOKENS * FEWEST_TOKENS
    return max(FEWEST_TOKENS, min(MOST_TOKENS, tokens))
