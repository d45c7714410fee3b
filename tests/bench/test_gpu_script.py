"""The GPU script runs to the end without a GPU, and the pipeline keeps a simulated device busy."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import gpu
import taughtby.index.build
from random_models import random_model, write_rows
from simulated_card import SimulatedCard, SimulatedLesson
from taughtby.data.tokenize import Encoding
from taughtby.index.build import build_index
from taughtby.index.writer import Writer


def test_every_benchmark_part_reports_lines() -> None:
    lines = list(gpu.measure(gpu.tiny_plan(48)))
    names = [line["name"] for line in lines]
    assert not [name for name in names if "not run" in name or "out of memory" in name]
    assert {line["part"] for line in lines} == {"host", "index", "capture", "trace", "generate", "large", "finetune"}
    assert sum(name.startswith("index, ") for name in names) == len(gpu.METHODS) + 2 + 2
    (simulated,) = [line for line in lines if "simulated" in line["name"]]
    assert 0 < simulated["busy"] <= 1
    assert gpu.table({"device": "cpu", "lines": lines}).row_count == len(lines)
    assert all(gpu.line_text(line) for line in lines)


def test_parts_without_time_left_are_reported() -> None:
    plan = gpu.Plan("tiny", "tiny", 8, 8, -1, torch.device("cpu"), torch.float32)
    assert [line["name"] for line in gpu.measure(plan)] == ["not run: no time was left"] * 7


def test_device_does_not_wait_for_index_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The card ends its first window only after it was given its second; a loop that waits would never end."""
    monkeypatch.setattr(taughtby.index.build, "WINDOW", 8)
    write_rows(tmp_path / "rows.jsonl", 24)

    class Held(threading.Event):
        def synchronize(self) -> None:
            self.wait()

    class PatientCard:
        """Ends a batch once it was given another one, and the last at once."""

        jobs_left = 3  # the rows of a window are one batch
        held: Held | None = None

        def launch(self, tokens: int) -> Held:
            if self.held:
                self.held.set()
            self.held, self.jobs_left = Held(), self.jobs_left - 1
            if not self.jobs_left:
                self.held.set()
            return self.held

    card = PatientCard()
    with random_model("tiny", torch.device("cpu"), torch.float32) as model:
        monkeypatch.setattr("taughtby.data.batching.BATCH_OVERHEAD", 1)  # all rows in one batch
        index = _in_time(lambda: build_index(model, tmp_path / "rows.jsonl", tmp_path / "idx",
                                             [SimulatedLesson(card=card)], encoding=Encoding(512), layers=False,
                                             token_budget=100_000))  # fmt: skip
    assert len(index) == 24


def test_a_simulated_card_works_its_jobs_in_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 10.5, 14.0])  # of three launches
    monkeypatch.setattr("simulated_card.time.perf_counter", lambda: next(clock))
    card = SimulatedCard(0.01)
    assert [card.launch(100).end, card.launch(100).end, card.launch(200).end] == [11.0, 12.0, 16.0]
    assert card.busy == 4.0 and card.share == 4 / 6


def test_windows_are_committed_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taughtby.index.build, "WINDOW", 8)
    write_rows(tmp_path / "rows.jsonl", 20)
    tables: list[list[str]] = []
    whole = Writer.append_table

    def append(writer: Writer, table: Any) -> None:
        tables.append(table["source"].to_pylist())
        whole(writer, table)

    monkeypatch.setattr(Writer, "append_table", append)
    with random_model("tiny", torch.device("cpu"), torch.float32) as model:
        build_index(model, tmp_path / "rows.jsonl", tmp_path / "idx", [SimulatedLesson(card=SimulatedCard(1e-6))],
                    encoding=Encoding(512), layers=False)  # fmt: skip
    assert [len(table) for table in tables] == [8, 8, 4]
    sources = [source for table in tables for source in table]
    assert sources == [f"{tmp_path / 'rows.jsonl'}:{line}" for line in range(1, 21)]


def _in_time(work: Any) -> Any:
    """What the work returns; fails if it waits for itself."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()
    thread.join(120)
    assert results, "the host waits for the card, and the card for the host"
    return results[0]
