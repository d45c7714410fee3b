"""Pipeline stages in threads: one item is prepared ahead, and errors are raised where they belong."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from taughtby.index.stages import OneBehind, one_ahead


def test_one_ahead_prefetches_exactly_one_item() -> None:
    begun = [threading.Event() for _ in range(3)]

    def items() -> Iterator[int]:
        for number, event in enumerate(begun):
            event.set()
            yield number

    with one_ahead(items()) as ahead:
        assert next(ahead) == 0
        assert begun[1].wait(60)
        assert not begun[2].is_set()  # and no more than one
        assert list(ahead) == [1, 2]


def test_one_ahead_raises_at_the_failing_item() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ZeroDivisionError

    with one_ahead(items()) as ahead:
        assert next(ahead) == 1
        with pytest.raises(ZeroDivisionError):
            next(ahead)


def test_jobs_run_in_order_and_one_at_a_time() -> None:
    ended: list[int] = []
    with OneBehind[None]() as behind:
        for number in range(5):
            behind.submit(lambda number=number: ended.append(number))
            assert len(ended) >= number
    assert ended == [0, 1, 2, 3, 4]


def test_last_job_finishes_after_interrupt() -> None:
    ended: list[int] = []
    gate = threading.Event()

    def job() -> None:
        gate.wait(60)
        ended.append(1)

    with pytest.raises(KeyboardInterrupt), OneBehind[None]() as behind:  # noqa: PT012
        behind.submit(job)
        gate.set()
        raise KeyboardInterrupt
    assert ended == [1]


def test_failed_job_raises() -> None:
    with pytest.raises(ZeroDivisionError), OneBehind[float]() as behind:
        behind.submit(lambda: 1 / 0)
