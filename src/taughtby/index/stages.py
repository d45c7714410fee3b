"""Run pipeline stages in background threads, one item ahead of or behind the main thread.

Threads share the GIL, so they only save the time in which the main thread waits for an accelerator or a disk.
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
    """Iterate over items in a thread that prepares the next item while the current one is in use.

    An error is raised when its item is requested. On exit, the item in progress is finished and discarded.
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
    """Runs jobs in a background thread, in order; `submit` first waits for the previous job.

    On exit, it waits for the last job, even after an error or Ctrl-C, so that the job's writes are complete.
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
        """Start a job after the previous one has finished; raise the previous job's error."""
        self.wait()
        self._last = self._executor.submit(job)

    def wait(self) -> None:
        """Wait for the last job, and raise its error."""
        last, self._last = self._last, None
        if last is not None:
            last.result()
