"""Random scores: the baseline of every method."""

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
class Random(Method):
    """Score = a random number, fixed by `seed`."""

    seed: int = 0

    name: ClassVar[str] = "random"

    def scores(self, queries: QueryFeatures, index: FeatureStore) -> Float[Tensor, "Q N"]:
        """Draw scores uniformly from 0 to 1."""
        return torch.rand(len(queries.prompts), len(index), generator=torch.Generator().manual_seed(self.seed))
