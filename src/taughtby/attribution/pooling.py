"""Pools the queries of an incident: how much each counts in the explanation of the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from taughtby.attribution.query import Query

TILE = 2**16  # rows over which the scores of many queries are compared at a time


def pool_weights(scores: Float[Tensor, "Q N"]) -> Float[Tensor, "Q Q"]:
    """Return the share of each query in each query's explanation, in proportion to how similarly they rank the rows.

    The similarity is the correlation of the two queries' scores, and 0 where that is negative. Each row of the matrix
    sums to 1. What queries with the same causes have in common is due to those rows, so averaging reduces noise.
    """
    mean, similarity = scores.mean(1, keepdim=True), torch.zeros(len(scores), len(scores), dtype=torch.float64)
    for tile in scores.split(TILE, 1):
        similarity += (tile - mean) @ (tile - mean).T
    norms = similarity.diagonal().sqrt()
    similarity = (similarity / (norms[:, None] * norms).clamp(min=1e-30)).clamp(min=0).to(scores.dtype)
    similarity.fill_diagonal_(1.0)
    return similarity / similarity.sum(1, keepdim=True)


def pool_same_kind(shares: Float[Tensor, "Q Q"], queries: Sequence[Query]) -> Float[Tensor, "Q Q"]:
    """Return the shares among queries of one kind only: with or without a span, with or without a desired answer.

    Scores of different kinds have different controls. Each row of the matrix sums to 1.
    """
    kinds = [(query.has_span, bool(query.desired)) for query in queries]
    same_kind = shares * torch.tensor([[left == right for right in kinds] for left in kinds])
    return same_kind / same_kind.sum(1, keepdim=True)
