"""A training set as points in a plane: two principal components of its rows' signatures."""

from __future__ import annotations

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

MOST = 5000  # rows that the components are found from, and that are drawn
FEWEST = 3


@dataclass(frozen=True)
class PCAMap:
    """The plane of one block: `points` are n rows drawn at random, `share` of all variance lies along each axis."""

    block: str
    pca: PCA
    scale: float
    points: Float[NDArray[np.float64], "n 2"]
    share: tuple[float, float]

    def at(self, index: Index, places: Sequence[int]) -> list[list[float]]:
        """Where the rows at these places lie; the rows drawn reach from -1 to 1."""
        return _rounded(self.pca.transform(_vectors(index, self.block, places)) / self.scale) if places else []

    def to_json(self) -> dict[str, Any]:
        """What the page draws."""
        return {"block": self.block, "share": list(self.share), "points": _rounded(self.points)}


def pca_map(index: Index, seed: int = 0) -> PCAMap | None:
    """The plane of the index's first block that has a vector a row; None where it holds no vectors."""
    plain = [name for name in index.features if pa.types.is_fixed_size_list(index.dataset.schema.field(name).type)]
    name = next(iter([*plain, *index.features]), None)
    places = np.random.default_rng(seed).permutation(len(index))[:MOST]
    if name is None or len(places) < FEWEST or index.features[name] < 2:
        return None
    pca = PCA(2, svd_solver="covariance_eigh")
    points = pca.fit_transform(_vectors(index, name, np.sort(places).tolist()))
    scale = float(np.abs(points).max()) or 1.0
    first, second = np.nan_to_num(pca.explained_variance_ratio_)
    return PCAMap(name, pca, scale, points / scale, (round(float(first), 4), round(float(second), 4)))


def _vectors(index: Index, name: str, places: Sequence[int]) -> Float[NDArray[np.float64], "n d"]:
    """The rows' unit vectors; where a row has a vector a token, the direction of their sum."""
    found = from_arrow(index.dataset.take(list(places), columns=[name]).column(name).combine_chunks())
    if isinstance(found, Ragged):
        sums = torch.zeros(len(places), found.flat.shape[1]).index_add_(0, found.owner, found.flat)
        found = normalize(sums)
    return found.double().numpy()


def _rounded(points: NDArray[np.float64]) -> list[list[float]]:
    return np.round(points, 3).tolist()
