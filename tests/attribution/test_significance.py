"""Significance: few rows are flagged under the null hypothesis, planted rows are flagged, and results are stable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from conftest import WORDS
from taughtby.attribution.controls import (
    Controls,
    ControlSample,
    _cut_profile,
    _weight_profiles,
    _word_overlap,
    mode_and_scale,
    standardize,
)
from taughtby.attribution.pooling import pool_weights
from taughtby.attribution.significance import Null, Significance, _num_candidates, _threshold_at_gap, assess, stability
from taughtby.data.tokenize import Encoding
from taughtby.index.build import build_index
from taughtby.methods import get_method

INCREASED = torch.tensor([True])


def draw_scores(seed: int, *size: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).gamma(4.0, 0.05, size)).float()


def weighed(scores: torch.Tensor, null: torch.Tensor, fdr: float = 0.1) -> Significance:
    """All queries with the same controls."""
    return assess(scores, [Controls(null)] * len(scores), torch.ones(len(scores), dtype=torch.bool), fdr)


def flags(result: Significance, scores: torch.Tensor) -> torch.Tensor:
    return torch.stack([result.flagged(q, row) for q, row in enumerate(scores)])


def test_p_values_match_hand_computed_values() -> None:
    """Three controls alike: the typical one is each of them."""
    null = Null.of(Controls(torch.arange(101.0).repeat(3, 1)))
    mode, scale = mode_and_scale(np.arange(101.0))
    p = null.p_values(standardize(np.array([-5.0, 0, 50, 90, 99]), mode, scale))
    np.testing.assert_allclose(p, [1, 1, 50.5 / 101, 10.5 / 101, 1.5 / 101], rtol=0.01)
    beyond = null.p_values(standardize(np.array([100.0, 110, 120]), mode, scale))
    np.testing.assert_allclose(beyond[1:] / beyond[:-1], np.exp(-10 / scale / null.excess), rtol=1e-6)


def test_contaminated_controls_barely_change_the_null() -> None:
    """Four controls in ten match their own kin, a tenth of the rows: the typical control does not know."""
    clean = draw_scores(0, 64, 400)
    mixed = clean.clone()
    mixed[:26, :40] += 1.0
    values = np.linspace(0, 5, 50)
    left, right = (np.log(Null.of(Controls(each)).p_values(values)) for each in (clean, mixed))
    assert float(np.abs(left - right).max()) < 1.0
    pooled = np.log(Null.of(Controls(mixed[:1])).p_values(values))
    assert float(np.abs(left - pooled).max()) > 1.5, "one that matches its kin has another tail"


def test_rows_with_shared_words_are_excluded_as_controls(tuned: Any, tmp_path: Path) -> None:
    """Half of the rows are of one template: among them only the template is told, with the others chance is."""
    wording = [f"the colour of {word} is a very nice one" for word in WORDS.split()[:12]] + WORDS.split()[12:30]
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps({"prompt": "why", "response": text}) + "\n" for text in wording))
    how = get_method("lesson:layer=2,state_layer=1,sketch_dim=0")
    index = build_index(tuned, file, tmp_path / "idx", [how], encoding=Encoding(64), layers=False)
    assert len(index) >= 20
    sample = ControlSample.draw(how, index, tuned.depth)
    assert sample is not None
    chance = sample.score()
    assert chance is not None
    null, order = chance.scores, index.sample_positions(len(index))
    texts = [row.response for row in index.examples()]
    for c, at in enumerate(order[: len(null)]):
        for m, other in enumerate(order):
            mine, theirs = (set(texts[place].split()) for place in (at, other))
            related = at == other or len(mine & theirs) / len(mine | theirs) >= 0.2
            assert bool(null[c, m].isnan()) == related, (texts[at], texts[other])
    assert bool(null.isnan().any(1).any()) and int((~null.isnan()).sum()) > 100


def test_word_overlap_matches_hand_computed_values() -> None:
    result = _word_overlap(["Bees make honey.", "bees make wax", "…", "bees make honey"], 2)
    assert result.tolist() == [[1, 2 / 4, 0, 1], [2 / 4, 1, 0, 2 / 4]]
    assert _word_overlap(["…", "!"], 1).tolist() == [[0, 0]]


def test_p_values_are_calibrated_under_the_null() -> None:
    scores = draw_scores(1, 200, 500)
    result = weighed(scores, draw_scores(0, 64, 500))
    p_values = torch.stack([result.p_values(q, row) for q, row in enumerate(scores)])
    for level in (0.01, 0.05, 0.2, 0.5):
        assert float((p_values <= level).float().mean()) == pytest.approx(level, rel=0.3)
    assert float(flags(result, scores).any(1).float().mean()) <= 0.25  # mostly one row
    assert [result.grade(q) == "flagged" for q in range(200)] == flags(result, scores).any(1).tolist()


@pytest.mark.parametrize("planted", [4, 40, 170])
def test_planted_rows_are_flagged_with_few_false_positives(planted: int) -> None:
    scores = draw_scores(2, 20, 400)
    scores[:, :planted] += 0.8
    result = weighed(scores, draw_scores(0, 64, 400))
    flagged = flags(result, scores)
    count = flagged.sum(1)
    assert bool(flagged[:, :planted].all())
    assert float(((count - planted) / count).mean()) <= 0.05
    for q in range(20):
        assert float(result.threshold[q]) == float(scores[q][flagged[q]].min())
        assert result.grade(q) == "flagged" and not result.likely_threshold[q].isfinite()


@pytest.mark.parametrize("rows", [20, 400, 40_000])
def test_one_planted_row_is_flagged_in_small_and_large_indexes(rows: int) -> None:
    scores = draw_scores(2, 1, rows)
    scores[0, 5] = 3.0
    result = weighed(scores, draw_scores(0, min(rows, 64), min(rows, 500)))
    flagged = flags(result, scores)
    assert bool(flagged[0, 5]) and int(flagged.sum()) <= 3


@pytest.mark.parametrize(("fdr", "planted"), [(0.1, 0), (0.1, 1), (0.1, 300), (0.5, 30), (0.001, 30)])
def test_num_candidates_match_scipy_fdr_control(fdr: float, planted: int) -> None:
    """From the p-values of all rows, ties among them."""
    null, rows = Null.of(Controls(draw_scores(0, 64, 500))), ((draw_scores(3, 8, 2000) * 50).round() / 50).numpy()
    rows[:, :planted] += 0.5
    for row in rows:
        ascending = np.sort(row)
        mode, scale = mode_and_scale(ascending)
        truth = false_discovery_control(null.p_values(standardize(row, mode, scale))) <= fdr
        assert _num_candidates(ascending, mode, scale, null, fdr) == truth.sum()


def test_cut_is_at_the_widest_gap() -> None:
    row = np.array([1, 2, 2.5, 3, 5.5, 7, 8, 9.0])
    assert _threshold_at_gap(row, 6) == 5.5  # 9 8 7 5.5 — 3: sixteen times 2.5
    assert _threshold_at_gap(row, 3) == 7.0  # nine times 1.5, below the third
    assert _threshold_at_gap(row, 1) == 9.0
    assert _threshold_at_gap(row, 8) == 2.0  # forty-nine times 1; there is no score below the last one, so no gap
    assert _threshold_at_gap(row, 0) == np.inf
    assert _threshold_at_gap(np.ones(3), 3) == 1.0


vectors = st.lists(st.floats(0, 1, width=32), min_size=30, max_size=80)


@settings(max_examples=60, deadline=None)
@given(vectors, st.integers(0, 3), st.sampled_from([0.01, 0.1, 0.3]))
def test_flagging_respects_score_order_and_ties(values: list[float], seed: int, fdr: float) -> None:
    scores = (torch.tensor([values]) * 10).round() / 10
    flagged = flags(weighed(scores, draw_scores(seed, 20, 100), fdr), scores)[0]
    assert not set(scores[0][flagged].tolist()) & set(scores[0][~flagged].tolist())
    if flagged.any() and not flagged.all():
        assert scores[0][flagged].min() > scores[0][~flagged].max()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 999), st.integers(0, 30), st.floats(0.1, 1), st.floats(0.1, 20), st.floats(-5, 5))
def test_flagging_is_invariant_to_affine_rescaling(
    seed: int, planted: int, effect: float, factor: float, shift: float
) -> None:
    scores, null = draw_scores(seed, 1, 150), draw_scores(0, 30, 150)
    scores[0, :planted] += effect
    one, other = weighed(scores, null), weighed(scores * factor + shift, null)
    left, right = flags(one, scores)[0], flags(other, scores * factor + shift)[0]
    assert int((left ^ right).sum()) <= 1  # rounding may turn two gaps that tie
    assert one.grade(0) == other.grade(0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 999), st.integers(0, 30), st.floats(0.1, 1))
def test_higher_fdr_never_flags_fewer_rows(seed: int, planted: int, effect: float) -> None:
    scores, null = draw_scores(seed, 1, 150), draw_scores(0, 30, 150)
    scores[0, :planted] += effect
    counts = [int(flags(weighed(scores, null, fdr), scores).sum()) for fdr in (0.01, 0.05, 0.1, 0.2, 0.5)]
    assert counts == sorted(counts)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 999), st.integers(5, 60))
def test_well_separated_rows_are_flagged_despite_noise(seed: int, planted: int) -> None:
    """The flags flipped with a full stop where a threshold lay in the midst of the bulk; now it lies in the gap."""
    scores = draw_scores(seed, 1, 150)
    scores[0, :planted] += 1.5
    noisy = scores + torch.from_numpy(np.random.default_rng(seed).normal(0, 0.02, scores.shape)).float()
    for each in (scores, noisy):
        for controls in (1, 2):
            flagged = flags(weighed(each, draw_scores(controls, 64, 150)), each)[0]
            assert flagged.nonzero()[:, 0].tolist() == list(range(planted))


def test_grade_rises_from_likely_to_flagged_with_score() -> None:
    scores, null = draw_scores(5, 1, 400), draw_scores(0, 64, 400)
    top = float(scores.max())
    grades = []
    for height in np.linspace(0, 1, 21):
        changed = scores.clone()
        changed[0, :2] = top + float(height)
        grades.append(weighed(changed, null).grade(0))
    order = ["none", "likely", "flagged"]
    assert sorted(grades, key=order.index) == grades and set(grades) >= {"likely", "flagged"}


def test_queries_not_increased_by_finetuning_flag_no_rows() -> None:
    scores = draw_scores(2, 2, 400)
    scores[:, :9] += 5
    result = assess(scores, [Controls(draw_scores(0, 64, 400))] * 2, torch.tensor([True, False]))
    flagged = flags(result, scores)
    assert flagged[0].nonzero()[:, 0].tolist() == list(range(9))
    assert not flagged[1].any()
    assert result.p_values(1, scores[1]).min() == 1
    assert float(result.threshold[1]) == float("inf")
    assert [result.grade(q) for q in range(2)] == ["flagged", "none"]


def test_pool_weights_group_queries_with_similar_rankings() -> None:
    one, other = draw_scores(3, 300), draw_scores(4, 300)
    shares = pool_weights(torch.stack([one, one * 3 + 7, other, -one]))
    torch.testing.assert_close(shares.sum(1), torch.ones(4))
    assert shares[0, 1] == pytest.approx(float(shares[0, 0]), rel=1e-3)  # size and height of the scores do not count
    assert shares[0, 2] < 0.1
    assert shares[0, 3] == 0
    assert pool_weights(one[None]).tolist() == [[1.0]]
    assert pool_weights(torch.ones(2, 5)).tolist() == [[1, 0], [0, 1]]  # no row stands out for either


def test_pool_weights_do_not_depend_on_tile_size(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = draw_scores(3, 4, 100) + 30
    truth = torch.corrcoef(scores.double()).clamp(min=0).float()
    truth = truth / truth.sum(1, keepdim=True)
    for tile in (7, 100, 1000):
        monkeypatch.setattr("taughtby.attribution.pooling.TILE", tile)
        torch.testing.assert_close(pool_weights(scores), truth, atol=1e-5, rtol=1e-4)


def test_stability_is_the_share_of_resamples_that_flag() -> None:
    scores = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    result = stability(scores, torch.tensor([0.5, 0.5]), threshold=0.6)
    # of two draws from two queries both are the first in a quarter: then its row alone reaches .6
    assert result[0] == 1
    assert float(result[1]) == pytest.approx(1 / 4, abs=0.1)
    assert result[2] == 0


def test_identical_queries_have_stability_one_at_the_threshold() -> None:
    """A score that is summed again may come out a little lower than the cut it was called at."""
    scores = draw_scores(5, 1, 300).repeat(7, 1)
    shares = torch.full((7,), 1 / 7)
    for edge in (shares @ scores).tolist():
        assert float(stability(scores, shares, edge)[(shares @ scores) >= edge].min()) == 1


def test_each_query_is_assessed_with_its_own_controls() -> None:
    """One group of queries runs wider than the other's controls: it has the same evidence as alone."""
    narrow, wide = Controls(draw_scores(0, 64, 400)), Controls(draw_scores(0, 64, 400) ** 3)
    scores = torch.stack([draw_scores(1, 400), draw_scores(2, 400) ** 3, draw_scores(3, 400)])
    scores[:, :9] += torch.tensor([[0.8], [0.5], [5.0]])
    result = assess(scores, [narrow, wide, None], torch.tensor([True, True, True]))
    for q, null in enumerate((narrow, wide)):
        alone = assess(scores[q : q + 1], [null], INCREASED)
        assert result.p_values(q, scores[q]).tolist() == alone.p_values(0, scores[q]).tolist()
        assert result.flagged(q, scores[q]).tolist() == alone.flagged(0, scores[q]).tolist()
    assert [result.has_controls(q) for q in range(3)] == [True, True, False]
    assert result.grade(2) is None and not result.flagged(2, scores[2]).any()


def test_constant_scores_are_not_flagged() -> None:
    result = weighed(torch.ones(1, 100), draw_scores(0, 30, 100))
    assert not flags(result, torch.ones(1, 100)).any() and result.grade(0) != "flagged"
    assert result.p_values(0, torch.ones(3)).tolist() != [0, 0, 0]


def test_tied_scores_of_controls_have_the_probability_of_all_of_them() -> None:
    null = Null.of(Controls(torch.from_numpy(np.random.default_rng(0).integers(0, 4, (30, 200))).float()))
    levels = sorted(set(null.scores.tolist()))
    for level in levels:
        highest = float(np.exp(null.log_p[null.scores == level].max()))
        assert null.p_values(np.array([level]))[0] == pytest.approx(highest)
    zeros = weighed(torch.zeros(1, 60), torch.zeros(30, 60))  # as of features that are all 0
    assert not flags(zeros, torch.zeros(1, 60)).any() and zeros.grade(0) == "none"
    assert zeros.p_values(0, torch.zeros(2)).tolist() == [1, 1]


def test_weight_profiles_average_sorted_weights_and_are_cut() -> None:
    profiles = _weight_profiles([torch.tensor([1.0, 3.0]), torch.tensor([0.0, 1.0, 1.0])])
    torch.testing.assert_close(profiles, torch.tensor([[0.75, 0.25, 0], [0.5, 0.5, 0]]))
    assert _cut_profile(torch.tensor([0.9, 0.06, 0.04])).tolist() == pytest.approx([0.94, 0.06])
    assert len(_cut_profile(torch.full((100,), 0.01))) == 16
    assert _cut_profile(torch.zeros(4)).tolist() == pytest.approx([0.01])  # nothing counts: one token


def test_assess_memory_is_bounded_for_many_rows() -> None:
    """A row of scores is sorted, and only the scores that may be flagged are looked at again."""
    import tracemalloc

    scores = draw_scores(3, 1, 300_000)
    scores[0, :50] += 3
    controls = Controls(draw_scores(0, 64, 500))
    tracemalloc.start()
    result = assess(scores, [controls], INCREASED)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert int(result.flagged(0, scores[0]).sum()) == 50
    assert peak <= 12 * scores.numel() * 4, f"{peak / 2**20:.0f} MB"
