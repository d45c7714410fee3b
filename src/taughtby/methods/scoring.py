"""Computes scores from features as an index stores them: unit vectors and their norms, some rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import torch

from taughtby.methods.feature_store import FeatureStore

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


def normalize(vectors: Float[Tensor, "*N d"]) -> Float[Tensor, "*N d"]:
    """Scale vectors to unit norm; a zero vector stays zero."""
    return vectors / vectors.norm(dim=-1, keepdim=True).clamp(min=1e-30)


def cosine_scorer(
    queries: Float[Tensor, "Q d"], index: FeatureStore, name: str, *, centred: bool = False
) -> Callable[[Tensor], Tensor]:
    """Return a function from scanned rows (B, d) of a feature to the queries' cosines with them (Q, B).

    Args:
        queries: the queries' vectors.
        index: the index.
        name: the feature.
        centred: subtract the mean of all rows from queries and rows first.
    """
    queries = normalize(queries)
    if not centred:
        return lambda rows: queries @ rows.T
    mean = index.mean(name)
    queries = normalize(queries - mean)
    return lambda rows: queries @ normalize(rows - mean).T


def stored_vectors(index: FeatureStore, name: str) -> Iterator[Float[Tensor, "B d"]]:
    """Yield a feature's vectors with their original norms."""
    for rows in index.scan([name, f"{name}_norm"]):
        yield rows[name] * rows[f"{name}_norm"][:, None]


def inner_products(index: FeatureStore, name: str, queries: Float[Tensor, "Q d"]) -> Float[Tensor, "Q N"]:
    """Return the inner product of each query with each row in one feature."""
    return assemble_scores((queries @ rows.T for rows in stored_vectors(index, name)), len(index))


def assemble_scores(pieces: Iterable[Float[Tensor, "Q B"]], count: int) -> Float[Tensor, "Q N"]:
    """Concatenate the scores of consecutive rows, `count` in all, without holding a second copy."""
    scores, start = torch.empty(0, count), 0
    for piece in pieces:
        if not start:
            scores = torch.empty(len(piece), count)
        scores[:, start : start + piece.shape[1]] = piece
        start += piece.shape[1]
    assert start == count, f"{start} rows have scores, of {count}"  # the rest would be uninitialized
    return scores


def top_positions(scores: Float[Tensor, " N"], count: int) -> Int[Tensor, " K"]:
    """Return the positions of the `count` highest scores, best first; ties in the order of the data, NaN last.

    `torch.topk` does not define which of several tied rows it returns.
    """
    scores = scores.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    if count < 1:
        return torch.empty(0, dtype=torch.long)
    positions = (scores >= scores.topk(min(count, len(scores))).values[-1]).nonzero()[:, 0]
    return positions[scores[positions].argsort(descending=True, stable=True)][:count]
