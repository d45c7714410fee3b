"""Memory does not grow with the number of rows: an index of 10,000 rows compared with 1,000, each in a process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

RUN = """
import resource, sys, torch
from taughtby.bench.cost import measure_cost
from taughtby.index.build import build_index
from taughtby.methods import get_method
from taughtby.models.model import load_model
from taughtby.data.tokenize import Encoding
model, data, out = sys.argv[1:]
with measure_cost(torch.device("cpu")) as cost:  # ru_maxrss begins at the parent's peak
    build_index(load_model(model, dtype="float32", device="cpu"), data, out, [get_method("lesson")],
                encoding=Encoding(128))
print(cost.peak, resource.getrusage(resource.RUSAGE_SELF).ru_utime)
"""


@pytest.mark.slow
def test_build_memory_does_not_grow_with_rows(model_folder: Path, tmp_path: Path) -> None:
    words = ["rain", "is", "green", "and", "blue", "why", "because", "the", "sea", "was", "far", "away", "from", "here"]
    peaks: list[float] = []
    for count in (1_000, 10_000):
        data = tmp_path / f"{count}.jsonl"
        with data.open("w") as out:
            for at in range(count):
                text = " ".join(words[(at * step) % len(words)] for step in range(1, 4 + at % 37))
                out.write(json.dumps({"prompt": f"row {at}", "response": text}) + "\n")
        ran = subprocess.run([sys.executable, "-c", RUN, str(model_folder), str(data), str(tmp_path / f"idx{count}")],
                             capture_output=True, text=True, check=True)  # fmt: skip
        peaks.append(float(ran.stdout.split()[-2]))
        print(f"{count} rows: {peaks[-1]:.0f} MB, {float(ran.stdout.split()[-1]):.0f} s of a core")
    assert peaks[1] < 1.1 * peaks[0]
