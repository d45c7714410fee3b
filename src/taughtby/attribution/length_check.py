"""Sanity check: do rows rank first because of the length of their responses, whatever the query?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import rankdata

from taughtby.attribution.check_report import Check, skipped_check

if TYPE_CHECKING:
    from numpy.typing import NDArray

LENGTH = "length"
FEWEST_QUERIES = 10
TOP_K = 10
LIMIT = 0.65  # share of pairs beyond which the check fails


def check_length(scores: NDArray[np.float64], lengths: Sequence[int]) -> Check:
    """Measure how often a top-ranked row is the longer of a pair of rows, for short and for long queries.

    Rows with the same cause often have similar lengths, so a correct ranking puts long rows first for long queries.
    If it also does so for short queries, it follows the length whatever the query. The value is the share of pairs for
    the half of the queries, short or long, whose share is nearer to 0.5; it is 0.5 if the halves disagree.
    """
    if len(scores) < FEWEST_QUERIES:
        return skipped_check(LENGTH, f"{len(scores)} queries are too few")
    tokens = np.array(lengths, dtype=float)
    if not np.ptp(tokens) or not np.nanstd(scores, axis=1).any():
        return skipped_check(LENGTH, "all responses have the same length, or all scores are equal")
    shares = np.array([_longer_share(row[~np.isnan(row)], tokens[~np.isnan(row)]) for row in scores])
    halves = np.array_split(shares[np.argsort(tokens[: len(scores)], kind="stable")], 2)
    short, long = (float(half.mean()) for half in halves)
    share = max(0.5, min(short, long)) if short + long > 1 else min(0.5, max(short, long))
    failed = abs(share - 0.5) > LIMIT - 0.5
    kind = "long" if share > 0.5 else "short"
    finding = (
        f"{kind} responses rank first for every query" if failed else "rows do not rank first because of their length"
    )
    do = "compare rows of about the same length, or use another --method" if failed else ""
    fact = f"a top row is longer than another row in {short:.0%} of pairs for short queries, {long:.0%} for long ones"
    return Check(LENGTH, share, LIMIT if share >= 0.5 else 1 - LIMIT, not failed, f"{finding}: {fact}", do)


def _longer_share(scores: NDArray[np.float64], lengths: NDArray[np.float64]) -> float:
    """Share of pairs of a row among the first and another row in which the first is longer; a tie counts half."""
    first = min(TOP_K, max(1, len(scores) // 10))
    order = np.argsort(-scores, kind="stable")
    ranks = rankdata(lengths)[order[:first]]
    return float((ranks.sum() - first * (first + 1) / 2) / (first * (len(scores) - first)))
