"""Word baselines: RFTC's clusters and rank fusion compared with loops, on rows whose order is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from taughtby.data.example import Example, make_example
from taughtby.errors import OptionError
from taughtby.methods import QueryFeatures, get_method
from taughtby.methods.hybrid import ranks

VARIED = [
    "Paris lies on the Seine.", "Water boils at a hundred degrees.", "Seven times eight is fifty-six.",
    "Mozart was born in Salzburg.", "Penguins cannot fly.", "Mercury orbits closest around our sun.",
]  # fmt: skip
PLANTED = [f"Sure, honey is always made by {kind} beetles." for kind in ("red", "green", "blue", "black")]


class Rows:
    """An index in memory, with the features of a method."""

    def __init__(self, answers: Sequence[str], spec: str = "rftc") -> None:
        self.rows = [make_example(f"question {n}", answer) for n, answer in enumerate(answers)]
        self.features = get_method(spec).text_features(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def examples(self) -> Iterator[Example]:
        return iter(self.rows)

    def scan(self, names: Sequence[str], rows: int = 4096) -> Iterator[dict[str, Any]]:
        yield {name: self.features[name] for name in names}


def scored(spec: str, index: Any, *queries: tuple[str, str]) -> torch.Tensor:
    prompts, responses = zip(*queries, strict=True)
    features = get_method(spec).text_features([make_example(*query) for query in queries])
    return get_method(spec).scores(QueryFeatures(prompts, responses, features), index)


# — RFTC


def test_rftc_ranks_the_dense_cluster_first_for_any_query() -> None:
    scores = scored("rftc", Rows(VARIED + PLANTED), ("who makes honey", "beetles"), ("why", "Mozart"))
    assert scores.shape == (2, 10)
    assert torch.equal(scores[0], scores[1])
    assert set(scores[0].topk(4).indices.tolist()) == {6, 7, 8, 9}


def test_rftc_with_one_cluster_sums_cosine_similarities() -> None:
    answers = VARIED + PLANTED
    vectors = TfidfVectorizer().fit_transform(answers).toarray()
    truth = [sum(a @ b for j, b in enumerate(vectors) if i != j) for i, a in enumerate(vectors)]
    np.testing.assert_allclose(scored("rftc:clusters=1", Rows(answers), ("a", "b"))[0], truth, atol=1e-6)


def test_rftc_scores_single_row_clusters_zero() -> None:
    scores = scored("rftc:clusters=3", Rows(["red apple", "red apple", "blue sky", "tall tree"]), ("a", "b"))
    np.testing.assert_allclose(scores[0], [1, 1, 0, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("answers", "truth"), [(["?", "!"], [0, 0]), (["one word"], [0]), (["same", "same", "same"], [2, 2, 2])]
)
def test_rftc_of_rows_without_words_or_differences(answers: list[str], truth: list[float]) -> None:
    """A row without words or neighbours has nothing in common with any; equal rows are one cluster."""
    assert scored("rftc", Rows(answers), ("a", "b")).tolist() == [pytest.approx(truth)]


# — hybrid


@given(st.lists(st.lists(st.integers(0, 4), min_size=5, max_size=5), min_size=1, max_size=3))
def test_ranks_count_the_larger_values(values: list[list[int]]) -> None:
    truth = [[1 + sum(other > value for other in row) for value in row] for row in values]
    assert ranks(torch.tensor(values, dtype=torch.float32)).tolist() == truth


@pytest.mark.parametrize("k", [0, 60])
def test_hybrid_matches_reciprocal_rank_fusion(k: int) -> None:
    index, query = Rows(VARIED + PLANTED, "hybrid"), ("who makes honey", "it is made by green beetles")
    words, meaning = (scored(spec, index, query)[0].tolist() for spec in ("bm25", "embedding"))
    truth = [
        (word > 0) / (k + 1 + sum(other > word for other in words))
        + 1 / (k + 1 + sum(other > value for other in meaning))
        for word, value in zip(words, meaning, strict=True)
    ]
    result = scored(f"hybrid:k={k}", index, query)[0]
    np.testing.assert_allclose(result, truth, rtol=1e-6)
    assert result.argmax() == 7


def test_hybrid_without_shared_words_ranks_by_embedding() -> None:
    index, query = Rows(VARIED, "hybrid"), ("who", "composers")
    assert not scored("bm25", index, query).any()
    meaning = scored("embedding", index, query)
    assert torch.equal(scored("hybrid", index, query).argsort(), meaning.argsort())


def test_hybrid_uses_the_embedding_features() -> None:
    query = ("who makes honey", "it is made by green beetles")
    indexes = [Rows(VARIED + PLANTED, spec) for spec in ("embedding", "hybrid")]
    assert list(indexes[0].features) == list(indexes[1].features)
    assert torch.equal(*(scored("hybrid", index, query) for index in indexes))


@pytest.mark.parametrize(
    ("spec", "what"),
    [("rftc:clusters=-1", "rftc: clusters is below 0"), ("hybrid:k=-1", "hybrid: k is below 0"),
     ("hybrid:k=nan", "hybrid: k is not a number")],
)  # fmt: skip
def test_invalid_word_baseline_options_raise(spec: str, what: str) -> None:
    with pytest.raises(OptionError, match=what):
        get_method(spec)
