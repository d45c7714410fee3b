"""The reference loop computes the same features as `rept:scale=raw`, row by row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import PAIRS
from taughtby.attribution.query import Query
from taughtby.attribution.trace import trace_queries
from taughtby.bench.reference import reference_features
from taughtby.data.dataset import read_examples
from taughtby.data.example import make_example
from taughtby.data.tokenize import Encoding, TokenizedExample, tokenize
from taughtby.index.build import build_index
from taughtby.methods import get_method

ASKED = [("who makes honey", "a captain makes honey"), ("why", "paris is blue")]


def rows(model: Any, examples: Any) -> list[TokenizedExample]:
    items = [tokenize(model.tokenizer, row, Encoding()) for row in examples]
    assert all(isinstance(row, TokenizedExample) for row in items)
    return items  # type: ignore[return-value]


@pytest.mark.parametrize("layer", [1, 2, 4])
def test_reference_scores_match_rept_raw(tuned: Any, data: Path, tmp_path: Path, layer: int) -> None:
    how = get_method(f"rept:layer={layer},scale=raw")
    index = build_index(tuned, data, tmp_path / "idx", [how])
    trace = trace_queries(index, tuned, [Query(*pair) for pair in ASKED], method=how, score_tokens=False)
    ours = torch.stack([traced.scores for traced in trace.queries])
    query_features = reference_features(tuned, rows(tuned, [make_example(*pair) for pair in ASKED]), layer)
    row_features = reference_features(tuned, rows(tuned, read_examples(data)), layer)
    theirs = torch.cosine_similarity(query_features[:, None], row_features[None], dim=2)
    assert theirs.shape == (len(ASKED), len(PAIRS))
    assert theirs.std() > 1e-3  # there is something to agree on
    assert ours == pytest.approx(theirs.numpy(), abs=2e-3)  # float16 in the index
    order = [scored.argsort().tolist() for scored in (ours[0], theirs[0])]
    assert order[0] == order[1]


def test_reference_features_are_the_state_and_its_gradient(tuned: Any) -> None:
    (row,) = rows(tuned, [make_example("who makes honey", "beetles")])
    (result,) = reference_features(tuned, [row], 2)
    ids = torch.tensor([row.ids])
    states = tuned.lm(input_ids=ids, output_hidden_states=True).hidden_states
    assert result[: tuned.hidden_size] == pytest.approx(states[2][0, row.n_prompt - 1].detach().numpy(), abs=1e-5)
    # the loss goes down where the state is moved against the gradient, by as much as it says
    step = 1e-2
    losses = []
    for sign in (1, -1):

        def moved(_: Any, args: Any, kwargs: Any, sign: int = sign) -> Any:
            state = (args[0] if args else kwargs["hidden_states"]).clone()
            state[0, row.n_prompt - 1] += (
                sign * step * torch.nn.functional.normalize(result[tuned.hidden_size :], dim=0)
            )
            return ((state, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": state})

        hook = tuned.blocks[2].register_forward_pre_hook(moved, with_kwargs=True)
        labels = ids.clone()
        labels[:, : row.n_prompt] = -100
        losses.append(float(tuned.lm(input_ids=ids, labels=labels).loss))
        hook.remove()
    assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(float(result[tuned.hidden_size :].norm()), rel=0.02)


def test_reference_features_keep_the_model_frozen(tuned: Any) -> None:
    reference_features(tuned, rows(tuned, [make_example("why", "a b c")]), 2)
    assert not any(weight.requires_grad or weight.grad is not None for weight in tuned.lm.parameters())
