"""Same first word: the baseline for gradients of late layers (AP .97 on RepT's backdoor set)."""

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
    """Score = 1 where the row's response begins with the first word of the query's response, else 0."""

    name: ClassVar[str] = "first-word"

    def scores(self, queries: QueryFeatures, index: FeatureStore) -> Float[Tensor, "Q N"]:
        """Compare first words, ignoring case."""
        words = [_first_word(row.response) for row in index.examples()]
        return torch.tensor([[float(_first_word(text) == word) for word in words] for text in queries.responses])


def _first_word(text: str) -> str:
    return (text.lower().split() or [""])[0]
