"""Metrics of a ranking with known planted rows.

For one query, `scores` has the scores of all N rows, and `planted` marks the planted ones. With tied scores, a metric
is the expectation over random orders of the tied rows, unless its docstring says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taughtby.data.phrases import occurrences, tokens_in_ranges

CUTS = (10, 50, 100)
NUM_RECALLS = 41  # recalls 0, 0.025 … 1 at which a precision-recall curve is stored


def average_precision(scores: ArrayLike, planted: Sequence[bool]) -> float:
    """Return the average precision over the full ranking; a random ranking has about the share of planted rows.

    As in scikit-learn, tied rows form one step with the precision at the last of them, so their order does not matter.
    """
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(np.asarray(planted), np.asarray(scores)))


def precision_at(k: int, scores: ArrayLike, planted: Sequence[bool]) -> float:
    """Return the share of planted rows among the top k."""
    k = min(k, len(planted))
    return _num_planted_in_top(k, scores, planted) / k


def recall_at(k: int, scores: ArrayLike, planted: Sequence[bool]) -> float:
    """Return the share of the planted rows that are among the top k."""
    return _num_planted_in_top(min(k, len(planted)), scores, planted) / sum(map(bool, planted))


def auroc(scores: ArrayLike, planted: Sequence[bool]) -> float:
    """Return the probability that a planted row scores above another row; a tie counts one half."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(np.asarray(planted), np.asarray(scores)))


def reciprocal_rank(scores: ArrayLike, planted: Sequence[bool]) -> float:
    """Return 1 / the rank of the first planted row."""
    values, truth = np.asarray(scores, dtype=float), np.asarray(planted, dtype=bool)
    best = values[truth].max()
    num_above, num_tied = int((values > best).sum()), int((values == best).sum())
    num_tied_planted = int(truth[values == best].sum())
    # expectation over the position i of the first planted row among the tied rows in random order
    expected, p_none_before = 0.0, 1.0
    for i in range(num_tied - num_tied_planted + 1):
        p_here = num_tied_planted / (num_tied - i)
        expected += p_none_before * p_here / (num_above + i + 1)
        p_none_before *= 1 - p_here
    return expected


def pooled_precision(k: int, scores: Sequence[ArrayLike], planted: Sequence[Sequence[bool]]) -> float:
    """Return the reference's auPRC@k: average precision of the top k rows of all queries in one pool.

    The pool holds Q·k pairs (query, row), ordered by score, so queries with higher scores come first. Planted rows
    outside every query's top k are ignored, so a single planted row in the pool can give 1. Without planted rows in
    the pool, the result is 0. Rows that tie for the last places of a query are all in the pool, each weighted by the
    share of them that fits; the reference keeps those that its sort puts first.
    """
    from sklearn.metrics import average_precision_score

    values, truth = np.concatenate([*map(_floats, scores)]), np.concatenate([*map(_floats, planted)])
    weights = np.concatenate([_top_weights(min(k, len(row)), row) for row in map(_floats, scores)])
    pool = weights > 0
    if not truth[pool].any():
        return 0.0
    return float(average_precision_score(truth[pool], values[pool], sample_weight=weights[pool]))


def precision_recall(scores: ArrayLike, planted: Sequence[bool]) -> NDArray[np.float64]:
    """Return the interpolated curve: at each of `NUM_RECALLS` recalls, the best precision at or above that recall."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(np.asarray(planted), np.asarray(scores))
    # the point (recall 0, precision 1) is added by convention; no ranking reaches it
    precision, recall = precision[:-1], recall[:-1]
    return np.array([precision[recall >= level - 1e-12].max() for level in np.linspace(0, 1, NUM_RECALLS)])


def ranking_metrics(scores: Sequence[ArrayLike], planted: Sequence[Sequence[bool]]) -> dict[str, float]:
    """Return all metrics of one trace of Q queries: means over the queries, and the pooled ones.

    `planted` marks the planted rows of each query; queries without planted rows are left out.
    """
    pairs = [(row, truth) for row, truth in zip(scores, planted, strict=True) if any(truth)]
    if not pairs:
        return {}
    each: dict[str, list[float]] = {
        "ap": [average_precision(*pair) for pair in pairs],
        **{f"p@{k}": [precision_at(k, *pair) for pair in pairs] for k in CUTS},
        **{f"recall@{k}": [recall_at(k, *pair) for pair in pairs] for k in CUTS},
        "auroc": [auroc(*pair) for pair in pairs],
        "mrr": [reciprocal_rank(*pair) for pair in pairs],
    }
    means = {name: float(np.mean(values)) for name, values in each.items()}
    return means | {f"auprc@{k}": pooled_precision(k, *map(list, zip(*pairs, strict=True))) for k in CUTS}


def flagging_metrics(flagged: Sequence[Sequence[int]], planted: Sequence[Sequence[bool]]) -> dict[str, float]:
    """Return how well the flagged rows (their indices, by query) match the planted rows; means over the queries.

    Returns:
        `fdp`: the share of flagged rows that are not planted, 0 where none is flagged. `none`: the share of queries
        without flagged rows. `power`: the share of planted rows that are flagged, over the queries that have planted
        rows; absent if there are none.
    """
    num_right = [sum(truth[index] for index in rows) for rows, truth in zip(flagged, planted, strict=True)]
    fdp = [1 - right / len(rows) if rows else 0.0 for right, rows in zip(num_right, flagged, strict=True)]
    power = [right / sum(truth) for right, truth in zip(num_right, planted, strict=True) if any(truth)]
    means = {"fdp": float(np.mean(fdp)), "none": float(np.mean([not rows for rows in flagged]))}
    return means | ({"power": float(np.mean(power))} if power else {})


def strongest_is(tokens: Sequence[tuple[str, float]], phrases: Sequence[str]) -> bool:
    """Whether the top-scoring token belongs to a whole-word occurrence of one of the phrases."""
    pieces = [text for text, _ in tokens]
    best = max(range(len(tokens)), key=lambda index: tokens[index][1])
    return best in tokens_in_ranges(
        pieces, (span for phrase in phrases for span in occurrences("".join(pieces), phrase))
    )


@dataclass(frozen=True)
class Spread:
    """A metric over several seeds."""

    mean: float
    low: float
    high: float
    sd: float  # of the sample; 0 for one seed
    each: tuple[float, ...]

    def reaches(self, other: Spread) -> bool:
        """Return whether it is as good as `other` within the spread: the ranges overlap, or its own is higher."""
        return self.high >= other.low - 1e-9


def median_of_known(values: Iterable[float | None]) -> float | None:
    """Return the median of the values that are not None; None if there are none."""
    numbers = [value for value in values if value is not None]
    return median(numbers) if numbers else None


def spread(values: Sequence[float]) -> Spread:
    """Return mean, range and standard deviation."""
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return Spread(float(np.mean(values)), min(values), max(values), sd, tuple(values))


def spread_by_name(metrics: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    """Return each metric's spread over the seeds that have it."""
    names = dict.fromkeys(name for seed in metrics for name in seed)
    return {name: spread([seed[name] for seed in metrics if name in seed]) for name in names}


def _num_planted_in_top(k: int, scores: ArrayLike, planted: Sequence[bool]) -> float:
    """The expected number of planted rows among the top k."""
    return float(_top_weights(k, _floats(scores)) @ _floats(planted))


def _top_weights(k: int, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The probability that each row is among the top k: 1, 0, or a fraction for rows tied with the k-th."""
    threshold = np.sort(scores)[-k]
    above, tied = scores > threshold, scores == threshold
    return above + tied * (k - above.sum()) / tied.sum()


def _floats(values: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(values, dtype=float)
