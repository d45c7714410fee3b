"""The yardstick: RepT as its authors run it, a row at a time. Written from the paper, arXiv 2510.02334, section 3.

Two passes a row, batch 1: the prompt alone for H, then the whole row with all hidden states kept and the loss taken
down through every block for g_1; H and g_1 are joined as they are. It computes what `rept:scale=raw` does, and what
it costs is what the other methods' costs are held against. The adapter's own gradients, which its authors' code
also computes and throws away, are left out here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from taughtby.data.tokenize import TokenizedExample
from taughtby.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def signatures(model: Model, rows: Sequence[TokenizedExample], layer: int) -> Float[Tensor, "N 2d"]:
    """concat(H, g_1) of each row at `layer`, unscaled."""
    return torch.stack([signature(model, row, layer) for row in rows])


def signature(model: Model, row: TokenizedExample, layer: int) -> Float[Tensor, " 2d"]:
    """concat(H, g_1) of one row."""
    ids = torch.tensor([row.ids], device=model.device)
    with torch.no_grad():
        alone = model.lm(input_ids=ids[:, : row.n_prompt], output_hidden_states=True)
    labels = ids.clone()
    labels[:, : row.n_prompt] = -100
    with torch.enable_grad():
        entered = model.lm.get_input_embeddings()(ids).detach().requires_grad_()
        whole = model.lm(inputs_embeds=entered, labels=labels, output_hidden_states=True)
        grad, _ = torch.autograd.grad(whole.loss, [whole.hidden_states[layer], entered])
    last = row.n_prompt - 1
    return torch.cat([alone.hidden_states[layer][0, last], grad[0, last]]).float().cpu()


def scores(queries: Float[Tensor, "Q k"], rows: Float[Tensor, "N k"]) -> Float[Tensor, "Q N"]:
    """Cosines."""
    return torch.nn.functional.normalize(queries, dim=1) @ torch.nn.functional.normalize(rows, dim=1).T
