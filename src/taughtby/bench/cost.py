"""Measure the cost of a block of code: wall-clock seconds, CPU seconds and peak memory."""

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
    """Time in seconds, and memory in MB of the process, or of the accelerator if the model is on one.

    Attributes:
        seconds: Wall-clock time.
        cpu: CPU seconds of the process, over all cores.
        peak: Peak memory; None if the system does not report it.
        more: Peak memory minus the memory in use before.
    """

    seconds: float = 0.0
    cpu: float = 0.0
    peak: float | None = None
    more: float | None = None


@contextmanager
def measure_cost(device: torch.device) -> Generator[Cost]:
    """Measure the block; the yielded `Cost` is filled when it ends."""
    result = Cost()
    before = _reset_peak(device)
    start, cpu_start = time.perf_counter(), time.process_time()
    try:
        yield result
    finally:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        result.seconds, result.cpu = time.perf_counter() - start, time.process_time() - cpu_start
        result.peak = _peak(device) if before is not None else None
        result.more = result.peak - before if result.peak is not None and before is not None else None


def _reset_peak(device: torch.device) -> float | None:
    """Reset the peak to the memory in use, and return that in MB; None if the system does not support it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 2**20
    try:
        _RESET.write_text("5")  # Linux: resets VmHWM, which otherwise only grows
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
