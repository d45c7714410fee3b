"""The similarity curve compared with a slow loop, and the layer chosen on hand-made curves."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import PAIRS, SMALL
from taughtby.capture.layer_similarity import LayerSimilarity, measure_layer_similarity
from taughtby.data.example import make_example
from taughtby.data.tokenize import Encoding, TokenizedExample, tokenize
from taughtby.models.model import Model, load_model


def rows_of(model: Model) -> list[TokenizedExample]:
    rows = [tokenize(model.tokenizer, make_example(*pair), Encoding(64)) for pair in PAIRS]
    assert all(isinstance(row, TokenizedExample) for row in rows)
    return rows  # type: ignore[return-value]


@torch.no_grad()
def slowly(model: Model, rows: list[TokenizedExample]) -> list[float]:
    """The mean cosine of neighbouring layers, row by row and number by number."""
    means = []
    for upper in range(2, model.depth + 1):
        cosines = []
        for row in rows:
            ids = torch.tensor([row.ids[: row.n_prompt]])
            states = model.lm(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
            a, b = states[upper - 1][0, -1].tolist(), states[upper][0, -1].tolist()
            dot = sum(x * y for x, y in zip(a, b, strict=True))
            cosines.append(dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b)))
        means.append(sum(cosines) / len(cosines))
    return means


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_similarity_matches_a_reference_loop(family: str, make_model: Callable[[str], Path]) -> None:
    model = load_model(str(make_model(family)), dtype="float32", device="cpu")
    rows = rows_of(model)
    expected = slowly(model, rows)
    assert len(expected) == 3
    assert max(expected) < 0.999
    for budget in (1, 40, 4096):
        assert measure_layer_similarity(model, rows, budget).similarity == pytest.approx(expected, abs=1e-5)


def test_similarity_does_not_depend_on_answers(tiny: Model) -> None:
    rows = rows_of(tiny)
    other = [TokenizedExample((*row.ids[: row.n_prompt], 7, 8, 9), row.n_prompt) for row in rows]
    assert measure_layer_similarity(tiny, other).similarity == pytest.approx(
        measure_layer_similarity(tiny, rows).similarity, abs=1e-6
    )


@pytest.mark.parametrize(
    ("similarity", "layer", "reference"),
    [
        # pairs      1-2  2-3  3-4  4-5  5-6
        ([0.9, 0.8, 0.3, 0.8, 0.9], 4, 4),  # one valley: its upper layer
        ([0.1, 0.8, 0.3, 0.8, 0.9], 4, 2),  # the embedding's end is a jump for the reference only
        ([0.9, 0.8, 0.3, 0.8, 0.0], 4, 4),  # the final norm is no transition for either
        ([0.1, 0.8, 0.9, 0.7, 0.0], 5, 2),
        ([0.9, 0.3, 0.8, 0.3, 0.9], -1, -1),  # two valleys: no unique one
        ([0.9, 0.3, 0.8, 0.3 + 1e-8, 0.9], -1, -1),  # two as far as float32 can tell
        ([0.9, 0.3, 0.8, 0.3 + 1e-4, 0.9], 3, 3),
        ([0.3, 0.8, 0.3, 0.8, 0.9], 4, -1),
        ([0.5, 0.5, 0.5, 0.5, 0.5], -1, -1),
        ([-0.9, -0.5, -0.7, 0.1, 0.1], 4, 2),
        ([0.9, 0.3, 0.8], 3, 3),
        ([0.9, 0.3], -1, 2),  # three blocks: only the first pair is left
        ([0.9], -1, -1),  # two blocks
        ([], -1, -1),  # one
    ],
)
def test_transition_and_reference_layer_choice(similarity: list[float], layer: int, reference: int) -> None:
    outputs = LayerSimilarity(tuple(similarity))
    assert (outputs.transition_layer, outputs.reference_layer) == (layer, reference)


def test_json_holds_the_curve_and_both_choices() -> None:
    outputs = LayerSimilarity((0.1, 0.8, 0.3, 0.8, 0.9)).to_json()
    assert json.loads(json.dumps(outputs)) == {"similarity": [0.1, 0.8, 0.3, 0.8, 0.9], "layer": 4, "reference": 2}


@pytest.mark.parametrize("blocks", [1, 2])
def test_shallow_models_get_the_last_layer(blocks: int, tokenizer: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    config = LlamaConfig(**SMALL | {"num_hidden_layers": blocks})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = load_model(str(tmp_path), dtype="float32", device="cpu")
    rows = rows_of(model)
    outputs = measure_layer_similarity(model, rows)
    assert outputs.similarity == pytest.approx(slowly(model, rows), abs=1e-5)
    assert (outputs.transition_layer, outputs.reference_layer) == (-1, -1)
