"""RepT from its formulas: a Llama in NumPy and float64, with finite differences, one row and token at a time.

It shares no line with the package, needs no download, and stands in where the numbers of the paper's own code
(test_golden.py) are not at hand. RepT, arXiv 2510.02334, section 3.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from conftest import PAIRS, SMALL
from taughtby.attribution.query import Query
from taughtby.attribution.trace import trace_queries
from taughtby.capture.capture import capture
from taughtby.data.batching import collate
from taughtby.data.dataset import read_examples
from taughtby.data.tokenize import Encoding, TokenizedExample, tokenize
from taughtby.index.build import build_index
from taughtby.methods import get_method

LAYER, ENCODING = 2, Encoding(128)
HEADS, GROUPS, EPS, THETA, STEP = SMALL["num_attention_heads"], SMALL["num_key_value_heads"], 1e-6, 10_000.0, 1e-5


@dataclass(frozen=True)
class Llama:
    """A model from its weights by name."""

    weights: dict[str, np.ndarray]

    def states(self, ids: list[int]) -> np.ndarray:
        """h_ℓ of each token, (T, d), where block ℓ begins."""
        h = self.weights["model.embed_tokens.weight"][ids]
        for layer in range(LAYER):
            h = self.block(h, layer)
        return h

    def loss(self, h: np.ndarray, row: TokenizedExample) -> float:
        """The mean cross entropy of the answer's tokens, from h_ℓ up."""
        for layer in range(LAYER, SMALL["num_hidden_layers"]):
            h = self.block(h, layer)
        z = self.norm(h, "model.norm") @ self.weights["lm_head.weight"].T
        logp = z - z.max(-1, keepdims=True)
        logp -= np.log(np.exp(logp).sum(-1, keepdims=True))
        places = range(row.n_prompt - 1, len(row.ids) - 1)
        return float(-np.mean([logp[at, row.ids[at + 1]] for at in places]))

    def block(self, h: np.ndarray, layer: int) -> np.ndarray:
        name = f"model.layers.{layer}"
        h = h + self.attention(self.norm(h, f"{name}.input_layernorm"), f"{name}.self_attn")
        x = self.norm(h, f"{name}.post_attention_layernorm")
        gate, up = (x @ self.weights[f"{name}.mlp.{part}_proj.weight"].T for part in ("gate", "up"))
        return h + (gate / (1 + np.exp(-gate)) * up) @ self.weights[f"{name}.mlp.down_proj.weight"].T

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * self.weights[f"{name}.weight"]

    def attention(self, x: np.ndarray, name: str) -> np.ndarray:
        q, k, v = (x @ self.weights[f"{name}.{part}_proj.weight"].T for part in "qkv")
        q, k, v = (part.reshape(len(x), -1, q.shape[1] // HEADS) for part in (q, k, v))
        q, k = turned(q), turned(k)
        captured = np.tril(np.ones((len(x), len(x)), dtype=bool))
        heads = []
        for head in range(HEADS):
            group = head * GROUPS // HEADS
            scores = np.where(captured, q[:, head] @ k[:, group].T / np.sqrt(q.shape[-1]), -np.inf)
            share = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(share / share.sum(-1, keepdims=True) @ v[:, group])
        return np.concatenate(heads, 1) @ self.weights[f"{name}.o_proj.weight"].T


def turned(x: np.ndarray) -> np.ndarray:
    """Rotary positions: coordinates i and i + d/2 of token t turned by the angle t θ^(-2i/d)."""
    half = x.shape[-1] // 2
    angle = np.arange(len(x))[:, None, None] * THETA ** (-np.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)


def truth(model: Llama, row: TokenizedExample) -> tuple[np.ndarray, np.ndarray]:
    """(H, g): the state of the last prompt token from the prompt alone, and ∂loss/∂h_ℓ at p … p+n-1, (n, d)."""
    h = model.states(list(row.ids))
    g = np.zeros((row.n_response, h.shape[1]))
    for t in range(row.n_response):
        for k in range(h.shape[1]):
            moved = np.zeros_like(h)
            moved[row.n_prompt - 1 + t, k] = STEP
            g[t, k] = (model.loss(h + moved, row) - model.loss(h - moved, row)) / (2 * STEP)
    return model.states(list(row.ids[: row.n_prompt]))[-1], g


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def llama(model_folder: Path) -> Llama:
    return Llama({name: w.astype(np.float64) for name, w in load_file(model_folder / "model.safetensors").items()})


@pytest.fixture(scope="module")
def rows(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[TokenizedExample]]:
    file = tmp_path_factory.mktemp("reference") / "rows.jsonl"
    file.write_text("".join(json.dumps({"prompt": p, "response": r}) + "\n" for p, r in PAIRS[:4]))
    outputs = [tokenize(tiny.tokenizer, row, ENCODING) for row in read_examples(file)]
    return file, [row for row in outputs if isinstance(row, TokenizedExample)]


@pytest.fixture(scope="module")
def reference(llama: Llama, rows: tuple[Path, list[TokenizedExample]]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [truth(llama, row) for row in rows[1]]


def test_states_and_gradients_match_the_numpy_reference(
    tiny: Any, rows: tuple[Path, list[TokenizedExample]], reference: Any
) -> None:
    got = capture(tiny, collate(rows[1], range(len(rows[1]))), [LAYER])
    for i, (row, (state, grads)) in enumerate(zip(rows[1], reference, strict=True)):
        np.testing.assert_allclose(got.states[LAYER][i, 0].numpy(), state, atol=1e-4 * np.abs(state).max())
        ours = got.grads[LAYER][i, : row.n_response].numpy()
        np.testing.assert_allclose(ours, grads, atol=1e-4 * np.abs(grads).max())


def test_row_and_token_scores_match_the_numpy_reference(
    tiny: Any, rows: tuple[Path, list[TokenizedExample]], reference: Any, tmp_path: Path
) -> None:
    """The released score, cos([H; g_1], [H'; g'_1]), and the paper's token score, as a mean over the query's tokens.

    An index holds float16, so to three digits.
    """
    index = build_index(
        tiny, rows[0], tmp_path / "idx", [get_method(f"rept:layer={LAYER},scale=raw")], encoding=ENCODING
    )
    (traced,) = trace_queries(index, tiny, [Query(*PAIRS[2])], top_k=len(reference)).queries
    signatures = unit(np.stack([np.concatenate([state, grads[0]]) for state, grads in reference]))
    np.testing.assert_allclose(traced.scores.numpy(), signatures @ signatures[2], atol=2e-3)
    toward = unit(reference[2][1]).mean(0)
    for result in traced.rows:
        expected = unit(reference[result.position][1]) @ toward
        shown = [token.score for token in result.tokens]  # all but the template's own that close the turn
        assert len(expected) - 2 <= len(shown) <= len(expected)
        np.testing.assert_allclose(shown, expected[: len(shown)], atol=2e-3)
