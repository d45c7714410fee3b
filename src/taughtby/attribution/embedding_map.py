"""A map of the training set: the first two principal components of the rows' features."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from sklearn.decomposition import PCA

from taughtby.capture.ragged import Ragged
from taughtby.index.arrow import from_arrow
from taughtby.index.reader import Index
from taughtby.methods.base import normalize

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy.typing import NDArray

SAMPLE = 5000  # rows that the components are fitted to, and that are drawn
FEWEST = 3


@dataclass(frozen=True)
class PCAMap:
    """The first two principal components of one feature.

    Attributes:
        block: Name of the feature.
        pca: The fitted components.
        scale: Largest coordinate of the sampled rows, by which points are divided.
        positions: Positions of the sampled rows in the index.
        points: Sampled rows on the map, within [-1, 1], shape (n, 2).
        share: Share of the variance along each component.
    """

    block: str
    pca: PCA
    scale: float
    positions: tuple[int, ...]
    points: Float[NDArray[np.float64], "n 2"]
    share: tuple[float, float]

    def project(self, index: Index, positions: Sequence[int]) -> list[list[float]]:
        """Return the points of the rows at these positions."""
        return (
            _rounded(self.pca.transform(_unit_vectors(index, self.block, positions)) / self.scale) if positions else []
        )

    def to_json(self, index: Index) -> dict[str, Any]:
        """Return the map as the page draws it: points with the ids, labels and source files of their rows."""
        rows = index.dataset.take(list(self.positions), columns=["id", "label", "source"]).to_pydict()
        return {
            "block": self.block,
            "share": list(self.share),
            "points": _rounded(self.points),
            "ids": rows["id"],
            "labels": _encode(rows["label"]),
            "files": _encode([re.sub(r"(:\d+)+$", "", source or "") for source in rows["source"]]),
        }


def pca_map(index: Index, seed: int = 0) -> PCAMap | None:
    """Fit a map to the index's first feature with one vector per row, or else to its first feature.

    Returns:
        None if the index holds no vectors, or fewer than three rows.
    """
    fixed = [name for name in index.features if pa.types.is_fixed_size_list(index.dataset.schema.field(name).type)]
    name = next(iter([*fixed, *index.features]), None)
    positions = np.sort(np.random.default_rng(seed).permutation(len(index))[:SAMPLE]).tolist()
    if name is None or len(positions) < FEWEST or index.features[name] < 2:
        return None
    pca = PCA(2, svd_solver="covariance_eigh")
    points = pca.fit_transform(_unit_vectors(index, name, positions))
    scale = float(np.abs(points).max()) or 1.0
    first, second = np.nan_to_num(pca.explained_variance_ratio_)
    return PCAMap(name, pca, scale, tuple(positions), points / scale, (round(float(first), 4), round(float(second), 4)))


def _unit_vectors(index: Index, name: str, positions: Sequence[int]) -> Float[NDArray[np.float64], "n d"]:
    """The rows' unit vectors; for a feature with a vector per token, the direction of their sum."""
    vectors = from_arrow(index.dataset.take(list(positions), columns=[name]).column(name).combine_chunks())
    if isinstance(vectors, Ragged):
        sums = torch.zeros(len(positions), vectors.flat.shape[1]).index_add_(0, vectors.owner, vectors.flat)
        vectors = normalize(sums)
    return vectors.double().numpy()


def _encode(column: Sequence[str | None]) -> dict[str, Any]:
    """A column as its distinct values and, for each row, the number of its value."""
    numbers = {value: number for number, value in enumerate(dict.fromkeys(column))}
    return {"values": list(numbers), "codes": [numbers[value] for value in column]}


def _rounded(points: NDArray[np.float64]) -> list[list[float]]:
    return np.round(points, 3).tolist()
