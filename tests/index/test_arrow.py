"""Features as Arrow columns: directions and norms survive, however short the vectors are."""

from __future__ import annotations

import pytest
import torch

from taughtby.index.arrow import from_arrow, to_arrow


@pytest.mark.parametrize("length", [1e-36, 1e-30, 1e-24, 1e-12, 1.0, 1e12, 1e30])
def test_vectors_of_any_norm_keep_direction_and_norm(length: float) -> None:
    vector = torch.tensor([[3.0, 0.0, -4.0], [1.0, 1.0, 1.0]])
    stored = {name: from_arrow(column) for name, column in to_arrow("g", vector * length).items()}
    assert stored["g"].flatten().tolist() == pytest.approx([0.6, 0, -0.8, *[3**-0.5] * 3], abs=1e-3)
    assert stored["g_norm"].tolist() == pytest.approx([5 * length, 3**0.5 * length], rel=1e-4)


def test_zero_vector_roundtrips() -> None:
    stored = {name: from_arrow(column) for name, column in to_arrow("g", torch.zeros(1, 3)).items()}
    assert stored["g"].tolist() == [[0, 0, 0]] and stored["g_norm"].tolist() == [0]


def test_nan_vector_has_nan_norm() -> None:
    stored = {name: from_arrow(column) for name, column in to_arrow("g", torch.tensor([[1.0, torch.nan]])).items()}
    assert torch.isnan(stored["g_norm"]).all()
