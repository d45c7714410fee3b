"""States and gradients of a padded batch, compared with single rows and with a direct computation by autograd."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import FAMILIES
from taughtby.capture import lm_head, sparse_backward
from taughtby.capture.capture import Capture, answer_states, capture, prompt_gradients, prompt_states, resolve_layer
from taughtby.data.batching import collate
from taughtby.data.tokenize import TokenizedExample
from taughtby.errors import OptionError
from taughtby.models.model import Model, load_model

LAYERS = (0, 2, 4)


def random_rows(seed: int = 0, count: int = 16) -> list[TokenizedExample]:
    """Rows of 2 to 36 tokens (the sliding windows are 8), answers of one token among them."""
    torch.manual_seed(seed)
    sizes = [(1, 1), (12, 1), (1, 24), *((int(p), int(n)) for p, n in torch.randint(1, 19, (count - 3, 2)))]
    return [TokenizedExample(tuple(torch.randint(3, 384, (p + n,)).tolist()), p) for p, n in sizes]


ROWS = random_rows()


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest, make_model: Callable[[str], Path]) -> Model:
    return load_model(str(make_model(request.param)), dtype="float32", device="cpu")


def alone(model: Model, row: TokenizedExample, layers: Iterable[int] = LAYERS) -> Capture:
    return capture(model, collate([row], [0]), layers)


def near(got: Tensor, expected: Tensor, relative: float = 1e-4) -> bool:
    # two rows of a near-zero gradient may differ by more than their own size in the last bits
    return bool((got - expected).norm() <= relative * expected.norm() + 1e-9)


def textbook(model: Model, row: TokenizedExample) -> tuple[dict[int, Tensor], dict[int, Tensor], Tensor]:
    """(H, g, loss) from a pass over the prompt alone, and a whole forward and backward by Transformers itself."""
    ids, y = torch.tensor([row.ids]), torch.tensor(row.response)
    with torch.no_grad():
        prompt = model.lm(input_ids=ids[:, : row.n_prompt], output_hidden_states=True, use_cache=False)
    embedded = model.lm.get_input_embeddings()(ids).detach().requires_grad_()
    out = model.lm(inputs_embeds=embedded, output_hidden_states=True, use_cache=False)
    loss = torch.nn.functional.cross_entropy(out.logits[0, row.n_prompt - 1 : -1], y)
    assert len(out.hidden_states) == model.depth + 1
    grads = torch.autograd.grad(loss, out.hidden_states)
    states = {layer: state[0, -1] for layer, state in enumerate(prompt.hidden_states)}
    return states, {layer: grad[0, row.n_prompt - 1 : -1] for layer, grad in enumerate(grads)}, loss.detach()


# -- all model families


@pytest.mark.parametrize("side", ["right", "left"])
def test_batched_capture_matches_single_rows(model: Model, side: Any) -> None:
    whole = capture(model, collate(ROWS, range(16), side=side), LAYERS)
    for i, row in enumerate(ROWS):
        one, n = alone(model, row), row.n_response
        assert whole.loss_mask[i].tolist() == [True] * n + [False] * (whole.loss_mask.shape[1] - n)
        assert near(whole.loss[i], one.loss[0])
        assert near(whole.logp[i, :n], one.logp[0])
        for layer in LAYERS:
            assert near(whole.states[layer][i, :n], one.states[layer][0]), (row, layer)
            assert near(whole.grads[layer][i, :n], one.grads[layer][0]), (row, layer)
            assert whole.states[layer][i, n:].eq(0).all()
            assert whole.grads[layer][i, n:].eq(0).all()
        assert whole.logp[i, n:].eq(0).all()


def test_capture_matches_separate_transformers_passes(model: Model) -> None:
    layers = range(model.depth + 1)
    whole = capture(model, collate(ROWS[:8], range(8)), layers)
    for i, row in enumerate(ROWS[:8]):
        states, grads, loss = textbook(model, row)
        assert near(whole.loss[i], loss)
        for layer in layers:
            assert grads[layer].norm() > 0
            assert near(whole.states[layer][i, 0], states[layer]), (row, layer)
            assert near(whole.grads[layer][i, : row.n_response], grads[layer]), (row, layer)


@pytest.mark.parametrize("side", ["right", "left"])
def test_prompt_states_equal_the_first_captured_state(model: Model, side: Any) -> None:
    batch = collate(ROWS, range(16), side=side)
    whole, prompts = capture(model, batch, LAYERS), prompt_states(model, batch, LAYERS)
    assert set(prompts) == set(LAYERS)
    for layer in LAYERS:
        for i in range(16):
            assert near(prompts[layer][i], whole.states[layer][i, 0])


# -- loss on the prompt too

LEARNED = [
    TokenizedExample(row.ids, row.n_prompt, row.n_prompt - 1 if i % 4 else min(2, row.n_prompt - 1))
    for i, row in enumerate(ROWS)
]


@pytest.mark.parametrize("side", ["right", "left"])
def test_batched_prompt_loss_rows_match_single_rows(tiny: Model, side: Any) -> None:
    batch = collate(LEARNED, range(16), side=side)
    whole, prompts = capture(tiny, batch, LAYERS), prompt_states(tiny, batch, LAYERS)
    for i, row in enumerate(LEARNED):
        one, n = alone(tiny, row), len(row.ids) - row.loss_start
        assert near(whole.loss[i], one.loss[0])
        assert near(whole.logp[i, :n], one.logp[0])
        for layer in LAYERS:
            assert near(whole.states[layer][i, :n], one.states[layer][0]), (row, layer)
            assert near(whole.grads[layer][i, :n], one.grads[layer][0]), (row, layer)
            assert whole.grads[layer][i, n:].eq(0).all()
            assert near(whole.prompt_states[layer][i], prompts[layer][i])


def test_prompt_loss_rows_match_transformers_loss_and_gradients(tiny: Model) -> None:
    whole = capture(tiny, collate(LEARNED, range(16)), LAYERS)
    for i, row in enumerate(LEARNED):
        ids = torch.tensor([row.ids])
        out = tiny.lm(inputs_embeds=tiny.lm.get_input_embeddings()(ids).requires_grad_(), output_hidden_states=True)
        loss = torch.nn.functional.cross_entropy(out.logits[0, row.loss_start - 1 : -1], ids[0, row.loss_start :])
        grads = torch.autograd.grad(loss, out.hidden_states)
        assert near(whole.loss[i], loss.detach())
        for layer in LAYERS:
            assert near(
                whole.grads[layer][i, : len(row.ids) - row.loss_start], grads[layer][0, row.loss_start - 1 : -1]
            )


# -- comparison with passes that skip nothing


@pytest.fixture
def begun() -> list[TokenizedExample]:
    """16 rows that begin alike, as rows of one template do."""
    return [TokenizedExample((*range(5, 25), *row.ids), row.n_prompt + 20, row.n_prompt_loss) for row in ROWS]


def test_rows_with_a_common_prefix_match_single_rows(model: Model, begun: list[TokenizedExample]) -> None:
    """Their beginning is run once, and remembered; a row alone has nothing in common with another."""
    batch = collate(begun, range(16))
    whole, prompts, answers = (work(model, batch, at) for work, at in
                               ((capture, LAYERS), (prompt_states, LAYERS), (answer_states, 2)))  # fmt: skip
    for i, row in enumerate(begun):
        one, n = alone(model, row), row.n_response
        assert near(whole.loss[i], one.loss[0])
        for layer in LAYERS:
            assert near(whole.states[layer][i, :n], one.states[layer][0])
            assert near(whole.grads[layer][i, :n], one.grads[layer][0])
            assert near(prompts[layer][i], one.states[layer][0, 0])
        assert near(answers[i, :n], one.states[2][0])


def widths(model: Model, work: Callable[[], object]) -> list[tuple[int, ...]]:
    """The rows and columns of ids that each run of the decoder was given."""
    arguments: list[tuple[int, ...]] = []
    hook = model.decoder.register_forward_pre_hook(
        lambda _, __, kwargs: arguments.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    work()
    hook.remove()
    return [
        shape for shape in arguments if shape != (1, 1)
    ]  # the head alone is asked with one id, which it never reads


def test_common_prefix_is_run_once(tiny: Model, begun: list[TokenizedExample]) -> None:
    longest, prompt = max(len(row.ids) for row in begun), max(row.n_prompt for row in begun)
    batch = collate(begun, range(16))
    assert widths(tiny, lambda: capture(tiny, batch, [2])) == [(1, 20), (16, longest - 21)]
    assert widths(tiny, lambda: prompt_states(tiny, batch, [4])) == [(1, 20), (16, prompt - 20)]
    assert widths(tiny, lambda: capture(tiny, batch, [2], full_sequence=True)) == [(16, longest)]
    learned = collate([TokenizedExample(row.ids, row.n_prompt, row.n_prompt - 9) for row in begun], range(16))
    assert widths(tiny, lambda: capture(tiny, learned, [2])) == [(1, 8), (16, longest - 9)], "up to what was learned"
    few = collate(begun[:4], range(4))
    assert len(widths(tiny, lambda: capture(tiny, few, [2]))) == 1, "60 tokens are not worth a pass"


def test_last_token_is_not_run(tiny: Model) -> None:
    batch = collate(ROWS, range(16))
    assert widths(tiny, lambda: capture(tiny, batch, [2])) == [(16, batch.ids.shape[1] - 1)]


@pytest.mark.parametrize("side", ["right", "left"])
def test_sparse_backward_matches_the_full_backward(model: Model, side: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_backward, "MIN_WIDTH", 1)
    batch, calls, linear = collate(LEARNED, range(16), side=side), [], sparse_backward._SparseLinear.backward
    expected = capture(model, batch, LAYERS, full_sequence=True)
    monkeypatch.setattr(
        sparse_backward._SparseLinear,
        "backward",
        staticmethod(lambda ctx, slope: calls.append(len(ctx.saved_tensors[1])) or linear(ctx, slope)),
    )
    got = capture(model, batch, LAYERS)
    assert set(calls) <= {int(batch.n_loss.sum())}
    assert calls or model.lm.config.model_type == "gpt2", "no linear map was met"
    for layer in LAYERS:
        for i in range(16):
            assert near(got.grads[layer][i], expected.grads[layer][i])


@pytest.mark.parametrize("ahead", [False, True])
def test_prompt_gradients_match_capture_at_the_last_layer(tiny: Model, ahead: bool) -> None:
    rows = LEARNED if ahead else ROWS
    batch = collate(rows, range(16))
    whole = capture(tiny, batch, [-1])
    state, grad = prompt_gradients(tiny, batch)
    for i in range(16):
        assert near(state[i], batch.at_last_prompt_token(whole.states[4])[i])
        assert near(grad[i], batch.at_last_prompt_token(whole.grads[4])[i])
    assert widths(tiny, lambda: prompt_gradients(tiny, batch)) == [(16, max(row.n_prompt for row in rows))]


def test_masked_first_token_has_zero_prompt_gradient(tiny: Model) -> None:
    rows = [TokenizedExample(row.ids, row.n_prompt, 0, (row.n_prompt,) if i % 2 else ()) for i, row in enumerate(ROWS)]
    rows = [row for row in rows if row.n_response > 1]
    batch = collate(rows, range(len(rows)))
    whole = capture(tiny, batch, [-1])
    state, grad = prompt_gradients(tiny, batch)
    for i, row in enumerate(rows):
        assert near(state[i], prompt_states(tiny, batch, [-1])[4][i])
        assert near(whole.prompt_states[4][i], state[i])
        assert near(grad[i], batch.at_last_prompt_token(whole.grads[4])[i])
        assert bool(grad[i].any()) is not bool(row.masked)


def test_masked_tokens_have_no_loss_but_are_attended_to(tiny: Model) -> None:
    rows = [TokenizedExample(row.ids, row.n_prompt, 0, (row.n_prompt + 1,)) for row in ROWS if row.n_response > 3]
    got = capture(tiny, collate(rows, range(len(rows))), LAYERS)
    for i, row in enumerate(rows):
        embedded = tiny.lm.get_input_embeddings()(torch.tensor([row.ids])).detach().requires_grad_()
        out = tiny.lm(inputs_embeds=embedded, output_hidden_states=True)
        labels = torch.tensor(row.response)
        labels[1] = -100
        loss = torch.nn.functional.cross_entropy(out.logits[0, row.n_prompt - 1 : -1], labels)
        assert near(got.loss[i], loss.detach())
        grads = torch.autograd.grad(loss, out.hidden_states)
        assert not bool(got.loss_mask[i, 1]) and bool(got.loss_mask[i, 0])
        for layer in LAYERS:
            real = got.loss_mask[i, : row.n_response]
            assert near(got.grads[layer][i, : row.n_response][real], grads[layer][0, row.n_prompt - 1 : -1][real])


# -- one model


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_gradients_match_finite_differences(family: str, make_model: Callable[[str], Path]) -> None:
    model = load_model(str(make_model(family)), dtype="float32", device="cpu")
    for part in model.lm.double().modules():
        if hasattr(part, "variance_epsilon"):  # Llama's norm computes in float32 whatever it is given
            part.forward = lambda h, norm=part: norm.weight * h * (h.pow(2).mean(-1, True) + 1e-6).rsqrt()
    row = max(ROWS, key=lambda row: row.n_response)
    ids, y = torch.tensor([row.ids]), torch.tensor(row.response)
    got = alone(model, row, range(1, 4))
    torch.manual_seed(3)

    def loss(layer: int, nudge: Tensor) -> Tensor:
        def push(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return (args[0] + nudge, *args[1:]), kwargs

        hook = model.blocks[layer].register_forward_pre_hook(push, with_kwargs=True)
        with torch.no_grad():
            logits = model.lm(input_ids=ids, use_cache=False).logits[0, row.n_prompt - 1 : -1]
        hook.remove()
        return torch.nn.functional.cross_entropy(logits, y)

    for layer in (1, 2, 3):
        for _ in range(4):
            nudge = torch.zeros(1, len(row.ids), 32, dtype=torch.float64)
            way = torch.randn(row.n_response, 32, dtype=torch.float64)
            nudge[0, row.n_prompt - 1 : -1] = 1e-5 * way
            slope = (loss(layer, nudge) - loss(layer, -nudge)) / 2e-5
            assert abs(slope) > 1e-4
            torch.testing.assert_close((got.grads[layer][0].double() * way).sum(), slope, rtol=1e-5, atol=1e-7)


def test_last_layer_gradient_matches_the_closed_form(tiny: Model) -> None:
    """g_t = (1/n) Wᵀ (softmax(z_t) − onehot(y_t)), facts 1 of METHODS.md."""
    row = ROWS[5]
    got = alone(tiny, row, [-1])
    weight, h = tiny.lm.lm_head.weight, got.states[4][0]
    miss = (h @ weight.T).softmax(-1) - torch.nn.functional.one_hot(torch.tensor(row.response), 384)
    assert near(got.grads[4][0], miss @ weight / row.n_response)


def test_log_probabilities_and_loss_match_transformers(tiny: Model) -> None:
    whole = capture(tiny, collate(ROWS, range(16)), [-1])
    for i, row in enumerate(ROWS):
        with torch.no_grad():
            logp = tiny.lm(input_ids=torch.tensor([row.ids])).logits[0, row.n_prompt - 1 : -1].log_softmax(-1)
        words = logp[range(row.n_response), row.response]
        torch.testing.assert_close(whole.logp[i, : row.n_response], words, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(whole.loss[i], -words.mean(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("chunk", [1, 3, 100_000])
def test_head_chunk_size_does_not_change_results(
    family: str, chunk: int, make_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(str(make_model(family)), dtype="float32", device="cpu")
    batch, calls, head = collate(ROWS, range(16)), [], Model.head
    expected = capture(model, batch, LAYERS)
    monkeypatch.setattr(lm_head, "HEAD_CHUNK", chunk)
    monkeypatch.setattr(Model, "head", lambda self, states: calls.append(len(states)) or head(self, states))
    got = capture(model, batch, LAYERS)
    total = sum(row.n_response for row in ROWS)
    assert calls == [min(chunk, total - at) for at in range(0, total, chunk)]
    torch.testing.assert_close(got.logp, expected.logp, rtol=1e-5, atol=1e-5)
    for i in range(16):
        assert all(near(got.grads[layer][i], expected.grads[layer][i]) for layer in LAYERS)


def finished(model: Model, work: Callable[[], object]) -> list[tuple[int, bool]]:
    """(block, whether its output is in a graph) for each block that came to its end during `work`."""
    done: list[tuple[int, bool]] = []

    def note(at: int) -> Callable[..., None]:
        return lambda _, __, out: done.append((at, (out if isinstance(out, Tensor) else out[0]).requires_grad))

    hooks = [block.register_forward_hook(note(at)) for at, block in enumerate(model.blocks)]
    work()
    for hook in hooks:
        hook.remove()
    return done


@pytest.mark.parametrize(("layers", "blocks"), [([0], 0), ([2], 2), ([0, 3], 3), ([-1], 4), ([4, 1], 4)])
def test_prompt_states_stops_at_the_highest_layer(tiny: Model, layers: list[int], blocks: int) -> None:
    batch = collate(ROWS, range(16))
    assert finished(tiny, lambda: prompt_states(tiny, batch, layers)) == [(at, False) for at in range(blocks)]


@pytest.mark.parametrize(("layers", "lowest"), [([0, 2], 0), ([2], 2), ([3, 4], 3), ([4], 4)])
def test_autograd_graph_starts_at_the_lowest_layer(tuned: Model, layers: list[int], lowest: int) -> None:
    with tuned.base_model():  # switching the adapter on again must not thaw it
        pass
    done = finished(tuned, lambda: capture(tuned, collate(ROWS, range(16)), layers))
    assert done == [(at, at >= lowest) for at in range(4)]


def test_capture_leaves_no_grads_or_hooks(tuned: Model) -> None:
    capture(tuned, collate(ROWS, range(16)), LAYERS)
    prompt_states(tuned, collate(ROWS, range(16)), [1])
    assert all(weight.grad is None and not weight.requires_grad for weight in tuned.peft.parameters())
    assert not any(block._forward_pre_hooks for block in tuned.blocks)
    got = capture(tuned, collate(ROWS, range(16)), LAYERS)
    assert not any(one.requires_grad for one in (got.loss, got.logp, *got.states.values(), *got.grads.values()))


def test_hooks_are_removed_after_an_error(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Model, "token_without_embedding", lambda *_: None)  # which would refuse it first
    batch = collate([TokenizedExample((5, 999, 6), 1)], [0])  # 999 is no token of this model
    for work in (capture, prompt_states):
        with pytest.raises(IndexError):
            work(tiny, collate([TokenizedExample((999, 5, 6), 1)], [0]) if work is prompt_states else batch, [1, 2])
    assert not any(block._forward_pre_hooks for block in tiny.blocks)


def test_capture_works_under_no_grad(tiny: Model) -> None:
    batch = collate(ROWS, range(16))
    expected = capture(tiny, batch, LAYERS)
    with torch.no_grad():
        got = capture(tiny, batch, LAYERS)
    assert all(torch.equal(got.grads[layer], expected.grads[layer]) for layer in LAYERS)


def test_capture_is_deterministic(make_model: Callable[[str], Path]) -> None:
    for family in ("llama", "mixtral"):
        model = load_model(str(make_model(family)), dtype="float32", device="cpu")
        one, two = (capture(model, collate(ROWS, range(16)), LAYERS) for _ in range(2))
        assert torch.equal(one.loss, two.loss)
        assert all(torch.equal(one.grads[layer], two.grads[layer]) for layer in LAYERS)
        assert all(torch.equal(one.states[layer], two.states[layer]) for layer in LAYERS)


def test_capturing_several_layers_matches_one_at_a_time(tiny: Model) -> None:
    batch = collate(ROWS, range(16))
    together = capture(tiny, batch, [-1, 4, 3, 1, 1, 0])
    assert set(together.states) == set(together.grads) == {0, 1, 3, 4}
    for layer in (0, 1, 3, 4):
        one = capture(tiny, batch, [layer])
        torch.testing.assert_close(together.states[layer], one.states[layer])
        assert all(near(together.grads[layer][i], one.grads[layer][i]) for i in range(16))


@pytest.mark.parametrize(("side", "count"), [("right", 1), ("left", 1), ("right", 5), ("left", 5)])
def test_one_token_answers_match_transformers(tiny: Model, side: Any, count: int) -> None:
    rows = [TokenizedExample(row.ids[: row.n_prompt + 1], row.n_prompt) for row in ROWS[:count]]
    got = capture(tiny, collate(rows, range(count), side=side), LAYERS)
    assert got.logp.shape == (count, 1)
    torch.testing.assert_close(got.loss, -got.logp[:, 0])
    for i, row in enumerate(rows):
        _, grads, _ = textbook(tiny, row)
        assert all(near(got.grads[layer][i], grads[layer]) for layer in LAYERS)


def test_disabled_adapter_matches_the_base_model(tuned: Model, tiny: Model) -> None:
    batch = collate(ROWS, range(16))
    base, with_adapter = capture(tiny, batch, LAYERS), capture(tuned, batch, LAYERS)
    with tuned.base_model():
        off = capture(tuned, batch, LAYERS)
    for layer in LAYERS:
        torch.testing.assert_close(off.grads[layer], base.grads[layer])
        torch.testing.assert_close(off.states[layer], base.states[layer])
        assert not near(with_adapter.grads[layer], base.grads[layer], 0.05)


def test_bfloat16_capture_returns_float32_close_to_reference(model_folder: Path, tiny: Model) -> None:
    half = load_model(str(model_folder), dtype="bfloat16", device="cpu")
    batch = collate(ROWS, range(16))
    got, expected = capture(half, batch, LAYERS), capture(tiny, batch, LAYERS)
    assert {got.loss.dtype, got.logp.dtype} == {torch.float32}
    for layer in LAYERS:
        assert got.states[layer].dtype == got.grads[layer].dtype == torch.float32
        for kind in ("states", "grads"):
            one, two = (getattr(result, kind)[layer][expected.loss_mask] for result in (got, expected))
            assert torch.cosine_similarity(one, two).median() > 0.99


@pytest.mark.parametrize("layer", [-2, 5, 99])
def test_layer_out_of_range_raises(tiny: Model, layer: int) -> None:
    message = f"no such layer\n  got: {layer}\n  do:  choose 0 to 4, or -1 for the last (4)"
    for ask in (lambda: resolve_layer(layer, 4), lambda: capture(tiny, collate(ROWS, range(16)), [0, layer]),
                lambda: prompt_states(tiny, collate(ROWS, range(16)), [layer])):  # fmt: skip
        with pytest.raises(OptionError) as caught:
            ask()
        assert str(caught.value) == message


def test_resolve_layer_counts_from_the_embeddings() -> None:
    assert [resolve_layer(layer, 4) for layer in (-1, 0, 1, 4)] == [4, 0, 1, 4]
