"""Stages of a pipeline in threads, each one item ahead of or behind the one that is in work.

Threads share Python's lock, so they save the time in which the main one waits: for an accelerator, or for a disk.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

T = TypeVar("T")
END: Any = object()


@contextlib.contextmanager
def one_ahead(items: Iterable[T]) -> Generator[Iterator[T]]:
    """Iterate over items in a thread that works on the next one while this one is in use.

    An error is raised where its item would come. At the end of the context, the item in work is finished and dropped.
    """
    with ThreadPoolExecutor(1, "taughtby-ahead") as executor:
        source = iter(items)

        def results() -> Iterator[T]:
            pending = executor.submit(next, source, END)
            while (item := pending.result()) is not END:
                pending = executor.submit(next, source, END)
                yield item

        yield results()


class OneBehind(Generic[T]):
    """Runs jobs in a thread, in their order; `submit` first waits for the job before.

    At the end of the context the last job is waited for, also after an error or Ctrl-C: what it writes is whole.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "taughtby-behind")
        self._last: Future[T] | None = None

    def __enter__(self) -> OneBehind[T]:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        self._executor.shutdown()
        if kind is None:
            self.wait()

    def submit(self, job: Callable[[], T]) -> None:
        """Begin a job, once the one before has ended; raises its error."""
        self.wait()
        self._last = self._executor.submit(job)

    def wait(self) -> None:
        """Wait for the last job; raises its error."""
        last, self._last = self._last, None
        if last is not None:
            last.result()
