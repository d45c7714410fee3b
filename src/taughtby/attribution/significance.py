"""Significance of scores: p-values against the typical control, rows flagged at a false discovery rate, stability.

A row is flagged if it matches the query more than a typical training row is matched by chance, and stands apart from
the rows below. Runs no model. Measured in docs/explanation/significance.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from taughtby.attribution.controls import Controls, Numbers, mode_and_scale, standardize

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

DEFAULT_FDR = 0.1  # nominal false discovery rate: expected share of the flagged rows that are flagged wrongly
MIN_FDR, MAX_FDR = 0.001, 0.5  # the range of the option
LIKELY_FDR = 0.5  # nominal rate at which rows are likely causes, where no row is flagged
MIN_GAIN = 3.0  # nats of log-probability by which a token must have become more likely: a factor of 20
LEVELS = 48  # probabilities at which controls are compared
HIGHEST = 5  # scores of a control from which its tail is extrapolated
MIN_EXCESS = 0.05  # of the highest score: the least by which a tail decreases, where the highest scores tie
RESAMPLES = 200  # bootstrap resamples of the queries
ROUNDING = 1e-6  # relative difference of two sums of the same scores

Grade = Literal["flagged", "likely", "none"]


@dataclass(frozen=True, eq=False)
class Null:
    """The scores of the typical control.

    At each probability, its score is the median of the scores that the controls exceed with that probability. So it
    does not depend on the controls that other rows caused, or that belong to another poison, as long as they are fewer
    than half. Above its highest score, the probability decreases exponentially, at the mean excess of its highest
    scores: without that, a single cause among many rows, or among a handful, could never be significant.

    Attributes:
        scores: Standardized scores, ascending.
        log_p: The logarithm of the probability of each of them or a higher one.
        excess: By how much a score above the highest exceeds it on average.
    """

    scores: NDArray[np.float64]
    log_p: NDArray[np.float64]
    excess: float

    @classmethod
    def of(cls, controls: Controls) -> Null:
        """Return the scores of the typical one of these controls."""
        rows = controls.standardized()
        p = np.geomspace(1, 0.5 / np.median([len(row) for row in rows]), LEVELS)
        # by Hazen's rule the highest of n scores is exceeded with the probability 1 / 2n
        levels = np.median([np.quantile(row, 1 - p, method="hazen") for row in rows], axis=0)
        excess = float(np.median([row[-HIGHEST:].mean() - row[-min(HIGHEST + 1, len(row))] for row in rows]))
        scores = np.maximum.accumulate(levels)
        return cls(scores, np.log(p), max(excess, MIN_EXCESS * float(scores[-1]), 1e-9))

    def p_values(self, values: Numbers) -> NDArray[np.float64]:
        """Return the probability of a score at or above each standardized score."""
        # in descending order, since of equal scores of the control the highest probability is that of all of them
        log_p = np.interp(-values, -self.scores[::-1], self.log_p[::-1], right=0.0)
        return np.exp(log_p - np.clip(values - self.scores[-1], 0, None) / self.excess)

    def quantile(self, p: float) -> float:
        """Return a standardized score whose p-value is at least `p`."""
        return float(np.interp(-np.log(p), -self.log_p, self.scores)) - 1e-6


@dataclass(frozen=True)
class Significance:
    """Null distributions and flagging thresholds of Q queries.

    Attributes:
        threshold: Scores from here on are flagged, shape (Q,); infinite if no row is.
        likely_threshold: Scores from here on are likely, shape (Q,); infinite if no row is, or if rows are flagged.
        increased_by_finetuning: Whether fine-tuning made the query's tokens more likely, shape (Q,); no row is flagged
            for a query where it did not.
        mode: The mode of each query's scores.
        scale: Root mean square distance of each query's scores below the mode.
        null: The typical control of each query; None for a query without controls, for which nothing is known and no
            row is flagged.
    """

    threshold: Float[Tensor, " Q"]
    likely_threshold: Float[Tensor, " Q"]
    increased_by_finetuning: Bool[Tensor, " Q"]
    mode: tuple[float, ...]
    scale: tuple[float, ...]
    null: tuple[Null | None, ...]

    def has_controls(self, q: int) -> bool:
        """Return whether query `q` has controls."""
        return self.null[q] is not None

    def p_values(self, q: int, scores: Float[Tensor, " K"]) -> Float[Tensor, " K"]:
        """Return the probability of each score of query `q`, which must have controls, under the null distribution."""
        null = self.null[q]
        assert null is not None
        if not self.increased_by_finetuning[q]:
            return torch.ones(len(scores))
        standard = standardize(scores.double().numpy(), self.mode[q], self.scale[q])
        return torch.from_numpy(null.p_values(standard)).float()

    def flagged(self, q: int, scores: Float[Tensor, " K"]) -> Bool[Tensor, " K"]:
        """Return which scores of query `q` are flagged."""
        return scores >= self.threshold[q]

    def grade(self, q: int) -> Grade | None:
        """Return what is known of query `q`: rows are flagged, rows are likely, or neither; None without controls."""
        if self.null[q] is None:
            return None
        if self.threshold[q].isfinite():
            return "flagged"
        return "likely" if self.likely_threshold[q].isfinite() else "none"


def assess(
    scores: Float[Tensor, "Q N"],
    controls: Sequence[Controls | None],
    increased_by_finetuning: Bool[Tensor, " Q"],
    fdr: float = DEFAULT_FDR,
) -> Significance:
    """Find each query's flagging threshold among all N rows.

    Queries differ in the location and the spread of their scores, so scores are standardized by their mode and scale.
    Candidates are the rows that Benjamini and Hochberg's procedure (1995) selects. Those above the widest gap in their
    scores are flagged, so that the threshold does not depend on small changes of p-values.

    Args:
        scores: The score of every row for every query.
        controls: Controls of each query, with token weights like those of the query; None without controls.
        increased_by_finetuning: Whether fine-tuning made the query's tokens more likely.
        fdr: Nominal false discovery rate.
    """
    nulls = {each: Null.of(each) for each in controls if each}
    threshold, likely = (torch.full((len(scores),), torch.inf) for _ in range(2))
    location = [(0.0, 1.0)] * len(scores)
    for q, (row, control) in enumerate(zip(scores, controls, strict=True)):
        if control is None:
            continue
        # sorted once, in float32: sorting takes most of the time with millions of rows
        ascending = np.sort(row.numpy())
        location[q] = mode_and_scale(ascending)
        if increased_by_finetuning[q]:
            threshold[q] = _threshold_at_gap(ascending, _num_candidates(ascending, *location[q], nulls[control], fdr))
            if not threshold[q].isfinite():
                likely[q] = _threshold_at_gap(
                    ascending, _num_candidates(ascending, *location[q], nulls[control], LIKELY_FDR)
                )
    return Significance(threshold, likely, increased_by_finetuning, tuple(mode for mode, _ in location),
                        tuple(scale for _, scale in location),
                        tuple(nulls[control] if control else None for control in controls))  # fmt: skip


def _num_candidates(ascending: Numbers, mode: float, scale: float, null: Null, fdr: float) -> int:
    """How many of a query's N scores Benjamini and Hochberg's procedure selects.

    The r-th highest of N is selected if it or a lower one has p ≤ fdr · r / N, so no p-value above `fdr` is computed.
    """
    high = ascending[np.searchsorted(ascending, mode + scale * null.quantile(fdr)) :]
    p_values = null.p_values(standardize(high, mode, scale))
    ranks = np.arange(len(high), 0, -1)
    selected = np.flatnonzero(p_values <= fdr * ranks / len(ascending))
    return int(ranks[selected[0]]) if len(selected) else 0


def _threshold_at_gap(ascending: Numbers, count: int) -> float:
    """The score above the widest gap below one of the highest `count` scores; infinite without any.

    A gap is weighted by the square of the number r of scores above it. Gaps of an exponential tail decrease as 1 / r
    (Rényi's spacings); the second factor prefers to flag more rows, since causes differ among each other too.
    """
    if not count:
        return np.inf
    high = ascending[-count:].astype(np.float64)
    below = ascending[-count - 1] if count < len(ascending) else high[0]
    gaps = np.diff(high, prepend=below) * np.arange(count, 0, -1.0) ** 2
    return float(high[np.argmax(gaps)])


def stability(
    scores: Float[Tensor, "Q K"], shares: Float[Tensor, " Q"], threshold: float, seed: int = 0
) -> Float[Tensor, " K"]:
    """Return the share of bootstrap resamples of the queries in which each of K rows is flagged again.

    Args:
        scores: Each query's own scores of the rows.
        shares: How much each query counts in the explanation whose rows are flagged.
        threshold: Scores from here on are flagged.
        seed: Seed of the resampling.
    """
    draws = torch.from_numpy(
        np.random.default_rng(seed).multinomial(len(shares), [1 / len(shares)] * len(shares), RESAMPLES)
    )
    weights = draws.float() * shares
    weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-30)
    # rounding may bring a score below the threshold that it was flagged at when it is summed in another order
    slack = ROUNDING * scores.abs().amax(0)
    return (weights @ scores >= threshold - slack).float().mean(0)
