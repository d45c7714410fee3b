"""Blocks as Arrow columns, and back: vectors in float16, numbers as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch

from taughtby.capture.ragged import Column, Ragged

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

TOKENS = 32  # vectors that a row has in a block with one for each token, about


def to_arrow(name: str, block: Tensor | list[Tensor]) -> dict[str, pa.Array]:
    """A block as columns: a vector a row as its direction and its norm, since raw gradients are below float16."""
    if isinstance(block, list):
        ends = np.cumsum([0, *map(len, block)], dtype=np.int32)
        return {name: pa.ListArray.from_arrays(pa.array(ends), _vectors(torch.cat(block)))}
    if block.ndim == 1:
        return {name: pa.array(block.float().numpy())}
    # by the largest number first: the squares of a well-learned row's gradients are nothing in float32
    largest = block.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    block = block / largest
    norms = block.norm(dim=1, keepdim=True)
    return {name: _vectors(block / norms.clamp(min=1)), f"{name}_norm": pa.array((norms * largest)[:, 0].numpy())}


def _vectors(block: Float[Tensor, "B d"]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(block.half().numpy().reshape(-1)), block.shape[1])


def from_arrow(column: pa.Array) -> Column:
    """What a column holds, in float32: (B, d), (B,) or a Ragged."""
    if pa.types.is_list(column.type):
        lengths = torch.from_numpy(column.value_lengths().to_numpy().astype(np.int64))
        return Ragged(_matrix(column.flatten()), lengths)
    if pa.types.is_fixed_size_list(column.type):
        return _matrix(column)
    return torch.from_numpy(column.to_numpy(zero_copy_only=False).copy())


def _matrix(column: pa.Array) -> Float[Tensor, "B d"]:
    # as torch, which turns halves into floats twenty times as fast as NumPy
    return torch.from_dlpack(column.flatten()).view(-1, column.type.list_size).float()


def vector_width(kind: pa.DataType) -> int | None:
    """The width of a block's vectors; None for what is no block."""
    if pa.types.is_list(kind):
        kind = kind.value_type
    return kind.list_size if pa.types.is_fixed_size_list(kind) else None


def numbers(kind: pa.DataType) -> int:
    """How many numbers one row has in a column, about."""
    return (vector_width(kind) or 1) * (TOKENS if pa.types.is_list(kind) else 1)
