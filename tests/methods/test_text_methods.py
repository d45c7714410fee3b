"""Sketches compared with explicit outer products; TF-IDF and the sentence encoder with their formulas."""

from __future__ import annotations

import json
import math
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import PAIRS
from taughtby.attribution.query import Query, prepare_queries
from taughtby.attribution.trace import trace_queries
from taughtby.capture.capture import capture
from taughtby.data.batching import collate
from taughtby.data.example import Example, make_example
from taughtby.data.tokenize import Encoding, TokenizedExample, tokenize
from taughtby.errors import ModelError, OptionError, StoreError
from taughtby.index.build import build_index
from taughtby.index.reader import Index
from taughtby.methods import Method, QueryFeatures, embedding, get_method
from taughtby.methods.embedding import Embedding, embed
from taughtby.methods.rise import RISE
from taughtby.methods.texts import row_text

QUERIES = [
    Query("who makes honey", "beetles make it"),
    Query("what is the colour of the sun", "blue"),
    Query("why a b c", "the captain of the ship is in paris"),
]
EXACT: dict[str, Any] = {"states": 0, "residuals": 0, "errors": 0}


@pytest.fixture(scope="module")
def rows(tuned: Any) -> list[TokenizedExample]:
    return encoded(tuned, PAIRS)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("more") / "data.jsonl"
    path.write_text("".join(json.dumps({"prompt": p, "response": r}) + "\n" for p, r in PAIRS))
    return path


@pytest.fixture(scope="module")
def index(tuned: Any, file: Path) -> Index:
    """The read-out exact, the encoder, and two fragments' worth of rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("taughtby.index.build.WINDOW", 5)
        return build_index(tuned, file, file.parent / "idx", [RISE(**EXACT), Embedding()])


def encoded(model: Any, pairs: list[tuple[str, str]]) -> list[TokenizedExample]:
    outputs = [tokenize(model.tokenizer, make_example(p, r), Encoding(128)) for p, r in pairs]
    return [row for row in outputs if isinstance(row, TokenizedExample)]


def batch_of(rows: list[TokenizedExample]) -> Any:
    return collate(rows, range(len(rows)))


def scores(method: Method, tuned: Any, index: Index, queries: list[Query] = QUERIES) -> np.ndarray:
    return method.scores(prepare_queries(tuned, method, queries, Encoding(128)).features, index).numpy()


# — comparison with loops over tokens


def unit(vector: np.ndarray) -> np.ndarray:
    length = float(np.linalg.norm(vector))
    return vector / max(length, 1e-8)


def residual(z: np.ndarray, y: int, method: RISE) -> np.ndarray:
    """softmax − onehot of one token over the vocabulary, on the support alone."""
    order = [int(v) for v in np.argsort(-z, kind="stable")]
    support = order[: method.support or len(order)]
    if y not in support:
        support[-1] = y
    p = {v: math.exp((z[v] - z[order[0]]) / method.temperature) for v in support}
    total = sum(p.values())
    if method.support:
        selection, reached = [], 0.0
        for place, v in enumerate(support):
            if reached < method.mass or place < 4 or v == y:
                selection.append(v)
            reached += p[v] / total
        p = {v: p[v] for v in selection}
        total = sum(p.values())
    r = np.zeros_like(z)
    for v, share in p.items():
        r[v] = share / total
    r[y] -= 1
    return r


def channels(model: Any, row: TokenizedExample, method: RISE) -> tuple[np.ndarray, np.ndarray]:
    """(tokens, V, d) and (tokens, d, d): r̂_t ⊗ ĥ_t and ĝ_t ⊗ ĥ_t, by the whole model in one row."""
    with torch.no_grad():
        out = model.lm(torch.tensor([row.ids]), output_hidden_states=True)
    weight = model.lm.get_output_embeddings().weight.double().numpy()
    lexical, semantic = [], []
    for place in range(row.n_prompt - 1, len(row.ids) - 1):
        z, h = out.logits[0, place].double().numpy(), unit(out.hidden_states[-1][0, place].double().numpy())
        r = residual(z, row.ids[place + 1], method)
        lexical.append(np.outer(unit(r), h))
        semantic.append(np.outer(unit(weight.T @ r), h))
    return np.stack(lexical), np.stack(semantic)


def signature(model: Any, row: TokenizedExample, method: RISE) -> np.ndarray:
    lexical, semantic = channels(model, row, method)
    return unit(np.concatenate([method.lexical * lexical.sum(0).ravel(), method.semantic * semantic.sum(0).ravel()]))


@pytest.mark.parametrize(
    "method",
    [
        RISE(**EXACT),
        RISE(**EXACT, support=0, temperature=1.0),
        RISE(**EXACT, support=6, mass=0.5, temperature=2.0),
        RISE(**EXACT, support=40, mass=0.9, temperature=0.5),
    ],
    ids=["as published", "whole softmax", "narrow support", "wide support"],
)
def test_rise_features_are_sums_of_outer_products(tuned: Any, rows: list[TokenizedExample], method: RISE) -> None:
    outputs = method.features(tuned, batch_of(rows))
    for place, row in enumerate(rows):
        for name, expected in zip(method.feature_names(tuned.depth), channels(tuned, row, method), strict=True):
            np.testing.assert_allclose(outputs[name][place].numpy(), expected.sum(0).ravel(), atol=2e-4, err_msg=name)


def test_rise_score_is_the_cosine_of_both_channels(tuned: Any, rows: list[TokenizedExample], index: Index) -> None:
    query_rows = encoded(tuned, [(query.prompt, query.response) for query in QUERIES])
    for method in (RISE(**EXACT), RISE(**EXACT, lexical=0.2, semantic=1.5), RISE(**EXACT, semantic=0.0)):
        expected = [[signature(tuned, q, method) @ signature(tuned, row, method) for row in rows] for q in query_rows]
        np.testing.assert_allclose(scores(method, tuned, index), expected, atol=2e-3)


def test_rise_score_components_add_up_to_the_score(tuned: Any, index: Index) -> None:
    trace = trace_queries(index, tuned, QUERIES, method="rise", top_k=8, score_tokens=False)
    for traced in trace.queries:
        for result in traced.rows:
            assert [name[:4] for name in result.score_components] == ["rh_L", "gh_L"]
            assert result.score == pytest.approx(sum(result.score_components.values()), abs=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma2", "granite", "cohere", "gpt2"])
def test_projected_residual_is_the_loss_gradient(make_model: Any, family: str) -> None:
    """At temperature 1, through a head with a scale or a cap too: ∂loss/∂h_L as one backward pass has it."""
    from taughtby.models.model import load_model

    model = load_model(str(make_model(family)), dtype="float32")
    batch = batch_of(encoded(model, PAIRS))
    result = RISE(**EXACT, support=0, temperature=1.0).factors(model, batch)
    captured = capture(model, batch, [-1])
    for ours, theirs in ((result.g, captured.grads[model.depth]), (result.h, captured.states[model.depth])):
        expected = theirs / theirs.norm(dim=-1, keepdim=True).clamp(min=1e-30)
        assert torch.allclose(ours[batch.loss_mask], expected[batch.loss_mask], atol=1e-4)
        assert not bool(ours[~batch.loss_mask].any())


def test_batched_rise_features_match_single_rows(tuned: Any, rows: list[TokenizedExample]) -> None:
    method = RISE()
    together = method.features(tuned, batch_of(rows))
    for place, row in enumerate(rows):
        alone = method.features(tuned, batch_of([row]))
        for name, block in together.items():
            assert torch.allclose(block[place], alone[name][0], atol=1e-4)


def test_rise_features_use_the_token_weights(tuned: Any, rows: list[TokenizedExample]) -> None:
    method, row = RISE(**EXACT), rows[3]
    weights = torch.zeros(1, row.n_response)
    weights[0, 1], weights[0, 2] = 1.0, 0.5
    outputs = method.features(tuned, batch_of([row]), weights)
    for name, expected in zip(method.feature_names(tuned.depth), channels(tuned, row, method), strict=True):
        np.testing.assert_allclose(outputs[name][0].numpy(), (expected[1] + 0.5 * expected[2]).ravel(), atol=2e-4)


def test_rise_token_gradients_add_up_to_the_row_feature(tuned: Any, rows: list[TokenizedExample]) -> None:
    method = RISE()
    words, outputs = method.token_gradients(tuned, batch_of(rows)), method.features(tuned, batch_of(rows))
    whole = torch.cat(
        [method.lexical * torch.as_tensor(outputs["rh_L"]), method.semantic * torch.as_tensor(outputs["gh_L"])], 1
    )
    assert torch.allclose(words.sum(1), whole, atol=1e-4)


def test_rise_builds_no_autograd_graph(tuned: Any, rows: list[TokenizedExample]) -> None:
    captured: list[bool] = []
    hook = tuned.blocks[0].register_forward_hook(lambda *_: captured.append(torch.is_grad_enabled()))
    try:
        outputs = RISE().features(tuned, batch_of(rows))
    finally:
        hook.remove()
    assert captured == [False]
    assert not any(torch.as_tensor(block).requires_grad for block in outputs.values())


def test_certain_tokens_have_zero_residual(tuned: Any) -> None:
    """Where the softmax is the answer to the last bit, r is 0 and stays it; elsewhere nothing is NaN."""
    row = encoded(tuned, [("why", "a b c 0 1 2")])[0]
    with torch.no_grad():
        best = tuned.lm(torch.tensor([row.ids])).logits[0].argmax(-1).tolist()
    sure = TokenizedExample((*row.ids[: row.n_prompt], best[row.n_prompt - 1]), row.n_prompt)
    result = RISE(temperature=1e-4).factors(tuned, batch_of([sure, row]))
    assert not bool(result.r[0].any()) and not bool(result.g[0].any())
    assert all(bool(part.isfinite().all()) for part in result)
    assert bool(result.r[1].any())


# — sketches


def kernel(tuned: Any, rows: list[TokenizedExample], method: RISE) -> torch.Tensor:
    outputs = method.features(tuned, batch_of(rows))
    rh = torch.as_tensor(outputs[method.feature_names(tuned.depth)[0]])
    return rh @ rh.T


def test_sketch_error_falls_with_width(tuned: Any, rows: list[TokenizedExample]) -> None:
    """A count sketch of width k misses an inner product of unit vectors by √(2/k) at most, and on no side.

    Pagh and Pham's bound; a sum over n × n' pairs of tokens misses by at most as much for each.
    """
    exact = kernel(tuned, rows, RISE(**EXACT))
    pairs = torch.tensor([[a.n_response * b.n_response for b in rows] for a in rows])
    off = ~torch.eye(len(rows), dtype=torch.bool)
    worst = {}
    for width in (16, 64, 256):
        method = [RISE(states=0, errors=0, residuals=width, seed=seed) for seed in range(20)]
        misses = torch.stack([(kernel(tuned, rows, one) - exact) / pairs for one in method])[:, off]
        worst[width] = float(misses.square().mean().sqrt())
        assert worst[width] < math.sqrt(2 / width)
        assert abs(float(misses.mean())) < worst[width] / 2
    assert worst[256] < worst[64] < worst[16]


def test_sketch_has_a_fixed_size(tuned: Any, rows: list[TokenizedExample]) -> None:
    outputs = RISE(states=16, residuals=64, errors=8).features(tuned, batch_of(rows))
    assert [tuple(torch.as_tensor(block).shape) for block in outputs.values()] == [(8, 1024), (8, 128)]


def test_sketch_as_wide_as_the_input_is_exact(tuned: Any, rows: list[TokenizedExample]) -> None:
    wide = RISE(states=32, residuals=384, errors=99).features(tuned, batch_of(rows))
    exact = RISE(**EXACT).features(tuned, batch_of(rows))
    pairs = zip(wide.values(), exact.values(), strict=True)
    assert all(torch.equal(torch.as_tensor(one), torch.as_tensor(other)) for one, other in pairs)


def test_sketch_depends_on_the_seed(tuned: Any, rows: list[TokenizedExample]) -> None:
    outputs = (RISE(residuals=32, seed=seed).features(tuned, batch_of(rows)) for seed in (1, 1, 2))
    first, again, other = (next(iter(blocks.values())) for blocks in outputs)
    assert torch.equal(torch.as_tensor(first), torch.as_tensor(again))
    assert not torch.allclose(torch.as_tensor(first), torch.as_tensor(other))


def test_index_time_options_must_match_the_index(tuned: Any, index: Index) -> None:
    with pytest.raises(StoreError, match=re.escape("temperature: the index has 0.1, but 1.0 was given")):
        trace_queries(index, tuned, QUERIES, method="rise:temperature=1")
    query_rows = [
        trace_queries(index, tuned, QUERIES, method=f"rise:semantic={by}", score_tokens=False) for by in (0, 2)
    ]
    assert not torch.allclose(query_rows[0].queries[0].scores, query_rows[1].queries[0].scores)


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ("rise:states=-1", "rise: states is below 0"),
        ("rise:support=-2", "rise: support is below 0"),
        ("rise:temperature=0", "rise: temperature is not above 0"),
        ("rise:temperature=nan", "rise: temperature is not a number"),
        ("rise:mass=1.5", "rise: mass is not between 0 and 1"),
        ("rise:temperature=cold", "rise: temperature is not a number"),
        ("embedding:what=all", "embedding: invalid value for `what`"),
    ],
)
def test_invalid_text_method_options_raise(spec: str, what: str) -> None:
    with pytest.raises(OptionError) as caught:
        get_method(spec)
    assert caught.value.what == what
    assert caught.value.do


# — tracing


@pytest.mark.parametrize("by", ["rise", "embedding", "tfidf"])
def test_training_row_used_as_query_ranks_first(tuned: Any, index: Index, by: str) -> None:
    for place, (prompt, response) in enumerate(PAIRS[:7]):  # the eighth has no word of two letters but the prompt's
        result = trace_queries(index, tuned, [Query(prompt, response)], method=by, top_k=3).queries[0].rows[0]
        assert result.position == place
        assert result.score == pytest.approx(1, abs=2e-3)
        assert bool(result.tokens) == (by == "rise")


def test_rise_top_scoring_token_is_in_the_span(tuned: Any, index: Index) -> None:
    query = Query("who makes honey", "it is made by beetles", span="beetles")
    result = trace_queries(index, tuned, [query], method="rise", top_k=8).queries[0]
    row = next(result for result in result.rows if "beetles" in result.example.response)
    strongest = max(row.tokens, key=lambda token: token.score).text.strip()
    assert strongest and strongest in "beetles"


# — texts


def test_text_methods_read_all_but_the_system_prompt() -> None:
    roles = ("system", "user", "assistant", "user", "assistant")
    row = Example(tuple({"role": role, "content": f"{role}{n}"} for n, role in enumerate(roles)))
    assert row_text(row) == "user1 assistant2 user3 assistant4"
    assert row_text(row, "prompt") == "user1 assistant2 user3"
    assert row_text(row, "answer") == "assistant4"


def counted(text: str) -> Counter[str]:
    return Counter(re.findall(r"\b\w\w+\b", text.lower()))


def test_tfidf_matches_its_formula(tuned: Any, index: Index) -> None:
    rows = [counted(f"{prompt} {response}") for prompt, response in PAIRS]
    idf = {w: math.log((1 + len(rows)) / (1 + sum(w in row for row in rows))) + 1 for row in rows for w in row}
    rare = [{w: n * idf[w] for w, n in row.items()} for row in rows]
    expected = np.zeros((len(QUERIES), len(rows)))
    for q, query in enumerate(QUERIES):
        query_rows = {w: n * idf[w] for w, n in counted(f"{query.prompt} {query.response}").items() if w in idf}
        for place, row in enumerate(rare):
            dot = sum(weight * row.get(w, 0) for w, weight in query_rows.items())
            expected[q, place] = dot / math.hypot(*query_rows.values()) / math.hypot(*row.values())
    np.testing.assert_allclose(scores(get_method("tfidf"), tuned, index), expected, atol=1e-6)


def test_tfidf_of_unknown_words_is_zero(tuned: Any, index: Index) -> None:
    assert not scores(get_method("tfidf"), tuned, index, [Query("zebra", "giraffe")]).any()


class Wordless:
    """An index whose rows have no words."""

    def examples(self) -> list[Example]:
        return [make_example("?", "!"), make_example("🙂", "🙃")]

    def __len__(self) -> int:
        return 2


def test_tfidf_of_rows_without_words_is_zero() -> None:
    result = get_method("tfidf").scores(QueryFeatures(("who",), ("me",), {}), Wordless())  # type: ignore[arg-type]
    assert result.tolist() == [[0, 0]]


# — the sentence encoder


def test_embeddings_match_sentence_transformers() -> None:
    """Against sentence-transformers itself: one by one, batched, empty, long beyond its window, hostile."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    folder = Path(sentence_transformers.__file__).parents[1] / embedding.PACKAGE / "model"
    texts = ["Who makes honey?", "", "<script>alert(1)</script>", "🙂 שלום", "honey " * 400, "Bees make honey."] * 7
    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu").encode(texts)
    ours = embed(texts)
    assert ours.shape == (42, 384)
    expected = torch.tensor(theirs) / torch.tensor(theirs).norm(dim=1, keepdim=True)
    assert torch.allclose(ours, expected, atol=1e-5)


def test_embedding_score_is_the_cosine_of_the_texts(tuned: Any, index: Index) -> None:
    rows = embed([f"{prompt} {response}" for prompt, response in PAIRS]).numpy()
    query_rows = embed([f"{query.prompt} {query.response}" for query in QUERIES]).numpy()
    np.testing.assert_allclose(scores(Embedding(), tuned, index), query_rows @ rows.T, atol=2e-3)


def test_embedding_of_prompt_or_answer_only() -> None:
    rows = [make_example("Who makes honey?", "A captain."), make_example("Who steers a ship?", "A captain.")]
    blocks = {what: get_method(f"embedding:what={what}").text_features(rows) for what in ("prompt", "answer", "both")}
    same = {what: float(torch.as_tensor(outputs[f"text_{what}"]).prod(0).sum()) for what, outputs in blocks.items()}
    assert same["answer"] == pytest.approx(1, abs=1e-5)
    assert same["prompt"] < same["both"] < 1


def test_embedding_ranks_paraphrase_above_shared_words() -> None:
    doctor, physician, wood = embed(
        ["The doctor treated the patient.", "A physician cared for someone ill.", "The patient painter treated wood."]
    )
    assert doctor @ physician > doctor @ wood


def test_trace_embeds_only_the_queries(tuned: Any, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def count(texts: Any) -> Any:
        read.append(len(texts))
        return embed(texts)

    monkeypatch.setattr(embedding, "embed", count)
    trace_queries(index, tuned, QUERIES, method="embedding")
    assert read == [3]


def test_missing_encoder_error_says_what_to_install(
    tuned: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "PACKAGE", "no_such_package")
    embedding._encoder.cache_clear()
    with pytest.raises(ModelError, match="the sentence encoder is not installed") as caught:
        build_index(tuned, data, tmp_path / "idx", [Embedding()])
    assert "pip install" in caught.value.do
    embedding._encoder.cache_clear()


def test_encoder_package_is_not_imported() -> None:
    embed(["a word"])
    assert embedding.PACKAGE not in sys.modules
