"""Copies between the CPU and an accelerator for which neither has to wait.

A copy from or to ordinary memory makes the host wait until the accelerator has done all it was given. So copies go
through pinned memory, which PyTorch keeps for the next ones. Inside `deferred_copies` a tensor from the accelerator is
filled later: only its shape may be used before `wait`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Copies:
    """Copies from `device` that have begun: `wait` returns once all have ended."""

    device: torch.device
    events: list[Any] = field(default_factory=list[Any])

    def wait(self) -> None:
        """Wait for the copies, from any thread."""
        for event in self.events:
            event.synchronize()
        self.events.clear()


_deferred: ContextVar[Copies | None] = ContextVar("deferred", default=None)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a CPU tensor on `device`; the host does not wait for the copy."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.contiguous().pin_memory().to(device, non_blocking=True)


def to_host(tensor: Tensor) -> Tensor:
    """Return a tensor on the CPU; within `deferred_copies`, its values are there after `wait`."""
    copies = _deferred.get()
    if copies is None or tensor.device.type != "cuda" or tensor.device != copies.device:
        return tensor.cpu()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor.detach(), non_blocking=True)


def pending_copies() -> Copies | None:
    """Return the copies that this thread defers; None outside of `deferred_copies`."""
    return _deferred.get()


@contextlib.contextmanager
def deferred_copies(device: torch.device) -> Generator[Copies]:
    """While active in this thread, `to_host` does not wait for `device`."""
    copies = Copies(device)
    token = _deferred.set(copies)
    try:
        yield copies
    finally:
        _deferred.reset(token)
        if device.type == "cuda":
            with torch.cuda.device(device):
                event = torch.cuda.Event(blocking=True)  # the waiting thread sleeps
                event.record()
            copies.events.append(event)
