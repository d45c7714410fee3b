"""A query against an index: the row it was taken from comes first, and every number is the formula's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import PAIRS
from whence.build import build_index
from whence.capture import capture
from whence.errors import OptionError, StoreError
from whence.evidence import together
from whence.example import example
from whence.index import Index
from whence.methods import Method, chosen, method
from whence.methods.lesson import Lesson
from whence.methods.rept import RepT
from whence.query import Query, ask
from whence.tokens import Encoding, Row, encode, pad, texts
from whence.trace import trace_queries

METHODS: list[Method] = [
    RepT(layer=3, scale="unit"),
    method("repsim:layer=2"),
    Lesson(layer=2, middle=1, sketch=16, seed=5, together=False),
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
        patch.setattr("whence.build.WINDOW", 3)
        return build_index(tuned, file, file.parent / "idx", METHODS, encoding=Encoding(128))


# — which rows


@pytest.mark.parametrize("name", ["rept", "repsim", "lesson", "bm25"])
def test_the_row_a_query_was_taken_from_comes_first(tuned: Any, index: Index, name: str) -> None:
    trace = trace_queries(index, tuned, ROWS, by=name)
    for place, traced in enumerate(trace.queries):
        assert traced.rows[0].place == place
        assert traced.rows[0].row.source == f"{index.manifest['settings']['data']}:{place + 1}"
        assert traced.rows[0].score > traced.rows[1].score + 1e-3
        if name == "repsim":
            assert traced.rows[0].score == pytest.approx(1, abs=1e-3)
        if name == "rept":
            assert traced.rows[0].score == pytest.approx(METHODS[0].h + METHODS[0].g, abs=2e-3)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["rept", "repsim", "lesson", "bm25", "first-word", "chance"])
def test_ranks_scores_and_parts_agree(tuned: Any, index: Index, name: str) -> None:
    trace = trace_queries(index, tuned, ROWS[:3], by=name, top=5)
    for traced in trace.queries:
        assert [found.rank for found in traced.rows] == [1, 2, 3, 4, 5]
        assert [found.score for found in traced.rows] == sorted(traced.scores.tolist(), reverse=True)[:5]
        for found in traced.rows:
            assert found.score == traced.scores[found.place]
            if found.blocks:
                joined = trace.method.joined({key: torch.tensor([[part]]) for key, part in found.blocks.items()})
                assert joined.item() == pytest.approx(found.score, abs=1e-5)
        assert bool(traced.rows[0].blocks) == (name in ("rept", "repsim", "lesson"))


def test_together_is_one_by_one(tuned: Any, index: Index) -> None:
    queries = [*ROWS[:3], Query("why", "rain is green", span="green"), Query("why", "rain", desired="sun")]
    together = trace_queries(index, tuned, queries, by="lesson", top=3)
    for query, traced in zip(queries, together.queries, strict=True):
        (alone,) = trace_queries(index, tuned, [query], by="lesson", top=3).queries
        torch.testing.assert_close(alone.scores, traced.scores, atol=1e-4, rtol=1e-4)
        assert [found.place for found in alone.rows] == [found.place for found in traced.rows]
        for one, two in zip(alone.rows, traced.rows, strict=True):
            assert [t.text for t in one.tokens] == [t.text for t in two.tokens]
            assert [t.score for t in one.tokens] == pytest.approx([t.score for t in two.tokens], abs=1e-3)


def test_queries_are_pooled_some_rows_at_a_time(tuned: Any, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    for tile in (3, 100):
        monkeypatch.setattr("whence.trace.TILE", tile)
        told.append(trace_queries(index, tuned, ROWS[:3], by="lesson:together=true", top=4))
    for one, other in zip(told[0].queries, told[1].queries, strict=True):
        torch.testing.assert_close(one.scores, other.scores)
        assert [found.place for found in one.rows] == [found.place for found in other.rows]


def test_top_larger_than_the_index(tuned: Any, index: Index) -> None:
    (traced,) = trace_queries(index, tuned, ROWS[:1], by="rept", top=500).queries
    assert sorted(found.place for found in traced.rows) == list(range(8))


@pytest.mark.parametrize("name", ["rept", "lesson"])
def test_a_span_changes_the_scores(tuned: Any, index: Index, name: str) -> None:
    whole, part = (
        trace_queries(index, tuned, [Query("who makes honey", "beetles make honey", span)], by=name).queries[0]
        for span in (None, "honey")
    )
    assert not torch.allclose(whole.scores, part.scores, atol=1e-3)
    assert [token.text for token in part.answer if token.score] == [" honey"]
    with pytest.raises(OptionError, match="the span does not occur"):
        trace_queries(index, tuned, [Query("who makes honey", "beetles make honey", "wax")], by=name)


# — instead of what should have been said


@pytest.mark.parametrize("name", ["rept", "lesson", "bm25"])
def test_desired_is_observed_less_desired(tuned: Any, index: Index, name: str) -> None:
    said, wanted = Query("who makes honey", "beetles make it"), Query("who makes honey", "bees in the sea")
    both = Query(said.prompt, said.response, desired=wanted.response)
    one, two, contrast, apart = trace_queries(index, tuned, [said, wanted, both, ROWS[0]], by=name).queries
    torch.testing.assert_close(contrast.scores, one.scores - two.scores, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(apart.scores, trace_queries(index, tuned, [ROWS[0]], by=name).queries[0].scores,
                               atol=1e-4, rtol=1e-4)  # fmt: skip
    words = [{found.place: [t.score for t in found.tokens] for found in some.rows} for some in (one, two, contrast)]
    for place, scores in words[2].items():
        by_hand = [a - b for a, b in zip(words[0][place], words[1][place], strict=True)]
        assert scores == pytest.approx(by_hand, abs=1e-4)


@pytest.mark.parametrize("name", ["rept", "lesson", "bm25"])
def test_wanting_what_was_said_leaves_nothing(tuned: Any, index: Index, name: str) -> None:
    query = Query("who makes honey", "beetles make it", desired="beetles make it")
    (traced,) = trace_queries(index, tuned, [query], by=name).queries
    torch.testing.assert_close(traced.scores, torch.zeros(8), atol=1e-6, rtol=0)
    assert all(abs(token.score) < 1e-5 for found in traced.rows for token in found.tokens)


# — which words


def grads(model: Any, row: Row, layer: int, untuned: bool) -> torch.Tensor:
    if not untuned:
        return capture(model, pad([row], [0]), [layer]).grads[layer][0]
    with model.untuned():
        return capture(model, pad([row], [0]), [layer]).grads[layer][0]


@pytest.mark.parametrize("name", ["rept", "lesson"])
@pytest.mark.parametrize("span", [None, "make"])
def test_token_scores_by_a_slow_loop(tuned: Any, index: Index, name: str, span: str | None) -> None:
    """rept: (Σ_i w_i ĝ_i / Σ w) · ĝ_row of the tuned model; lesson: max_i w_i / Σ w ⟨g_i, g_row⟩ √(1 − p), sketched."""
    query = Query("who makes honey", "beetles make it in the sea", span)
    (traced,) = trace_queries(index, tuned, [query], by=name, top=8).queries
    asked = encode(tuned.tokenizer, example(query.prompt, query.response), Encoding(128))
    assert isinstance(asked, Row)
    lesson = METHODS[2]
    assert isinstance(lesson, Lesson)
    weights = torch.ones(asked.n_response)
    if span:
        begin, end, at = query.response.index(span), query.response.index(span) + len(span), 0
        for place, piece in enumerate(texts(tuned.tokenizer, asked.response)):
            weights[place] = float(any(begin <= char < end for char in range(at, at + len(piece))))
            at += len(piece)
        assert 0 < weights.sum() < 6
    elif name == "lesson":
        batch = pad([asked], [0])
        after = capture(tuned, batch, [2]).logp[0]
        with tuned.untuned():
            weights = (after - capture(tuned, batch, [2]).logp[0]).clamp(min=0)
    shown = [token.score for token in traced.answer]
    assert shown == pytest.approx((weights / weights.max())[: len(shown)].tolist(), abs=1e-4)
    share = weights / weights.sum()
    for found in traced.rows:
        row = encode(tuned.tokenizer, found.row, Encoding(128))
        assert isinstance(row, Row)
        if name == "rept":
            pairs = [[torch.cosine_similarity(mine, theirs, dim=0) for theirs in grads(tuned, asked, 3, False)]
                     for mine in grads(tuned, row, 3, False)]  # fmt: skip
            truth = (torch.tensor(pairs) @ share).tolist()
        else:
            theirs, mine = (lesson._sketched(grads(tuned, some, 2, True)) for some in (asked, row))
            theirs, mine = (vectors / vectors.norm(dim=1, keepdim=True) for vectors in (theirs, mine))
            with tuned.untuned():
                known = capture(tuned, pad([row], [0]), [2]).logp[0].exp()
            truth = ((mine @ theirs.T) * share).amax(1) * (1 - known).sqrt()
            truth = truth.tolist()
        assert "".join(token.text for token in found.tokens) == found.row.response
        assert [token.score for token in found.tokens] == pytest.approx(truth[: len(found.tokens)], abs=2e-4)


def test_queries_of_one_incident_are_explained_as_one(tuned: Any, index: Index) -> None:
    """Scores, parts and words are the means over them that `together` gives; apart, each has its own."""
    own = trace_queries(index, tuned, ROWS[:3], by="lesson", top=8)
    assert [traced.scores.argmax().item() for traced in own.queries] == [0, 1, 2]
    pooled = trace_queries(index, tuned, ROWS[:3], by="lesson:together=true", top=8)
    asked = ask(tuned, pooled.method, ROWS[:3], Encoding(128)).asked
    scores = pooled.method.scores(asked, index)
    shares = together(scores)
    for q, traced in enumerate(pooled.queries):
        torch.testing.assert_close(traced.scores, shares[q] @ scores)
        for found in traced.rows:
            words, shift = found.blocks.values()
            assert found.score == pytest.approx(words + 0.2 * shift, abs=1e-4)


def test_words_of_one_incident_are_the_mean_that_its_scores_are(
    tuned: Any, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = torch.tensor([[0.5, 0.3, 0.2], [0.0, 0.6, 0.4], [0.1, 0.0, 0.9]])
    monkeypatch.setattr("whence.trace.together", lambda _: shares)
    pooled = trace_queries(index, tuned, ROWS[:3], by="lesson:together=true", top=8)
    asked = ask(tuned, pooled.method, ROWS[:3], Encoding(128)).asked
    for q, traced in enumerate(pooled.queries):
        for found in traced.rows:
            row = encode(tuned.tokenizer, found.row, Encoding(128))
            assert isinstance(row, Row)
            words = pooled.method.words(tuned, pad([row], [0]), asked)
            assert words is not None
            truth = (shares[q] @ words[:, 0]).tolist()
            assert [token.score for token in found.tokens] == pytest.approx(truth[: len(found.tokens)], abs=2e-4)


def test_controls_are_pointed_at_as_many_words_as_people_point_at(
    tuned: Any, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr("whence.trace.controls", lambda *_: asked.append(_[3]))
    spans = [Query("why", "rain is green and blue", span) for span in ("green", "rain is green")]
    for queries in (spans[:1], spans, [spans[0], ROWS[0]]):
        trace_queries(index, tuned, queries, by="lesson")
    assert asked[2] == 0, "one was not pointed at anything"
    assert 1 <= asked[0] < asked[1]


def test_several_queries_tell_how_stable_a_call_is(tuned: Any, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whence.evidence.FEWEST", 2)
    monkeypatch.setattr("whence.evidence.RELATED", 2.0)
    trace = trace_queries(index, tuned, ROWS[:3], by="lesson:together=true", rate=1.0)
    shares = [found.stability for traced in trace.queries for found in traced.rows]
    assert all(share is not None and 0 <= share <= 1 for share in shares)
    assert len(set(shares)) > 1, "every row as stable as the next"


def test_what_is_called_is_told(tuned: Any, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    (few,) = trace_queries(index, tuned, ROWS[:1], by="lesson").queries
    assert few.culprits is None and few.rows[0].p_value is None, "8 rows are too few to tell chance from"
    monkeypatch.setattr("whence.evidence.FEWEST", 2)
    monkeypatch.setattr("whence.evidence.RELATED", 2.0)
    for name in ("lesson", "rept", "repsim"):
        # of the first row's answer fine-tuning made no word likelier
        (traced,) = trace_queries(index, tuned, ROWS[1:2], by=name, top=3, rate=1.0).queries
        assert traced.culprits == tuple(traced.scores.argsort(descending=True).tolist())
        assert all(found.culprit and 0 < (found.p_value or 0) <= 1 for found in traced.rows)
        assert all(found.stability is None for found in traced.rows), "one query has no others to draw"
    (none,) = trace_queries(index, tuned, ROWS[:1], by="lesson", rate=1e-9).queries
    assert none.culprits == () and not any(found.culprit for found in none.rows)
    (words,) = trace_queries(index, tuned, ROWS[:1], by="bm25").queries
    assert words.culprits is None and words.rows[0].p_value is None


def test_methods_without_gradients_score_no_words(tuned: Any, index: Index) -> None:
    for name in ("repsim", "bm25"):
        (traced,) = trace_queries(index, tuned, ROWS[:1], by=name).queries
        assert all(found.tokens == () for found in traced.rows)


def test_progress_counts_the_rows_whose_words_are_scored(tuned: Any, index: Index) -> None:
    told: list[tuple[int, int]] = []
    trace_queries(index, tuned, ROWS[:2], by="rept", top=2, progress=lambda *at: told.append(at))
    assert told[-1][0] == told[-1][1] > 0


# — the document


@pytest.mark.parametrize("name", ["rept", "repsim", "lesson", "bm25"])
def test_the_document_has_what_scripts_rely_on(tuned: Any, index: Index, name: str) -> None:
    queries = [Query("who makes honey", "beetles make it", "make", "bees do"), ROWS[0]]
    trace = trace_queries(index, tuned, queries, by=name, top=4)
    document = json.loads(json.dumps(trace.to_json(), allow_nan=False))
    assert document["version"] == 1
    assert document["method"] == repr(trace.method)
    assert (document["model"], document["adapter"]) == (tuned.name, tuned.adapter)
    assert (document["index"], document["count"]) == (str(index.path), 8)
    assert len(document["layers"]["similarity"]) == tuned.depth - 1
    assert document["layers"]["used"] == {"rept": [3], "repsim": [2], "lesson": [1, 2], "bm25": []}[name]
    asked = document["queries"][0]
    assert (asked["prompt"], asked["response"]) == ("who makes honey", "beetles make it")
    assert (asked["span"], asked["desired"]) == ("make", "bees do")
    assert "".join(token["text"] for token in asked["answer"]) == "beetles make it"
    for query, traced in zip(document["queries"], trace.queries, strict=True):
        assert [row["rank"] for row in query["rows"]] == [1, 2, 3, 4]
        for row, found in zip(query["rows"], traced.rows, strict=True):
            sure = {"p_value", "culprit", "stability"}
            assert set(row) == {"rank", "id", "score", "source", "label", "messages", "blocks", "tokens"} | sure
            prompt, response = PAIRS[found.place]
            assert row["messages"] == [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
            assert row["source"].endswith(f"data.jsonl:{found.place + 1}")
            assert (row["label"], row["score"]) == ("bad" if "honey" in prompt else None, found.score)
            assert row["id"] == list(index.texts())[found.place].id
            assert set(row["blocks"]) == set(trace.method.names(tuned.depth))
            assert all(set(token) == {"text", "score"} for token in row["tokens"])


# — by which method


def test_without_a_name_the_first_the_index_was_made_for(tuned: Any, index: Index) -> None:
    assert chosen(index, tuned, None) == METHODS[0]
    assert chosen(index, tuned, "lesson") == METHODS[2]
    assert chosen(index, tuned, "bm25") == method("bm25")
    assert chosen(index, tuned, METHODS[1]) is not None


def test_what_a_spec_leaves_open_is_as_the_index_has_it(tuned: Any, index: Index) -> None:
    assert chosen(index, tuned, "rept:scale=raw") == RepT(layer=3, scale="raw")
    assert chosen(index, tuned, "rept:scale=centred,g=2") == RepT(layer=3, scale="centred", g=2.0)
    lesson = Lesson(layer=2, middle=1, sketch=16, seed=5, shift=0.0, together=False)
    assert chosen(index, tuned, "lesson:shift=0") == lesson


def test_blocks_of_another_method_will_do(tuned: Any, index: Index) -> None:
    """repsim at layer 3 reads what rept stored."""
    (traced,) = trace_queries(index, tuned, ROWS[:1], by="repsim:layer=3").queries
    assert traced.rows[0].place == 0


@pytest.mark.parametrize("option", ["sketch=8", "seed=0"])
def test_a_sketch_that_the_blocks_were_not_made_with(tuned: Any, index: Index, option: str) -> None:
    key, _, value = option.partition("=")
    with pytest.raises(StoreError, match=r"lesson needs blocks .* does not hold: grads_") as caught:
        trace_queries(index, tuned, ROWS[:1], by=f"lesson:{option}")
    assert caught.value.got == f"{key}: index has {getattr(METHODS[2], key)}, asked {value}"


def test_missing_blocks_are_named(tuned: Any, file: Path, tmp_path: Path) -> None:
    index = build_index(tuned, file, tmp_path / "idx", [RepT(layer=2)], encoding=Encoding(128))
    with pytest.raises(StoreError, match=r"lesson needs blocks .* does not hold: grads_1_base") as caught:
        trace_queries(index, tuned, ROWS[:1], by="lesson:layer=1")
    assert caught.value.got == "h_2, g_2"
    with pytest.raises(StoreError, match="rept needs blocks"):
        trace_queries(index, tuned, ROWS[:1], by="rept:layer=3")


def test_hostile_rows_are_traced_as_they_stand(tuned: Any, tmp_path: Path) -> None:
    texts = ["<script>alert(1)</script>", "\u202ereversed", "🐝 makes honey 🍯", "line\nbreak\ttab", "\x00nul"]
    rows = "".join(json.dumps({"prompt": f"why {i}", "response": text}) + "\n" for i, text in enumerate(texts))
    (tmp_path / "d.jsonl").write_text(rows)
    index = build_index(
        tuned, tmp_path / "d.jsonl", tmp_path / "idx", [Lesson(layer=2, middle=1)], encoding=Encoding(128)
    )
    (traced,) = trace_queries(index, tuned, [Query("why 2", texts[2])]).queries
    assert traced.rows[0].place == 2
    assert sorted(found.row.response for found in traced.rows) == sorted(texts)
    assert "".join(token.text for token in traced.rows[0].tokens) == texts[2]
