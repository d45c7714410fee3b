"""Same first word: the baseline that a late gradient has to beat (AP .97 on the paper's backdoor set)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from taughtby.methods.base import Method, QueryFeatures
from taughtby.methods.feature_store import FeatureStore

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class FirstWord(Method):
    """Score = 1 where the row's answer begins with the query's first word, else 0."""

    name: ClassVar[str] = "first-word"

    def scores(self, asked: QueryFeatures, index: FeatureStore) -> Float[Tensor, "Q N"]:
        """Compared without case."""
        rows = [_first(row.response) for row in index.examples()]
        return torch.tensor([[float(_first(answer) == word) for word in rows] for answer in asked.responses])


def _first(text: str) -> str:
    return (text.lower().split() or [""])[0]
