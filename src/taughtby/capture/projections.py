"""Random projections, drawn on the CPU so that they are the same on all machines, and cached on each device."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from taughtby.capture.weights import Weight

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

SIDE_DIM = 32  # dimensions per side for a model's own weights, whose gradients have 10^6 numbers per row


@dataclass(frozen=True)
class TwoSidedProjection:
    """Compute P_out (Σ_t δ_t ⊗ x_t) P_inᵀ, flattened, without forming the gradient; LoGra, arXiv 2405.13954.

    P are Gaussian matrices with `dim` rows, fixed by `seed`. A side that is no wider than `dim` is not projected; with
    `dim` 0, no side is.
    """

    dim: int
    seed: int = 0

    def __call__(
        self, weight: Weight, x: Float[Tensor, "B T i"], delta: Float[Tensor, "B T o"]
    ) -> Float[Tensor, "B k"]:
        """Return vectors whose inner products are those of the gradients in expectation."""
        out, into = self.matrix(weight, "out", delta.device), self.matrix(weight, "in", x.device)
        return full_gradient(weight, x if into is None else x @ into.T, delta if out is None else delta @ out.T)

    def matrix(self, weight: Weight, side: str, device: torch.device | None = None) -> Float[Tensor, "k d"] | None:
        """Return P_out or P_in of a weight, `side` being "out" or "in"; None where that side is not projected."""
        width = weight.shape[side == "in"]
        if not 0 < self.dim < width:
            return None
        return _gaussian(f"{self.seed} {weight.name} {side}", self.dim, width, device or torch.device("cpu"))

    def width(self, shape: tuple[int, int]) -> int:
        """Return the length of the result for a weight of that shape."""
        return math.prod(min(self.dim or side, side) for side in shape)


def full_gradient(_: Weight, x: Float[Tensor, "B T i"], delta: Float[Tensor, "B T o"]) -> Float[Tensor, "B k"]:
    """Return each row's gradient Σ_t δ_t ⊗ x_t, flattened like W."""
    return torch.bmm(delta.mT, x).flatten(1)


def compact_gradient(weight: Weight, x: Float[Tensor, "B T i"], delta: Float[Tensor, "B T o"]) -> Float[Tensor, "B k"]:
    """Return the full gradient of an adapter's weight; project that of a model's own weight to `SIDE_DIM` per side."""
    return TwoSidedProjection(0 if weight.adapter else SIDE_DIM)(weight, x, delta)


def fold(vectors: Float[Tensor, "B d"], dim: int, key: str) -> Float[Tensor, "B k"]:
    """Shuffle the numbers of each vector, give each a random sign, and sum them in `dim` groups.

    Inner products are kept in expectation, with an error of about 1/√dim of the product of the norms.

    Args:
        vectors: the vectors.
        dim: the number of sums.
        key: fixes the shuffle and the signs.
    """
    order, signs = _shuffle(key, vectors.shape[1], dim, vectors.device)
    padded = functional.pad(vectors, (0, len(order) - vectors.shape[1]))
    return (padded.index_select(1, order) * signs).view(len(vectors), dim, -1).sum(-1)


def gaussian_sketch(vectors: Float[Tensor, "*B d"], dim: int, seed: int) -> Float[Tensor, "*B k"]:
    """Multiply vectors by a d × dim matrix of standard normal numbers; `dim` 0 or ≥ d leaves them unchanged."""
    width = vectors.shape[-1]
    return vectors @ _normal(seed, width, dim, vectors.device) if 0 < dim < width else vectors


def count_sketch(
    positions: Int[Tensor, "N K"], values: Float[Tensor, "N K"], size: int, dim: int, seed: int
) -> Float[Tensor, "N k"]:
    """Return the count sketch of sparse vectors: each coordinate goes, with a random sign, into one of `dim` bins.

    Args:
        positions: coordinates that are not zero.
        values: their values.
        size: the length of the vectors.
        dim: the number of bins; 0 or ≥ `size` returns the dense vectors.
        seed: fixes bins and signs.
    """
    if 0 < dim < size:
        bins, signs = _bins(seed, size, dim, positions.device)
        positions, values, size = bins[positions], values * signs[positions], dim
    return torch.zeros(len(positions), size, device=positions.device).scatter_add_(1, positions, values)


@lru_cache(maxsize=4096)
def _gaussian(key: str, dim: int, width: int, device: torch.device) -> Float[Tensor, "k d"]:
    return (torch.randn(dim, width, generator=_generator(key)) / math.sqrt(dim)).to(device)


@lru_cache(maxsize=16)
def _normal(seed: int, width: int, dim: int, device: torch.device) -> Float[Tensor, "d k"]:
    return torch.randn(width, dim, generator=torch.Generator().manual_seed(seed)).to(device)


@lru_cache(maxsize=16)
def _bins(seed: int, size: int, dim: int, device: torch.device) -> tuple[Int[Tensor, " d"], Int[Tensor, " d"]]:
    generator = torch.Generator().manual_seed(seed)
    bins = torch.randint(0, dim, (size,), generator=generator)
    return bins.to(device), (torch.randint(0, 2, (size,), generator=generator) * 2 - 1).to(device)


@lru_cache(maxsize=4096)
def _shuffle(key: str, width: int, dim: int, device: torch.device) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Return the source and sign of each of the n shuffled numbers; n is `width` rounded up to a multiple of `dim`."""
    generator, size = _generator(key), dim * math.ceil(width / dim)
    order = torch.randperm(size, generator=generator, dtype=torch.int32)
    return order.to(device), (torch.randint(0, 2, (size,), generator=generator) * 2 - 1).to(torch.int8).to(device)


def _generator(key: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(key.encode()))
