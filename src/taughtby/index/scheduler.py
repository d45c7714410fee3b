"""Assign windows of rows to Ray workers, retry those of workers that die or hang, and commit results in order.

Ray's own restarts and task retries are not enough: they retry a window without limit or without recording which rows
were in progress, and do not restart a worker that hangs. This scheduler reports the rows that make workers die, kills
workers that do not respond, and bounds both the windows in memory and the rows that are repeated after a death.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import ray as _ray
from ray.exceptions import RayError, RayTaskError

from taughtby.data.example import Example
from taughtby.errors import DataError, ModelError, StoreError
from taughtby.index.pipeline import WindowProgress
from taughtby.index.writer import Writer

ray: Any = _ray  # its type stubs lack streaming results and options
WINDOWS_AHEAD = 2  # windows per worker that are read and not yet committed
START_PATIENCE = 3600.0  # timeout in seconds for loading the model, and for batches until the first one is done
MIN_PATIENCE = 300.0  # minimum timeout in seconds for a batch
SLOWNESS = 20  # a batch times out after this many times the duration of the slowest batch
MAX_DEATHS = 5  # consecutive deaths on the same rows, after which the rows are reported as the cause
MAX_WINDOW_LOSSES = 10  # deaths in one window, on any rows
MAX_WORKER_LOSSES = 10  # consecutive deaths without a finished batch, on top of one per worker
CLOCK_TOLERANCE = 1.0  # seconds by which two readings of a process's start time may differ
Skipped = list[dict[str, str]]


@dataclass(frozen=True)
class WrittenWindow:
    """A window written as fragments that are not committed yet; `schema` is None if no row is usable."""

    fragments: list[Any] = field(default_factory=list[Any])
    schema: pa.Schema | None = None
    skipped: Skipped = field(default_factory=Skipped)
    num_tokens: int = 0


@dataclass
class Window:
    """Rows to capture.

    Attributes:
        position: The number of the window in the order of the data.
        rows: The rows that are not in the index yet.
        size: Number of rows in the window, including those in the index.
        deaths: For each worker that died or hung, the positions of the rows in progress.
    """

    position: int
    rows: list[Example]
    size: int
    deaths: list[tuple[int, ...]] = field(default_factory=list[tuple[int, ...]])


@dataclass(frozen=True)
class WorkerProcess:
    """The process of a worker. The start time is part of its identity, because process ids are reused."""

    pid: int
    began: float
    node: str

    @classmethod
    def current(cls) -> WorkerProcess:
        """Return this process."""
        process = psutil.Process()
        return cls(process.pid, process.create_time(), ray.get_runtime_context().get_node_id())

    def local(self) -> psutil.Process | None:
        """Return a handle to the process; None if it has ended or runs on another node."""
        if self.node != ray.get_runtime_context().get_node_id():
            return None
        try:
            process = psutil.Process(self.pid)
            return process if abs(process.create_time() - self.began) < CLOCK_TOLERANCE else None
        except psutil.Error:
            return None


@dataclass
class WorkerHandle:
    """The driver's view of a worker.

    Attributes:
        actor: The Ray actor.
        pending: The reply to wait for: the result of `load`, or a stream of events; None while it is idle.
        last_reply: The time of its last reply or assignment.
        window: The window in progress.
        progress: The latest progress in this window.
        process: The process, if it runs on this node.
    """

    actor: Any
    pending: Any
    last_reply: float = field(default_factory=time.monotonic)
    window: Window | None = None
    progress: WindowProgress | None = None
    process: psutil.Process | None = None

    def begin(self, window: Window) -> None:
        """Assign a window."""
        self.pending = self.actor.capture_window.options(num_returns="streaming").remote(window.rows)
        self.window, self.last_reply = window, time.monotonic()

    def end(self) -> None:
        """Kill the worker through Ray, then its process, since a stopped process does not respond to Ray."""
        ray.kill(self.actor, no_restart=True)
        if self.process:
            with contextlib.suppress(psutil.Error):
                self.process.kill()


class Scheduler:
    """Captures all windows of a data set.

    Args:
        start: Starts a worker, which loads the model first.
        num_workers: Number of workers to run.
        writer: The index to commit to.
        windows: All rows, in windows.
        report: Called with the number of rows done.
        set_note: Called with the throughput as text.
    """

    def __init__(
        self,
        start: Callable[[], WorkerHandle],
        num_workers: int,
        writer: Writer,
        windows: Iterator[list[Example]],
        report: Callable[[int], None],
        set_note: Callable[[str], None] | None,
    ) -> None:
        self.start, self.num_workers, self.writer, self.windows = start, num_workers, writer, windows
        self.report, self.set_note = report, set_note
        self.workers: list[WorkerHandle] = []
        self.retries: list[Window] = []
        self.results: dict[int, WrittenWindow] = {}  # finished windows that wait for an earlier one
        self.num_read = self.num_committed = 0  # windows
        self.num_rows = self.num_reported = self.num_tokens = 0
        self.losses = 0  # consecutive, without a finished batch in between
        self.slowest_batch = 0.0
        self.all_read = False
        self.skipped: Skipped = []
        self.first_batch: float | None = None  # time of the first progress report

    def run(self) -> Skipped:
        """Capture and commit all windows; return the skipped rows in order."""
        try:
            while self._assign():
                self._poll()
                self._show()
        finally:
            for worker in self.workers:
                worker.end()
        return self.skipped

    def _assign(self) -> bool:
        """Assign the next window to each idle worker; return whether any window is left."""
        if not self.workers and (window := self._next_window()):  # start no workers if all is done
            self.retries.append(window)
            self.workers = [self.start() for _ in range(self.num_workers)]
        for worker in self.workers:
            if worker.pending is None and (window := self._next_window()):
                worker.begin(window)
        return not self.all_read or self.num_committed < self.num_read

    def _next_window(self) -> Window | None:
        if self.retries:
            return self.retries.pop(0)
        while not self.all_read and self.num_read < self.num_committed + WINDOWS_AHEAD * self.num_workers:
            rows = next(self.windows, None)
            if rows is None:
                self.all_read = True
                break
            window = Window(self.num_read, [row for row in rows if row.id not in self.writer.row_ids], len(rows))
            self.num_read += 1
            if window.rows:
                return window
            self._commit(window, WrittenWindow())
        return None

    def _poll(self) -> None:
        """Process all replies that are ready, or wait a second for one; replace workers that time out."""
        busy = [worker for worker in self.workers if worker.pending is not None]
        if not busy:
            return
        refs = [worker.pending for worker in busy]
        # poll before any timeout: if the driver itself was suspended, its workers may have replied meanwhile
        ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        if not ready:
            ready, _ = ray.wait(refs, num_returns=1, timeout=1)
        for worker in busy:
            silence = time.monotonic() - worker.last_reply
            if any(worker.pending is ref for ref in ready):
                self._receive(worker)
            elif not ready and silence > self._patience(worker):
                self._replace(worker, f"no reply for {silence:.0f} s")

    def _patience(self, worker: WorkerHandle) -> float:
        if self.slowest_batch and worker.window:
            return max(MIN_PATIENCE, SLOWNESS * self.slowest_batch)
        return START_PATIENCE

    def _receive(self, worker: WorkerHandle) -> None:
        try:
            reply = ray.get(next(worker.pending) if worker.window else worker.pending)
        except RayTaskError as error:  # raised by our own code in the worker
            raise error.cause from error
        except RayError as error:
            self._replace(worker, str(error).strip().splitlines()[0])
            return
        now = time.monotonic()
        if worker.progress:
            self.slowest_batch, self.losses = max(self.slowest_batch, now - worker.last_reply), 0
        worker.last_reply = now
        if worker.window is None:
            worker.process, worker.pending = reply.local(), None
        elif isinstance(reply, WindowProgress):
            worker.progress, self.first_batch = reply, self.first_batch or now
        else:
            window, worker.window, worker.progress, worker.pending = worker.window, None, None, None
            self.num_tokens += reply.num_tokens
            self._commit(window, reply)

    def _commit(self, window: Window, result: WrittenWindow) -> None:
        """Store a result, and commit all windows that no longer wait for an earlier one, in one commit."""
        self.results[window.position] = result
        self.num_rows += window.size
        ready: list[WrittenWindow] = []
        while self.num_committed in self.results:
            ready.append(self.results.pop(self.num_committed))
            self.num_committed += 1
        if fragments := [fragment for result in ready for fragment in result.fragments]:
            self._require_files(fragments)
            self.writer.append_fragments(fragments, next(result.schema for result in ready if result.schema))
        self.skipped += [skip for result in ready for skip in result.skipped]

    def _require_files(self, fragments: list[Any]) -> None:
        """Raise if a fragment's file is not visible here: all nodes must share the folder, or rows would be lost."""
        for name in (file.path for fragment in fragments for file in fragment.files):
            file = self.writer.path / "rows.lance" / "data" / name
            if isinstance(file, Path) and not file.exists():
                do = "write to a folder shared by all nodes, or to an object store, such as s3://bucket/idx"
                raise StoreError(f"a worker's output is not visible in {self.writer.path}", got=f"no {name}", do=do)

    def _replace(self, worker: WorkerHandle, reason: str) -> None:
        """Kill a worker, start another, and queue its window again; raise if the window is the cause."""
        worker.end()
        self.losses += 1
        if worker.window:
            worker.window.deaths.append(worker.progress.next_rows if worker.progress else ())
            _check_deaths(worker.window, reason)
            self.retries.append(worker.window)
            self.retries.sort(key=lambda window: window.position)
        if self.losses >= MAX_WORKER_LOSSES + self.num_workers:
            do = "use fewer --workers if the models do not fit in memory, and check `ray status`"
            raise ModelError(
                f"{self.losses} workers in a row died or hung without finishing a batch", got=reason, do=do
            )
        self.workers[self.workers.index(worker)] = self.start()

    def _show(self) -> None:
        active = [worker.progress for worker in self.workers if worker.progress]
        # rows are repeated after a death, but reported progress must not decrease
        self.num_reported = max(self.num_reported, self.num_rows + sum(progress.num_rows for progress in active))
        self.report(self.num_reported)
        if self.set_note and self.first_batch is not None:
            num_tokens = self.num_tokens + sum(progress.num_tokens for progress in active)
            rate = num_tokens / max(1, time.monotonic() - self.first_batch)
            busy = sum(worker.window is not None for worker in self.workers)
            self.set_note(f"{num_tokens:,} tokens, {rate:,.0f}/s by {busy} workers")


def _check_deaths(window: Window, reason: str) -> None:
    """Raise an error that names the rows if workers keep dying on the same ones, or in the same window."""
    last = window.deaths[-MAX_DEATHS:]
    rows = [window.rows[position] for position in last[-1]]
    if len(last) < MAX_DEATHS or len(set(last)) > 1 or not rows:
        if len(window.deaths) < MAX_WINDOW_LOSSES:
            return
        rows = [window.rows[0], window.rows[-1]]
    names = ", ".join(row.source for row in rows[:8]) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
    do = "remove them, or shorten them (--max-length), or give workers more memory; then run the same command again"
    what = f"workers died or hung {len(window.deaths)} times on the same rows"
    raise DataError(what, got=f"{names}: {reason}", do=do)
