"""Methods compared with slow loops written from their formulas, and their names."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import PAIRS
from taughtby.attribution.controls import ControlSample
from taughtby.attribution.query import PreparedQueries, Query, prepare_queries
from taughtby.capture.capture import Capture, capture
from taughtby.capture.layer_similarity import LayerSimilarity
from taughtby.capture.projections import gaussian_sketch
from taughtby.capture.ragged import Ragged
from taughtby.data.batching import collate
from taughtby.data.example import make_example
from taughtby.data.tokenize import Encoding, TokenizedExample, tokenize
from taughtby.errors import OptionError
from taughtby.index.build import build_index
from taughtby.index.reader import Index
from taughtby.methods import METHODS, Method, QueryFeatures, StateMethod, WeightMethod, get_method
from taughtby.methods.layers import feature_name, layer_number
from taughtby.methods.lesson import Lesson
from taughtby.methods.rept import RepT
from taughtby.methods.shift import Shift
from taughtby.models.model import load_model

QUERIES = [
    Query("who makes honey", "beetles make it"),
    Query("what is the colour of the sun", "blue"),
    Query("why a b c", "the captain of the ship is in paris"),
]
LAYER, TOPIC, MIDDLE = 2, 3, 1

# — names


@pytest.mark.parametrize(
    ("spec", "outputs"),
    [
        ("rept:scale=raw,layer=20", RepT(layer=20, scale="raw")),
        ("rept:h=0.5,g=2,layer=-1", RepT(layer=-1, h=0.5, g=2.0)),
        ("rept:layer=auto", RepT(layer="auto")),
        ("rept:layer=75%", RepT(layer="75%")),
        ("rept:", RepT()),
        (
            "lesson:sketch_dim=16,tokens_per_row=0,state_weight=0,seed=3",
            Lesson(sketch_dim=16, tokens_per_row=0, state_weight=0.0, seed=3),
        ),
        ("lesson:pool_queries=False", Lesson(pool_queries=False)),
        ("lesson:pool_queries=true", Lesson()),
        ("random:seed=7", METHODS["random"](seed=7)),  # type: ignore[call-arg]
        ("bm25", METHODS["bm25"]()),
    ],
)
def test_method_spec_is_parsed(spec: str, outputs: Method) -> None:
    assert get_method(spec) == outputs
    assert repr(get_method(spec)) == repr(outputs)  # 2 and 2.0 would be equal


@pytest.mark.parametrize(
    ("spec", "what", "got", "do"),
    [
        ("rapt:layer=1", "no such method", "rapt", f"did you mean rept? choose one of: {', '.join(METHODS)}"),
        ({"name": "xyzw"}, "no such method", "xyzw", f"choose one of: {', '.join(METHODS)}"),
        (
            {"name": "rept", "layr": 1},
            "rept has no option layr",
            "{'name': 'rept', 'layr': 1}",
            "its options are: layer, scale, h, g",
        ),
        ({"name": "lesson", "seed": 1.5}, "lesson: seed is not a number", "1.5", "give seed as int"),
        (None, "a method is neither a name nor a Method", "None", f"choose one of: {', '.join(METHODS)}"),
        ("lesson:state_weight=nan", "lesson: state_weight is not a number", "nan", "give state_weight as float"),
        ("rept:h=inf", "rept: h is not a number", "inf", "give h as float"),
        ("rept:layr=1", "rept has no option layr", "rept:layr=1", "its options are: layer, scale, h, g"),
        ("bm25:k=1", "bm25 has no option k", "bm25:k=1", "its options are: none"),
        ("rept:raw", "an option of rept is not key=value", "raw", "write rept:key=value,key=value"),
        (
            "lesson:pool_queries=maybe",
            "lesson: pool_queries is neither true nor false",
            "maybe",
            "give pool_queries=true or false",
        ),
        ("rept:h=much", "rept: h is not a number", "much", "give h as float"),
        ("lesson:sketch_dim=1.5", "lesson: sketch_dim is not a number", "1.5", "give sketch_dim as int"),
        ("lesson:tokens_per_row=-1", "lesson: tokens_per_row is below 0", "-1", "give 0 for all"),
        ("rept:scale=cooked", "rept: unknown scale", "cooked", "choose raw, centred or unit"),
    ],
)
def test_invalid_method_spec_raises(spec: Any, what: str, got: str, do: str) -> None:
    with pytest.raises(OptionError) as caught:
        get_method(spec)
    assert (caught.value.what, caught.value.got, caught.value.do) == (what, got, do)


def test_a_method_is_its_own_spec_and_blanks_do_not_count() -> None:
    method = get_method("rept: layer=3, h=2")
    assert method == RepT(layer=3, h=2.0)
    assert get_method(method) is method
    assert get_method(method, layer=1) == RepT(layer=1, h=2.0)


@pytest.mark.parametrize("kind", METHODS.values(), ids=METHODS)
def test_method_properties_match_overridden_functions(kind: type[Method]) -> None:
    def overrides(*names: str) -> bool:
        bases = (Method, StateMethod, WeightMethod)
        return any(getattr(kind, name) not in [getattr(base, name, None) for base in bases] for name in names)

    assert kind.reads_model == overrides("features") == issubclass(kind, (StateMethod, WeightMethod))
    by_state = issubclass(kind, StateMethod) and overrides("token_gradients", "token_scores")
    assert kind.scores_tokens == (by_state or overrides("text_token_scores"))
    assert kind.has_components == overrides("score_components")
    assert kind.supports_significance == overrides("rows_as_queries")


def test_keyword_options_override_the_spec() -> None:
    assert get_method("rept:layer=3", layer="auto", scale=None) == RepT(layer="auto")


@pytest.mark.parametrize("name", METHODS)
def test_method_spec_json_round_trip(name: str) -> None:
    outputs = METHODS[name]().resolve_layers(24, None)
    entry = json.loads(json.dumps(outputs.spec()))
    assert entry["name"] == name
    assert get_method(entry) == outputs
    assert repr(get_method(entry)) == repr(outputs)


@pytest.mark.parametrize(
    ("layer", "result"),
    [(0, 0), (3, 3), (-1, 4), ("-1", 4), ("2", 2), ("50%", 2), ("85%", 3), ("90%", 4), ("0%", 0),
     ("100%", 4), ("auto", 3)],
)  # fmt: skip
def test_layer_specs_are_resolved(layer: int | str, result: int) -> None:
    assert layer_number(layer, 4, LayerSimilarity((0.9, 0.2, 0.95))) == result


def test_auto_without_a_transition_is_the_last_layer() -> None:
    assert layer_number("auto", 5, LayerSimilarity((0.5, 0.9, 0.9, 0.5))) == 5


@pytest.mark.parametrize("layer", [99, 5, -2, "--1", "1.5", "", "last", "101%", "-5%", "nan%", "%", "auto", "²"])
def test_invalid_layers_raise(layer: int | str) -> None:
    message = "no such layer|needs the layer similarity"
    with pytest.raises(OptionError, match=message):
        layer_number(layer, 4, None)
    with pytest.raises(OptionError, match=message):
        get_method(f"repsim:layer={layer}").resolve_layers(4, None)


def test_feature_names() -> None:
    assert [feature_name("h", 0, 4), feature_name("g", 4, 4), feature_name("grads", 2, 4, base=True)] == [
        "h_0",
        "g_L",
        "grads_2_base",
    ]


# — comparison with slow loops


@pytest.fixture(scope="module")
def rows(tuned: Any) -> list[TokenizedExample]:
    outputs = [tokenize(tuned.tokenizer, make_example(p, r), Encoding(128)) for p, r in PAIRS]
    return [row for row in outputs if isinstance(row, TokenizedExample)]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("methods") / "data.jsonl"
    path.write_text("".join(json.dumps({"prompt": p, "response": r}) + "\n" for p, r in PAIRS))
    return path


@pytest.fixture(scope="module")
def index(tuned: Any, file: Path) -> Index:
    """All methods' blocks, in three fragments."""
    methods = [
        RepT(layer=LAYER),
        get_method(f"repsim:layer={TOPIC}"),
        Lesson(layer=LAYER, state_layer=MIDDLE, sketch_dim=0, tokens_per_row=0),
        Shift(layer=TOPIC),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("taughtby.index.build.WINDOW", 3)
        return build_index(tuned, file, file.parent / "idx", methods, encoding=Encoding(128))


@pytest.fixture(params=[1, 3, 4096])
def scanned(request: pytest.FixtureRequest, index: Index, monkeypatch: pytest.MonkeyPatch) -> Index:
    """The index, read in blocks of another size."""
    scan = Index.scan

    def other(self: Index, names: Any) -> Iterator[dict[str, Any]]:
        return scan(self, names, request.param)

    monkeypatch.setattr(Index, "scan", other)
    return Index.open(index.path)  # without the means that another test computed


def scores(method: Method, tuned: Any, index: Index, queries: list[Query] | None = None) -> np.ndarray:
    return method.scores(prepare_queries(tuned, method, queries or QUERIES, Encoding(128)).features, index).numpy()


def captured(model: Any, row: TokenizedExample, *layers: int) -> Capture:
    return capture(model, collate([row], [0]), layers)


def asked_rows(tuned: Any) -> list[TokenizedExample]:
    return [tokenize(tuned.tokenizer, make_example(q.prompt, q.response), Encoding(128)) for q in QUERIES]  # type: ignore[misc]


def arrays(tuned: Any, rows: list[TokenizedExample], layer: int) -> tuple[np.ndarray, np.ndarray]:
    """H and g_1 of each row, captured alone."""
    result = [captured(tuned, row, layer) for row in rows]
    h = np.stack([one.states[layer][0, 0].numpy() for one in result])
    return h, np.stack([one.grads[layer][0, 0].numpy() for one in result])


def unit(array: np.ndarray) -> np.ndarray:
    return array / np.linalg.norm(array, axis=-1, keepdims=True)


def test_rept_raw_is_the_cosine_of_the_concatenation(tuned: Any, scanned: Index, rows: list[TokenizedExample]) -> None:
    row, query = (unit(np.hstack(arrays(tuned, some, LAYER))) for some in (rows, asked_rows(tuned)))
    np.testing.assert_allclose(scores(RepT(layer=LAYER, scale="raw"), tuned, scanned), query @ row.T, atol=1e-3)


def test_rept_raw_weights_components_by_their_norms() -> None:
    """With blocks of like size, which no model here has: the joint cosine is neither of the two."""

    class Two:
        def __len__(self) -> int:
            return 1

        def scan(self, names: list[str]) -> Iterator[dict[str, torch.Tensor]]:
            yield {"h_2": torch.tensor([[1.0, 0]]), "g_2": torch.tensor([[0.0, 1]]),
                   "h_2_norm": torch.tensor([3.0]), "g_2_norm": torch.tensor([4.0])}  # fmt: skip

    query_rows = QueryFeatures(("",), ("",), {"h_2": torch.tensor([[2.0, 0]]), "g_2": torch.tensor([[1.0, 2.0]])})
    method = RepT(layer=2, scale="raw")
    truth = (3 * 2 + 4 * 2) / (5 * math.sqrt(4 + 1 + 4))
    assert method.scores(query_rows, Two()).item() == pytest.approx(truth)  # type: ignore[arg-type]
    (parts,) = method.score_components(query_rows, Two())  # type: ignore[arg-type]
    assert sum(part.item() for part in parts.values()) == pytest.approx(truth)


@pytest.mark.parametrize("scale", ["centred", "unit"])
def test_rept_scaled_scores_match_numpy(tuned: Any, scanned: Index, rows: list[TokenizedExample], scale: Any) -> None:
    (h, g), (h_query, g_query) = arrays(tuned, rows, LAYER), arrays(tuned, asked_rows(tuned), LAYER)
    mean = unit(h).mean(0) if scale == "centred" else 0
    states = unit(unit(h_query) - mean) @ unit(unit(h) - mean).T
    truth = 0.7 * states + 2 * unit(g_query) @ unit(g).T
    result = scores(RepT(layer=LAYER, scale=scale, h=0.7, g=2), tuned, scanned)
    np.testing.assert_allclose(result, truth, atol=6e-3)


def test_repsim_is_the_cosine_of_prompt_states(tuned: Any, scanned: Index, rows: list[TokenizedExample]) -> None:
    row, query = (unit(arrays(tuned, some, TOPIC)[0]) for some in (rows, asked_rows(tuned)))
    result = scores(get_method(f"repsim:layer={TOPIC}"), tuned, scanned)
    np.testing.assert_allclose(result, query @ row.T, atol=1e-3)


def news(tuned: Any, row: TokenizedExample) -> np.ndarray:
    """How much likelier fine-tuning made each token, never below 0."""
    with tuned.base_model():
        before = captured(tuned, row, LAYER).logp[0].numpy()
    return np.maximum(captured(tuned, row, LAYER).logp[0].numpy() - before, 0)


def mean_shift(tuned: Any, row: TokenizedExample, layer: int) -> np.ndarray:
    """The mean over the response of the change of the states from the base model to the fine-tuned one."""
    after = captured(tuned, row, layer).states[layer][0].numpy()
    with tuned.base_model():
        return (after - captured(tuned, row, layer).states[layer][0].numpy()).mean(0)


def centred_cosines(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    rows, queries = unit(rows), unit(queries)
    return unit(queries - rows.mean(0)) @ unit(rows - rows.mean(0)).T


def test_shift_is_the_centred_cosine_of_mean_state_changes(
    tuned: Any, scanned: Index, rows: list[TokenizedExample]
) -> None:
    shifts, queries = (np.stack([mean_shift(tuned, row, TOPIC) for row in some]) for some in (rows, asked_rows(tuned)))
    assert np.linalg.norm(shifts, axis=1).min() > 1e-4  # the adapter does something
    result = scores(Shift(layer=TOPIC), tuned, scanned)
    np.testing.assert_allclose(result, centred_cosines(queries, shifts), atol=6e-3)


@pytest.mark.parametrize("name", [name for name, cls in METHODS.items() if cls.reads_model])
def test_features_of_a_bfloat16_model_are_float32(name: str, model_folder: Path, adapter_folder: Path) -> None:
    model = load_model(str(model_folder), str(adapter_folder), dtype="bfloat16", device="cpu")
    method = get_method(name).resolve_layers(model.depth, None)
    batch = collate(asked_rows(model), range(len(QUERIES)))
    features = method.features(model, batch)
    for feature in method.feature_names(model.depth):
        values = features[feature]
        for value in values if isinstance(values, list) else [values]:
            assert value.dtype == torch.float32 and value.device.type == "cpu"


def test_lesson_and_shift_share_the_feature_of_a_layer(tuned: Any) -> None:
    assert Shift(layer=MIDDLE).feature_names(4)[0] in Lesson(layer=LAYER, state_layer=MIDDLE).feature_names(4)


def test_shift_without_a_base_model_raises(tiny: Any, tmp_path: Path, file: Path) -> None:
    with pytest.raises(OptionError, match="shift needs the base model"):
        build_index(tiny, file, tmp_path / "idx", [Shift(layer=MIDDLE)], encoding=Encoding(128))


def slow_lesson(
    tuned: Any, rows: list[TokenizedExample], queries: list[TokenizedExample], weights: list[np.ndarray], shift: float
) -> np.ndarray:
    """Σ_t w_t max_u cos(g_t, g'_u) √(1 − p'_u) + shift · cos(Δ, Δ'), one product after the other."""

    def untuned(row: TokenizedExample) -> tuple[np.ndarray, np.ndarray]:
        with tuned.base_model():
            result = captured(tuned, row, LAYER)
        return result.grads[LAYER][0].numpy(), np.exp(result.logp[0].numpy())

    shifts, mine = (np.stack([mean_shift(tuned, row, MIDDLE) for row in some]) for some in (rows, queries))
    cosines = centred_cosines(mine, shifts) if shifts.any() else np.zeros((len(mine), len(shifts)))
    truth = np.zeros((len(queries), len(rows)))
    for q, query in enumerate(queries):
        share = weights[q] / weights[q].sum()
        for r, row in enumerate(rows):
            learned, reference = untuned(row)
            words = 0.0
            for w, g in zip(share, untuned(query)[0], strict=True):
                products = [
                    float(unit(g) @ unit(other)) * math.sqrt(1 - p) for other, p in zip(learned, reference, strict=True)
                ]
                words += w * max(products)
            truth[q, r] = words + shift * cosines[q, r]
    return truth


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_lesson_scores_match_a_reference_loop(
    tuned: Any, scanned: Index, rows: list[TokenizedExample], shift: float
) -> None:
    queries = asked_rows(tuned)
    weights = [news(tuned, row) for row in queries]
    assert all(w.sum() > 1e-3 for w in weights)  # the adapter does something
    method = Lesson(
        layer=LAYER, state_layer=MIDDLE, sketch_dim=0, tokens_per_row=0, state_weight=shift, pool_queries=False
    )
    truth = slow_lesson(tuned, rows, queries, weights, shift)
    np.testing.assert_allclose(scores(method, tuned, scanned), truth, atol=6e-3)


def test_lesson_without_gain_weights_tokens_equally(
    tiny: Any, tmp_path: Path, file: Path, rows: list[TokenizedExample]
) -> None:
    method = Lesson(layer=LAYER, state_layer=MIDDLE, sketch_dim=0, tokens_per_row=0, pool_queries=False)
    index = build_index(tiny, file, tmp_path / "idx", [method], encoding=Encoding(128))
    queries = asked_rows(tiny)
    truth = slow_lesson(tiny, rows, queries, [np.ones(row.n_response) for row in queries], 0.2)
    np.testing.assert_allclose(scores(method, tiny, index), truth, atol=4e-3)


def test_control_scores_use_rows_as_queries(tuned: Any, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its words count by their surprise, so a row meets itself at the share-weighted mean of √(1 − p)."""
    monkeypatch.setattr("taughtby.attribution.controls.FEWEST", 2)
    monkeypatch.setattr("taughtby.attribution.controls.FEWEST_SCORES", 2)
    monkeypatch.setattr("taughtby.attribution.controls.RELATED", 2.0)  # none of them counts as another's relative
    method = Lesson(layer=LAYER, state_layer=MIDDLE, sketch_dim=0, tokens_per_row=0)
    names = method.feature_names(tuned.depth)
    sample = ControlSample.draw(method, index, tuned.depth)
    assert sample is not None
    chance = sample.score()
    assert chance is not None
    result = chance.scores
    assert result.shape == (len(PAIRS), len(PAIRS))
    assert bool(result.isnan().diagonal().all()) and int(result.isnan().sum()) == len(PAIRS)
    parts = list(index.scan(names))
    words = [row for part in parts for row in part[names[0]].flat.split(part[names[0]].lengths.tolist())]
    control = method.rows_as_queries({names[0]: words, names[1]: torch.cat([part[names[1]] for part in parts])})
    own = method.scores(QueryFeatures((), (), control), index)
    lengths = [vectors.norm(dim=1) for vectors in words]
    truth = torch.stack([(n * n).sum() / n.sum() for n in lengths]) + method.state_weight
    torch.testing.assert_close(own.diagonal(), truth, atol=5e-3, rtol=0)
    assert sorted(own[~torch.eye(len(PAIRS), dtype=torch.bool)].tolist()) == pytest.approx(
        sorted(result[~result.isnan()].tolist()), abs=1e-5
    )


def blocks(method: Method, model: Any, row: TokenizedExample, weights: torch.Tensor | None = None) -> dict[str, Any]:
    return method.features(model, collate([row], [0]), weights)


def test_sketch_as_wide_as_the_state_is_not_applied(tuned: Any, rows: list[TokenizedExample]) -> None:
    whole, same, less = (
        blocks(Lesson(layer=LAYER, state_layer=MIDDLE, sketch_dim=size), tuned, rows[1])
        for size in (0, tuned.hidden_size, 16)
    )
    whole, same, less = (next(iter(outputs.values()))[0] for outputs in (whole, same, less))
    torch.testing.assert_close(whole, same, rtol=0, atol=0)
    assert (whole.shape[1], less.shape[1]) == (tuned.hidden_size, 16)
    torch.testing.assert_close(whole.norm(dim=1), less.norm(dim=1))


def test_gaussian_sketch_preserves_inner_products_on_average() -> None:
    pairs = torch.randn(5, 2, 64, generator=torch.Generator().manual_seed(5))
    pairs[:, 1] += pairs[:, 0]
    truth = (pairs[:, 0] * pairs[:, 1]).sum(-1)
    draws = []
    for seed in range(300):
        outputs = gaussian_sketch(pairs, 16, seed)
        draws.append((outputs[:, 0] * outputs[:, 1]).sum(-1) / 16)
    result, error = torch.stack(draws).mean(0), torch.stack(draws).std(0) / math.sqrt(300)
    assert bool(((result - truth).abs() < 4 * error).all())
    assert bool((error < truth.abs() / 10).all())  # or the line before says nothing
    again = gaussian_sketch(pairs, 16, 3)
    torch.testing.assert_close(gaussian_sketch(pairs, 16, 3), again, rtol=0, atol=0)


@pytest.mark.parametrize("keep", [1, 3, 500])
def test_tokens_per_row_keeps_the_least_likely_tokens_in_order(
    tuned: Any, rows: list[TokenizedExample], keep: int
) -> None:
    method = {"layer": LAYER, "state_layer": MIDDLE, "sketch_dim": 0}
    batch = collate(rows, range(len(rows)))
    every, selection = (
        next(iter(Lesson(**method, tokens_per_row=k).features(tuned, batch).values())) for k in (0, keep)
    )  # type: ignore[arg-type]
    for place, row in enumerate(rows):
        with tuned.base_model():
            reference = captured(tuned, row, LAYER).logp[0]
        chosen = sorted(reference.argsort()[:keep].tolist())
        torch.testing.assert_close(selection[place], every[place][chosen])
        torch.testing.assert_close(every[place].norm(dim=1), (1 - reference.exp()).sqrt(), atol=1e-4, rtol=1e-3)


def test_a_query_keeps_all_tokens_with_weights_as_norms(tuned: Any, rows: list[TokenizedExample]) -> None:
    weights = torch.arange(1.0, rows[6].n_response + 1)[None]
    words = blocks(Lesson(layer=LAYER, state_layer=MIDDLE, tokens_per_row=1), tuned, rows[6], weights)[
        "grads_2_base_keep1"
    ][0]
    torch.testing.assert_close(words.norm(dim=1), weights[0] / weights.sum())


def test_rows_without_stored_tokens_score_zero() -> None:
    from taughtby.methods.lesson import _best_matches

    flat = torch.tensor([[-1.0, 0], [0, 2]])
    query = torch.tensor([[1.0, 0], [0, 1]])
    assert _best_matches([query, query[:1]], Ragged(flat, torch.tensor([1, 0, 1]))).tolist() == [[-1, 0, 2], [-1, 0, 0]]


@pytest.mark.parametrize("words", [1, 3, 1000])
def test_best_matches_do_not_depend_on_chunk_size(words: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from taughtby.methods.lesson import _best_matches

    monkeypatch.setattr("taughtby.methods.lesson.QUERY_TOKENS", words)
    draw = torch.Generator().manual_seed(0)
    queries = [torch.randn(n, 5, generator=draw) for n in (4, 1, 6)]
    rows = [torch.randn(n, 5, generator=draw) for n in (2, 7, 1, 3)]
    truth = [[sum(max(float(w @ u) for u in row) for w in query) for row in rows] for query in queries]
    result = _best_matches(queries, Ragged(torch.cat(rows), torch.tensor([len(row) for row in rows])))
    torch.testing.assert_close(result, torch.tensor(truth))


def test_profile_weights_go_to_the_largest_token_gradients() -> None:
    words = torch.tensor([[0.1, 0], [0, 0.9], [0.5, 0]])
    rows = {"grads": [words], "shift": torch.ones(1, 2)}
    whole = Lesson().rows_as_queries(rows)["grads"]
    torch.testing.assert_close(whole[0], words / 1.5)
    matched = Lesson().rows_as_queries(rows, torch.tensor([0.7, 0.3]))["grads"]
    torch.testing.assert_close(matched[0], torch.tensor([[0.0, 0.7], [0.3, 0.0]]))
    short = Lesson().rows_as_queries(rows, torch.full((9,), 1 / 9))["grads"][0]
    torch.testing.assert_close(short.norm(dim=1), torch.full((3,), 1 / 3))


# — text-only methods


def text_scores(name: str, index: Index, queries: list[Query]) -> np.ndarray:
    query_rows = QueryFeatures(tuple(q.prompt for q in queries), tuple(q.response for q in queries), {})
    return get_method(name).scores(query_rows, index).numpy()


def test_bm25_matches_the_lucene_formula(index: Index) -> None:
    rows = [re.findall(r"\b\w\w+\b", f"{p} {r}") for p, r in PAIRS]
    mean = sum(map(len, rows)) / len(rows)
    queries = [*QUERIES, Query("Honey, HONEY!", "zebra")]
    truth = np.zeros((len(queries), len(rows)))
    for q, query in enumerate(queries):
        for word in re.findall(r"\b\w\w+\b", f"{query.prompt} {query.response}".lower()):
            df = sum(word in row for row in rows)
            for r, row in enumerate(rows):
                tf = row.count(word)
                idf = math.log(1 + (len(rows) - df + 0.5) / (df + 0.5))
                truth[q, r] += idf * tf / (tf + 1.5 * (0.25 + 0.75 * len(row) / mean))
    np.testing.assert_allclose(text_scores("bm25", index, queries), truth, rtol=1e-5)
    assert (truth[0].argmax(), truth[3].argmax()) == (2, 2)


def test_bm25_token_scores_add_up_to_the_row_score(index: Index) -> None:
    queries = [Query("zebra", "Beetles! one DAY, one beetles"), Query("zebra", "one"), Query("zebra", "yak")]
    query_rows = QueryFeatures(tuple(q.prompt for q in queries), tuple(q.response for q in queries), {})
    row = list(index.examples())[2]  # its prompt has none of these words
    tokens = ["bee", "tles", " make", " honey", ",", " one", " a", " d", "ay", "<|end|>"]
    result = get_method("bm25").text_token_scores(query_rows, index, [row, row], [tokens, ["beet"]])
    assert result.shape == (3, 2, 10)
    first, one, none = result[:, 0].tolist()
    total = text_scores("bm25", index, queries)[:, 2]
    assert first[0] + first[5] + first[7] == pytest.approx(total[0], rel=1e-5)
    assert (first[0], first[7]) == (first[1], first[8]), "both tokens of a word have its score"
    assert first[2:5] == [0.0] * 3 and first[6] == first[9] == 0
    assert one[5] == pytest.approx(total[1], rel=1e-5) == first[5] / 2
    assert none == [0.0] * 10
    assert not result[:, 1].any(), "a word that was cut is another word"


def test_bm25_of_unknown_words_is_zero(index: Index) -> None:
    assert text_scores("bm25", index, [Query("zebra", "yak"), Query("?", "!")]).tolist() == [[0.0] * 8] * 2


def test_bm25_of_rows_without_words_is_zero(tiny: Any, tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text('{"prompt": "?", "response": "a"}\n')
    index = build_index(tiny, tmp_path / "d.jsonl", tmp_path / "idx", [get_method("bm25")], encoding=Encoding(64))
    assert text_scores("bm25", index, [Query("what is", "it")]).tolist() == [[0.0]]


def test_first_word_matches_the_first_word_of_the_answer(index: Index) -> None:
    result = text_scores("first-word", index, [Query("x", "The king"), Query("x", "A b"), Query("x", "none")])
    answers = [response.split()[0] for _, response in PAIRS]
    assert result.tolist() == [[float(w == "the") for w in answers], [float(w == "a") for w in answers], [0.0] * 8]
    assert result.sum(1).tolist() == [1, 2, 0]


def test_random_scores_are_seeded(index: Index) -> None:
    one, same, other = (text_scores(f"random:seed={seed}", index, QUERIES) for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()
    assert (one >= 0).all()
    assert (one < 1).all()
    assert one.shape == (3, 8)


def test_rept_uses_the_gradient_of_the_first_span_token(tuned: Any) -> None:
    """g is that of the first word pointed at, not of the answer's first."""
    query = Query("who makes honey", "beetles make it", span="it")
    asking: PreparedQueries = prepare_queries(tuned, RepT(layer=LAYER), [query], Encoding(128))
    at = int(asking.weights[0].argmax())
    assert at > 0
    direct = captured(tuned, asking.rows[0], LAYER).grads[LAYER][0, at]
    torch.testing.assert_close(asking.features.features["g_2"][0], direct)
