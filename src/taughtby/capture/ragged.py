"""A feature with one vector per token, for rows of different lengths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


@dataclass(frozen=True)
class Ragged:
    """The vectors of all rows, concatenated, and each row's number of vectors."""

    flat: Float[Tensor, "T k"]
    lengths: Int[Tensor, " B"]

    @property
    def owner(self) -> Int[Tensor, " T"]:
        """The row of each vector."""
        return torch.repeat_interleave(torch.arange(len(self.lengths)), self.lengths)


Column = torch.Tensor | Ragged
