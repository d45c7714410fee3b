"""Metrics by hand, against scikit-learn, by counting over all orders of ties, and by what must hold for any ranking."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from taughtby.bench.metrics import (
    NUM_RECALLS,
    auroc,
    average_precision,
    pooled_precision,
    precision_at,
    precision_recall,
    ranking_metrics,
    recall_at,
    reciprocal_rank,
    spread,
    spread_by_name,
)

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
def test_average_precision_matches_hand_computed_values(
    scores: list[float], planted: list[int], truth: Fraction
) -> None:
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
def test_precision_at_k_matches_hand_computed_values(
    k: int, scores: list[float], planted: list[int], truth: Fraction
) -> None:
    assert precision_at(k, scores, [bool(p) for p in planted]) == pytest.approx(float(truth))


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=5), st.integers(1, 5))
def test_precision_at_k_averages_over_tie_orders(rows: list[tuple[int, bool]], k: int) -> None:
    shares = []
    for order in permutations(rows):
        first = sorted(order, key=lambda row: -row[0])[:k]  # stable: each permutation breaks the ties its own way
        shares.append(sum(planted for _, planted in first) / len(first))
    result = precision_at(k, [score for score, _ in rows], [planted for _, planted in rows])
    assert result == pytest.approx(np.mean(shares))


@given(rankings, st.randoms())
def test_precision_metrics_are_invariant_to_row_order(rows: list[tuple[int, bool]], chance: object) -> None:
    shuffled = list(rows)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    for measure in (average_precision, lambda s, p: precision_at(3, s, p)):
        before, after = (measure([s for s, _ in some], [p for _, p in some]) for some in (rows, shuffled))
        assert before == pytest.approx(after)


@given(st.lists(st.booleans(), min_size=1, max_size=20).filter(any))
def test_precision_of_perfect_and_constant_rankings(planted: list[bool]) -> None:
    assert average_precision([float(p) for p in planted], planted) == 1
    assert precision_at(sum(planted), [float(p) for p in planted], planted) == 1
    assert average_precision([0.5] * len(planted), planted) == pytest.approx(np.mean(planted))


@given(rankings)
def test_average_precision_is_invariant_to_monotonic_transforms(rows: list[tuple[int, bool]]) -> None:
    scores, planted = np.array([s for s, _ in rows]), [p for _, p in rows]
    assert average_precision(np.exp(scores / 3), planted) == pytest.approx(average_precision(scores, planted))


@pytest.mark.parametrize(
    ("k", "scores", "planted", "truth"),
    [
        (1, [3, 2, 1], [1, 0, 0], 1),
        (2, [3, 2, 1], [1, 0, 1], Fraction(1, 2)),
        (1, [5, 5, 5, 5], [1, 1, 0, 0], Fraction(1, 4)),
        (2, [9, 5, 5, 5], [1, 1, 0, 0], Fraction(1 + Fraction(1, 3), 2)),
        (10, [3, 2, 1], [1, 1, 0], 1),
    ],
)
def test_recall_at_k_matches_hand_computed_values(
    k: int, scores: list[float], planted: list[int], truth: Fraction
) -> None:
    assert recall_at(k, scores, [bool(p) for p in planted]) == pytest.approx(float(truth))


@pytest.mark.parametrize(
    ("scores", "planted", "truth"),
    [
        ([3, 2, 1], [1, 0, 0], 1),
        ([3, 2, 1], [0, 0, 1], Fraction(1, 3)),
        ([3, 2, 1], [0, 1, 1], Fraction(1, 2)),
        ([5, 5], [1, 0], Fraction(3, 4)),  # first or second
        ([5, 5, 5], [1, 0, 0], (1 + Fraction(1, 2) + Fraction(1, 3)) / 3),
        ([9, 5, 5], [0, 1, 0], (Fraction(1, 2) + Fraction(1, 3)) / 2),
        ([5, 5, 5], [1, 1, 0], (2 * 1 + Fraction(1, 2)) / 3),
    ],
)
def test_reciprocal_rank_matches_hand_computed_values(scores: list[float], planted: list[int], truth: Fraction) -> None:
    assert reciprocal_rank(scores, [bool(p) for p in planted]) == pytest.approx(float(truth))


@given(
    st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=5).filter(
        lambda rows: any(planted for _, planted in rows)
    )
)
def test_reciprocal_rank_averages_over_tie_orders(rows: list[tuple[int, bool]]) -> None:
    values = []
    for order in permutations(rows):
        ranked = sorted(order, key=lambda row: -row[0])
        values.append(1 / (1 + next(at for at, (_, planted) in enumerate(ranked) if planted)))
    assert reciprocal_rank([s for s, _ in rows], [p for _, p in rows]) == pytest.approx(np.mean(values))


def test_auroc_matches_hand_computed_values() -> None:
    assert auroc([4, 3, 2, 1], [True, False, True, False]) == pytest.approx(3 / 4)  # of 4 pairs 3 stand right
    assert auroc([1, 1, 1], [True, False, False]) == pytest.approx(1 / 2)
    assert auroc([0, 1], [True, False]) == 0


def test_pooled_precision_matches_hand_computed_values() -> None:
    planted = [True, True, False, False]
    # first query: rows 0 and 2 come first (9, 8); second: rows 3 and 1 (5, 4)
    scores = [[9, 1, 8, 0], [0, 4, 1, 5]]
    # the pool, highest first: 9 planted, 8 not, 5 not, 4 planted: (1/1 + 2/4) / 2
    assert pooled_precision(2, scores, [planted, planted]) == pytest.approx(0.75)
    # the first of each: 9 planted, 5 not
    assert pooled_precision(1, scores, [planted, planted]) == 1
    # what no query has among its first k counts for nothing: one right row in all is perfect
    assert pooled_precision(1, [[9, 1, 8, 0]], [planted]) == 1
    assert average_precision([9, 1, 8, 0], planted) < 1
    # no planted row in the pool
    assert pooled_precision(1, [[0, 0, 1, 0]], [planted]) == 0


def test_pooled_precision_depends_on_query_score_scale() -> None:
    planted = [True, False]
    right, wrong = [2, 1], [1, 2]
    assert pooled_precision(1, [right, [10 * score for score in wrong]], [planted, planted]) == pytest.approx(1 / 2)
    assert pooled_precision(1, [[10 * score for score in right], wrong], [planted, planted]) == 1


@given(st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_pooled_precision_matches_reference_implementation(k: int, seed: int) -> None:
    """Its loop in other words: argsort, the last k, all queries in one list, scikit-learn's average precision."""
    rng = np.random.default_rng(seed)
    scores, planted = rng.normal(size=(4, 9)), rng.random(9) < 0.5
    values, truth = [], []
    for row in scores:
        for place in np.argsort(row)[-k:]:
            values.append(row[place])
            truth.append(int(planted[place]))
    wanted = average_precision_score(truth, values) if any(truth) else 0.0
    assert pooled_precision(k, scores, [list(planted)] * 4) == pytest.approx(wanted)


@given(st.lists(rankings, min_size=1, max_size=3), st.integers(1, 6), st.randoms())
def test_pooled_precision_is_invariant_to_tie_order(
    queries: list[list[tuple[int, bool]]], k: int, chance: object
) -> None:
    def pooled(some: list[list[tuple[int, bool]]]) -> float:
        return pooled_precision(k, [[s for s, _ in rows] for rows in some], [[p for _, p in rows] for rows in some])

    shuffled = [list(rows) for rows in queries]
    for rows in shuffled:
        chance.shuffle(rows)  # type: ignore[attr-defined]
    assert pooled(queries) == pytest.approx(pooled(shuffled))


def test_pooled_precision_splits_ties_at_the_cutoff() -> None:
    # room for one of two tied rows: half of each is in, behind the one that is first
    assert pooled_precision(2, [[9, 5, 5]], [[False, True, False]]) == pytest.approx(1 / 4)
    assert pooled_precision(2, [[9, 5, 5]], [[True, True, False]]) == pytest.approx((1 + 0.5 * 0.75) / 1.5)


def test_average_precision_and_auroc_match_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    scores, planted = rng.integers(0, 6, 60).astype(float), rng.random(60) < 0.3
    assert average_precision(scores, list(planted)) == pytest.approx(average_precision_score(planted, scores))
    assert auroc(scores, list(planted)) == pytest.approx(roc_auc_score(planted, scores))


def test_precision_recall_matches_hand_computed_curve() -> None:
    curve = precision_recall([4, 3, 2, 1], [True, False, True, False])
    assert len(curve) == NUM_RECALLS
    half = NUM_RECALLS // 2
    assert curve[: half + 1] == pytest.approx(1)  # up to recall 1/2 the first row alone
    assert curve[half + 1 :] == pytest.approx(2 / 3)
    assert precision_recall([1, 2, 3], [True, False, False]) == pytest.approx(1 / 3)


def test_ranking_metrics_skip_queries_without_planted_rows() -> None:
    planted = [True, False, True, False]
    nobody = [False] * 4  # taught by no row: left out
    result = ranking_metrics([[4, 3, 2, 1], [4, 1, 3, 2], [1, 2, 3, 4]], [planted, planted, nobody])
    assert result["ap"] == pytest.approx((5 / 6 + 1) / 2)
    assert result["auroc"] == pytest.approx((3 / 4 + 1) / 2)
    assert result["p@10"] == pytest.approx(1 / 2)
    assert result["recall@10"] == result["mrr"] == 1
    assert set(result) == {
        "ap", "auroc", "mrr", *(f"{kind}@{k}" for kind in ("p", "recall", "auprc") for k in (10, 50, 100))
    }  # fmt: skip


def test_spread_matches_hand_computed_values() -> None:
    result = spread([0.5, 0.7, 0.9])
    assert (result.mean, result.low, result.high, result.sd) == pytest.approx((0.7, 0.5, 0.9, 0.2))
    assert spread([0.4]).sd == 0
    assert spread([0.6, 0.8]).reaches(spread([0.8, 1.0]))
    assert not spread([0.6, 0.79]).reaches(spread([0.8, 1.0]))
    assert spread([1.0]).reaches(spread([0.2]))


def test_spread_ignores_seeds_without_the_metric() -> None:
    result = spread_by_name([{"ap": 1.0, "hit@1": 0.5}, {"ap": 0.5}])
    assert result["ap"].each == (1.0, 0.5)
    assert result["hit@1"].each == (0.5,)
    assert ranking_metrics([[1, 2, 3, 4]], [[False] * 4]) == {}


def test_ranking_metrics_use_the_labels_of_each_query() -> None:
    mine, other = [True, False, False], [False, False, True]
    assert ranking_metrics([[3, 2, 1], [1, 2, 3]], [mine, other])["ap"] == 1
    assert ranking_metrics([[3, 2, 1], [1, 2, 3]], [other, mine])["ap"] == pytest.approx(1 / 3)
