"""A feature with one vector for each token of a row, for rows of different lengths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


@dataclass(frozen=True)
class Ragged:
    """A block with a vector for each token: all rows' vectors one after another, and how many each row has."""

    flat: Float[Tensor, "T k"]
    lengths: Int[Tensor, " B"]

    @property
    def owner(self) -> Int[Tensor, " T"]:
        """Which row each vector belongs to."""
        return torch.repeat_interleave(torch.arange(len(self.lengths)), self.lengths)


Column = torch.Tensor | Ragged
