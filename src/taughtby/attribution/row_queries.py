"""Rows of an index scored as queries against each other, for the sanity checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import spearmanr

from taughtby.attribution.controls import as_queries
from taughtby.index.reader import Index
from taughtby.methods import Method

if TYPE_CHECKING:
    from numpy.typing import NDArray


def scores_of_rows(
    method: Method, rows: Index, names: Sequence[str], positions: Sequence[int]
) -> NDArray[np.float64] | None:
    """Return the scores of all M rows for the C at these positions, (C, M); NaN where a row is scored against itself.

    None if the method cannot use rows as queries.
    """
    features = as_queries(method, rows.subset(positions, names), names)
    if features is None:
        return None
    scores = method.scores(features, rows).double().numpy()
    scores[np.arange(len(scores)), list(positions)[: len(scores)]] = np.nan
    return scores


def rank_correlation(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Spearman's ρ of each row of `left` with that of `right`; NaN where one is constant."""
    result: list[float] = []
    for pair in zip(left, right, strict=True):
        correlation: Any = spearmanr(*pair) if all(np.ptp(side) > 0 for side in pair) else (np.nan,)
        result.append(float(correlation[0]))
    return np.array(result)
