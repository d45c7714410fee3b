"""The scale benchmark runs to the end on synthetic rows, and reports the cost of each part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scale import _steps, measure_life, table


def test_measure_life_runs_all_parts(tiny: Any, tmp_path: Path) -> None:
    parts: list[str] = []
    life = measure_life(tiny, tmp_path / "scale", 2000, width=16, step=500, report=parts.append)
    assert list(life["parts"]) == parts
    assert parts[:2] == ["index, interrupted at 60%", "index, resumed"]
    assert list(life["flat"]) == ["500", "1000", "1500", "2000"]
    assert table(life).row_count == len(parts)


def test_steps_are_microseconds_per_row() -> None:
    times = [(at, at * 2e-6 if at <= 100 else 2e-4 + (at - 100) * 4e-6) for at in range(0, 201, 10)]
    assert _steps(times, 100) == {"100": pytest.approx(2.0), "200": pytest.approx(4.0)}
    assert _steps(times[:15], 100) == {"100": pytest.approx(2.0)}
