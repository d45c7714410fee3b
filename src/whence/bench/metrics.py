"""How good a ranking is, when it is known which rows were planted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def average_precision(scores: ArrayLike, planted: Sequence[bool]) -> float:
    """Average precision over the full ranking, not the top k; ties are one step; chance is the planted rows' share."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(np.asarray(planted), np.asarray(scores)))


def precision_at(k: int, scores: ArrayLike, planted: Sequence[bool]) -> float:
    """The share of planted rows among the first k, in expectation over the order of ties."""
    values, truth = np.asarray(scores, dtype=float), np.asarray(planted, dtype=float)
    k = min(k, len(values))
    edge = np.sort(values)[-k]
    above, level = values > edge, values == edge
    return float((truth[above].sum() + (k - above.sum()) * truth[level].mean()) / k)
