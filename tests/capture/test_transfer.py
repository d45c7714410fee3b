"""Copies to and from a device: the values are right once they have been waited for."""

from __future__ import annotations

import pytest
import torch

from taughtby.capture import transfer
from taughtby.capture.transfer import deferred_copies, to_device, to_host

CPU = torch.device("cpu")


def test_cpu_tensors_are_not_copied() -> None:
    tensor = torch.arange(6.0).view(2, 3)
    with deferred_copies(CPU) as copies:
        assert to_device(tensor, CPU) is tensor
        assert to_host(tensor) is tensor
    assert copies.events == []
    copies.wait()


def test_wait_synchronizes_each_event_once() -> None:
    class Event:
        waits = 0

        def synchronize(self) -> None:
            self.waits += 1

    event = Event()
    copies = transfer.Copies(CPU, [event])
    copies.wait()
    copies.wait()
    assert event.waits == 1


def test_deferred_copies_is_reset_after_an_error() -> None:
    with deferred_copies(CPU) as copies:
        assert transfer.pending_copies() is copies
    with pytest.raises(ZeroDivisionError), deferred_copies(CPU):
        raise ZeroDivisionError
    assert transfer._deferred.get() is None
