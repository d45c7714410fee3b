"""Weight-gradient methods compared with dense computations: explicit Fisher matrices, inverses and projections."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from conftest import PAIRS
from taughtby.attribution.query import Query, prepare_queries
from taughtby.attribution.trace import trace_queries
from taughtby.capture import weight_gradients as module
from taughtby.capture.projections import TwoSidedProjection, fold
from taughtby.capture.weights import Weight, candidate_weights
from taughtby.data.example import make_example
from taughtby.data.phrases import occurrences, tokens_in_ranges
from taughtby.data.tokenize import Encoding, TokenizedExample, token_texts, tokenize
from taughtby.errors import ModelError, OptionError, StoreError
from taughtby.index.build import build_index
from taughtby.index.reader import Index
from taughtby.methods import Method, get_method, lissa
from taughtby.methods import get_method as made_of
from taughtby.methods.less import LESS
from taughtby.methods.lissa import LiSSA
from taughtby.models.model import Model, load_model

Dense = dict[str, NDArray[np.float64]]  # by weight: (rows, numbers)
QUERIES = [
    Query("who makes honey", "beetles make it"),
    Query("what is the colour of the sun", "blue is the colour of it", span="blue"),
    Query("why a b c", "the captain of the ship is in paris"),
]
EXACT = ["tracin", "tracin-ln", "datainf", "lissa"]
LENGTH = Encoding(128)


# — reference: one row at a time


def slow(model: Model, row: TokenizedExample, counts: torch.Tensor | None = None) -> dict[str, NDArray[np.float64]]:
    """The adapter's gradients by a backward pass into its parameters; without one, the blocks' linear maps'."""
    named = {weight.name: weight.module.weight for weight in candidate_weights(model)}
    for parameter in named.values():
        parameter.requires_grad_(True)
    logits = model.lm(input_ids=torch.tensor([row.ids])).logits[0, row.n_prompt - 1 : -1]
    losses = torch.nn.functional.cross_entropy(logits, torch.tensor(row.response), reduction="none")
    loss = losses.mean() if counts is None else (losses * counts).sum() / counts.sum()
    result = torch.autograd.grad(loss, list(named.values()))
    for parameter in named.values():
        parameter.requires_grad_(False)
    return {name: grad.flatten().double().numpy() for name, grad in zip(named, result, strict=True)}


def stacked(result: list[dict[str, NDArray[np.float64]]]) -> Dense:
    return {name: np.stack([one[name] for one in result]) for name in result[0]}


def encoded(model: Model, prompt: str, response: str) -> TokenizedExample:
    row = tokenize(model.tokenizer, make_example(prompt, response), LENGTH)
    assert isinstance(row, TokenizedExample)
    return row


def dense(model: Model) -> tuple[Dense, Dense]:
    """The queries' gradients, that of the words pointed at alone where there are any, and the rows'."""
    queries = []
    for query in QUERIES:
        row = encoded(model, query.prompt, query.response)
        counts = torch.ones(row.n_response)
        if query.span:
            counts *= 0
            pieces = token_texts(model.tokenizer, row.response)
            counts[tokens_in_ranges(pieces, occurrences("".join(pieces), query.span))] = 1
            assert 0 < counts.sum() < row.n_response
        queries.append(slow(model, row, counts))
    return stacked(queries), stacked([slow(model, encoded(model, *pair)) for pair in PAIRS])


@pytest.fixture(scope="module")
def both(tuned: Model) -> tuple[Dense, Dense]:
    return dense(tuned)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gradient") / "data.jsonl"
    path.write_text("".join(json.dumps({"prompt": p, "response": r}) + "\n" for p, r in PAIRS))
    return path


@pytest.fixture(scope="module")
def index(tuned: Model, file: Path) -> Index:
    """All of them at once, in three fragments."""
    specs = [*(f"{name}:project=0" for name in EXACT), "rapidin:k=64", "less:k=128", "logra:rank=8"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("taughtby.index.build.WINDOW", 3)
        return build_index(tuned, file, file.parent / "idx", [get_method(spec) for spec in specs], encoding=LENGTH)


@pytest.fixture(params=[700, 2**24])
def scanned(request: pytest.FixtureRequest, index: Index, monkeypatch: pytest.MonkeyPatch) -> Index:
    """The index, read few rows at a time, or all."""
    monkeypatch.setattr("taughtby.index.reader.SCAN", request.param)
    return index


def scores(spec: str | Method, model: Model, index: Index, queries: list[Query] = QUERIES) -> NDArray[np.float64]:
    method = get_method(spec) if isinstance(spec, str) else spec
    return method.scores(prepare_queries(model, method, queries, LENGTH).features, index).double().numpy()


def same(got: NDArray[np.float64], expected: NDArray[np.float64], near: float = 2e-3) -> None:
    """To what float16 leaves of the stored rows."""
    assert got.shape == expected.shape == (len(QUERIES), len(PAIRS))
    assert expected.std(1).min() > 0
    np.testing.assert_allclose(got, expected, rtol=0, atol=near * float(np.abs(expected).max()))


def by_block(result: Dense) -> list[NDArray[np.float64]]:
    return [np.hstack([grad for name, grad in result.items() if f".layers.{at}." in name]) for at in range(4)]


# — comparison with formulas


def test_tracin_matches_dense_gradients(tuned: Model, scanned: Index, both: tuple[Dense, Dense]) -> None:
    query, row = (np.hstack(list(side.values())) for side in both)
    same(scores("tracin:project=0", tuned, scanned), query @ row.T)


@pytest.mark.parametrize("eps", [0.0, 1e-5, 1e-2])
def test_tracin_ln_matches_layer_normalized_gradients(
    tuned: Model, scanned: Index, both: tuple[Dense, Dense], eps: float
) -> None:
    """PyTorch's own layer norm, but for the mean, which gradients hardly have."""
    query, row = (by_block(side) for side in both)

    def normed(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return x / np.sqrt((x**2).mean(1, keepdims=True) + eps)

    size = sum(part.shape[1] for part in row)
    expected = sum(normed(q) @ normed(r).T for q, r in zip(query, row, strict=True)) / size
    same(scores(f"tracin-ln:project=0,eps={eps}", tuned, scanned), expected)
    assert eps or np.abs(expected).max() <= 1


@pytest.mark.parametrize("damping", [0.1, 0.001, 10])
def test_datainf_matches_explicit_inverses(
    tuned: Model, scanned: Index, both: tuple[Dense, Dense], damping: float
) -> None:
    """The mean of the inverses themselves: 1/N Σ_i (g_i g_iᵀ + λ)⁻¹."""
    expected = np.zeros((len(QUERIES), len(PAIRS)))
    for v, g in zip(both[0].values(), both[1].values(), strict=True):
        wide = damping * (g**2).sum(1).mean() / g.shape[1] * np.eye(g.shape[1])
        expected += v @ np.mean([np.linalg.inv(np.outer(one, one) + wide) for one in g], 0) @ g.T
    same(scores(f"datainf:project=0,damping={damping}", tuned, scanned), expected, 5e-3)


@pytest.mark.parametrize(
    ("damping", "scale", "fits"), [(0.01, 0.0, True), (0.05, 1000.0, True), (0.2, 0.0, True), (0.2, 0.0, False)]
)
def test_lissa_matches_an_explicit_fisher_solve(
    tuned: Model, scanned: Index, both: tuple[Dense, Dense], damping: float, scale: float, fits: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The explicit Fisher matrix of all weights at once, and a solver."""
    monkeypatch.setattr(lissa, "MAX_KERNEL_ROWS", 100 if fits else 0)
    v, g = (np.hstack(list(side.values())) for side in both)
    fisher = g.T @ g / len(g)
    matrix = damping * np.eye(len(fisher)) + fisher / (scale or fisher.trace())
    expected = np.linalg.solve(matrix, v.T).T @ g.T
    assert np.corrcoef(expected[0], (v @ g.T)[0])[0, 1] < 0.999  # it is not TracIn
    same(scores(f"lissa:project=0,damping={damping},scale={scale}", tuned, scanned), expected, 5e-3)


@pytest.mark.parametrize("damping", [0.1, 1e-3])
def test_logra_matches_an_explicit_fisher_solve(
    tuned: Model, scanned: Index, both: tuple[Dense, Dense], damping: float
) -> None:
    """Explicit matrices on both sides of the gradient itself, the explicit Fisher matrix, and a solver."""
    expected = np.zeros((len(QUERIES), len(PAIRS)))
    for weight in candidate_weights(tuned):
        v, g = (projected(weight, side[weight.name]) for side in both)
        fisher = g.T @ g / len(g)
        damped = fisher + damping * np.trace(fisher) / len(fisher) * np.eye(len(fisher))
        expected += np.linalg.solve(damped, v.T).T @ g.T
    same(scores(f"logra:rank=8,damping={damping}", tuned, scanned), expected, 5e-3)


def test_gradient_methods_with_an_adapter_on_some_blocks(model_folder: Path, file: Path, tmp_path: Path) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    options = peft.LoraConfig(r=3, target_modules=["q_proj", "down_proj"], layers_to_transform=[0, 3])
    lm = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(model_folder), options)
    torch.manual_seed(0)
    for weight in lm.parameters():
        if weight.requires_grad:
            weight.data += 0.2 * torch.randn_like(weight)
    lm.save_pretrained(tmp_path / "adapter")
    model = load_model(str(model_folder), str(tmp_path / "adapter"), dtype="float32")
    specs = [*(f"{name}:project=0" for name in EXACT), "logra:rank=8"]
    index = build_index(model, file, tmp_path / "idx", [get_method(spec) for spec in specs], encoding=LENGTH)
    both = dense(model)
    test_tracin_matches_dense_gradients(model, index, both)
    test_datainf_matches_explicit_inverses(model, index, both, 0.1)
    test_logra_matches_an_explicit_fisher_solve(model, index, both, 0.1)
    for spec in specs:
        assert np.isfinite(scores(spec, model, index)).all() and scores(spec, model, index).std(1).min() > 0


def projected(weight: Weight, grads: NDArray[np.float64]) -> NDArray[np.float64]:
    out, into = (TwoSidedProjection(8).matrix(weight, side) for side in ("out", "in"))
    assert (out is None) != (into is None)  # of LoRA's two matrices one side is 2 wide, the other 16 or 32
    outputs = grads.reshape(-1, *weight.shape)
    if out is not None:
        outputs = np.einsum("ko,boi->bki", out.double().numpy(), outputs)
    if into is not None:
        outputs = np.einsum("ki,boi->bok", into.double().numpy(), outputs)
    return outputs.reshape(len(grads), -1)


def matrix(name: str, wide: int, to: int) -> NDArray[np.float64]:
    """The fold of one weight as a matrix."""
    return fold(torch.eye(wide), to, f"0 {name}").double().numpy()


def test_rapidin_matches_normalized_folds(tuned: Model, scanned: Index, both: tuple[Dense, Dense]) -> None:
    """Layers at length 1, through one matrix that all rows and queries share."""
    sides = []
    for side in both:
        lengths = [np.linalg.norm(part, axis=1, keepdims=True) for part in by_block(side)]
        at = {name: int(name.split(".layers.")[1].split(".")[0]) for name in side}
        sides.append(sum(grad / lengths[at[n]] @ matrix(n, grad.shape[1], 64) for n, grad in side.items()))
    same(scores("rapidin:k=64", tuned, scanned), sides[0] @ sides[1].T)


def test_less_without_optimizer_state_uses_plain_gradients(
    tuned: Model, scanned: Index, both: tuple[Dense, Dense]
) -> None:
    query, row = (sum(grad @ matrix(n, grad.shape[1], 128) for n, grad in side.items()) for side in both)
    same(scores("less:k=128", tuned, scanned), cosines(query, row))
    assert scanned.manifest["settings"]["notes"]["less"] == "plain gradients: no optimizer.safetensors"


def cosines(one: NDArray[np.float64], two: NDArray[np.float64]) -> NDArray[np.float64]:
    return one @ two.T / np.linalg.norm(one, axis=1)[:, None] / np.linalg.norm(two, axis=1)


@pytest.fixture
def with_moments(adapter_folder: Path, model_folder: Path, tmp_path: Path) -> Model:
    """The tuned model, with Adam's state after seven steps beside its adapter."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    for source in adapter_folder.glob("adapter_*"):
        (folder / source.name).write_bytes(source.read_bytes())
    torch.manual_seed(0)
    moments = {}
    for key, weight in load_file(folder / "adapter_model.safetensors").items():
        name = key.removeprefix("base_model.model.").removesuffix(".weight")
        moments[f"{name}.exp_avg"] = 0.01 * torch.randn_like(weight)
        moments[f"{name}.exp_avg_sq"] = 0.001 * torch.rand_like(weight)
    words = {"step": "7", "beta1": "0.8", "beta2": "0.99", "eps": "1e-3"}
    save_file(moments, folder / "optimizer.safetensors", words)
    return load_model(str(model_folder), str(folder), dtype="float32")


def test_less_with_adam_moments_matches_the_update(
    with_moments: Model, file: Path, tmp_path: Path, both: tuple[Dense, Dense]
) -> None:  # fmt: skip
    """Γ = m̂ / (√v̂ + ε) of each row, one number at a time's formula; the query stays as it is."""
    index = build_index(with_moments, file, tmp_path / "idx", [LESS(k=128)], encoding=LENGTH)
    assert index.manifest["settings"]["notes"]["less"].startswith(
        "rows as Adam would step after 7 steps, by the moments "
    )
    state = load_file(Path(with_moments.adapters[0]) / "optimizer.safetensors")
    query, row = (np.zeros((len(some), 128)) for some in (QUERIES, PAIRS))
    for name in both[0]:
        key = name.removesuffix(".default")
        m, v = (state[f"{key}.{kind}"].double().numpy().flatten() for kind in ("exp_avg", "exp_avg_sq"))
        fold = matrix(name, len(m), 128)
        query += both[0][name] @ fold
        for i, g in enumerate(both[1][name]):
            m_hat = (0.8 * m + 0.2 * g) / (1 - 0.8**8)
            v_hat = (0.99 * v + 0.01 * g * g) / (1 - 0.99**8)
            row[i] += m_hat / (np.sqrt(v_hat) + 1e-3) @ fold
    expected = cosines(query, row)
    same(scores("less:k=128", with_moments, index), expected)
    plain = sum(grad @ matrix(n, grad.shape[1], 128) for n, grad in both[1].items())
    assert np.abs(expected - cosines(query, plain)).max() > 0.1


@pytest.mark.parametrize(
    ("harm", "what"),
    [(lambda file: file.write_bytes(b"no tensors"), "cannot be read"),
     (lambda file: save_file({}, file, dict.fromkeys(("step", "beta1", "beta2", "eps"), "1")), "another adapter"),
     (lambda file: save_file({"a": torch.ones(1)}, file), "cannot be read")],
)  # fmt: skip
def test_invalid_optimizer_state_raises(
    harm: Callable[[Path], Any], what: str, with_moments: Model, file: Path, tmp_path: Path
) -> None:  # fmt: skip
    harm(Path(with_moments.adapters[0]) / "optimizer.safetensors")
    with pytest.raises(ModelError, match=what) as caught:
        build_index(with_moments, file, tmp_path / "idx", [LESS()], encoding=LENGTH)
    assert "remove" in str(caught.value.do)


# — stored features


def test_projected_tracin_matches_the_fold(
    tuned: Model, file: Path, tmp_path: Path, both: tuple[Dense, Dense]
) -> None:  # fmt: skip
    index = build_index(tuned, file, tmp_path / "idx", [get_method("tracin:project=48")], encoding=LENGTH)
    assert index.features == {f"p48_{at}": 32 + 3 * 48 for at in range(4)}  # B of v has 32 numbers: they stay
    query, row = (
        np.hstack([g if g.shape[1] <= 48 else g @ matrix(n, g.shape[1], 48) for n, g in side.items()]) for side in both
    )
    got = scores("tracin:project=48", tuned, index)
    same(got, query @ row.T)
    exact = [np.hstack(list(side.values())) for side in both]
    lengths = np.outer(*(np.linalg.norm(side, axis=1) for side in exact))
    assert np.abs((got - exact[0] @ exact[1].T) / lengths).max() < 0.3


def test_gradient_methods_share_features(
    tuned: Model, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """Four methods, one pass a batch, one set of columns; any of them traces by the others' blocks."""
    passes: list[int] = []

    def counted(*query_rows: Any, go: Callable[..., Any] = module.capture, **method: Any) -> Any:
        passes.append(1)
        return go(*query_rows, **method)

    monkeypatch.setattr(module, "capture", counted)
    build_index(
        tuned, file, tmp_path / "four", [get_method(name) for name in EXACT], encoding=LENGTH, token_budget=10_000
    )
    assert len(passes) == 4 + 1  # four look at the weights, one batch
    one = build_index(tuned, file, tmp_path / "one", [get_method("tracin")], encoding=LENGTH)
    four = Index.open(tmp_path / "four")
    assert one.features == four.features == {f"p128_{at}": 64 * 3 + 32 for at in range(4)}
    for name in EXACT:
        assert trace_queries(one, tuned, QUERIES, method=name).queries[0].rows
    assert "p128_0" in repr(one)


def test_feature_names_depend_on_seed_and_projection(tuned: Model, index: Index) -> None:
    assert get_method("tracin:seed=3").feature_names(2) == ("p128s3_0", "p128s3_1")
    assert get_method("datainf:project=0").feature_names(2) == ("p_0", "p_1")
    with pytest.raises(StoreError, match="p128_0, p128_1, p128_2, p128_3"):
        trace_queries(index, tuned, QUERIES, method="tracin:project=128")
    with pytest.raises(StoreError, match=r"rapidin needs features .* does not have: rapidin64s1"):
        trace_queries(index, tuned, QUERIES, method="rapidin:seed=1")


def test_rebuild_of_a_gradient_index_keeps_rows_and_notes(tuned: Model, file: Path, tmp_path: Path) -> None:
    for _ in range(2):
        index = build_index(tuned, file, tmp_path / "idx", [get_method("datainf"), get_method("less")], encoding=LENGTH)
    assert len(index) == len(PAIRS)
    notes = index.manifest["settings"]["notes"]
    assert notes["gradients"] == "of the adapter"
    assert notes["weights"]["shapes"] == {
        "0-3": {"self_attn.q_proj.lora_A.default": "2x32", "self_attn.q_proj.lora_B.default": "32x2",
                "self_attn.v_proj.lora_A.default": "2x32", "self_attn.v_proj.lora_B.default": "16x2"}
    }  # fmt: skip


def test_trace_with_gradient_methods(tuned: Model, index: Index) -> None:
    """A row asked about comes first, a contrast is the difference, and no words are scored."""
    rows = [Query(*pair) for pair in PAIRS]
    for name in ("tracin-ln", "rapidin", "less"):
        result = trace_queries(index, tuned, rows, method=name).queries
        assert [one.rows[0].position for one in result] == list(range(len(PAIRS)))
        assert not result[0].rows[0].tokens
    expected = Query(QUERIES[0].prompt, QUERIES[0].response, desired="bees make it")
    contrast = trace_queries(index, tuned, [expected], method="tracin").queries[0].scores
    two = scores("tracin:project=0", tuned, index, [QUERIES[0], Query(expected.prompt, "bees make it")])
    np.testing.assert_allclose(contrast.numpy(), two[0] - two[1], rtol=1e-4, atol=1e-5)


# — without an adapter


@pytest.mark.parametrize("spec", ["tracin:project=0", "datainf:project=0", "logra:rank=8"])
def test_gradient_methods_without_an_adapter(spec: str, tiny: Model, file: Path, tmp_path: Path) -> None:
    """On a model without an adapter its own linear maps; at 32 dimensions a side, this one's are nearly whole."""
    index = build_index(tiny, file, tmp_path / "idx", [get_method(spec)], encoding=LENGTH)
    words = "of the model's own linear maps, since it has no adapter; left out: 1% of the blocks' weights"
    assert index.manifest["settings"]["notes"]["gradients"] == words  # the norms
    v, g = dense(tiny)
    result = scores(spec, tiny, index)
    if spec.startswith("tracin"):
        selection = [name for name in v if "mlp" not in name]  # the mlp's 48 are projected to 32
        exact = sum(v[name] @ g[name].T for name in selection)
        for name in set(v) - set(selection):
            weight = next(one for one in candidate_weights(tiny) if one.name == name)
            out, into = (TwoSidedProjection(32).matrix(weight, side) for side in ("out", "in"))
            sides = [np.eye(32) if outputs is None else outputs.double().numpy() for outputs in (out, into)]
            q, r = (np.einsum("ko,boi,ji->bkj", sides[0], s[name].reshape(-1, *weight.shape), sides[1]) for s in (v, g))
            exact = exact + q.reshape(len(q), -1) @ r.reshape(len(r), -1).T
        same(result, exact)
    assert np.isfinite(result).all()
    assert result.std(1).min() > 0


def test_zero_lora_weights_give_finite_scores(
    make_model: Callable[[str], Path], file: Path, tmp_path: Path
) -> None:  # fmt: skip
    """Where LoRA's B is 0, as before training, A has no gradient at all: no NaN comes of it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = make_model("llama")
    lm = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules=["q_proj"]))
    first = next(weight for name, weight in lm.named_parameters() if "lora_B" in name)
    torch.nn.init.normal_(first.data, std=0.02)  # an adapter that changes nothing at all is refused
    lm.save_pretrained(tmp_path / "fresh")
    model = load_model(str(base), str(tmp_path / "fresh"), dtype="float32")
    specs = [*EXACT, "rapidin:k=64", "less:k=64", "logra"]
    index = build_index(model, file, tmp_path / "idx", [get_method(spec) for spec in specs], encoding=LENGTH)
    for spec in specs:
        result = scores(spec, model, index)
        assert np.isfinite(result).all()
        assert result.std(1).min() > 0


# — errors


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ("tracin:project=-1", "tracin: project is below 0"),
        ("datainf:damping=0", "datainf: damping is not above 0"),
        ("lissa:damping=1", "lissa: damping is not between 0 and 1"),
        ("lissa:iterations=0", "lissa: iterations is below 1"),
        ("logra:rank=0", "logra: rank is below 1"),
        ("logra:damping=0", "logra: damping is not above 0"),
        ("rapidin:k=0", "rapidin: k is below 1"),
        ("less:k=0", "less: k is below 1"),
    ],
)
def test_invalid_gradient_method_options_raise(spec: str, what: str) -> None:
    with pytest.raises(OptionError) as caught:
        made_of(spec)
    assert caught.value.what == what


def test_lissa_raises_when_it_does_not_converge(tuned: Model, index: Index) -> None:
    with pytest.raises(OptionError, match="did not converge") as caught:
        scores(LiSSA(project=0, iterations=5), tuned, index)
    assert "off after 5 iterations" in str(caught.value.got)
    with pytest.raises(OptionError, match="diverges"):
        scores(LiSSA(project=0, scale=1e-6), tuned, index)
