"""The token budget: set by the free GPU memory, stored for the model, halved after an out-of-memory error."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from taughtby.capture import budget
from taughtby.capture.budget import (
    CPU_GENERATION,
    CPU_TOKENS,
    FEWEST_TOKENS,
    MOST_PER_TOKEN,
    MOST_TOKENS,
    generation_budget,
    halve_budget,
    token_budget,
)
from taughtby.methods import get_method
from taughtby.models.model import Model


@pytest.fixture
def on_gpu(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that gives the tiny model a GPU with so much free memory."""

    def give(free: float) -> Model:
        monkeypatch.setattr(Model, "device", property(lambda _: torch.device("cuda", 0)))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 0)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 0)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(free), int(free)))
        monkeypatch.setattr(budget, "_budgets", {})
        return replace(tiny)

    return give


def test_cpu_has_a_fixed_token_budget(tiny: Model) -> None:
    assert token_budget(tiny, 0) == token_budget(tiny, 4, per_token=True) == CPU_TOKENS


def test_token_budget_depends_on_free_memory_and_blocks(on_gpu: Any) -> None:
    model = on_gpu(2e8)
    deep, shallow = token_budget(model, 4), token_budget(model, 0)
    assert FEWEST_TOKENS < deep < shallow < MOST_TOKENS
    assert deep * budget.bytes_per_token(model, 4) <= 1e8
    assert token_budget(on_gpu(1e12), 4) == MOST_TOKENS
    assert token_budget(on_gpu(1e12), 4, per_token=True) == MOST_PER_TOKEN
    assert token_budget(on_gpu(10), 4) == FEWEST_TOKENS


def test_the_token_budget_is_cached_and_halved(on_gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = on_gpu(1e12)
    assert token_budget(model, 4) == MOST_TOKENS
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10, 10))
    assert token_budget(model, 4) == MOST_TOKENS
    halve_budget(model)
    assert token_budget(model, 4) == MOST_TOKENS // 2


def test_generation_budget_counts_keys_and_values_of_all_blocks(on_gpu: Any, tiny: Model) -> None:
    model = on_gpu(2e8)
    tokens = generation_budget(model)
    cache = 2 * model.depth * model.hidden_size * model.dtype.itemsize
    assert FEWEST_TOKENS < tokens < token_budget(model, 0)
    assert tokens * (budget.bytes_per_token(model, 0) + cache) <= 1e8
    halve_budget(model)
    assert generation_budget(model) == tokens // 2


def test_cpu_has_a_fixed_generation_budget(tiny: Model) -> None:
    assert generation_budget(tiny) == CPU_GENERATION


@pytest.mark.parametrize(
    ("method", "blocks"),
    [("repsim", 0), ("rise", 0), ("rept:layer=3", 1), ("rept:layer=-1", 0), ("lesson:layer=1", 3), ("tracin", 4)],
)
def test_backward_blocks_of_each_method(method: str, blocks: int) -> None:
    assert get_method(method).resolve_layers(4, None).backward_blocks(4) == blocks
