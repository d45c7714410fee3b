"""Chance: what any score has to beat."""

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
    """Score = a seeded random number."""

    seed: int = 0

    name: ClassVar[str] = "random"

    def scores(self, asked: QueryFeatures, index: FeatureStore) -> Float[Tensor, "Q N"]:
        """Uniform in 0 … 1."""
        return torch.rand(len(asked.prompts), len(index), generator=torch.Generator().manual_seed(self.seed))
