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


def check_length(null: NDArray[np.float64], lengths: Sequence[int]) -> Check:
    """How often a row that ranks among the first is the longer of a pair, for short queries and for long ones alike.

    Rows with one cause often have one length, so a right ranking puts long rows first for long queries. Only a
    ranking that does so for short queries as well follows the length whatever is asked. The value is that of the
    half of the queries, by length, whose share of pairs is nearer to one half; one half if they disagree.
    """
    if len(null) < FEWEST_QUERIES:
        return skipped_check(LENGTH, f"{len(null)} queries are too few")
    tokens = np.array(lengths, dtype=float)
    if not np.ptp(tokens) or not np.nanstd(null, axis=1).any():
        return skipped_check(LENGTH, "all responses have the same length, or all scores are equal")
    shares = np.array([_longer_share(line[~np.isnan(line)], tokens[~np.isnan(line)]) for line in null])
    halves = np.array_split(shares[np.argsort(tokens[: len(null)], kind="stable")], 2)
    short, long = (float(half.mean()) for half in halves)
    share = max(0.5, min(short, long)) if short + long > 1 else min(0.5, max(short, long))
    failed = abs(share - 0.5) > LIMIT - 0.5
    kind = "long" if share > 0.5 else "short"
    says = (
        f"{kind} responses rank first for every query" if failed else "rows do not rank first because of their length"
    )
    do = "compare rows of about the same length, or use another --method" if failed else ""
    fact = f"the first rows are the longer of a pair in {short:.0%} for short queries, {long:.0%} for long ones"
    return Check(LENGTH, share, LIMIT if share >= 0.5 else 1 - LIMIT, not failed, f"{says}: {fact}", do)


def _longer_share(scores: NDArray[np.float64], lengths: NDArray[np.float64]) -> float:
    """Share of pairs of a row among the first and another row in which the first is longer; a tie counts half."""
    first = min(TOP_K, max(1, len(scores) // 10))
    order = np.argsort(-scores, kind="stable")
    ranks = rankdata(lengths)[order[:first]]
    return float((ranks.sum() - first * (first + 1) / 2) / (first * (len(scores) - first)))
