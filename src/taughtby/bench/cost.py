"""What a piece of work costs: seconds, of the clock and of the cores, and memory at its highest."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Cost:
    """Seconds, and MB of the process, or of the accelerator where one computes; None where the system does not say.

    `cpu` are the seconds that all cores worked for it, whatever else the machine did meanwhile. `peak` is the highest
    memory there was, `more` what of it the work took on top of what was there before.
    """

    seconds: float = 0.0
    cpu: float = 0.0
    peak: float | None = None
    more: float | None = None


@contextmanager
def cost(device: torch.device) -> Generator[Cost]:
    """The cost of the block, known when it ends.

    A process's peak only ever grows; Linux sets it back when asked (clear_refs, 5), so that each block has its own.
    """
    found = Cost()
    before = _begin(device)
    begun, worked = time.perf_counter(), time.process_time()
    try:
        yield found
    finally:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.seconds, found.cpu = time.perf_counter() - begun, time.process_time() - worked
        found.peak = _peak(device) if before is not None else None
        found.more = found.peak - before if found.peak is not None and before is not None else None


def _begin(device: torch.device) -> float | None:
    """MB in use now, with the peak set back to it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 2**20
    try:
        _RESET.write_text("5")
    except OSError:
        return None
    return _field("VmRSS")


def _peak(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else _field("VmHWM")


def _field(name: str) -> float | None:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    return None
