"""Asynchronous copies between the CPU and an accelerator.

A copy from or to pageable memory blocks the host until the accelerator has finished all queued work. So copies use
pinned memory, which PyTorch caches. Inside `deferred_copies` a tensor copied from the accelerator is filled later: only
its shape may be used before `wait`.
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
    """Pending copies from `device`; `wait` returns once all are complete."""

    device: torch.device
    events: list[Any] = field(default_factory=list[Any])

    def wait(self) -> None:
        """Wait for the copies, from any thread."""
        for event in self.events:
            event.synchronize()
        self.events.clear()


_deferred: ContextVar[Copies | None] = ContextVar("deferred", default=None)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to `device`, without blocking the host."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.contiguous().pin_memory().to(device, non_blocking=True)


def to_host(tensor: Tensor) -> Tensor:
    """Copy a tensor to the CPU; inside `deferred_copies`, its values are valid only after `wait`."""
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
    """Inside this context, `to_host` does not wait for `device` in this thread."""
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
