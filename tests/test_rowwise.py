"""A row at a time against batches: the race is between equals, and what it says is what it measured."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from conftest import GOLDEN, PAIRS
from whence.bench.rowwise import Race, batched, race, single
from whence.dataset import read
from whence.errors import OptionError
from whence.example import example
from whence.model import load_model
from whence.tokens import Encoding, Row, encode

DATA = GOLDEN.parent / "data" / "factual-Ag"


@pytest.fixture(scope="module")
def rows(tuned: Any) -> list[Row]:
    made = [encode(tuned.tokenizer, example(*pair), Encoding(128)) for pair in PAIRS]
    return [row for row in made if isinstance(row, Row)]


def test_both_sides_score_alike(tuned: Any, rows: list[Row]) -> None:
    told: list[tuple[int, int]] = []
    found = race(tuned, rows, rows[:2], turn=3, progress=lambda *at: told.append(at))
    assert found.off < 1e-4
    assert len(found.single) == len(found.batched) == len(found.tokens) == 3
    assert sum(found.tokens) == sum(len(row.ids) for row in rows)
    assert told == [(3, 8), (6, 8), (8, 8)]
    assert all(weight.grad is None and not weight.requires_grad for weight in tuned.lm.parameters())


def test_the_scores_are_in_the_order_of_the_rows(tuned: Any, rows: list[Row]) -> None:
    asked = torch.randn(2, 4 * 224)
    one, two = single(tuned, rows, asked), batched(tuned, rows, asked, 64)
    assert one.std() > 0
    torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="on a CPU one row is enough to keep it busy")
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no data in {DATA}")
def test_on_an_accelerator_batches_are_three_times_as_fast() -> None:
    """All 1,000 rows of the paper's factual set."""
    model = load_model("smollm2", str(GOLDEN / "adapter"), dtype="bfloat16", device="cuda")
    made = [encode(model.tokenizer, row, Encoding(512)) for row in read(DATA)]
    rows = [row for row in made if isinstance(row, Row)]
    found = race(model, rows, rows[-2:], budget=16 * 1024)
    print(found)
    assert len(rows) == 1000
    assert found.ratio >= 3


def test_what_is_said() -> None:
    found = Race((4.0, 8.0), (2.0, 2.0), (300, 300), 1e-6)
    assert found.ratio == 3
    assert str(found) == (
        "3.00 times as fast (median turn 3.00, 2.00 to 4.00): 12 s for 600 tokens a row at a time (50 a second), "
        "4 s in batches (150); scores differ by 1.0e-06 of the largest"
    )


def test_without_an_adapter_there_is_no_race(tiny: Any, rows: list[Row]) -> None:
    with pytest.raises(OptionError, match="needs an adapter"):
        race(tiny, rows, rows[:1])
