"""kill -9 of workers and the driver at random moments of a build on Ray: part of `make torture`."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

from test_torture import equal

from taughtby.data.tokenize import Encoding
from taughtby.index.build import build_index
from taughtby.index.reader import Index
from taughtby.index.scheduler import WINDOWS_AHEAD
from taughtby.methods.rept import RepT
from taughtby.models.model import load_model

WINDOW, BUDGET, WORKERS = 16, 256, 2
HERE = Path(__file__).parent


class Slow(RepT):
    """RepT that writes down who reads which rows, and takes its time."""

    def features(self, model: Any, batch: Any, weights: Any = None) -> Any:
        line = json.dumps([os.getpid(), batch.ids.tolist()]) + "\n"
        result = super().features(model, batch, weights)
        with Path(os.environ["TAUGHTBY_TEST_DIARY"]).open("a") as diary:
            diary.write(line)
        time.sleep(0.15)
        return result


def life(folder: str, data: str, out: str, workers: int = WORKERS) -> None:
    """Run one driver from start to end."""
    import taughtby.index.build
    from taughtby.index.distributed import RayPool

    taughtby.index.build.WINDOW = WINDOW
    model = load_model(folder, dtype="float32", device="cpu")
    with RayPool(num_workers=workers) as crew:
        build_index(
            model, data, out, [Slow(layer=2)], encoding=Encoding(128), token_budget=BUDGET, layers=False, pool=crew
        )


@dataclass(frozen=True)
class Killed:
    """The number of killed workers and drivers."""

    drivers: int
    workers: int


def killed(start: Any, diary: Path, kills: int, dice: random.Random) -> Killed:
    """Run `start` until it completes, with that many kills on the way."""
    drivers = workers = 0
    while True:
        seen = len(diary.read_text().splitlines())
        process = start()
        while process.poll() is None:
            lines = diary.read_text().splitlines()
            if drivers + workers == kills or len(lines) == seen:  # only while some worker is at work
                time.sleep(0.02)
                continue
            time.sleep(dice.uniform(0, 1))
            victim = process.pid if dice.random() < 0.1 else json.loads(lines[-1])[0]
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                continue
            seen = len(diary.read_text().splitlines())
            if victim == process.pid:
                drivers += 1
                break
            workers += 1
        if process.wait() == 0:
            return Killed(drivers, workers)
        assert process.returncode == -signal.SIGKILL, process.stderr.read()


@pytest.mark.torture
def test_ray_build_killed_at_random_equals_local_build(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, kills = int(os.environ.get("TAUGHTBY_TORTURE_ROWS", 2000)), int(os.environ.get("TAUGHTBY_TORTURE_KILLS", 100))
    data, diary = tmp_path / "data.jsonl", tmp_path / "diary"
    with data.open("w") as out:
        for at in range(rows):
            answer = f"answer {at} " * (1 + at % 7)
            out.write(json.dumps({"prompt": f"why {at} days in a week", "response": answer}) + "\n")
    diary.touch()
    monkeypatch.setenv("TAUGHTBY_TEST_DIARY", str(diary))
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    )
    code = f"from test_torture_ray import life; life({str(model_folder)!r}, {str(data)!r}, {str(tmp_path / 'idx')!r})"

    def start() -> Any:
        return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)

    begun = time.monotonic()
    result = killed(start, diary, kills, random.Random(7))
    took = time.monotonic() - begun
    times = Counter(json.dumps(ids) for line in diary.read_text().splitlines() for ids in json.loads(line)[1])
    twice = sum(times.values()) - rows
    print(f"{result.workers} workers and {result.drivers} drivers killed in {took:.0f} s, "
          f"{sum(times.values()):,} rows computed for {rows:,}: {twice} again (a window has {WINDOW})")  # fmt: skip
    assert len(times) == rows
    assert result.workers + result.drivers >= 0.8 * kills
    # a worker takes its open window with it, a driver all that are open
    assert twice <= WINDOW * (result.workers + WINDOWS_AHEAD * WORKERS * result.drivers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("taughtby.index.build.WINDOW", WINDOW)
        model = load_model(str(model_folder), dtype="float32", device="cpu")
        how: Any = {"encoding": Encoding(128), "token_budget": BUDGET, "layers": False}
        equal(Index.open(tmp_path / "idx"), build_index(model, data, tmp_path / "whole", [Slow(layer=2)], **how))
