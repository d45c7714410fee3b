"""Average precision and precision at k, by hand and by what must hold for any ranking."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whence.bench.metrics import average_precision, precision_at

rankings = st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=1, max_size=12).filter(
    lambda rows: any(planted for _, planted in rows)
)


@pytest.mark.parametrize(
    ("scores", "planted", "truth"),
    [
        ([3, 2, 1], [1, 0, 0], 1),
        ([3, 2, 1], [0, 0, 1], Fraction(1, 3)),
        ([4, 3, 2, 1], [1, 0, 1, 0], Fraction(1 + Fraction(2, 3), 2)),
        ([1, 4, 3, 2], [1, 0, 1, 0], Fraction(1, 2)),  # places 2 and 4: (1/2 + 2/4) / 2
        ([7, 7, 7, 7], [1, 0, 0, 0], Fraction(1, 4)),  # a tie is one step, at chance
        ([9, 5, 5, 1], [0, 1, 1, 0], Fraction(2, 3)),
    ],
)
def test_average_precision_by_hand(scores: list[float], planted: list[int], truth: Fraction) -> None:
    assert average_precision(scores, [bool(p) for p in planted]) == pytest.approx(float(truth))


@pytest.mark.parametrize(
    ("k", "scores", "planted", "truth"),
    [
        (1, [3, 2, 1], [1, 0, 0], 1),
        (2, [3, 2, 1], [1, 0, 1], Fraction(1, 2)),
        (2, [1, 3, 2], [1, 0, 1], Fraction(1, 2)),
        (1, [5, 5, 5, 5], [1, 0, 0, 0], Fraction(1, 4)),
        (2, [9, 5, 5, 5], [1, 1, 0, 0], Fraction(1 + Fraction(1, 3), 2)),
        (10, [3, 2, 1], [1, 1, 0], Fraction(2, 3)),
    ],
)
def test_precision_at_k_by_hand(k: int, scores: list[float], planted: list[int], truth: Fraction) -> None:
    assert precision_at(k, scores, [bool(p) for p in planted]) == pytest.approx(float(truth))


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=5), st.integers(1, 5))
def test_precision_at_k_is_the_mean_over_all_orders_of_the_ties(rows: list[tuple[int, bool]], k: int) -> None:
    shares = []
    for order in permutations(rows):
        first = sorted(order, key=lambda row: -row[0])[:k]  # stable: each permutation breaks the ties its own way
        shares.append(sum(planted for _, planted in first) / len(first))
    found = precision_at(k, [score for score, _ in rows], [planted for _, planted in rows])
    assert found == pytest.approx(np.mean(shares))


@given(rankings, st.randoms())
def test_the_order_of_the_rows_does_not_matter(rows: list[tuple[int, bool]], chance: object) -> None:
    shuffled = list(rows)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    for measure in (average_precision, lambda s, p: precision_at(3, s, p)):
        before, after = (measure([s for s, _ in some], [p for _, p in some]) for some in (rows, shuffled))
        assert before == pytest.approx(after)


@given(st.lists(st.booleans(), min_size=1, max_size=20).filter(any))
def test_a_perfect_ranking_is_one_and_the_same_score_for_all_is_chance(planted: list[bool]) -> None:
    assert average_precision([float(p) for p in planted], planted) == 1
    assert precision_at(sum(planted), [float(p) for p in planted], planted) == 1
    assert average_precision([0.5] * len(planted), planted) == pytest.approx(np.mean(planted))


@given(rankings)
def test_average_precision_is_unchanged_by_what_keeps_the_order(rows: list[tuple[int, bool]]) -> None:
    scores, planted = np.array([s for s, _ in rows]), [p for _, p in rows]
    assert average_precision(np.exp(scores / 3), planted) == pytest.approx(average_precision(scores, planted))
