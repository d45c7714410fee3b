"""Significance of scores: p-values against controls, rows flagged at a false discovery rate, stability.

A row is flagged if it matches the query more than training rows match each other by chance. Runs no model. Measured
in docs/evidence.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from taughtby.attribution.controls import Controls, Numbers, mode_and_scale, standardize

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

DEFAULT_FDR = 0.1  # nominal false discovery rate: expected share of the flagged rows that are flagged wrongly
RESAMPLES = 200  # bootstrap resamples of the queries
EDGE = 1e-6  # relative difference of two sums of the same scores


@dataclass(frozen=True)
class Significance:
    """Null distributions and flagging thresholds of Q queries.

    Attributes:
        threshold: Scores from here on are flagged, shape (Q,); infinite if no row is.
        increased_by_finetuning: Whether fine-tuning made the query's tokens more likely, shape (Q,); no row is flagged
            for a query where it did not.
        mode: The mode of each query's scores.
        scale: Root mean square distance of each query's scores below the mode.
        null: Standardized scores of each query's controls, ascending; None for a query without controls, for which
            nothing is known and no row is flagged.
    """

    threshold: Float[Tensor, " Q"]
    increased_by_finetuning: Bool[Tensor, " Q"]
    mode: tuple[float, ...]
    scale: tuple[float, ...]
    null: tuple[NDArray[np.float64] | None, ...]

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
        return torch.from_numpy(_tail_probability(null, standard)).float()

    def flagged(self, q: int, scores: Float[Tensor, " K"]) -> Bool[Tensor, " K"]:
        """Return which scores of query `q` are flagged."""
        return scores >= self.threshold[q]


def assess(
    scores: Float[Tensor, "Q N"],
    controls: Sequence[Controls | None],
    increased_by_finetuning: Bool[Tensor, " Q"],
    fdr: float = DEFAULT_FDR,
) -> Significance:
    """Find each query's flagging threshold among all N rows with the procedure of Benjamini and Hochberg (1995).

    Queries differ in the location and the spread of their scores, so scores are standardized by their mode and scale.
    Rows that caused an answer match each other, and that is not chance, so flagged rows must not be controls: the rows
    flagged against all controls are flagged in any case, and those flagged against the controls that were not flagged
    themselves may be. Between the two, the threshold is where the scores drop most. If no row is flagged at first,
    this changes nothing.

    Args:
        scores: The score of every row for every query.
        controls: Controls of each query, with as many tokens selected as in the query; None without controls.
        increased_by_finetuning: Whether fine-tuning made the query's tokens more likely.
        fdr: Nominal false discovery rate.
    """
    nulls = {each: each.null_scores() for each in controls if each}
    flagged, sure = torch.zeros(scores.shape[1], dtype=torch.bool), torch.full((len(scores),), torch.inf)
    location = [(0.0, 1.0)] * len(scores)
    for q, (row, control) in enumerate(zip(scores, controls, strict=True)):
        if control is None:
            continue
        # sorted once, in float32: sorting takes most of the time with millions of rows
        ascending = np.sort(row.numpy())
        location[q] = mode_and_scale(ascending)
        if increased_by_finetuning[q]:
            sure[q] = _threshold(ascending, *location[q], nulls[control], fdr)
            flagged |= row >= sure[q]
    threshold = sure.clone()
    rests = {control: control.without(flagged) if flagged.any() else None for control in nulls}
    nulls |= {control: rest.null_scores() for control, rest in rests.items() if rest}
    for q, control in enumerate(controls):
        if control and increased_by_finetuning[q] and rests[control]:
            row = scores[q].numpy()
            threshold[q] = _cut(row, float(sure[q]), _threshold(row, *location[q], nulls[control], fdr))
    return Significance(threshold, increased_by_finetuning, tuple(mode for mode, _ in location),
                        tuple(scale for _, scale in location),
                        tuple(nulls[control] if control else None for control in controls))  # fmt: skip


def _threshold(row: Numbers, mode: float, scale: float, null: Numbers, fdr: float) -> float:
    """The lowest of a query's N scores that Benjamini and Hochberg's procedure flags; infinite if it flags none.

    The r-th highest of N is flagged if it or a lower one has p ≤ fdr · r / N, so no p-value above `fdr` is computed.
    """
    below = int((1 + len(null)) * (1 - fdr))  # control scores below a score whose p-value is `fdr`
    standard = standardize(row, mode, scale)
    high = np.sort(row[standard > null[below - 1]] if below else row)
    p_values = _tail_probability(null, standardize(high, mode, scale))
    flagged = np.flatnonzero(p_values <= fdr * np.arange(len(high), 0, -1) / len(row))
    return float(high[flagged[0]]) if len(flagged) else np.inf


def _cut(row: Numbers, sure: float, possible: float) -> float:
    """The score above the widest gap between the rows flagged in any case and those that may be.

    A gap is weighted by the number of scores above it, since the weighted gaps of an exponential tail are equal in
    expectation (Rényi's spacings). If no row is flagged in any case, all that may be are.
    """
    if not np.isfinite(sure):
        return possible
    possible = min(sure, possible)
    high = np.sort(row[row >= possible])
    below = row[row < possible]
    gaps = np.diff(high, prepend=below.max() if len(below) else high[0]) * np.arange(len(high), 0, -1)
    last = int(np.searchsorted(high, sure))  # gaps above lie between rows that are flagged in any case
    return float(high[np.argmax(gaps[: last + 1])])


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
    slack = EDGE * scores.abs().amax(0)
    return (weights @ scores >= threshold - slack).float().mean(0)


def _tail_probability(null: Numbers, values: Numbers) -> NDArray[np.float64]:
    """The probability of a control score at or above each value; `null` is ascending.

    Above the highest control score, the probability falls exponentially at the mean excess of the highest hundredth.
    Without that, a single cause among many rows, or among a handful, could never be significant. Scores are bounded,
    so the estimate is conservative.
    """
    p_values = (1 + len(null) - np.searchsorted(null, values)) / (1 + len(null))
    highest = null[-max(5, len(null) // 100) :]
    scale = max(float(highest.mean() - highest[0]), 1e-9)
    return p_values * np.exp(-np.clip(values - null[-1], 0, None) / scale)
