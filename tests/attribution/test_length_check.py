"""The length check warns if length decides the first rows of all queries, not if rows of one cause share a length."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from taughtby.attribution.length_check import LIMIT, check_length


def scores_and_lengths(bias: float, *, seed: int = 0, rows: int = 150) -> tuple[np.ndarray, np.ndarray]:
    """Rows of three causes, each with a length of its own, that rank each other first, with a bias by length."""
    generator = np.random.default_rng(seed)
    cause = generator.integers(0, 3, rows)
    lengths = np.array([8, 16, 32])[cause] + generator.integers(0, 4, rows)
    scores = 5.0 * (cause[:60, None] == cause) + generator.normal(size=(60, rows))
    scores += bias * (lengths - lengths.mean()) / lengths.std()
    scores[np.arange(60), np.arange(60)] = np.nan
    return scores, lengths


@pytest.mark.parametrize("seed", range(4))
def test_correct_ranking_of_long_and_short_rows_passes(seed: int) -> None:
    scores, lengths = scores_and_lengths(1, seed=seed)
    rho = np.asarray(spearmanr(np.nanmean(scores, axis=0), lengths))[0]
    assert abs(rho) > 0.7, "the mean score of a row follows its length"
    check = check_length(scores, lengths.tolist())
    assert check.passed is True and not check.advice
    assert check.value is not None and abs(check.value - 0.5) < 0.1


@pytest.mark.parametrize(("bias", "kind"), [(12, "long"), (-12, "short")])
def test_length_biased_ranking_fails_in_both_directions(bias: float, kind: str) -> None:
    scores, lengths = scores_and_lengths(bias)
    check = check_length(scores, lengths.tolist())
    assert check.passed is False
    assert check.finding.startswith(f"{kind} responses rank first for every query") and "--method" in check.advice
    assert check.limit == pytest.approx(LIMIT if bias > 0 else 1 - LIMIT)


@settings(max_examples=30, deadline=None)
@given(st.floats(-8, 8), st.integers(0, 100))
def test_mirrored_lengths_mirror_the_value(bias: float, seed: int) -> None:
    scores, lengths = scores_and_lengths(bias, seed=seed)
    check, mirror = check_length(scores, lengths.tolist()), check_length(scores, (100 - lengths).tolist())
    assert check.value is not None and mirror.value is not None
    # ties of length between queries may fall into the other half
    assert check.value == pytest.approx(1 - mirror.value, abs=0.08)
    assert 0 <= check.value <= 1


@pytest.mark.parametrize("same", ["lengths", "scores", "few"])
def test_constant_or_too_few_scores_are_not_checked(same: str) -> None:
    scores, lengths = scores_and_lengths(1)
    if same == "lengths":
        lengths[:] = 7
    if same == "scores":
        scores[:] = 1
    check = check_length(scores[:5] if same == "few" else scores, lengths.tolist())
    assert check.passed is None and check.value is None
