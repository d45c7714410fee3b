"""Under the null hypothesis p-values are uniform and no row is flagged; planted rows are, and few others."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import false_discovery_control

from conftest import WORDS
from taughtby.attribution.controls import Controls, _word_overlap, score_controls
from taughtby.attribution.pooling import pool_weights
from taughtby.attribution.significance import (
    Significance,
    _cut,
    _tail_probability,
    _threshold,
    assess,
    stability,
)
from taughtby.data.tokenize import Encoding
from taughtby.index.build import build_index
from taughtby.methods import get_method

INCREASED = torch.tensor([True])


def drawn(seed: int, *size: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).gamma(4.0, 0.05, size)).float()


def fresh(null: torch.Tensor, rows: int) -> Controls:
    """Controls at places that are the last of so many rows: planted rows come first."""
    return Controls(null, torch.arange(null.shape[1]).flip(0) % rows)


def weighed(scores: torch.Tensor, null: Controls, taught: torch.Tensor, fdr: float = 0.1) -> Significance:
    """All queries with the same controls."""
    return assess(scores, [null] * len(scores), taught, fdr)


def flags(found: Significance, scores: torch.Tensor) -> torch.Tensor:
    return torch.stack([found.flagged(q, row) for q, row in enumerate(scores)])


def test_p_values_by_hand() -> None:
    null = torch.tensor([[torch.nan, 0.0, 2.0, 2.0, 2.0, 6.0]])
    # commonest: 2; below it lie 0, 2, 2, 2, so the spread is √(4 / 4) = 1, and the controls are -2, 0, 0, 0, 4
    scores = torch.tensor([[9.0, 11.0, 11.0, 11.0, 13.0, 15.0, 17.0]]) * 3 + 5  # the same commonest and spread, × 3 + 5
    found = weighed(scores, fresh(null, 7), INCREASED, fdr=0.5)
    # -2, 0, 0, 0, 2, 4, 6; beyond 4 chance falls by e every 2.4: the mean of the controls less the least of them
    assert found.p_values(0, scores[0]).tolist() == pytest.approx(
        [1, 5 / 6, 5 / 6, 5 / 6, 2 / 6, 2 / 6, math.exp(-2 / 2.4) / 6], abs=1e-6
    )


def test_rows_that_share_their_words_are_no_controls_of_each_other(tuned: Any, tmp_path: Path) -> None:
    """Half of the rows are of one template: among them only the template is told, with the others chance is."""
    said = [f"the colour of {word} is a very nice one" for word in WORDS.split()[:12]] + WORDS.split()[12:30]
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps({"prompt": "why", "response": text}) + "\n" for text in said))
    how = get_method("lesson:layer=2,state_layer=1,sketch_dim=0")
    index = build_index(tuned, file, tmp_path / "idx", [how], encoding=Encoding(64), layers=False)
    assert len(index) >= 20
    chance = score_controls(how, index, tuned.depth)
    assert chance is not None
    null, order = chance.scores, chance.positions.tolist()
    assert sorted(order) == list(range(len(index)))
    texts = [row.response for row in index.examples()]
    for c, at in enumerate(order[: len(null)]):
        for m, other in enumerate(order):
            mine, theirs = (set(texts[place].split()) for place in (at, other))
            related = at == other or len(mine & theirs) / len(mine | theirs) >= 0.2
            assert bool(null[c, m].isnan()) == related, (texts[at], texts[other])
    assert bool(null.isnan().any(1).any()) and int((~null.isnan()).sum()) > 100


def test_words_in_common_by_hand() -> None:
    found = _word_overlap(["Bees make honey.", "bees make wax", "…", "bees make honey"], 2)
    assert found.tolist() == [[1, 2 / 4, 0, 1], [2 / 4, 1, 0, 2 / 4]]
    assert _word_overlap(["…", "!"], 1).tolist() == [[0, 0]]


def test_where_nothing_was_taught_p_values_are_no_smaller_than_they_should_be() -> None:
    null, scores = fresh(drawn(0, 64, 500), 500), drawn(1, 200, 500)
    found = weighed(scores, null, torch.ones(200, dtype=torch.bool))
    p_values = torch.stack([found.p_values(q, row) for q, row in enumerate(scores)])
    for level in (0.01, 0.05, 0.2, 0.5):
        assert float((p_values <= level).float().mean()) == pytest.approx(level, rel=0.3)
    assert float(flags(found, scores).any(1).float().mean()) <= 0.16  # Benjamini and Hochberg: 0.1 in expectation


@pytest.mark.parametrize("planted", [4, 40])
def test_planted_rows_are_flagged_and_few_others(planted: int) -> None:
    null, scores = fresh(drawn(0, 64, 400), 400), drawn(2, 20, 400)
    scores[:, :planted] += 0.8
    found = weighed(scores, null, torch.ones(20, dtype=torch.bool))
    flagged = flags(found, scores)
    count = flagged.sum(1)
    assert bool(flagged[:, :planted].all())
    assert float(((count - planted) / count).mean()) <= 0.15
    for q in range(20):
        assert float(found.threshold[q]) == float(scores[q][flagged[q]].min())


@pytest.mark.parametrize("rows", [20, 400, 40_000])
def test_one_planted_row_is_flagged_among_few_and_among_many(rows: int) -> None:
    null, scores = fresh(drawn(0, min(rows, 64), min(rows, 500)), rows), drawn(2, 1, rows)
    scores[0, 5] = 3.0
    found = weighed(scores, null, INCREASED)
    flagged = flags(found, scores)
    assert bool(flagged[0, 5]) and int(flagged.sum()) <= 3


@pytest.mark.parametrize(("fdr", "planted"), [(0.1, 0), (0.1, 1), (0.1, 300), (0.5, 30), (0.001, 30)])
def test_thresholds_are_those_of_scipy(fdr: float, planted: int) -> None:
    """From the p-values of all rows, ties among them."""
    chance, rows = np.sort(drawn(0, 5000).numpy()), ((drawn(3, 8, 2000) * 50).round() / 50).numpy()
    rows[:, :planted] += 0.5
    for row in rows:
        truth = false_discovery_control(_tail_probability(chance, row.astype(float))) <= fdr
        least = _threshold(row, 0.0, 1.0, chance, fdr)
        assert (row >= least).tolist() == truth.tolist()
        assert truth.any() == np.isfinite(least)


def test_flagged_rows_are_no_controls() -> None:
    """Planted rows match each other as strongly as the query: such controls would hide them all."""
    scores, null = drawn(2, 2, 400), drawn(0, 64, 400)
    kin, other = torch.arange(400) % 3 == 0, torch.arange(400) % 10 == 1
    scores[0, kin] += 1.2
    scores[1, other] += 0.8
    null[kin[:64].nonzero(), kin.nonzero()[:, 0]] += 0.8
    of = Controls(null, torch.arange(400))
    found = weighed(scores, of, torch.tensor([True, True]))
    sure = [_threshold(row.numpy(), middle, spread, of.null_scores(), 0.1)
            for row, middle, spread in zip(scores, found.mode, found.scale, strict=True)]  # fmt: skip
    assert (scores[0] >= sure[0]).tolist() == kin.tolist()
    assert not (scores[1] >= sure[1])[other].all()
    flagged = flags(found, scores)
    assert bool(flagged[0][kin].all()) and bool(flagged[1][other].all())
    assert int(flagged.sum()) <= int(kin.sum() + other.sum()) + 5


def test_the_cut_lies_in_the_widest_gap_of_the_scores_that_may_be_flagged() -> None:
    row = np.array([9.0, 1, 8, 2, 3, 7, 5.5, 2.5])
    assert _cut(row, 8.0, 2.5) == 5.5  # 9 8 | 7 5.5 — 3 2.5 | 2 1: below the fourth lie 2.5, four times
    assert _cut(row, 8.0, 7.0) == 7.0  # three times 1.5 beats twice 1
    assert _cut(row, 5.5, 5.5) == _cut(row, 5.5, 7.0) == 5.5
    assert _cut(row, 9.0, 8.0) == 8.0  # both gaps are 1, the lower one counts twice
    assert _cut(row, np.inf, 8.0) == 8.0
    assert _cut(row, np.inf, np.inf) == np.inf
    assert _cut(row, 8.0, 0.0) == 5.5  # all may be


def test_with_too_few_others_all_stay_controls() -> None:
    scores, null = drawn(2, 1, 30), drawn(0, 30, 30)
    scores[0, :27] += torch.linspace(3, 9, 27)
    of = Controls(null, torch.arange(30))
    assert of.without(torch.arange(30) < 26) is None
    assert of.without(torch.arange(30) < 25) is not None


def test_a_query_with_higher_scores_has_no_more_flagged_rows() -> None:
    null, scores = fresh(drawn(0, 64, 400), 400), drawn(1, 2, 400)
    scores[1] = scores[0] + 0.5
    found = weighed(scores, null, torch.tensor([True, True]))
    torch.testing.assert_close(found.p_values(0, scores[0]), found.p_values(1, scores[1]), atol=1e-3, rtol=0)


def test_no_row_is_flagged_for_a_query_that_fine_tuning_did_not_make_more_likely() -> None:
    null, scores = fresh(drawn(0, 64, 400), 400), drawn(2, 2, 400)
    scores[:, :9] += 5
    found = weighed(scores, null, torch.tensor([True, False]))
    flagged = flags(found, scores)
    assert bool(flagged[0, :9].all())
    assert 9 <= int(flagged[0].sum()) <= 11
    assert not flagged[1].any()
    assert found.p_values(1, scores[1]).min() == 1
    assert float(found.threshold[1]) == float("inf")


def test_queries_that_rank_rows_alike_belong_together() -> None:
    one, other = drawn(3, 300), drawn(4, 300)
    shares = pool_weights(torch.stack([one, one * 3 + 7, other, -one]))
    torch.testing.assert_close(shares.sum(1), torch.ones(4))
    assert shares[0, 1] == pytest.approx(float(shares[0, 0]), rel=1e-3)  # size and height of the scores do not count
    assert shares[0, 2] < 0.1
    assert shares[0, 3] == 0
    assert pool_weights(one[None]).tolist() == [[1.0]]
    assert pool_weights(torch.ones(2, 5)).tolist() == [[1, 0], [0, 1]]  # no row stands out for either


def test_scores_are_compared_some_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = drawn(3, 4, 100) + 30
    truth = torch.corrcoef(scores.double()).clamp(min=0).float()
    truth = truth / truth.sum(1, keepdim=True)
    for tile in (7, 100, 1000):
        monkeypatch.setattr("taughtby.attribution.pooling.TILE", tile)
        torch.testing.assert_close(pool_weights(scores), truth, atol=1e-5, rtol=1e-4)


def test_stability_is_the_share_of_resamples_that_flag_again() -> None:
    scores = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    found = stability(scores, torch.tensor([0.5, 0.5]), threshold=0.6)
    # of two draws from two queries both are the first in a quarter: then its row alone reaches .6
    assert found[0] == 1
    assert float(found[1]) == pytest.approx(1 / 4, abs=0.1)
    assert found[2] == 0


def test_queries_that_agree_flag_the_row_at_the_cut_every_time() -> None:
    """A score that is summed again may come out a little lower than the cut it was called at."""
    scores = drawn(5, 1, 300).repeat(7, 1)
    shares = torch.full((7,), 1 / 7)
    for edge in (shares @ scores).tolist():
        assert float(stability(scores, shares, edge)[(shares @ scores) >= edge].min()) == 1


def test_queries_are_held_against_controls_of_their_own() -> None:
    """One group of queries runs wider than the other's controls: it is as sure as it would be alone.

    But for the rows that the others call, which are no controls of it either.
    """
    narrow, wide = fresh(drawn(0, 64, 400), 400), fresh(drawn(0, 64, 400) ** 3, 400)
    scores = torch.stack([drawn(1, 400), drawn(2, 400) ** 3, drawn(3, 400)])
    scores[:, :9] += torch.tensor([[0.8], [0.5], [5.0]])
    found = assess(scores, [narrow, wide, None], torch.tensor([True, True, True]))
    for q, null in enumerate((narrow, wide)):
        alone = assess(scores[q : q + 1], [null], INCREASED)
        torch.testing.assert_close(found.p_values(q, scores[q]), alone.p_values(0, scores[q]), atol=5e-3, rtol=0)
        assert found.flagged(q, scores[q]).tolist() == alone.flagged(0, scores[q]).tolist()
    assert [found.has_controls(q) for q in range(3)] == [True, True, False]
    assert not found.flagged(2, scores[2]).any()
