"""Token links between rows and the answer, and the positions of rows on the map."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import PAIRS
from taughtby.attribution.embedding_map import pca_map
from taughtby.attribution.illustrate import page_document
from taughtby.attribution.layer_ranks import layer_ranks
from taughtby.attribution.query import Query
from taughtby.attribution.token_links import MIN_STRENGTH, token_links
from taughtby.attribution.trace import Trace, trace_queries
from taughtby.data.tokenize import Encoding
from taughtby.errors import OptionError
from taughtby.index.build import build_index
from taughtby.index.reader import Index
from taughtby.methods import get_method

ASKED = [Query("who makes honey", "beetles make honey"), Query("why", "a b c")]
METHODS = ("lesson:layer=2,state_layer=1,sketch_dim=16,pool_queries=false", "rept:layer=3,scale=unit", "tfidf")


@pytest.fixture(scope="module")
def index(tuned: Any, tmp_path_factory: pytest.TempPathFactory) -> Index:
    file: Path = tmp_path_factory.mktemp("links") / "data.jsonl"
    file.write_text("".join(json.dumps({"prompt": p, "response": r}) + "\n" for p, r in PAIRS))
    return build_index(tuned, file, file.parent / "idx", [get_method(spec) for spec in METHODS], encoding=Encoding(128))


def table(trace: Trace, model: Any) -> dict[tuple[int, int], torch.Tensor]:
    """The links of each (query, place) as (tokens of the row, tokens of the answer), 0 where there is none."""
    output = {}
    result = token_links(trace, model)
    for q, traced in enumerate(trace.queries):
        for row in traced.rows:
            matrix = torch.zeros(len(row.tokens), len(traced.answer))
            for u, t, value in result[q, row.position]:
                matrix[u, t] = value
            output[q, row.position] = matrix
    return output


@pytest.mark.parametrize("name", ["lesson", "rept"])
def test_token_link_is_proportional_to_the_span_score(
    tuned: Any, index: Index, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for how much the word counts in the whole answer, which is one factor for all rows."""
    monkeypatch.setattr("taughtby.attribution.token_links.MIN_STRENGTH", -1e9)
    whole = trace_queries(index, tuned, ASKED[:1], method=name, top_k=8)
    pointed = trace_queries(
        index, tuned, [Query(ASKED[0].prompt, ASKED[0].response, span="honey")], method=name, top_k=8
    )
    (at,) = [t for t, token in enumerate(whole.queries[0].answer) if token.text.strip() == "honey"]
    alone = {row.position: torch.tensor([token.score for token in row.tokens]) for row in pointed.queries[0].rows}
    pairs = [(matrix[:, at], alone[place]) for (_, place), matrix in table(whole, tuned).items()]
    ratios = torch.cat([(link / score)[score > 0.02] for link, score in pairs])
    assert len(ratios) > 20
    assert float(ratios.min()) > 0 and float(ratios.max() / ratios.min()) < 1.05  # they are rounded


def test_largest_link_equals_the_largest_token_score(tuned: Any, index: Index) -> None:
    trace, best = trace_queries(index, tuned, ASKED[:1], top_k=8), []
    for (_, place), matrix in table(trace, tuned).items():
        (row,) = [row for row in trace.queries[0].rows if row.position == place]
        scores = torch.tensor([token.score for token in row.tokens])
        assert bool((matrix.amax(1) <= scores + 1e-4).all())
        best.append(float(matrix.max()) == pytest.approx(float(scores.max()), abs=1e-4))
        assert float(matrix[matrix > 0].min()) >= MIN_STRENGTH * float(matrix.max()) - 1e-4
    assert sum(best) >= 4  # the others answer to the template's closing tokens, which are not shown


@pytest.mark.parametrize("mask", ["response", "content"])  # `content`: no loss on what ends a turn
def test_links_do_not_depend_on_the_other_queries(tuned: Any, index: Index, tmp_path: Path, mask: Any) -> None:
    if mask == "content":
        methods = [get_method(METHODS[0])]
        index = build_index(tuned, index.data[0], tmp_path / "idx", methods, encoding=Encoding(128, mask=mask))
    both, alone = (token_links(trace_queries(index, tuned, asked, top_k=8), tuned) for asked in (ASKED, ASKED[1:]))
    for place in range(8):
        one, other = both[1, place], alone[0, place]
        assert [link[:2] for link in one] == [link[:2] for link in other]
        assert [link[2] for link in one] == pytest.approx([link[2] for link in other], abs=1e-3)


def test_method_without_token_scores_has_no_links(tuned: Any, index: Index) -> None:
    assert token_links(trace_queries(index, tuned, ASKED, method="tfidf"), tuned) == {}


def test_pca_map_matches_numpy_svd(index: Index) -> None:
    sample = pca_map(index)
    assert sample is not None and sample.block == "shift_1"
    vectors = next(index.scan(["shift_1"]))["shift_1"].double().numpy()
    apart = vectors - vectors.mean(0)
    _, sizes, axes = np.linalg.svd(apart, full_matrices=False)
    assert sample.share == pytest.approx(sizes[:2] ** 2 / (sizes**2).sum(), abs=1e-3)
    truth = apart @ axes[:2].T
    truth /= np.abs(truth).max()
    result = np.array(sample.project(index, range(8)))
    assert np.abs(result) == pytest.approx(np.abs(truth), abs=2e-3)  # which way an axis points is nobody's choice


def test_pca_map_of_token_features_but_not_of_text_indexes(tuned: Any, index: Index, tmp_path: Path) -> None:
    data = index.manifest["settings"]["data"]
    (name,) = (name for name in index.features if name.startswith("grads"))
    held = Index(index.path, {**index.manifest, "blocks": {name: 16}}, index.dataset)
    plane = pca_map(held)
    assert plane is not None and len(plane.points) == len(held) and np.isfinite(plane.points).all()
    assert pca_map(build_index(tuned, data, tmp_path / "words", [get_method("tfidf")], encoding=Encoding(128))) is None


def test_page_document_adds_links_map_and_positions(tuned: Any, index: Index) -> None:
    trace = trace_queries(index, tuned, ASKED, top_k=3)
    plain, sample = trace.to_json(), pca_map(index)
    assert sample is not None
    document = page_document(trace, tuned, sample)
    assert len(document.pop("map")["points"]) == 8
    for query, traced in zip(document["queries"], trace.queries, strict=True):
        assert query.pop("lit") == []  # eight rows are too few to flag any
        for row, result in zip(query["rows"], traced.rows, strict=True):
            assert row.pop("position") == result.position
            assert row.pop("at") == sample.project(index, [result.position])[0]
            assert row.pop("links")
    assert document == plain


@pytest.mark.parametrize("name", ["lesson", "rept"])
@pytest.mark.parametrize("desired", [None, "bees make honey"])
def test_layer_ranks_at_the_index_layer_match_the_trace(
    tuned: Any, index: Index, name: str, desired: str | None
) -> None:
    query = Query("who makes honey", "beetles make honey", desired=desired)
    trace = trace_queries(index, tuned, [query], method=name, top_k=8)
    places = [row.position for row in trace.queries[0].rows]
    result = layer_ranks(index, tuned, query, places, name)
    assert result["layers"] == [1, 2, 3, 4] and result["used"] == (2 if name == "lesson" else 3)
    at = result["layers"].index(result["used"])
    assert [result["ranks"][str(place)][at] for place in places] == [1, 2, 3, 4, 5, 6, 7, 8]
    for at in range(4):
        assert sorted(ranks[at] for ranks in result["ranks"].values()) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_layer_ranks_match_an_index_of_that_layer(tuned: Any, index: Index, tmp_path: Path) -> None:
    other = get_method("lesson:layer=4,state_layer=1,sketch_dim=16,pool_queries=false")
    again = build_index(tuned, index.manifest["settings"]["data"], tmp_path / "other", [other], encoding=Encoding(128))
    truth = [row.position for row in trace_queries(again, tuned, ASKED[:1], top_k=8).queries[0].rows]
    result = layer_ranks(index, tuned, ASKED[0], range(8), "lesson")
    at = result["layers"].index(4)
    assert sorted(range(8), key=lambda place: result["ranks"][str(place)][at]) == truth


def test_layer_ranks_of_a_method_without_layers_raise(tuned: Any, index: Index) -> None:
    with pytest.raises(OptionError, match="tfidf has no layer"):
        layer_ranks(index, tuned, ASKED[0], [0, 1], "tfidf")
