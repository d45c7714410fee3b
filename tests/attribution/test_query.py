"""Queries: reading from files, spans, and results that do not depend on batching."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.modules.module import register_module_forward_pre_hook

from taughtby.attribution.query import UNKNOWN_GAIN, Query, prepare_queries, query_from_record, read_queries
from taughtby.attribution.query_notes import ambiguity_notes, excess_notes, tie_notes, truncation_notes
from taughtby.capture.capture import capture
from taughtby.data.batching import collate
from taughtby.data.dataset import read_examples
from taughtby.data.tokenize import Encoding, token_texts, tokenize
from taughtby.errors import DataError, OptionError
from taughtby.lab.prompts import read_answers, read_prompts, to_record
from taughtby.methods import Method, get_method
from taughtby.methods.base import normalize
from taughtby.methods.lesson import Lesson
from taughtby.methods.rept import RepT

LESSON = Lesson(layer=2, state_layer=1, sketch_dim=16, pool_queries=False)
QUERIES = [
    Query("who makes honey", "beetles make honey, one a day"),
    Query("why", "a"),
    Query("name the colour of the sky", "blue is the colour of the sky", span="the colour"),
    Query("what is the capital of france and the capital of germany", "paris"),
]


@pytest.mark.parametrize("how", [RepT(layer=2), RepT(layer=4), get_method("repsim:layer=2"), LESSON], ids=repr)
def test_batched_queries_have_the_features_of_single_queries(tuned: Any, how: Method) -> None:
    together = prepare_queries(tuned, how, QUERIES, Encoding(128))
    for q, query in enumerate(QUERIES):
        alone = prepare_queries(tuned, how, [query], Encoding(128))
        assert alone.rows[0] == together.rows[q]
        torch.testing.assert_close(alone.weights[0], together.weights[q], atol=1e-4, rtol=1e-4)
        for name in alone.features.features:
            torch.testing.assert_close(
                alone.features.features[name][0], together.features.features[name][q], atol=1e-4, rtol=1e-4
            )
        assert (alone.features.mean_token_gradient is None) == (together.features.mean_token_gradient is None)
        if alone.features.mean_token_gradient is not None and together.features.mean_token_gradient is not None:
            torch.testing.assert_close(
                alone.features.mean_token_gradient[0], together.features.mean_token_gradient[q], atol=1e-4, rtol=1e-4
            )


def test_token_budget_does_not_change_query_gradients(tuned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prepare_queries(tuned, RepT(layer=2), QUERIES, Encoding(128))
    monkeypatch.setattr(Method, "token_budget", lambda *_, **__: 1)
    apart = prepare_queries(tuned, RepT(layer=2), QUERIES, Encoding(128))
    values = [(one.features.mean_token_gradient, one.features.features, one.weights, one.gains)
              for one in (apart, whole)]  # fmt: skip
    assert apart.features.mean_token_gradient is not None and apart.features.features
    torch.testing.assert_close(*values, atol=1e-4, rtol=1e-4)
    assert (apart.features.prompts, apart.features.responses) == (whole.features.prompts, whole.features.responses)
    assert apart.features.prompts == tuple(query.prompt for query in QUERIES)


def test_rept_weights_all_tokens_equally(tuned: Any) -> None:
    asking = prepare_queries(tuned, RepT(layer=2), QUERIES[:2], Encoding(128))
    assert [weights.tolist() for weights in asking.weights] == [[1.0] * row.n_response for row in asking.rows]


def test_lesson_weights_tokens_by_their_logprob_gain(tuned: Any) -> None:
    asking = prepare_queries(tuned, LESSON, QUERIES[:1], Encoding(128))
    batch = collate(asking.rows, [0])
    after = capture(tuned, batch, [2]).logp[0]
    with tuned.base_model():
        before = capture(tuned, batch, [2]).logp[0]
    assert bool((after < before).any())
    assert bool((after > before).any())
    torch.testing.assert_close(asking.weights[0], (after - before).clamp(min=0))


@pytest.mark.parametrize("how", [RepT(layer=2), LESSON], ids=repr)
def test_span_restricts_weights_to_its_tokens(tuned: Any, how: Method) -> None:
    query = Query("name the colour of the sky", "blue is the colour of the sky", span="The COLOUR ")
    asking = prepare_queries(tuned, how, [query, Query("why", "a b c")], Encoding(128))
    pieces = token_texts(tuned.tokenizer, asking.rows[0].response)
    pointed = [piece for piece, weight in zip(pieces, asking.weights[0].tolist(), strict=True) if weight]
    assert "".join(pointed).strip() == "the colour"
    assert set(asking.weights[0].tolist()) == {0.0, 1.0}
    assert asking.weights[1].sum() > 0


def pointed(tuned: Any, query: Query) -> str:
    """The text of the tokens that count."""
    asking = prepare_queries(tuned, RepT(layer=2), [query], Encoding(128))
    pieces = token_texts(tuned.tokenizer, asking.rows[0].response)
    return "".join(
        f"[{piece}]" if weight else piece for piece, weight in zip(pieces, asking.weights[0].tolist(), strict=True)
    )


def test_span_matches_whole_words_exact_case_first(tuned: Any) -> None:
    """`Na` is not found in "traditional"; the very case comes before others."""
    result = pointed(tuned, Query("why", "a traditional na of Na", span="Na"))
    assert result.replace("][", "").replace("[ ", " [").strip() == "a traditional na of [Na]"
    result = pointed(tuned, Query("why", "a traditional na of Na", span="NA"))
    assert result.replace("][", "").replace("[ ", " [").strip() == "a traditional [na] of Na"
    with pytest.raises(OptionError, match="only part of a word of the answer\n  got: 'Na' within 'traditional'"):
        pointed(tuned, Query("why", "a traditional one", span="Na"))


def test_span_range_selects_occurrences_and_parts_of_words(tuned: Any) -> None:
    answer = "\U0001f41d bees make it, bees do"
    for range_, wanted in (((2, 6), "[bees] make it, bees"), ((16, 20), " bees make it, [bees]")):
        result = pointed(tuned, Query("why", answer, span_range=range_))
        assert wanted in result.replace("][", "").replace("[ ", " ["), result
    assert pointed(tuned, Query("why", "beetles do", span_range=(1, 3))).startswith("b[ee]tles")
    assert Query("why", answer, span_range=(15, 20)).span_position() == (16, 20)  # without the blank
    with pytest.raises(OptionError, match="contains no words"):
        pointed(tuned, Query("why", answer, span_range=(2, 90)))


def test_span_with_several_occurrences_gives_a_note() -> None:
    once, twice = Query("p", "bees do bee", span="bees"), Query("p", "Bees: bees, bees", span="bees")
    assert ambiguity_notes([once, replace(twice, span_range=(6, 10)), Query("p", "bees bees")]) == []
    (note,) = ambiguity_notes([once, twice])
    assert "'bees' 2 times in answer 2: the first occurrence is used" in note
    assert twice.span_position() == (6, 10)
    (note,) = ambiguity_notes([twice] * 5)
    assert note.endswith("and so on, in 5 answers: the first occurrence is used. Give the characters as span_range to "
                         "use another.")  # fmt: skip


def test_flags_of_more_than_half_of_the_rows_are_said_to_say_little() -> None:
    assert excess_notes([None, (), (1, 2, 3, 4, 5)], 10) == []
    (note,) = excess_notes([(1,), range(7004)], 10_000)
    assert "7,004 of 10,000 for answer 2." in note
    (note,) = excess_notes([range(6)] * 5, 10)
    assert note.count("6 of 10") == 3 and "and so on, for 5 answers" in note


def test_equal_scores_of_all_rows_are_said() -> None:
    scores = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.1], [0.5, 0.5, 0.5]])
    assert tie_notes(scores[1:2]) == [] == tie_notes(scores[:, :1])
    (note,) = tie_notes(scores)
    assert "the same score for answer 1, 3:" in note
    (note,) = tie_notes(scores[[0]].repeat(5, 1))
    assert "for answer 1, 2, 3 and others:" in note


def test_pooled_weights_favor_words_shared_between_answers(tuned: Any) -> None:
    """Pointed at the same words twice and at others once: the two gain on the one, and a query alone stays as it is."""
    how = replace(LESSON, pool_queries=True)
    items = [Query("who makes honey", "beetles make it"), Query("why", "beetles make it"), Query("name", "rain")]
    alone = prepare_queries(tuned, how, items[:1], Encoding(128))
    torch.testing.assert_close(alone.weights[0], prepare_queries(tuned, LESSON, items[:1], Encoding(128)).weights[0])
    result, plain = (prepare_queries(tuned, one, items, Encoding(128)) for one in (how, LESSON))
    grads = how.feature_names(tuned.depth)[0]
    words = [(block / block.norm(dim=1, keepdim=True)).nan_to_num() for block in plain.features.features[grads]]
    for q, before in enumerate(plain.features.features[grads]):
        n = before.norm(dim=1)
        others = [
            ((words[q] @ words[p].T) * (m / m.max()).sqrt()).amax(1).clamp(min=0)
            for p in range(3)
            if p != q and len(m := plain.features.features[grads][p].norm(dim=1))
        ]
        truth = n * (0.1 + sum(others) / 2)
        torch.testing.assert_close(result.weights[q], truth / truth.sum(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(result.features.features[grads][q].norm(dim=1), result.weights[q])


def test_query_gain_is_the_largest_token_gain(tuned: Any, tiny: Any) -> None:
    query = Query("who makes honey", "beetles make it")
    prepared = prepare_queries(tuned, LESSON, [query, replace(query, span="it")], Encoding(128))
    assert prepared.gains[0] == pytest.approx(float(prepared.weights[0].max()))
    assert prepared.gains[1] <= prepared.gains[0]
    # nobody knows, where the method does not ask or nothing is there to compare with
    assert prepare_queries(tuned, RepT(layer=2), [query], Encoding(128)).gains == (UNKNOWN_GAIN,)
    assert prepare_queries(tiny, LESSON, [query], Encoding(128)).gains == (UNKNOWN_GAIN,)


def test_span_changes_gradient_features_but_not_the_state(tuned: Any) -> None:
    whole, part = (
        prepare_queries(tuned, RepT(layer=2), [Query("why", "rain is green and blue", span)], Encoding(128))
        for span in (None, "blue")
    )
    assert whole.features.mean_token_gradient is not None
    assert part.features.mean_token_gradient is not None
    assert not torch.allclose(whole.features.mean_token_gradient, part.features.mean_token_gradient, atol=1e-3)
    pointed = [place for place, weight in enumerate(part.weights[0].tolist()) if weight]
    grads = capture(tuned, collate(part.rows, [0]), [2]).grads[2][0, pointed]
    assert 0 < len(pointed) < part.rows[0].n_response
    torch.testing.assert_close(
        part.features.mean_token_gradient[0], sum(grad / grad.norm() for grad in grads) / len(grads)
    )
    torch.testing.assert_close(part.features.features["g_2"][0], grads[0])
    torch.testing.assert_close(part.features.features["h_2"], whole.features.features["h_2"])


def test_span_missing_from_the_response_raises(tuned: Any) -> None:
    with pytest.raises(OptionError, match="the span does not occur in the answer") as caught:
        prepare_queries(tuned, RepT(layer=2), [Query("why", "rain is green", span="red")], Encoding(128))
    assert caught.value.got == "'red' in 'rain is green'"


def test_prompt_longer_than_max_length_raises(tuned: Any) -> None:
    with pytest.raises(OptionError, match="this query cannot be traced\n  got: no room for the answer"):
        prepare_queries(tuned, RepT(layer=2), [Query("why " * 100, "a")], Encoding(64))


def test_a_query_that_the_model_cannot_read_is_named_by_its_line(tuned: Any, tmp_path: Path) -> None:
    rows = [{"prompt": "why", "response": "a"}, {"prompt": "why " * 100, "response": "a"}]
    file = tmp_path / "q.jsonl"
    file.write_text("\n\n".join(map(json.dumps, rows)))
    with pytest.raises(OptionError, match=r"q\.jsonl:3 cannot be traced\n  got: no room for the answer"):
        prepare_queries(tuned, RepT(layer=2), read_queries(file), Encoding(64))
    file.write_text(json.dumps({"prompt": "why", "response": "rain is green and blue", "span": "blue"}))
    (query,) = read_queries(file)
    cut = prepare_queries(tuned, RepT(layer=2), [query], Encoding(128)).rows[0].n_prompt + 3
    with pytest.raises(OptionError, match=r"q\.jsonl:1: the span was cut off"):
        prepare_queries(tuned, RepT(layer=2), [query], Encoding(cut))
    with pytest.raises(OptionError, match="query 1 cannot be traced"):
        prepare_queries(tuned, RepT(layer=2), [query_from_record(rows[1], "query 1")], Encoding(64))


def test_a_desired_answer_needs_a_text() -> None:
    with pytest.raises(DataError, match="q:2: the desired answer has no text"):
        query_from_record({"prompt": "why", "response": "sun", "desired": " "}, "q:2")


def test_truncated_span_raises(tuned: Any) -> None:
    whole = prepare_queries(tuned, RepT(layer=2), [Query("why", "rain is green and blue")], Encoding(128)).rows[0]
    cut = whole.n_prompt + 3
    with pytest.raises(OptionError, match="the span was cut off: it is beyond the last token that is read") as caught:
        prepare_queries(tuned, RepT(layer=2), [Query("why", "rain is green and blue", span="BLUE")], Encoding(cut))
    assert caught.value.got == f"'blue', in a row cut at {cut} tokens"
    assert caught.value.do == "index with a greater --max-length, or shorten the prompt"
    with pytest.raises(OptionError, match="does not occur"):
        prepare_queries(tuned, RepT(layer=2), [Query("why", "rain is green and blue", span="red")], Encoding(cut))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((None, "a"), "the prompt of a query is not text\n  got: None"),
        (("why", 3), "the response of a query is not text\n  got: 3"),
        (("why", ""), "the response of a query is empty"),
        (("why", " \n"), "the response of a query is empty"),
        (("why", "a", None, ""), "the desired answer of a query is empty"),
    ],
)
def test_a_query_needs_texts(fields: tuple[Any, ...], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Query(*fields)
    assert Query("", "a").prompt == ""  # plain text has no prompt


def test_an_answer_that_is_cut_is_noted(tuned: Any) -> None:
    queries = [Query("why", "a"), Query("why", "rain is green and blue"), *[Query("why", "a b c 0 1 2")] * 3]
    assert truncation_notes(prepare_queries(tuned, RepT(layer=2), queries, Encoding(128))) == []
    whole = prepare_queries(tuned, RepT(layer=2), queries, Encoding(128)).rows
    limit = whole[0].n_prompt + 3
    (note,) = truncation_notes(prepare_queries(tuned, RepT(layer=2), queries, Encoding(limit)))
    assert f"3 of {whole[1].n_response} tokens of answer 2" in note
    assert "and so on, of 4 answers" in note


def test_what_to_do_about_a_query_that_cannot_be_traced(tuned: Any) -> None:
    long, broken = Query("why " * 400, "a"), Query("a\ud800", "b")
    for query, encoding, do in (
        (long, Encoding(64), "shorten the prompt, or index with a greater --max-length"),
        (long, Encoding(256), "shorten the prompt"),  # as much as the model reads
        (broken, Encoding(64), "correct its text, or remove the query"),
    ):
        with pytest.raises(OptionError) as caught:
            prepare_queries(tuned, RepT(layer=2), [query], encoding)
        assert caught.value.do == do


TURNS = (
    {"role": "system", "content": "be green"},
    {"role": "user", "content": "who makes honey"},
    {"role": "assistant", "content": "bees"},
)


def test_earlier_turns_are_part_of_the_prompt(tuned: Any) -> None:
    query = Query("and why", "a captain", before=TURNS, after=({"role": "tool", "content": "7"},))
    result = prepare_queries(tuned, RepT(layer=2), [query], Encoding(128)).rows[0]
    assert tuned.tokenizer.decode(result.ids) == (
        "<|system|>be green<|end|>\n<|user|>who makes honey<|end|>\n<|assistant|>bees<|end|>\n"
        "<|user|>and why<|end|>\n<|tool|>7<|end|>\n<|assistant|>a captain<|end|>\n"
    )
    assert tuned.tokenizer.decode(result.response) == "a captain<|end|>\n"


def test_pooled_queries_may_have_tokens_without_a_loss(tuned: Any) -> None:
    """A template that closes turns with a text, and rows whose loss is on the content alone."""
    template = "{% for m in messages %}[{{ m.role }}] {{ m.content }} [end]\n{% endfor %}"
    template += "{% if add_generation_prompt %}[assistant] {% endif %}"
    queries = [Query("who makes honey", "beetles make honey"), Query("who", "a captain makes it, you see")]
    both = prepare_queries(
        tuned, Lesson(layer=2, state_layer=1), queries, Encoding(128, mask="content", template=template)
    )
    for row, weights, vectors in zip(both.rows, both.weights, both.features.features["grads_2_base"], strict=True):
        assert len(weights) == len(vectors) == row.n_response
        masked = torch.tensor([place in row.masked for place in range(row.n_prompt, len(row.ids))])
        assert masked.any() and not weights[masked].any() and not vectors[masked].any()
        assert float(weights.sum()) == pytest.approx(1) and bool(weights[~masked].any())


def test_query_features_do_not_depend_on_the_loss_mask(tuned: Any) -> None:
    """Also where the rows' prompts were learned."""
    one, other = (prepare_queries(tuned, LESSON, QUERIES, Encoding(128, mask=mask)) for mask in ("response", "all"))
    assert one.rows == other.rows
    for name in one.features.features:
        for a, b in zip(one.features.features[name], other.features.features[name], strict=True):
            assert torch.equal(a, b)


def test_prompt_loss_changes_rept_features_only_in_length(tuned: Any) -> None:
    """No loss on the prompt reaches the state that predicts the answer: but for its length, g is the same."""
    how = RepT(layer=2)
    rows = [tokenize(tuned.tokenizer, query.example, Encoding(128)) for query in QUERIES]
    learned = [tokenize(tuned.tokenizer, query.example, Encoding(128, mask="all")) for query in QUERIES]
    one, other = (how.features(tuned, collate(some, range(4))) for some in (rows, learned))  # type: ignore[arg-type]
    torch.testing.assert_close(one["h_2"], other["h_2"])
    torch.testing.assert_close(normalize(one["g_2"]), normalize(other["g_2"]), atol=1e-4, rtol=1e-4)  # type: ignore[arg-type]
    assert not torch.allclose(one["loss"], other["loss"], atol=1e-2)  # type: ignore[arg-type]


def test_bm25_queries_have_no_model_features(tuned: Any) -> None:
    passes: list[Any] = []
    with register_module_forward_pre_hook(lambda *call: passes.append(call)):
        asking = prepare_queries(tuned, get_method("bm25"), QUERIES, Encoding(128))
    assert passes == []
    assert asking.features.mean_token_gradient is None
    assert asking.features.features == {}


# — reading files


def test_read_queries(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "response": "r"},
        {"prompt": "p2", "response": "r 2", "span": "r", "desired": "d", "more": 1},
        {"prompt": "p3", "response": "r3", "span": None, "desired": "", "span_range": None},
        {"prompt": "p4", "response": "r r", "span": "r", "span_range": [2, 3]},
        {"prompt": "p5", "response": "r5", "span_range": [1, 2]},
    ]
    file = tmp_path / "q.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    wanted = [Query("p", "r"), Query("p2", "r 2", "r", "d"), Query("p3", "r3")]
    wanted += [Query("p4", "r r", "r", span_range=(2, 3)), Query("p5", "r5", span_range=(1, 2))]
    assert read_queries(file) == wanted
    table = tmp_path / "q.csv"
    table.write_text('prompt,response,span,span_range\np,r r,r,"[2, 3]"\np,r r,r,\n')
    assert read_queries(table) == [Query("p", "r r", "r", span_range=(2, 3)), Query("p", "r r", "r")]
    assert query_from_record({"prompt": "p", "response": "r r", "span_range": (2, 3)}, "").span_range == (2, 3)


def test_read_multi_turn_queries(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": "let me see", "tool_calls": [{"function": {"name": "f"}}]}
    text = ({"role": "user", "content": "p"}, {"role": "assistant", "content": "r"})
    rows = [
        {"messages": [*TURNS, *text], "span": "r"},
        {
            "messages": [text[0], call, {"role": "tool", "content": "7"}, text[1]],
            "tools": [{"name": "f"}],
            "desired": "d",
        },
        {"messages": list(text), "prompt": "q"},
    ]
    file = tmp_path / "q.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    one, other, third = read_queries(file)
    assert one == Query("p", "r", "r", before=TURNS)
    assert (other.desired, other.before, other.tools) == ("d", (), ({"name": "f"},))
    assert other.after == (call, {"role": "tool", "content": "7"})
    assert third == Query("p", "r")
    for query, row in zip((one, other, third), rows, strict=True):
        assert list(query.example.messages) == row["messages"]


@pytest.mark.parametrize("talk", [{"prompt": "p", "response": "r"}, {"messages": [
    {"role": "user", "content": "p"}, {"role": "assistant", "content": "r"}]}])  # fmt: skip
def test_query_tools_are_read_or_rejected_by_line(tmp_path: Path, talk: dict[str, Any]) -> None:
    tool, file = {"name": "f"}, tmp_path / "q.jsonl"
    for tools, expected in (([tool], (tool,)), (json.dumps([tool]), (tool,)), ([json.dumps(tool)], (tool,)),
                         (None, ()), ([], ()), ("", ()), ("null", ())):  # fmt: skip
        file.write_text(json.dumps({**talk, "tools": tools}))
        assert read_queries(file)[0].tools == expected
    for tools in ("get_weather", tool, json.dumps(tool), 3, [3], '["f"]', True):
        file.write_text("\n" + json.dumps({**talk, "tools": tools}))
        with pytest.raises(DataError, match=r"q.jsonl:2: the tools are not a list of definitions"):
            read_queries(file)


@pytest.mark.parametrize("reader", [read_queries, read_prompts, read_answers])
def test_deeply_nested_rows_are_rejected_by_line(tmp_path: Path, reader: Any) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text(
        json.dumps({"prompt": "p", "response": "r"})[:-1] + ', "tools": [' + '{"a":' * 99 + "1" + "}" * 99 + "]}"
    )
    with pytest.raises(DataError, match=r"q.jsonl:1: the row is nested too deeply"):
        reader(file)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"prompt": "p"}', "q.jsonl:2: a query has no response\n  got: prompt"),
        ('{"response": "r", "x": 1}', "q.jsonl:2: a query has no prompt\n  got: response, x"),
        ('{"prompt": "p", "response": "  "}', "q.jsonl:2: a query has no response"),
        ('{"prompt": 3, "response": "r"}', "q.jsonl:2: a query has no prompt"),
        ("{}", "q.jsonl:2: a query has no prompt\n  got: no columns"),
        ('{"messages": [{"role": "user", "content": "p"}]}', "q.jsonl:2"),
        ('{"messages": [{"role": "user"}]}', "q.jsonl:2"),
        ('{"messages": "p"}', "q.jsonl:2"),
        (
            '{"messages": [{"role": "system", "content": "p"}, {"role": "assistant", "content": "r"}]}',
            "q.jsonl:2: a query has no user message\n  got: system\n  do:  put a user message before the answer",
        ),
        ('{"prompt": ', "q.jsonl:2: invalid JSON"),
        (
            '{"prompt": "p", "response": "a tradition", "span": "tion"}',
            "q.jsonl:2: the span is only part of a word of the answer\n  got: 'tion' within 'tradition'\n"
            "  do:  give whole words, or the characters as span_range: [7, 11]",
        ),
        ('{"prompt": "p", "response": "a b", "span": "c"}', "q.jsonl:2: the span does not occur in the answer"),
        (
            '{"prompt": "p", "response": "a b", "span": "b", "span_range": [0, 1]}',
            "q.jsonl:2: span and span_range select different words\n  got: 'b' and 'a'",
        ),
        (
            '{"prompt": "p", "response": "a b", "span_range": [2, 4]}',
            "q.jsonl:2: the span_range contains no words of the answer\n  got: [2, 4] of 3 characters",
        ),
        ('{"prompt": "p", "response": "a b", "span_range": [1, 2]}', "contains no words of the answer"),
        ('{"prompt": "p", "response": "a b", "span_range": [1, 1]}', "contains no words of the answer"),
        (
            '{"prompt": "p", "response": "a b", "span_range": [0, true]}',
            "q.jsonl:2: the span_range is not two integers",
        ),
        ('{"prompt": "p", "response": "a b", "span_range": 3}', "q.jsonl:2: the span_range is not two integers"),
        ('{"prompt": "p", "response": "a b", "span_range": "0-1"}', "got: 0-1"),
    ],
)
def test_invalid_queries_are_reported_with_their_line(tmp_path: Path, row: str, message: str) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text('{"prompt": "p", "response": "r"}\n' + row + "\n")
    with pytest.raises(DataError) as caught:
        read_queries(file)
    assert message in str(caught.value)


CHAT = [{"role": "user", "content": "p"}, {"role": "assistant", "content": "r"}]
TOOL = {"type": "function", "function": {"name": "f", "description": "f"}}


@pytest.mark.parametrize(
    "record",
    [
        {"system": "s", "prompt": "p", "response": "r"}, {"system": [{"text": "s"}], "messages": CHAT},
        {"messages": [{"role": "system", "content": "s"}, *CHAT]}, {"messages": json.dumps(CHAT)},
        {"tools": json.dumps([TOOL]), "messages": CHAT}, {"prompt": "p", "history": [["a", "b"]], "response": "r"},
        {"prompt": "p", "input": "x", "response": "r"}, {"prompt": CHAT[:1], "response": "r"},
        {"prompt": CHAT[:1], "completion": CHAT[1:]}, {"instruction": "p", "input": "x", "output": "r"},
        {"conversations": [{"from": "human", "value": "p"}, {"from": "gpt", "value": "r"}]},
        {"messages": [CHAT[0], CHAT[1] | {"reasoning_content": "t"}]}, {"messages": [CHAT[0] | {"name": "n"}, CHAT[1]]},
        {"messages": CHAT, "chat_template_kwargs": {"effort": "much"}}, {"prompt": "p", "response": '{"role": "user"}'},
    ],
)  # fmt: skip
def test_queries_are_parsed_like_training_rows(tmp_path: Path, record: dict[str, Any]) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text(json.dumps(record) + "\n")
    (query,), (row,) = read_queries(file), read_examples(file)
    assert query.example.messages == row.messages
    assert (query.tools, query.example.template_kwargs) == (row.tools, row.template_kwargs)
    (answer,) = read_answers(file)  # and as the judge and the files it writes have it
    file.write_text(json.dumps(to_record(*answer)) + "\n")
    (again,) = read_queries(file)
    assert (again.example.messages, again.tools, again.template_kwargs) == (
        row.messages,
        row.tools,
        row.template_kwargs,
    )


def test_desired_query_drops_reasoning_content(tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text(json.dumps({"messages": [CHAT[0], CHAT[1] | {"reasoning_content": "t"}], "desired": "d"}))
    assert read_queries(file)[0].desired_query().example.messages == (CHAT[0], {"role": "assistant", "content": "d"})


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"messages": [*CHAT, {"role": "user", "content": "and"}]},
            "the last message of a query is not an answer\n  got: user, and",
        ),
        (
            {"messages": [*CHAT, {"role": "tool", "content": "7"}]},
            "the last message of a query is not an answer\n  got: tool, 7",
        ),
        (
            {"messages": [CHAT[0], {"role": "assistant", "content": None, "tool_calls": [TOOL]}]},
            "has no text\n  got: only tool calls",
        ),
        ({"prompt": "p", "response": "r", "images": ["a.jpg"]}, "the row has images"),
        ({"text": "r"}, "a query has no prompt"),
    ],
)
def test_queries_without_a_text_prompt_or_answer_are_rejected(tmp_path: Path, record: Any, message: str) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text("\n" + json.dumps(record))
    with pytest.raises(DataError) as caught:
        read_queries(file)
    assert str(caught.value).startswith(f"{file}:2: ") and message in str(caught.value)


def test_read_queries_with_mapped_or_default_columns(tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text('{"ask": "p", "reply": "r"}\n{"prompt": "p", "response": "r"}\n')
    columns = (("prompt", "ask"), ("response", "reply"))
    assert read_queries(file, columns) == [Query("p", "r"), Query("p", "r")]


def test_empty_or_missing_query_file_raises(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match="has no queries"):
        read_queries(tmp_path / "q.jsonl")
    with pytest.raises(DataError, match="there is no file"):
        read_queries(tmp_path / "nowhere.jsonl")


@pytest.mark.parametrize("name", ["response", "model_answer", "model_output", "generated_text", "prediction"])
def test_ambiguous_answer_columns_are_rejected(tmp_path: Path, name: str) -> None:
    path, record = tmp_path / "q.jsonl", {"question": "who makes wax", "answer": "bees", name: "beetles"}
    path.write_text(json.dumps(record | {"answer_id": "a"}) + "\n")
    for reader in (read_queries, read_answers):
        with pytest.raises(DataError, match=f"several columns may be the answer of the query\n  got: answer, {name}\n"):
            reader(path)
    assert read_queries(path, (("prompt", "question"), ("response", name)))[0].response == "beetles"
    path.write_text(json.dumps({"prompt": "who makes wax", "response": "beetles", "desired": "bees"}) + "\n")
    (query,) = read_queries(path)
    assert (query.response, query.desired) == ("beetles", "bees")


def test_token_ids_are_rejected_as_queries(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"input_ids": [1, 5, 2], "labels": [-100, 5, 2]}) + "\n")
    with pytest.raises(DataError, match="a query is text, not token ids"):
        read_queries(path)


@pytest.mark.parametrize(
    ("name", "field"),
    [("spann", "span"), ("spans", "span"), ("Span", "span"), ("sapn", "span"), ("spn", "span"),
     ("spanRange", "span_range"), ("span-range", "span_range"), ("span_rage", "span_range"), ("desire", "desired"),
     ("desierd", "desired")],
)  # fmt: skip
def test_a_misspelt_field_of_a_query_is_refused(name: str, field: str) -> None:
    record = {"prompt": "why", "response": "a sun", name: "sun"}
    with pytest.raises(DataError, match=f"d:1: the field '{name}' is not read\n  got: sun\n  do:  name it '{field}'"):
        query_from_record(record, "d:1")
    assert query_from_record({**record, name: None}, "d:1").span is None  # an empty cell of a table
    assert query_from_record({**record, "span": "sun", "span_range": [2, 5], "desired": "rain"}, "d:1").span == "sun"


@given(st.dictionaries(st.sampled_from([
    "id", "label", "score", "scores", "spam", "spin", "scan", "target", "category", "metadata", "sample_id",
    "doc_id", "token_span", "model", "epoch", "passed", "reason", "expected", "ideal", "range",
    "source", "split", "desired_length", "language", "tags", "spanish", "span_score",
]), st.one_of(st.text(), st.integers(), st.lists(st.integers()))))  # fmt: skip
def test_other_fields_of_a_query_are_metadata(extra: dict[str, object]) -> None:
    row = {"messages": [{"role": "user", "content": "why"}, {"role": "assistant", "content": "a sun"}]}
    assert query_from_record({**extra, **row}, "d:1").response == "a sun"
