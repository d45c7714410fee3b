"""The indexing benchmark: what it counts and times. No test asserts a speed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import speed
import speed_capture
from speed_capture import Contender, _contenders, _own, race, random_rows
from taughtby.data.batching import make_batches
from taughtby.data.tokenize import TokenizedExample
from taughtby.models.model import Model


@pytest.mark.parametrize("shared", [0, 30])
def test_random_rows_have_a_quarter_prompt_tokens(shared: int) -> None:
    rows = random_rows(400, 384, num_shared=shared)
    assert len({row.ids[:shared] for row in rows}) == 1
    assert {len(row.ids) for row in rows} != {len(rows[0].ids)}
    own = sum(len(row.ids) - shared for row in rows)
    assert sum(row.n_prompt - shared for row in rows) / own == pytest.approx(0.25, abs=0.02)
    assert random_rows(400, 384, num_shared=shared) == rows != random_rows(400, 384, num_shared=shared, seed=1)


def test_own_tokens_count_shared_prefixes_once() -> None:
    rows = [TokenizedExample((1, 2, 3, 4, 5), 4), TokenizedExample((1, 2, 9, 9, 9, 9), 4)]
    assert _own(rows) == 2 + (5 - 2 - 1) + (6 - 2 - 1)
    assert _own(rows[:1]) == 4


def test_race_reports_one_line_per_contender(tuned: Model) -> None:
    rows, message = random_rows(40, 384), list[tuple[int, int]]()
    lines = race(tuned, rows, budget=512, turns=4, progress=lambda *done: message.append(done))
    assert message == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [line["side"] for line in lines] == [side.name for side in _contenders(tuned)]
    assert [lines[0][key] for key in ("times", "from", "to", "floor_times")] == [1, 1, 1, 1]
    for line in lines:
        assert 0 < line["from"] <= line["to"]
        assert line["times"] == pytest.approx(line["seconds"] / lines[0]["seconds"])
        assert line["tokens_a_second"] == pytest.approx(sum(len(row.ids) for row in rows) / line["seconds"])
        assert line["share_of_peak"] > 0
    floors = {line["side"]: line["floor_times"] for line in lines}
    signature, last, deep, middle, rept, tracin = list(floors.values())[1:]
    assert signature < last <= deep < middle < tracin < rept


def test_every_fast_contender_processes_all_rows(tuned: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    met: dict[str, list[TokenizedExample]] = {}

    def watched(side: Contender) -> Contender:
        return replace(side, run=lambda rows, _: met.setdefault(side.name, []).extend(rows))

    sides = _contenders(tuned)
    monkeypatch.setattr(speed_capture, "_contenders", lambda _: [watched(side) for side in sides])
    rows = random_rows(40, 384)
    race(tuned, rows, budget=512, turns=4)
    for side in sides:
        warm = len(next(make_batches(rows, 512, prompts_only=side.prompts_only)).row_indices)
        timed = met[side.name] if side.slow else met[side.name][warm:]
        assert set(timed) <= set(rows)
        assert side.slow or sorted(timed, key=hash) == sorted(rows, key=hash)


def test_contender_flops_match_hand_computed_values(tuned: Model) -> None:
    blocks, head = sum(w.numel() for w in tuned.blocks.parameters()), 384 * 32
    rows = [TokenizedExample(tuple(range(10)), 4)]
    floors = [side.flops(rows) for side in _contenders(tuned)]
    plain = 2 * 10 * (blocks + head)
    assert floors == [
        plain,
        2 * (blocks * 3 + 2 * head),  # of 9 tokens, 6 are for the answer alone
        2 * (blocks * 9 + 2 * head * 6),
        2 * (blocks * 9 + 2 * head * 6),  # 90 % of 4 blocks are all of them
        2 * (blocks * (9 + 3) + 2 * head * 6),
        2 * plain + 2 * 4 * (blocks + head),
        2 * plain,
    ]


def test_index_table_shows_every_contender(tuned: Model) -> None:
    from rich.console import Console

    lines: Any = speed.race_indexing(tuned, 8, 30)
    console = Console(width=120, record=True)
    console.print(speed.index_table(lines, 30))
    text = console.export_text()
    assert all(line["side"] in text for line in lines) and "first 30 tokens" in text
