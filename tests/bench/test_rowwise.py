"""Batched capture compared with one row at a time: both compute the same, and the reported times are those measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import rowwise
from conftest import GOLDEN, PAIRS
from rowwise import Race, race, sample_rows, score_batched, score_single
from taughtby.data.batching import make_batches
from taughtby.data.dataset import read_examples
from taughtby.data.example import make_example
from taughtby.data.tokenize import Encoding, TokenizedExample, tokenize
from taughtby.errors import OptionError
from taughtby.models.model import load_model

DATA = GOLDEN.parent / "data" / "factual-Ag"


@pytest.fixture(scope="module")
def rows(tuned: Any) -> list[TokenizedExample]:
    items = [tokenize(tuned.tokenizer, make_example(*pair), Encoding(128)) for pair in PAIRS]
    return [row for row in items if isinstance(row, TokenizedExample)]


def test_single_and_batched_scores_agree(
    tuned: Any, rows: list[TokenizedExample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rowwise, "BATCHES_PER_TURN", 1)
    items = list(race(tuned, rows, rows[:2], budget=64))
    result = items[-1]
    assert 0 < result.off < 1e-4 * result.largest
    assert len(items) == len(result.single) == len(result.batched) == len(result.tokens) > 2
    assert sum(result.rows) == len(rows)
    assert sum(result.tokens) == sum(len(row.ids) for row in rows)
    assert all(weight.grad is None and not weight.requires_grad for weight in tuned.lm.parameters())


def test_race_resumes_from_earlier_results(
    tuned: Any, rows: list[TokenizedExample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rowwise, "BATCHES_PER_TURN", 1)
    first, *_, whole = race(tuned, rows, rows[:2], budget=64)
    *_, again = race(tuned, rows, rows[:2], budget=64, earlier=Race.from_json(json.loads(json.dumps(first.to_json()))))
    assert again.single[0] == first.single[0]
    assert (again.rows, again.tokens) == (whole.rows, whole.tokens)
    assert not list(race(tuned, rows, rows[:2], budget=64, earlier=again))


def test_batched_scores_follow_the_batch_order(tuned: Any, rows: list[TokenizedExample]) -> None:
    asked = torch.randn(2, 4 * 224)
    share = list(make_batches(rows, 64))
    order = [at for batch in share for at in batch.row_indices]
    one, two = score_single(tuned, rows, asked)[:, order], score_batched(tuned, share, asked)
    assert one.std() > 0
    assert order != sorted(order)
    torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


def test_sample_rows_is_deterministic_without_duplicates(tuned: Any) -> None:
    examples = [make_example(*pair) for pair in PAIRS]
    some = sample_rows(tuned.tokenizer, examples, Encoding(128), 3)
    assert some == sample_rows(tuned.tokenizer, examples, Encoding(128), 3)
    assert len({row.ids for row in some}) == 3
    assert len(sample_rows(tuned.tokenizer, examples, Encoding(128), 99)) == len(PAIRS)


@pytest.mark.slow
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="on a CPU one row is enough to keep it busy")
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no data in {DATA}")
def test_batches_are_three_times_faster_on_gpu() -> None:
    """All 1,000 rows of the paper's factual set."""
    model = load_model("smollm2", str(GOLDEN / "adapter"), dtype="bfloat16", device="cuda")
    items = [tokenize(model.tokenizer, row, Encoding(512)) for row in read_examples(DATA)]
    rows = [row for row in items if isinstance(row, TokenizedExample)]
    *_, result = race(model, rows, rows[-2:], budget=16 * 1024)
    print(result)
    assert len(rows) == 1000
    assert result.ratio >= 3


def test_race_summary_text() -> None:
    result = Race((4.0, 8.0), (2.0, 2.0), (9, 8), (300, 300), 3e-6, 3.0)
    assert result.ratio == 3
    assert str(result) == (
        "17 rows: 3.00 times as fast (median turn 3.00, 2.00 to 4.00): "
        "12 s for 600 tokens a row at a time (50 a second), 4 s in batches (150); "
        "scores differ by 1.0e-06 of the largest"
    )


def test_race_without_adapter_raises(tiny: Any, rows: list[TokenizedExample]) -> None:
    with pytest.raises(OptionError, match="needs an adapter"):
        list(race(tiny, rows, rows[:1]))


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What the script prints."""
    monkeypatch.setattr(sys, "argv", ["rowwise.py", *map(str, arguments)])
    rowwise.main()
    return capsys.readouterr().out


def test_rowwise_script_resumes_unless_dtype_changes(
    data: Path, model_folder: Path, adapter_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(rowwise, "BATCHES_PER_TURN", 1)
    file = tmp_path / "o" / "gradients.json"
    command = (data, "--model", model_folder, "-a", adapter_folder, "-o", tmp_path / "o")
    assert run(monkeypatch, capsys, *command).startswith(f"{len(PAIRS)} rows: ")
    first = json.loads(file.read_text())
    assert (first["race"]["off"] <= 0.2 * first["race"]["largest"]) and first["single"] == "torch.float32"
    run(monkeypatch, capsys, *command)
    assert json.loads(file.read_text()) == first
    run(monkeypatch, capsys, *command, "--dtype", "float32")
    assert json.loads(file.read_text())["race"]["single"] != first["race"]["single"]
