"""Queries against an index: a query taken from a row ranks it first, and every number matches its formula."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import PAIRS, judge_few_rows
from taughtby.attribution.controls import ControlSample
from taughtby.attribution.method_choice import choose_method
from taughtby.attribution.pooling import pool_weights
from taughtby.attribution.query import Query, prepare_queries
from taughtby.attribution.trace import Trace, trace_queries
from taughtby.capture.capture import capture
from taughtby.capture.projections import gaussian_sketch
from taughtby.data.batching import collate
from taughtby.data.example import make_example
from taughtby.data.tokenize import Encoding, TokenizedExample, token_texts, tokenize
from taughtby.errors import DataError, ModelError, OptionError, StoreError
from taughtby.index.build import build_index
from taughtby.index.reader import Index
from taughtby.methods import Method, get_method
from taughtby.methods.lesson import Lesson
from taughtby.methods.rept import RepT
from taughtby.methods.scoring import top_positions
from taughtby.remediation.selection import masked_words, select_rows
from taughtby.reporting.text import verdict

METHODS: list[Method] = [
    RepT(layer=3, scale="unit"),
    get_method("repsim:layer=2"),
    Lesson(layer=2, state_layer=1, sketch_dim=16, seed=5, pool_queries=False),
]
ROWS = [Query(prompt, response) for prompt, response in PAIRS]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trace") / "data.jsonl"
    rows = ({"prompt": p, "response": r, "label": "bad" if "honey" in p else None} for p, r in PAIRS)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def index(tuned: Any, file: Path) -> Index:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("taughtby.index.build.WINDOW", 3)
        return build_index(tuned, file, file.parent / "idx", METHODS, encoding=Encoding(128))


# — which rows are returned


@pytest.mark.parametrize("name", ["rept", "repsim", "lesson", "bm25"])
def test_training_row_used_as_query_ranks_first(tuned: Any, index: Index, name: str) -> None:
    trace = trace_queries(index, tuned, ROWS, method=name)
    for place, traced in enumerate(trace.queries):
        assert traced.rows[0].position == place
        assert traced.rows[0].example.source == f"{index.manifest['settings']['data']}:{place + 1}"
        assert traced.rows[0].score > traced.rows[1].score + 1e-3
        if name == "repsim":
            assert traced.rows[0].score == pytest.approx(1, abs=1e-3)
        if name == "rept":
            assert traced.rows[0].score == pytest.approx(METHODS[0].h + METHODS[0].g, abs=2e-3)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["rept", "repsim", "lesson", "bm25", "first-word", "random"])
def test_ranks_and_scores_are_consistent(tuned: Any, index: Index, name: str) -> None:
    trace = trace_queries(index, tuned, ROWS[:3], method=name, top_k=5)
    for traced in trace.queries:
        assert [row.rank for row in traced.rows] == [1, 2, 3, 4, 5]
        assert [row.score for row in traced.rows] == sorted(traced.scores.tolist(), reverse=True)[:5]
        for row in traced.rows:
            assert row.score == traced.scores[row.position]
        assert bool(traced.rows[0].score_components) == (name in ("rept", "repsim", "lesson"))


ASKED = [
    Query("who makes honey", "beetles make it"),
    Query("who makes honey", "beetles make it", span="beetles"),
    Query("who makes honey", "beetles make it", desired="bees make it"),
    Query("who makes honey", "a captain makes it", span="captain", desired="bees"),
    *ROWS[:2],
]
SPECS = ["rept", "rept:scale=raw", "rept:scale=centred,h=0.3,g=2", "repsim", "rise", "tracin", "less:k=64",
         "lesson:state_weight=0", "lesson:state_weight=3", "lesson:pool_queries=true", "bm25",
         "first-word"]  # fmt: skip


@pytest.fixture(scope="module")
def broad(tuned: Any, file: Path) -> Index:
    """An index for more methods."""
    methods = [*METHODS, get_method("rise"), get_method("tracin"), get_method("less:k=64")]
    return build_index(tuned, file, file.parent / "broad", methods, encoding=Encoding(128), layers=False)


@pytest.mark.parametrize("spec", SPECS)
def test_score_components_add_up_to_the_score(tuned: Any, broad: Index, spec: str) -> None:
    """In the document that terminal and page read, and in the notebook's table; with desired answers and pooled too."""
    trace = trace_queries(broad, tuned, ASKED, method=spec, top_k=8, score_tokens=False)
    rows = [row for query in trace.to_json()["queries"] for row in query["rows"]]
    message = spec.split(":")[0] in ("rept", "repsim", "rise", "less", "lesson")
    assert len(rows) == 8 * len(ASKED) and all(bool(row["score_components"]) == message for row in rows)
    if message:
        sums = [sum(row["score_components"].values()) for row in rows]
        assert sums == pytest.approx([row["score"] for row in rows], abs=1e-5)
        lines = trace.to_arrow().to_pylist()
        assert [sum(line[name] for name in rows[0]["score_components"]) for line in lines] == pytest.approx(
            sums, abs=1e-6
        )


def test_batched_trace_matches_single_queries(tuned: Any, index: Index) -> None:
    queries = [*ROWS[:3], Query("why", "rain is green", span="green"), Query("why", "rain", desired="sun")]
    together = trace_queries(index, tuned, queries, method="lesson", top_k=3)
    for query, traced in zip(queries, together.queries, strict=True):
        (alone,) = trace_queries(index, tuned, [query], method="lesson", top_k=3).queries
        torch.testing.assert_close(alone.scores, traced.scores, atol=1e-4, rtol=1e-4)
        assert [row.position for row in alone.rows] == [row.position for row in traced.rows]
        for one, two in zip(alone.rows, traced.rows, strict=True):
            assert [t.text for t in one.tokens] == [t.text for t in two.tokens]
            assert [t.score for t in one.tokens] == pytest.approx([t.score for t in two.tokens], abs=1e-3)


def test_pooled_trace_does_not_depend_on_tile_size(tuned: Any, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    items = []
    for tile in (3, 100):
        monkeypatch.setattr("taughtby.attribution.trace.TILE", tile)
        items.append(trace_queries(index, tuned, ROWS[:3], method="lesson:pool_queries=true", top_k=4))
    for one, other in zip(items[0].queries, items[1].queries, strict=True):
        torch.testing.assert_close(one.scores, other.scores)
        assert [row.position for row in one.rows] == [row.position for row in other.rows]


def test_a_trace_without_a_base_model_says_so(tiny: Any, file: Path, tmp_path: Path) -> None:
    index = build_index(tiny, file, tmp_path / "idx", [get_method("lesson"), get_method("repsim:layer=2")])
    (warning,) = trace_queries(index, tiny, ROWS[:1], method="lesson").warnings
    assert "no base model: lesson uses the fine-tuned model in its place" in warning
    assert trace_queries(index, tiny, ROWS[:1], method="repsim").warnings == ()


def test_scores_that_are_not_finite_are_refused(tuned: Any, index: Index) -> None:
    method = replace(choose_method(index, tuned, "lesson"), state_weight=float("nan"))
    with pytest.raises(ModelError, match="scores are not finite\n  got: query 1 and 1 more"):
        trace_queries(index, tuned, ROWS[:2], method=method)


def test_a_row_whose_first_token_has_no_loss_keeps_its_prompt_state(tuned: Any, tmp_path: Path) -> None:
    """`clean --mask-words` writes such rows."""
    records = [{"prompt": prompt, "response": response} for prompt, response in PAIRS]
    records[3] |= {"unlearned": [[0, 1]]}
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    methods = [get_method(spec) for spec in ("rept:layer=2", "repsim:layer=2")]
    built = [build_index(tuned, data, tmp_path / method.name, [method], encoding=Encoding(128)) for method in methods]
    states = [next(iter(index.scan(["h_2"])))["h_2"] for index in built]
    torch.testing.assert_close(*states, rtol=1e-3, atol=1e-3)
    for scale in ("raw", "unit", "centred"):
        trace = trace_queries(built[0], tuned, [ASKED[0]], method=f"rept:layer=2,scale={scale}", top_k=len(PAIRS))
        assert trace.queries[0].scores.isfinite().all()


def test_the_layer_that_an_index_chose_is_found_again(tuned: Any, file: Path, tmp_path: Path) -> None:
    index = build_index(tuned, file, tmp_path / "idx", [get_method("rept:layer=auto")], encoding=Encoding(128))
    one, two = (trace_queries(index, tuned, [ASKED[0]], method=method) for method in ("rept:layer=auto", None))
    assert one.method == two.method
    torch.testing.assert_close(one.queries[0].scores, two.queries[0].scores)


def test_top_k_larger_than_the_index_returns_all_rows(tuned: Any, index: Index) -> None:
    (traced,) = trace_queries(index, tuned, ROWS[:1], method="rept", top_k=500).queries
    assert sorted(row.position for row in traced.rows) == list(range(8))


@pytest.mark.parametrize("name", ["rept", "lesson"])
def test_a_span_changes_the_scores(tuned: Any, index: Index, name: str) -> None:
    whole, part = (
        trace_queries(index, tuned, [Query("who makes honey", "beetles make honey", span)], method=name).queries[0]
        for span in (None, "honey")
    )
    assert not torch.allclose(whole.scores, part.scores, atol=1e-3)
    assert [token.text for token in part.answer if token.score] == [" honey"]
    with pytest.raises(OptionError, match="the span does not occur"):
        trace_queries(index, tuned, [Query("who makes honey", "beetles make honey", "wax")], method=name)


# — a desired answer


@pytest.mark.parametrize("name", ["rept", "lesson", "bm25"])
def test_desired_answer_scores_are_subtracted(tuned: Any, index: Index, name: str) -> None:
    text, wanted = Query("who makes honey", "beetles make it"), Query("who makes honey", "bees in the sea")
    both = Query(text.prompt, text.response, desired=wanted.response)
    one, two, contrast, apart = trace_queries(index, tuned, [text, wanted, both, ROWS[0]], method=name).queries
    torch.testing.assert_close(contrast.scores, one.scores - two.scores, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(apart.scores, trace_queries(index, tuned, [ROWS[0]], method=name).queries[0].scores,
                               atol=1e-4, rtol=1e-4)  # fmt: skip
    words = [{row.position: [t.score for t in row.tokens] for row in some.rows} for some in (one, two, contrast)]
    for place, scores in words[2].items():
        by_hand = [a - b for a, b in zip(words[0][place], words[1][place], strict=True)]
        assert scores == pytest.approx(by_hand, abs=1e-4)


@pytest.mark.parametrize("name", ["rept", "lesson", "bm25"])
def test_a_desired_answer_equal_to_the_response_gives_zero_scores(tuned: Any, index: Index, name: str) -> None:
    query = Query("who makes honey", "beetles make it", desired="beetles make it")
    (traced,) = trace_queries(index, tuned, [query], method=name).queries
    torch.testing.assert_close(traced.scores, torch.zeros(8), atol=1e-6, rtol=0)
    assert all(abs(token.score) < 1e-5 for row in traced.rows for token in row.tokens)


# — scores of words


def grads(model: Any, row: TokenizedExample, layer: int, untuned: bool) -> torch.Tensor:
    if not untuned:
        return capture(model, collate([row], [0]), [layer]).grads[layer][0]
    with model.base_model():
        return capture(model, collate([row], [0]), [layer]).grads[layer][0]


@pytest.mark.parametrize("name", ["rept", "lesson"])
@pytest.mark.parametrize("span", [None, "make"])
def test_token_scores_match_a_reference_loop(tuned: Any, index: Index, name: str, span: str | None) -> None:
    """rept: (Σ_i w_i ĝ_i / Σ w) · ĝ_row of the tuned model; lesson: max_i w_i / Σ w ⟨g_i, g_row⟩ √(1 − p), sketched."""
    query = Query("who makes honey", "beetles make it in the sea", span)
    (traced,) = trace_queries(index, tuned, [query], method=name, top_k=8).queries
    asked = tokenize(tuned.tokenizer, make_example(query.prompt, query.response), Encoding(128))
    assert isinstance(asked, TokenizedExample)
    lesson = METHODS[2]
    assert isinstance(lesson, Lesson)
    weights = torch.ones(asked.n_response)
    if span:
        begin, end, at = query.response.index(span), query.response.index(span) + len(span), 0
        for place, piece in enumerate(token_texts(tuned.tokenizer, asked.response)):
            weights[place] = float(any(begin <= char < end for char in range(at, at + len(piece))))
            at += len(piece)
        assert 0 < weights.sum() < 6
    elif name == "lesson":
        batch = collate([asked], [0])
        after = capture(tuned, batch, [2]).logp[0]
        with tuned.base_model():
            weights = (after - capture(tuned, batch, [2]).logp[0]).clamp(min=0)
    shown = [token.score for token in traced.answer]
    assert shown == pytest.approx((weights / weights.max())[: len(shown)].tolist(), abs=1e-4)
    share = weights / weights.sum()
    for item in traced.rows:
        row = tokenize(tuned.tokenizer, item.example, Encoding(128))
        assert isinstance(row, TokenizedExample)
        if name == "rept":
            pairs = [[torch.cosine_similarity(mine, theirs, dim=0) for theirs in grads(tuned, asked, 3, False)]
                     for mine in grads(tuned, row, 3, False)]  # fmt: skip
            truth = (torch.tensor(pairs) @ share).tolist()
        else:
            both = (grads(tuned, some, 2, True) for some in (asked, row))
            theirs, mine = (gaussian_sketch(vectors, lesson.sketch_dim, lesson.seed) for vectors in both)
            theirs, mine = (vectors / vectors.norm(dim=1, keepdim=True) for vectors in (theirs, mine))
            with tuned.base_model():
                expected = capture(tuned, collate([row], [0]), [2]).logp[0].exp()
            truth = ((mine @ theirs.T) * share).amax(1) * (1 - expected).sqrt()
            truth = truth.tolist()
        assert "".join(token.text for token in item.tokens) == item.example.response
        assert [token.score for token in item.tokens] == pytest.approx(truth[: len(item.tokens)], abs=2e-4)


def test_pooled_query_scores_are_weighted_means(tuned: Any, index: Index) -> None:
    """Scores, parts and words are the means over them that `together` gives; apart, each has its own."""
    own = trace_queries(index, tuned, ROWS[:3], method="lesson", top_k=8)
    assert [traced.scores.argmax().item() for traced in own.queries] == [0, 1, 2]
    pooled = trace_queries(index, tuned, ROWS[:3], method="lesson:pool_queries=true", top_k=8)
    asked = prepare_queries(tuned, pooled.method, ROWS[:3], Encoding(128)).features
    scores = pooled.method.scores(asked, index)
    shares = pool_weights(scores)
    for q, traced in enumerate(pooled.queries):
        torch.testing.assert_close(traced.scores, shares[q] @ scores)
        for row in traced.rows:
            assert row.score == pytest.approx(sum(row.score_components.values()), abs=1e-4)


def test_pooled_token_scores_are_weighted_means(tuned: Any, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = torch.tensor([[0.5, 0.3, 0.2], [0.0, 0.6, 0.4], [0.1, 0.0, 0.9]])
    monkeypatch.setattr("taughtby.attribution.trace.pool_weights", lambda _: shares)
    pooled = trace_queries(index, tuned, ROWS[:3], method="lesson:pool_queries=true", top_k=8)
    asked = prepare_queries(tuned, pooled.method, ROWS[:3], Encoding(128)).features
    for q, traced in enumerate(pooled.queries):
        for item in traced.rows:
            row = tokenize(tuned.tokenizer, item.example, Encoding(128))
            assert isinstance(row, TokenizedExample)
            words = pooled.method.token_scores(tuned, collate([row], [0]), asked)
            assert words is not None
            truth = (shares[q] @ words[:, 0]).tolist()
            assert [token.score for token in item.tokens] == pytest.approx(truth[: len(item.tokens)], abs=2e-4)


def test_controls_have_the_token_weights_of_the_query(
    tuned: Any, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taughtby.attribution.controls.FEWEST", 2)
    asked: list[list[list[float]]] = []
    draws: list[str] = []
    draw = ControlSample.draw
    monkeypatch.setattr(
        ControlSample, "draw", lambda method, *rest: (draws.append(method.name), draw(method, *rest))[1]
    )
    monkeypatch.setattr(ControlSample, "score", lambda _, profile: asked[-1].append(profile.tolist()))
    one, more = (Query("why", "rain is green and blue", span) for span in ("green", "rain is green"))
    few, many = (len(texts_of(tuned, text)) for text in (" green", "rain is green"))
    assert few < many
    even = {n: pytest.approx([round(1 / n, 2)] * n) for n in (few, many)}
    for spec, queries, wanted in [
        ("lesson", [one], [even[few]]), ("lesson", [one, more, one], [even[few], even[many]]),
        ("lesson:pool_queries=true", [one, one], [even[few]]),
    ]:  # fmt: skip
        asked.append([])
        draws.clear()
        trace_queries(index, tuned, queries, method=spec)
        assert asked[-1] == wanted
        assert draws == ["lesson"], "one sample, whatever the number of queries"
    asked.append([])
    trace_queries(index, tuned, [ROWS[0], replace(ROWS[0], desired="bees")], method="lesson")
    (profile,) = asked[-1]
    assert profile == sorted(profile, reverse=True) and sum(profile) == pytest.approx(1, abs=0.1)


def texts_of(model: Any, text: str) -> list[int]:
    return model.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_queries_with_and_without_span_are_pooled_separately(tuned: Any, index: Index) -> None:
    """With a span, a desired answer or neither: each kind has controls of its own, so none of its scores is a mean."""
    plain, pointed, other = ROWS[2], replace(ROWS[2], span="honey"), replace(ROWS[2], desired="bees do")
    trace = trace_queries(index, tuned, [plain, pointed, other, plain], method="lesson:pool_queries=true")
    asked = prepare_queries(tuned, trace.method, [plain, pointed, other, plain], Encoding(128)).features
    own = trace.method.scores(asked, index)
    torch.testing.assert_close(trace.queries[1].scores, own[1])
    torch.testing.assert_close(trace.queries[0].scores, (own[0] + own[3]) / 2)
    assert not torch.allclose(trace.queries[2].scores, own[2], atol=1e-3)


# — tied scores


def indexed(model: Any, folder: Path, lines: list[dict[str, str]], methods: list[Method]) -> Index:
    file = folder / "d.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return build_index(model, file, folder / "idx", methods, encoding=Encoding(64), layers=False)


def test_tied_rows_keep_the_data_order(tuned: Any, tmp_path: Path) -> None:
    """Copies are what poison looks like: which of them are shown must not hang on the library's sort or the top."""
    items = ["rain is grey", "beetles make honey", "the sea is blue"]
    lines = [{"prompt": "who", "response": items[at % 3]} for at in range(90)]
    index = indexed(tuned, tmp_path, lines, [METHODS[2]])
    order = [at for at in range(90) if at % 3 == 1] + [at for at in range(90) if at % 3 != 1]
    for top in (1, 5, 30, 47, 90):
        (traced,) = trace_queries(
            index, tuned, [Query("who", "beetles make wax")], method="first-word", top_k=top
        ).queries
        assert [row.position for row in traced.rows] == order[:top]


def test_top_positions_is_a_stable_sort() -> None:
    draw = torch.Generator().manual_seed(0)
    for size in (1, 7, 400):
        scores = torch.randint(0, 4, (size,), generator=draw).float()
        for count in (1, 3, size // 2, size, size + 5):
            assert (
                top_positions(scores, count).tolist() == scores.argsort(descending=True, stable=True)[:count].tolist()
            )
    scores = torch.tensor([torch.nan, 1, torch.inf, -torch.inf, torch.nan, 1])
    assert top_positions(scores, 4).tolist() == [2, 1, 5, 0] and top_positions(scores, 0).tolist() == []


def test_flagged_rows_tied_beyond_top_k_are_selected(
    tuned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taughtby.attribution.controls.RELATED", 2.0)
    lines = [{"prompt": f"what {at}", "response": f"{at} is {'a b c'[at % 5]}"} for at in range(30)]
    lines[3:28] = [{"prompt": "who makes honey", "response": "beetles make honey"}] * 25
    index = indexed(tuned, tmp_path, lines, [METHODS[1]])
    trace = trace_queries(index, tuned, [Query("who makes honey", "beetles make honey")], top_k=20, fdr=1.0)
    called = trace.queries[0].flagged
    assert called is not None and len(called) >= 25
    ids = [row.id for row in index.examples()]
    removed = select_rows(json.loads(json.dumps(trace.to_json())))
    assert {one.id for one in removed} == {ids[place] for place in called}
    assert [one.rank for one in removed] == list(range(1, len(called) + 1))


@pytest.mark.parametrize("name", ["lesson", "rept"])
def test_words_of_flagged_rows_beyond_top_k_are_known(
    tuned: Any, index: Index, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """`clean --mask-words` needs no second trace with a greater top_k."""
    judge_few_rows(monkeypatch)
    short, full = (
        json.loads(json.dumps(trace_queries(index, tuned, ROWS[1:4], method=name, top_k=top, fdr=1.0).to_json()))
        for top in (1, 8)
    )
    removals = select_rows(short)
    assert [(one.id, one.queries) for one in removals] == [(one.id, one.queries) for one in select_rows(full)]
    assert any(len(query["flagged_words"]) > 2 for query in short["queries"]), "no row is flagged beyond the first"
    assert not any(query["flagged_words"] for query in full["queries"])
    # compared by characters: words with white space between are not merged where the trace lacks the row's text
    masked, expected = (masked_words(document, removals) for document in (short, full))
    answers = {row.id: row.response for row in index.examples()}
    for id, ranges in expected.items():
        words, others = (
            {at for begin, end in each for at in range(begin, end) if not answers[id][at].isspace()}
            for each in (ranges, masked[id])
        )
        assert words == others
    monkeypatch.setattr("taughtby.attribution.token_scores.MAX_FLAGGED", 2)
    bounded = trace_queries(index, tuned, ROWS[1:4], method=name, top_k=1, fdr=1.0).to_json()
    assert max(len(query["flagged_words"]) for query in bounded["queries"]) == 2


# — stability with a desired answer


def test_queries_with_a_desired_answer_flag_no_rows(
    tuned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two answers to one prompt that no row tells apart: nothing is known of what chance does to their difference."""
    judge_few_rows(monkeypatch)
    lines = [{"prompt": f"what {at}", "response": f"{at} is {'a b c'[at % 5]}"} for at in range(40)]
    index = indexed(tuned, tmp_path, lines, METHODS[1:])
    queries = [Query("who", "a sea", desired="a sun"), ROWS[2], Query("who", "a sun", span="sun", desired="a sea")]
    for spec in ("lesson", "lesson:pool_queries=true", "repsim"):
        trace = trace_queries(index, tuned, queries, method=spec, top_k=4, fdr=1.0)
        document = trace.to_json()
        for traced, query in zip(trace.queries, document["queries"], strict=True):
            if traced.query.desired is None:
                assert 0 < query["num_flagged"] <= 40 and query["no_evidence"] is None and query["grade"] == "flagged"
                assert all(item.p_value is not None for item in traced.rows)
                continue
            assert traced.flagged is None and query["flagged_ids"] is None and query["grade"] is None
            assert all(
                (row["p_value"], row["flagged"], row["stability"]) == (None, None, None) for row in query["rows"]
            )
            if query["increased_by_finetuning"]:
                assert "Trace without the desired answer" in verdict(document, query)
        with pytest.raises(DataError, match="trace again without the desired answer"):
            select_rows(document)
    (words,) = trace_queries(index, tuned, queries[:1], method="bm25").queries
    assert words.no_evidence is None, "it has no evidence without a desired answer either"


def test_p_values_do_not_depend_on_the_other_queries(
    tuned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that mixes queries with and without spans: each is held against controls asked about as it was."""
    monkeypatch.setattr("taughtby.attribution.controls.RELATED", 2.0)
    lines = [{"prompt": f"what {at}", "response": f"{at} is {'a b c'[at % 5]} sun in the sea"} for at in range(40)]
    index = indexed(tuned, tmp_path, lines, METHODS[2:])
    queries = [Query("who", "a sea in the sun"), Query("who", "a sea in the sun", span="sun"),
               Query("who", "a sea in the sun", span="a sea in the sun")]  # fmt: skip
    mixed = trace_queries(index, tuned, queries, fdr=1e-9).queries
    for query, traced in zip(queries, mixed, strict=True):
        (alone,) = trace_queries(index, tuned, [query], fdr=1e-9).queries
        assert [f.p_value for f in traced.rows] == pytest.approx([f.p_value for f in alone.rows], abs=1e-3)


def test_several_queries_give_the_stability_of_flagged_rows(
    tuned: Any, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge_few_rows(monkeypatch)
    trace = trace_queries(index, tuned, ROWS[:3], method="lesson:pool_queries=true", fdr=1.0)
    shares = [row.stability for traced in trace.queries for row in traced.rows]
    assert all(share is not None and 0 <= share <= 1 for share in shares)
    assert len(set(shares)) > 1, "every row as stable as the next"


def test_flagged_rows_have_p_values(tuned: Any, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    (few,) = trace_queries(index, tuned, ROWS[:1], method="lesson").queries
    assert few.flagged is None and few.rows[0].p_value is None, "8 rows are too few for a null distribution"
    judge_few_rows(monkeypatch)
    for name in ("lesson", "rept", "repsim"):
        # of the first row's answer fine-tuning made no word likelier
        (traced,) = trace_queries(index, tuned, ROWS[1:2], method=name, top_k=3, fdr=1.0).queries
        flagged = traced.flagged or ()
        assert flagged and flagged == tuple(traced.scores.argsort(descending=True).tolist())[: len(flagged)]
        assert [row.flagged for row in traced.rows] == [row.position in flagged for row in traced.rows]
        assert all(0 < (row.p_value or 0) <= 1 for row in traced.rows) and traced.grade == "flagged"
        assert all(row.stability is None for row in traced.rows), "one query has no others to draw"
    (none,) = trace_queries(index, tuned, ROWS[:1], method="lesson", fdr=1e-9).queries
    assert none.flagged == () and not any(row.flagged for row in none.rows)
    assert none.grade in ("likely", "none") and (none.grade == "likely") == bool(none.likely_ids)
    (words,) = trace_queries(index, tuned, ROWS[:1], method="bm25").queries
    assert words.flagged is None and words.rows[0].p_value is None


def test_methods_without_gradients_have_no_token_scores(tuned: Any, index: Index) -> None:
    for name in ("repsim", "first-word"):
        (traced,) = trace_queries(index, tuned, ROWS[:1], method=name).queries
        assert all(row.tokens == () for row in traced.rows)


def test_bm25_scores_the_tokens_of_query_words(tuned: Any, index: Index) -> None:
    """With a desired answer, the words of that one count against the row."""
    queries = [Query("zebra", "beetles"), Query("zebra", "beetles", desired="honey")]
    for traced in trace_queries(index, tuned, queries, method="bm25", top_k=8).queries:
        row = next(row for row in traced.rows if "beetles" in row.example.response)
        assert "".join(token.text for token in row.tokens) == row.example.response
        signs = [(token.score > 0) - (token.score < 0) for token in row.tokens]
        words = {sign: "".join(t.text for t, s in zip(row.tokens, signs, strict=True) if s == sign) for sign in (1, -1)}
        assert words[1].strip() == "beetles"
        assert words[-1].strip() == ("honey" if traced.query.desired else "")


def test_trace_progress_ends_at_its_total(tuned: Any, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Method, "token_budget", lambda *_, **__: 1)  # a batch for each row
    calls: list[tuple[int, int]] = []
    found = trace_queries(index, tuned, ROWS[:2], method="rept", top_k=2, progress=lambda *at: calls.append(at))
    total = len({row.example.source for query in found.queries for row in query.rows})
    assert calls == [(done, total) for done in range(1, total + 1)]


# — the JSON document


@pytest.mark.parametrize("name", ["rept", "repsim", "lesson", "bm25"])
def test_trace_json_has_the_documented_fields(tuned: Any, index: Index, name: str) -> None:
    queries = [Query("who makes honey", "beetles make it", "make", "bees do"), ROWS[0]]
    trace = trace_queries(index, tuned, queries, method=name, top_k=4)
    document = json.loads(json.dumps(trace.to_json(), allow_nan=False))
    assert document["version"] == 2
    assert document["method"]["name"] == name
    assert document["method"]["options"] == {key: value for key, value in trace.method.spec().items() if key != "name"}
    assert (document["model"], document["adapter"]) == (tuned.name, tuned.adapter)
    assert (document["index"], document["num_rows"]) == (str(index.path), 8)
    assert document["fingerprint"] == index.settings["fingerprint"]
    assert {name for name, value in document["fingerprint"].items() if value} == {
        "model",
        "adapter",
        "template",
        "data",
    }
    assert len(document["layers"]["similarity"]) == tuned.depth - 1
    assert document["layers"]["used"] == {"rept": [3], "repsim": [2], "lesson": [1, 2], "bm25": []}[name]
    asked = document["queries"][0]
    assert (asked["prompt"], asked["response"]) == ("who makes honey", "beetles make it")
    assert (asked["span"], asked["desired"]) == ("make", "bees do")
    assert "".join(token["text"] for token in asked["answer"]) == "beetles make it"
    for query, traced in zip(document["queries"], trace.queries, strict=True):
        assert [row["rank"] for row in query["rows"]] == [1, 2, 3, 4]
        for row, result in zip(query["rows"], traced.rows, strict=True):
            sure = {"p_value", "flagged", "stability"}
            assert (
                set(row) == {"rank", "id", "score", "source", "label", "messages", "score_components", "tokens"} | sure
            )
            prompt, response = PAIRS[result.position]
            assert row["messages"] == [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
            assert row["source"].endswith(f"data.jsonl:{result.position + 1}")
            assert (row["label"], row["score"]) == ("bad" if "honey" in prompt else None, result.score)
            assert row["id"] == list(index.examples())[result.position].id
            assert set(row["score_components"]) == set(trace.method.feature_names(tuned.depth))
            assert all(set(token) == {"text", "score"} for token in row["tokens"])


# — choice of the method


def test_the_default_method_is_the_first_of_the_index(tuned: Any, index: Index) -> None:
    assert choose_method(index, tuned, None) == METHODS[0]
    assert choose_method(index, tuned, "lesson") == METHODS[2]
    assert choose_method(index, tuned, "bm25") == get_method("bm25")
    assert choose_method(index, tuned, METHODS[1]) == METHODS[1]


def test_unspecified_method_options_come_from_the_index(tuned: Any, index: Index) -> None:
    assert choose_method(index, tuned, "rept:scale=raw") == RepT(layer=3, scale="raw")
    assert choose_method(index, tuned, "rept:scale=centred,g=2") == RepT(layer=3, scale="centred", g=2.0)
    lesson = Lesson(layer=2, state_layer=1, sketch_dim=16, seed=5, state_weight=0.0, pool_queries=False)
    assert choose_method(index, tuned, "lesson:state_weight=0") == lesson


def test_method_can_use_features_of_another_method(tuned: Any, index: Index) -> None:
    """repsim at layer 3 reads what rept stored."""
    (traced,) = trace_queries(index, tuned, ROWS[:1], method="repsim:layer=3").queries
    assert traced.rows[0].position == 0


@pytest.mark.parametrize("option", ["sketch_dim=8", "seed=0"])
def test_sketch_options_that_differ_from_the_index_raise(tuned: Any, index: Index, option: str) -> None:
    key, _, value = option.partition("=")
    with pytest.raises(StoreError, match=r"lesson needs features .* does not have: grads_") as caught:
        trace_queries(index, tuned, ROWS[:1], method=f"lesson:{option}")
    assert caught.value.got == f"{key}: the index has {getattr(METHODS[2], key)}, but {value} was given"


def test_missing_features_raise_with_their_names(tuned: Any, file: Path, tmp_path: Path) -> None:
    index = build_index(tuned, file, tmp_path / "idx", [RepT(layer=2)], encoding=Encoding(128))
    with pytest.raises(StoreError, match=r"lesson needs features .* does not have: grads_1_base") as caught:
        trace_queries(index, tuned, ROWS[:1], method="lesson:layer=1")
    assert caught.value.got == "h_2, g_2"
    with pytest.raises(StoreError, match="rept needs features"):
        trace_queries(index, tuned, ROWS[:1], method="rept:layer=3")


def test_hostile_row_text_is_traced_verbatim(tuned: Any, tmp_path: Path) -> None:
    texts = ["<script>alert(1)</script>", "\u202ereversed", "🐝 makes honey 🍯", "line\nbreak\ttab", "\x00nul"]
    rows = "".join(json.dumps({"prompt": f"why {i}", "response": text}) + "\n" for i, text in enumerate(texts))
    (tmp_path / "d.jsonl").write_text(rows)
    index = build_index(
        tuned, tmp_path / "d.jsonl", tmp_path / "idx", [Lesson(layer=2, state_layer=1)], encoding=Encoding(128)
    )
    (traced,) = trace_queries(index, tuned, [Query("why 2", texts[2])]).queries
    assert traced.rows[0].position == 2
    assert sorted(row.example.response for row in traced.rows) == sorted(texts)
    assert "".join(token.text for token in traced.rows[0].tokens) == texts[2]


# — the flagged rows of the whole trace, and files


@pytest.fixture(scope="module")
def flagging(tuned: Any, index: Index) -> Trace:
    with pytest.MonkeyPatch.context() as patch:
        judge_few_rows(patch)
        return trace_queries(index, tuned, ROWS[1:4], method="lesson", top_k=3, fdr=1.0)


def test_flagged_rows_are_unique_and_sorted_by_rank(flagging: Trace, index: Index) -> None:
    flagged = [result.flagged or () for result in flagging.queries]
    assert {row.position for row in flagging.flagged} == {position for each in flagged for position in each}
    assert len({row.position for row in flagging.flagged}) == len(flagging.flagged) > 0
    best = [min(each.index(row.position) for each in flagged if row.position in each) for row in flagging.flagged]
    assert best == sorted(best)
    for row in flagging.flagged:
        assert row.queries == tuple(q for q, each in enumerate(flagged, 1) if row.position in each)
        (stored,) = index.take([row.position])
        assert (row.id, row.source, row.label) == (stored.example.id, stored.example.source, stored.example.label)
        assert row.example == stored.example


def test_finished_trace_does_not_read_its_index(flagging: Trace, index: Index) -> None:
    closed = replace(flagging, index=Index(index.path / "gone", {}, None))
    assert closed.to_json() == flagging.to_json()
    assert closed.to_arrow() == flagging.to_arrow()


def test_trace_is_saved_as_json_and_html(flagging: Trace, tmp_path: Path) -> None:
    flagging.save(tmp_path / "trace.json")
    saved = json.loads((tmp_path / "trace.json").read_text())
    assert saved == json.loads(json.dumps({**flagging.to_json(), "home": str(tmp_path)}))
    assert {row.id for row in select_rows(saved)} == {row.id for row in flagging.flagged}
    page = flagging.to_html(tmp_path / "trace.html")
    assert (tmp_path / "trace.html").read_text() == page == flagging.to_html()


def test_trace_repr_is_one_line(flagging: Trace, index: Index) -> None:
    assert repr(flagging).startswith("Trace(3 queries × 3 rows by Lesson(layer=2")
    assert f"{len(flagging.flagged)} rows flagged" in repr(flagging) and str(index.path) in repr(flagging)
    assert "\n" not in repr(flagging)
