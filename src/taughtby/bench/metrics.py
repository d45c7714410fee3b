"""How good a ranking is, when it is known which rows were planted.

For one query: `scores` are of all N rows, `planted` says which of them taught the behaviour. Where scores tie, the
number is the expectation over the order of the tied rows, except where the docstring says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taughtby.data.phrases import occurrences, tokens_in_ranges

CUTS = (10, 50, 100)
STEPS = 41  # recalls 0, 0.025 … 1 at which a precision-recall curve is kept


def average_precision(scores: ArrayLike, planted: Sequence[bool]) -> float:
    """Average precision over the full ranking, not the top k; chance is the planted rows' share.

    Rows that tie are one step, as in scikit-learn: all of them have the precision at the last of them. So their order
    does not matter, and copies of one row cannot be ranked well or badly by luck.
    """
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(np.asarray(planted), np.asarray(scores)))


def precision_at(k: int, scores: ArrayLike, planted: Sequence[bool]) -> float:
    """The share of planted rows among the first k."""
    k = min(k, len(planted))
    return _caught(k, scores, planted) / k


def recall_at(k: int, scores: ArrayLike, planted: Sequence[bool]) -> float:
    """The share of the planted rows that the first k hold."""
    return _caught(min(k, len(planted)), scores, planted) / sum(map(bool, planted))


def auroc(scores: ArrayLike, planted: Sequence[bool]) -> float:
    """The chance that a planted row scores above one that is not; a tie counts one half."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(np.asarray(planted), np.asarray(scores)))


def reciprocal_rank(scores: ArrayLike, planted: Sequence[bool]) -> float:
    """1 / the rank of the first planted row."""
    values, truth = np.asarray(scores, dtype=float), np.asarray(planted, dtype=bool)
    best = values[truth].max()
    above, level, good = int((values > best).sum()), int((values == best).sum()), int(truth[values == best].sum())
    # the first of `good` among `level` tied rows, in a random order, stands at place i with this chance
    expected, still = 0.0, 1.0
    for i in range(level - good + 1):
        here = good / (level - i)
        expected += still * here / (above + i + 1)
        still *= 1 - here
    return expected


def pooled_precision(k: int, scores: Sequence[ArrayLike], planted: Sequence[Sequence[bool]]) -> float:
    """What the reference calls auPRC@k: average precision of the first k rows of all queries in one pool.

    The pool holds Q·k pairs (query, row), ordered by their scores as they are, so queries whose scores run higher
    come first. Planted rows that no query has among its first k count for nothing: one right row in all gives 1.
    No planted row in the pool gives 0. Rows that tie at a query's edge are all in the pool, and each counts as the
    share of them for which there is room: the reference takes whichever its sort leaves there.
    """
    from sklearn.metrics import average_precision_score

    values, truth = np.concatenate([*map(_floats, scores)]), np.concatenate([*map(_floats, planted)])
    weights = np.concatenate([_room(min(k, len(row)), row) for row in map(_floats, scores)])
    pool = weights > 0
    if not truth[pool].any():
        return 0.0
    return float(average_precision_score(truth[pool], values[pool], sample_weight=weights[pool]))


def precision_recall(scores: ArrayLike, planted: Sequence[bool]) -> NDArray[np.float64]:
    """The interpolated curve: at each of `STEPS` recalls, the best precision at that recall or a higher one."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(np.asarray(planted), np.asarray(scores))
    wanted = np.linspace(0, 1, STEPS)
    # the point (recall 0, precision 1) is put in by convention, no ranking reaches it
    precision, recall = precision[:-1], recall[:-1]
    return np.array([precision[recall >= at - 1e-12].max() for at in wanted])


def measured(scores: Sequence[ArrayLike], planted: Sequence[Sequence[bool]]) -> dict[str, float]:
    """Every number for the Q queries of one trace: means over the queries, and the pooled ones.

    `planted` has for each query which rows taught it; queries that no row taught have no such numbers.
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
    found = {name: float(np.mean(values)) for name, values in each.items()}
    return found | {f"auprc@{k}": pooled_precision(k, *map(list, zip(*pairs, strict=True))) for k in CUTS}


def judged(culprits: Sequence[Sequence[int]], planted: Sequence[Sequence[bool]]) -> dict[str, float]:
    """Of the rows called for each query, how many wrongly (`fdp`, 0 where none is called); of the planted ones, how
    many are called (`power`); and the share of queries for which none is (`none`). Means over the queries.

    `power` is of the queries that some row taught, and not there where no query was taught by any.
    """
    right = [sum(truth[place] for place in called) for called, truth in zip(culprits, planted, strict=True)]
    fdp = [1 - good / len(called) if called else 0.0 for good, called in zip(right, culprits, strict=True)]
    power = [good / sum(truth) for good, truth in zip(right, planted, strict=True) if any(truth)]
    found = {"fdp": float(np.mean(fdp)), "none": float(np.mean([not called for called in culprits]))}
    return found | ({"power": float(np.mean(power))} if power else {})


def strongest_is(tokens: Sequence[tuple[str, float]], phrases: Sequence[str]) -> bool:
    """Whether the first token of the highest score belongs to any whole-word occurrence of one of the phrases."""
    pieces = [text for text, _ in tokens]
    best = max(range(len(tokens)), key=lambda at: tokens[at][1])
    return best in tokens_in_ranges(
        pieces, (place for phrase in phrases for place in occurrences("".join(pieces), phrase))
    )


@dataclass(frozen=True)
class Spread:
    """A number over several seeds."""

    mean: float
    low: float
    high: float
    sd: float  # of the sample; 0 where there is one seed
    each: tuple[float, ...]

    def reaches(self, other: Spread) -> bool:
        """Whether it is as good as `other` within the spread: the two ranges meet, or it lies above."""
        return self.high >= other.low - 1e-9


def spread(values: Sequence[float]) -> Spread:
    """Mean, range and standard deviation."""
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return Spread(float(np.mean(values)), min(values), max(values), sd, tuple(values))


def gathered(numbers: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    """Each number's spread over the seeds that have it."""
    names = dict.fromkeys(name for one in numbers for name in one)
    return {name: spread([one[name] for one in numbers if name in one]) for name in names}


def _caught(k: int, scores: ArrayLike, planted: Sequence[bool]) -> float:
    """How many planted rows are expected among the first k."""
    return float(_room(k, _floats(scores)) @ _floats(planted))


def _room(k: int, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each row the chance that it is among the first k: 1, 0, or where it ties at the edge a share of the room."""
    edge = np.sort(scores)[-k]
    above, level = scores > edge, scores == edge
    return above + level * (k - above.sum()) / level.sum()


def _floats(values: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(values, dtype=float)
