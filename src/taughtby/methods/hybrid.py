"""Hybrid search: reciprocal rank fusion of keywords and embeddings (Cormack, Clarke and Buettcher, SIGIR 2009)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from taughtby.data.example import Example
from taughtby.errors import OptionError
from taughtby.methods.base import Features, Method, QueryFeatures
from taughtby.methods.bm25 import BM25
from taughtby.methods.embedding import Embedding
from taughtby.methods.feature_store import FeatureStore

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class Hybrid(Method):
    """Score = reciprocal rank fusion of `bm25` and `embedding`: 1 / (k + rank) by each, summed; 60 as in the paper."""

    k: float = 60.0

    name: ClassVar[str] = "hybrid"

    def __post_init__(self) -> None:
        if not self.k >= 0:
            raise OptionError("hybrid: k is below 0", got=str(self.k), do="give 60, as in the paper")

    def feature_names(self, depth: int) -> tuple[str, ...]:
        """Return the feature of `embedding`, so that both methods share it."""
        return Embedding().feature_names(depth)

    def text_features(self, rows: Sequence[Example]) -> Features:
        """Return the features of `embedding`."""
        return Embedding().text_features(rows)

    def scores(self, queries: QueryFeatures, index: FeatureStore) -> Float[Tensor, "Q N"]:
        """Fuse both ranks of each row; a row without a word of the query has no keyword rank."""
        words, meaning = BM25().scores(queries, index), Embedding().scores(queries, index)
        return torch.where(words > 0, 1 / (self.k + ranks(words)), 0.0) + 1 / (self.k + ranks(meaning))


def ranks(scores: Float[Tensor, "Q N"]) -> Float[Tensor, "Q N"]:
    """Return the rank of each score in its row, 1 for the highest; tied scores all have the best of their ranks."""
    return 1.0 + scores.shape[1] - torch.searchsorted(scores.sort(1).values, scores.contiguous(), right=True)
