"""RepT one row at a time, as its authors run it (arXiv 2510.02334, section 3), as a reference for costs.

Two passes per row at batch size 1: the prompt alone for H, then the whole row with all hidden states kept and the loss
back-propagated through every block for g_1; H and g_1 are concatenated. The result equals that of `rept`. The adapter's
own gradients, which the authors' code also computes and discards, are not computed.
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


def reference_features(model: Model, rows: Sequence[TokenizedExample], layer: int) -> Float[Tensor, "N 2d"]:
    """Return concat(H, g_1) of each row at `layer`, unscaled."""
    return torch.stack([reference_feature(model, row, layer) for row in rows])


def reference_feature(model: Model, row: TokenizedExample, layer: int) -> Float[Tensor, " 2d"]:
    """Return concat(H, g_1) of one row."""
    ids = torch.tensor([row.ids], device=model.device)
    with torch.no_grad():
        prompt = model.lm(input_ids=ids[:, : row.n_prompt], output_hidden_states=True)
    labels = ids.clone()
    labels[:, : row.n_prompt] = -100
    with torch.enable_grad():
        embeddings = model.lm.get_input_embeddings()(ids).detach().requires_grad_()
        output = model.lm(inputs_embeds=embeddings, labels=labels, output_hidden_states=True)
        grad, _ = torch.autograd.grad(output.loss, [output.hidden_states[layer], embeddings])
    last = row.n_prompt - 1
    return torch.cat([prompt.hidden_states[layer][0, last], grad[0, last]]).float().cpu()
