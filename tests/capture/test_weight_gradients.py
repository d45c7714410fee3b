"""Per-row gradients of weights, compared with a slow loop of `loss.backward()`."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from taughtby.capture.projections import TwoSidedProjection, compact_gradient, fold, full_gradient, gaussian_sketch
from taughtby.capture.weight_gradients import TrainedWeights, find_trained_weights, weight_gradients
from taughtby.capture.weights import Weight, candidate_weights
from taughtby.data.batching import collate
from taughtby.data.tokenize import TokenizedExample
from taughtby.errors import ModelError
from taughtby.models.model import Model, load_model

EVERY = {"task_type": "CAUSAL_LM", "r": 3, "lora_alpha": 6}
TARGETS = {"gpt2": ["c_attn", "c_fc", "c_proj"], "mixtral": ["q_proj", "o_proj"], "gpt-neox": ["query_key_value"]}
Make = Callable[..., Model]


def random_rows(count: int = 6) -> list[TokenizedExample]:
    """Rows of 2 to 24 tokens, an answer of one token among them, and prompts that were learned too."""
    torch.manual_seed(0)
    sizes = [(1, 1), (9, 1), (1, 20), *((int(p), int(n)) for p, n in torch.randint(2, 13, (count - 3, 2)))]
    outputs = [TokenizedExample(tuple(torch.randint(3, 384, (p + n,)).tolist()), p) for p, n in sizes]
    return [*outputs[:-1], TokenizedExample(outputs[-1].ids, outputs[-1].n_prompt, outputs[-1].n_prompt - 1)]


ROWS = random_rows()


@pytest.fixture(scope="module")
def adapted(make_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A tiny model of a family with adapters that do something, one for each set of options."""

    def make(family: str, *options: dict[str, Any], kind: str = "LoraConfig", dtype: str = "float32") -> Model:
        import peft
        from transformers import AutoModelForCausalLM

        folders = []
        for at, some in enumerate(options or ({},)):
            torch.manual_seed(at)
            arguments = EVERY | {"target_modules": TARGETS.get(family, "all-linear")} if kind == "LoraConfig" else {}
            lm = peft.get_peft_model(
                AutoModelForCausalLM.from_pretrained(make_model(family)), getattr(peft, kind)(**arguments | some)
            )
            for weight in lm.parameters():
                if weight.requires_grad:
                    weight.data = weight.data + 0.2 * torch.randn_like(weight)
            folders.append(str(tmp_path_factory.mktemp("adapter")))
            lm.save_pretrained(folders[-1])
        return load_model(str(make_model(family)), folders, dtype=dtype, device="cpu")

    return make


def slow(model: Model, row: TokenizedExample, weights: list[Weight], counts: Tensor | None = None) -> list[Tensor]:
    """Each weight's gradient by Transformers' own forward over the row alone and a backward into the parameters."""
    parameters = [weight.module.weight for weight in weights]
    for parameter in parameters:
        parameter.requires_grad_(True)
    y = torch.tensor(row.ids[row.loss_start :])
    logits = model.lm(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0, row.loss_start - 1 : -1]
    losses = nn.functional.cross_entropy(logits, y, reduction="none")
    loss = losses.mean() if counts is None else (losses * counts).sum() / counts.sum()
    result = torch.autograd.grad(loss, parameters)
    for parameter in parameters:
        parameter.requires_grad_(False)
    conv = [type(weight.module).__name__ == "Conv1D" for weight in weights]
    return [grad.T if turned else grad for grad, turned in zip(result, conv, strict=True)]


def agree(model: Model, rows: list[TokenizedExample] = ROWS, side: Any = "right", counts: Tensor | None = None) -> int:
    """Check every row's every weight; how many weights there were."""
    result = weight_gradients(model, collate(rows, range(len(rows)), side=side), full_gradient, counts)
    for i, row in enumerate(rows):
        some = None if counts is None else counts[i, : len(row.ids) - row.loss_start]
        expected = slow(model, row, list(result.by_weight), some)
        size = torch.cat([grad.flatten() for grad in expected]).norm()
        assert size > 0
        for (weight, got), grad in zip(result.by_weight.items(), expected, strict=True):
            assert got.dtype == torch.float32
            assert tuple(grad.shape) == weight.shape
            wrong = (got[i] - grad.flatten()).norm()
            assert wrong <= 1e-4 * grad.norm() + 1e-6 * size, (weight.name, row, wrong, grad.norm())
    return len(result.by_weight)


# — adapter weights


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(
    ("family", "count"),
    [("llama", 4 * 14), ("gpt2", 4 * 8), ("gpt-neox", 4 * 2), ("mixtral", 4 * 4), ("gemma2", 4 * 14)],
)
def test_adapter_gradients_match_a_loop_over_rows(family: str, count: int, side: Any, adapted: Make) -> None:
    assert agree(adapted(family), side=side) == count


@pytest.mark.parametrize("options", [{"use_dora": True}, {"use_rslora": True}, {"lora_bias": True, "r": 5}])
def test_lora_variant_gradients_match_a_loop_over_rows(options: dict[str, Any], adapted: Make) -> None:
    family = "gpt2" if "lora_bias" in options else "llama"
    assert agree(adapted(family, options)) == (32 if family == "gpt2" else 56)


def test_gradients_with_two_adapters(adapted: Make) -> None:
    model = adapted("llama", {"target_modules": ["q_proj", "v_proj"]}, {"r": 2, "target_modules": ["v_proj"]})
    assert agree(model) == 4 * (4 + 2)
    assert len(set(find_trained_weights(model).blocks[0])) == 6


def test_weighted_tokens_match_a_loop_over_rows(adapted: Make) -> None:
    counts = torch.rand(len(ROWS), 20)
    counts[:, 3:5] = 0
    counts[0, 0] = 7.0  # of one token: it counts whole however little it weighs
    agree(adapted("llama"), counts=counts)


def test_loss_matches_each_row_alone(adapted: Make) -> None:
    model = adapted("llama")
    result = weight_gradients(model, collate(ROWS, range(len(ROWS))), full_gradient)
    for row, loss in zip(ROWS, result.loss, strict=True):
        labels = torch.tensor([[-100] * row.loss_start + list(row.ids[row.loss_start :])])
        with torch.no_grad():
            expected = model.lm(input_ids=torch.tensor([row.ids]), labels=labels).loss
        torch.testing.assert_close(loss, expected)


def test_bfloat16_gradients_are_float32_close_to_reference(adapted: Make) -> None:
    batch = collate(ROWS, range(len(ROWS)))
    got, expected = (
        torch.cat(weight_gradients(adapted("llama", dtype=dtype), batch, full_gradient).blocks(4), 1)
        for dtype in ("bfloat16", "float32")
    )
    assert got.dtype == torch.float32
    cosines = torch.cosine_similarity(got, expected)
    # a row that is predicted well has a small gradient, of which rounding is a larger share
    assert cosines.median() > 0.98 and cosines.min() > 0.9


def test_weight_gradients_leave_the_model_unchanged(adapted: Make) -> None:
    model = adapted("llama")
    ids = torch.tensor([ROWS[3].ids])
    before = model.lm(input_ids=ids).logits
    with pytest.raises(ZeroDivisionError):
        weight_gradients(model, collate(ROWS, range(6)), lambda *_: torch.tensor(1 // 0))
    weight_gradients(model, collate(ROWS, range(6)), full_gradient)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.lm.modules())
    assert all(weight.grad is None and not weight.requires_grad for weight in model.lm.parameters())
    torch.testing.assert_close(model.lm(input_ids=ids).logits, before, rtol=0, atol=0)


def test_gradients_are_reduced_from_the_last_block_to_the_first(adapted: Make) -> None:
    """The last block first, each weight once, with what went in and what came back."""
    order: list[int] = []

    def take(weight: Weight, x: Tensor, delta: Tensor) -> Tensor:
        assert (x.shape[-1], delta.shape[-1]) == weight.shape[::-1]
        assert x.dtype == delta.dtype == torch.float32
        order.append(weight.block)
        return x[:, 0, :1]

    result = weight_gradients(adapted("llama"), collate(ROWS, range(6)), take)
    assert order == sorted(order, reverse=True)
    assert [block.shape for block in result.blocks(4)] == [(6, 14)] * 4


# — weights of the model


@pytest.mark.parametrize(("family", "count"), [("llama", 28), ("gpt2", 16), ("mixtral", 16)])
def test_model_gradients_without_an_adapter_match_a_loop(
    family: str, count: int, make_model: Callable[[str], Path]
) -> None:
    model = load_model(str(make_model(family)), dtype="float32", device="cpu")
    assert agree(model) == count


def test_disabled_adapter_gives_the_base_model_gradients(adapted: Make, make_model: Callable[[str], Path]) -> None:
    model, base = adapted("llama"), load_model(str(make_model("llama")), dtype="float32", device="cpu")
    batch = collate(ROWS, range(6))
    expected = weight_gradients(base, batch, full_gradient).blocks(4)
    with model.base_model() as before:
        got = weight_gradients(before, batch, full_gradient).blocks(4)
    for one, two in zip(got, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)
    assert [weight.adapter for weight in candidate_weights(model)] == [True] * 56


# — names of the weights


def test_trained_weights_shapes_and_json_round_trip(adapted: Make, make_model: Callable[[str], Path]) -> None:
    result = find_trained_weights(
        adapted("llama", {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [0, 1, 3]})
    )
    block = {
        "self_attn.q_proj.lora_A.default": (3, 32), "self_attn.q_proj.lora_B.default": (32, 3),
        "mlp.down_proj.lora_A.default": (3, 48), "mlp.down_proj.lora_B.default": (32, 3),
    }  # fmt: skip
    assert result == TrainedWeights((block, block, {}, block), True, "")
    assert list(result.to_json()["shapes"]) == ["0-1", "2-2", "3-3"]
    assert TrainedWeights.from_json(result.to_json()) == result
    assert result.sizes == [[96, 96, 144, 96]] * 2 + [[]] + [[96, 96, 144, 96]]
    assert result.notes()["gradients"] == "of the adapter"

    own = find_trained_weights(load_model(str(make_model("llama")), dtype="float32", device="cpu"))
    assert own.blocks[0]["mlp.down_proj"] == (32, 48)
    assert own.sizes[0] == [32 * 32, 16 * 32, 16 * 32, 32 * 32, 32 * 32, 32 * 32, 32 * 32]
    assert not own.adapter


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"use_dora": True, "target_modules": ["q_proj"]},
         "model.layers.*.self_attn.q_proj.lora_magnitude_vector.default.weight"),
        ({"modules_to_save": ["lm_head"]}, "lm_head.modules_to_save.default.weight"),
        ({"target_modules": ["q_proj", "embed_tokens"]},
         "model.embed_tokens.lora_embedding_A.default, model.embed_tokens.lora_embedding_B.default"),
    ],
)  # fmt: skip
def test_left_out_adapter_weights_are_reported(options: dict[str, Any], left: str, adapted: Make) -> None:
    result = find_trained_weights(adapted("llama", options))
    assert result.left_out == left
    assert result.notes()["gradients"] == f"of the adapter; left out: {left}"


def test_left_out_experts_are_reported(make_model: Callable[[str], Path]) -> None:
    """They see the rows mixed, so their share is named."""
    model = load_model(str(make_model("mixtral")), dtype="float32", device="cpu")
    result = find_trained_weights(model)
    share = 1 - sum(math.prod(s) for s in result.blocks[0].values()) / sum(
        p.numel() for p in model.blocks[0].parameters()
    )
    assert share > 0.5
    assert result.left_out == f"{share:.0%} of the blocks' weights"


@pytest.mark.parametrize(
    ("kind", "options"),
    [("IA3Config", {"task_type": "CAUSAL_LM", "target_modules": ["k_proj"], "feedforward_modules": []}),
     ("LoHaConfig", {"task_type": "CAUSAL_LM", "target_modules": ["q_proj"]})],
)  # fmt: skip
def test_adapter_without_linear_layers_raises(kind: str, options: dict[str, Any], adapted: Make) -> None:
    with pytest.raises(ModelError) as caught:
        weight_gradients(adapted("llama", options, kind=kind), collate(ROWS, range(6)), full_gradient)
    assert caught.value.what == "the blocks have no trained linear layer"
    assert "lesson" in str(caught.value.do)


def test_adapter_on_expert_parameters_raises(adapted: Make) -> None:
    """It works on the parameters, and its maps are never called."""
    model = adapted("mixtral", {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.down_proj"]})
    with pytest.raises(ModelError) as caught:
        weight_gradients(model, collate(ROWS, range(6)), full_gradient)
    assert caught.value.what == "per-row gradients do not support how the adapter is used"
    assert "experts" in str(caught.value.got)


def test_shared_linear_layer_raises(make_model: Callable[[str], Path]) -> None:
    model = load_model(str(make_model("llama")), dtype="float32", device="cpu")
    model.blocks[1].mlp.down_proj = model.blocks[0].mlp.down_proj
    with pytest.raises(ModelError, match="used twice"):
        weight_gradients(model, collate(ROWS, range(6)), full_gradient)


# — stored gradients


def test_two_sided_projection_matches_matrix_products(tiny: Model) -> None:
    """P_out G P_inᵀ, from the gradient itself; a side that is no wider stays."""
    batch = collate(ROWS, range(6))
    exact = weight_gradients(tiny, batch, full_gradient).by_weight
    keep = TwoSidedProjection(20, seed=3)
    got = weight_gradients(tiny, batch, keep).by_weight
    for weight, selection in got.items():
        out, into = (keep.matrix(weight, side) for side in ("out", "in"))
        one, two = (
            torch.eye(wide) if outputs is None else outputs
            for outputs, wide in zip((out, into), weight.shape, strict=True)
        )
        assert (out is None) == (weight.shape[0] == 16)  # k and v
        grad = exact[next(other for other in exact if other.name == weight.name)].view(-1, *weight.shape)
        expected = torch.einsum("ko,boi,ji->bkj", one, grad, two).flatten(1)
        assert selection.shape[1] == keep.width(weight.shape)
        torch.testing.assert_close(selection, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))
    assert compact_gradient(weight, torch.ones(1, 2, 48), torch.ones(1, 2, 32)).shape == (1, 1024)


def test_fold_is_a_sign_matrix() -> None:
    for wide, to in ((100, 7), (7, 7), (5, 7)):
        matrix = fold(torch.eye(wide), to, "a weight").T
        assert matrix.shape == (to, wide)
        assert matrix.abs().sum(0).eq(1).all()  # each number goes into one sum
        assert matrix.abs().sum(1).max() <= math.ceil(wide / to)  # and no sum gets more than its share
        assert set(matrix.unique().tolist()) == ({-1.0, 0.0, 1.0})
        vectors = torch.randn(4, wide)
        torch.testing.assert_close(fold(vectors, to, "a weight"), vectors @ matrix.T)
        assert not torch.equal(matrix, fold(torch.eye(wide), to, "another").T)


@pytest.mark.parametrize("kind", ["fold", "sides"])
def test_projections_preserve_inner_products(kind: str) -> None:
    """In the mean over many draws to what chance leaves, and each off by no more than is said."""
    torch.manual_seed(0)
    one, two = torch.randn(2, 1, 5, 40), torch.randn(2, 1, 5, 40)
    x, delta = torch.cat([one[0], two[0]]), torch.cat([one[1], one[1] + two[1]])
    weight = Weight("w", 0, nn.Identity(), (40, 40), True)
    exact = full_gradient(weight, x, delta)
    outputs = []
    for seed in range(400):
        selection = fold(exact, 64, f"{seed} w") if kind == "fold" else TwoSidedProjection(8, seed)(weight, x, delta)
        assert selection.shape == (2, 64)
        outputs.append(float(selection[0] @ selection[1]))
    truth, lengths = float(exact[0] @ exact[1]), float(exact[0].norm() * exact[1].norm())
    errors = (torch.tensor(outputs) - truth) / lengths
    assert abs(errors.mean()) < 4 * errors.std() / 20
    assert errors.std() < (1.2 / 8 if kind == "fold" else 0.5)


def test_projection_values_are_fixed() -> None:
    assert fold(torch.arange(6.0)[None], 3, "0 w").tolist() == [[3.0, 2.0, -2.0]]
    matrix = TwoSidedProjection(2).matrix(Weight("w", 0, nn.Identity(), (4, 4), True), "in")
    assert matrix is not None
    torch.testing.assert_close(matrix[0], torch.tensor([-0.2050, -0.7554, 0.0727, 0.3098]), rtol=1e-4, atol=1e-4)


def test_a_projection_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = torch.randn(3, 50)
    first = fold(vectors, 8, "drawn once"), gaussian_sketch(vectors, 8, 12345)
    monkeypatch.setattr(torch, "randperm", None)
    monkeypatch.setattr(torch, "randn", None)
    assert torch.equal(fold(vectors, 8, "drawn once"), first[0])
    assert torch.equal(gaussian_sketch(vectors, 8, 12345), first[1])
