"""The query benchmark: all implementations find the same rows, and the reported numbers cover all of the work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from speed_query import FEATURE, METHOD, Contender, _line, race, random_index
from taughtby.bench.cost import Cost
from taughtby.methods import QueryFeatures


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    return race(num_rows=700, width=24, num_queries=3, repeats=2, top_k=5, folder=tmp_path_factory.mktemp("race"))


def test_all_contenders_find_the_same_rows(lines: list[dict[str, object]]) -> None:
    assert [line["name"] for line in lines if "faiss" not in str(line["name"])] == [
        "taughtby", "taughtby, and which rows are flagged", "NumPy over a memory map", "a loop over pairs"
    ]  # fmt: skip
    assert [line["same"] for line in lines[:-1]] == [1] * (len(lines) - 1) and lines[-1]["same"] is None


def test_line_reports_scaled_medians_of_the_turns() -> None:
    opening = Cost(seconds=9, cpu=9, peak=100, more=30)
    turns = [Cost(seconds=s, cpu=2 * s, peak=200, more=s) for s in (1.0, 5.0, 2.0)]
    line = _line(Contender("half", lambda: lambda: None, bytes=8, share=0.5), [opening, *turns])
    assert (line["seconds"], line["least"], line["most"], line["cpu"]) == (4, 2, 10, 8)
    assert (line["memory"], line["scaled"], line["bytes"]) == (35, True, 8)


def test_only_the_loop_is_scaled(lines: list[dict[str, object]]) -> None:
    assert [line["scaled"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert lines[0]["times"] == 1 and all(float(str(line["seconds"])) > 0 for line in lines)


@pytest.mark.parametrize("wide", [7, 2**21])
def test_streamed_scores_match_a_dense_product(wide: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the tile: of the halves on disk, as floats, in one product; the ranking is the same to the last row."""
    index = random_index(tmp_path, 600, 24)
    monkeypatch.setattr("taughtby.index.reader.SCAN", wide * 24)
    asked = torch.randn(9, 24, generator=torch.Generator().manual_seed(3))
    table = index.to_arrow([FEATURE])
    halves = torch.tensor(table.column(FEATURE).combine_chunks().flatten().to_numpy().copy()).view(-1, 24)
    truth = torch.nn.functional.normalize(asked.double(), dim=1) @ halves.double().T
    result = METHOD.scores(QueryFeatures(("",) * 9, ("",) * 9, {FEATURE: asked}), index)
    torch.testing.assert_close(result.double(), truth, atol=1e-6, rtol=0)
    assert torch.equal(result.topk(50).indices, truth.topk(50).indices)
