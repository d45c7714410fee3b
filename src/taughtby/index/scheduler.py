"""Hand out windows of rows to Ray workers, repeat those of a worker that dies or hangs, and commit all in order.

Ray's own restarts and task retries do not suffice here: they repeat a window without limit or without a record of the
rows that were open, and a worker that hangs is not restarted. This scheduler names the rows that workers die of, ends
workers that are silent, and bounds both the windows in memory and the rows that a death repeats.
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

ray: Any = _ray  # its types know neither streams nor options
WINDOWS_AHEAD = 2  # windows per worker that are read and not yet committed
START_PATIENCE = 3600.0  # seconds for a worker to load the model, and for a batch before the first one is done
MIN_PATIENCE = 300.0  # seconds of silence that are never taken for a hang
SLOWNESS = 20  # a worker hangs if it is silent for this many times the slowest batch
MAX_DEATHS = 5  # consecutive deaths with the same rows open: the rows are the cause
MAX_WINDOW_LOSSES = 10  # deaths in one window, with whatever rows open
MAX_WORKER_LOSSES = 10  # besides one per worker, before any worker has done a batch
CLOCK_TOLERANCE = 1.0  # seconds between two readings of when a process began
Skipped = list[dict[str, str]]


@dataclass(frozen=True)
class WrittenWindow:
    """A window as fragments on disk that are not committed yet; no schema if no row is usable."""

    fragments: list[Any] = field(default_factory=list[Any])
    schema: pa.Schema | None = None
    skipped: Skipped = field(default_factory=Skipped)
    num_tokens: int = 0


@dataclass
class Window:
    """Rows to capture.

    Attributes:
        position: The window's place in the order of the data.
        rows: The rows that are not in the index yet.
        size: All rows of the window.
        deaths: For each death of a worker, the positions of the rows that were open.
    """

    position: int
    rows: list[Example]
    size: int
    deaths: list[tuple[int, ...]] = field(default_factory=list[tuple[int, ...]])


@dataclass(frozen=True)
class WorkerProcess:
    """The process of a worker. Its start time identifies it: the number may be another process's later."""

    pid: int
    began: float
    node: str

    @classmethod
    def current(cls) -> WorkerProcess:
        """This process."""
        process = psutil.Process()
        return cls(process.pid, process.create_time(), ray.get_runtime_context().get_node_id())

    def local(self) -> psutil.Process | None:
        """A handle on the process; None if it has ended or runs on another node."""
        if self.node != ray.get_runtime_context().get_node_id():
            return None
        try:
            process = psutil.Process(self.pid)
            return process if abs(process.create_time() - self.began) < CLOCK_TOLERANCE else None
        except psutil.Error:
            return None


@dataclass
class WorkerHandle:
    """A worker as the driver sees it.

    Attributes:
        actor: The Ray actor.
        pending: What it will reply: the result of `load`, or a stream of events; None while it is idle.
        last_reply: When it last replied.
        window: The window it captures.
        progress: Its last progress in this window.
        process: Its process, if that is on this node.
    """

    actor: Any
    pending: Any
    last_reply: float = field(default_factory=time.monotonic)
    window: Window | None = None
    progress: WindowProgress | None = None
    process: psutil.Process | None = None

    def begin(self, window: Window) -> None:
        """Hand it a window."""
        self.pending = self.actor.capture_window.options(num_returns="streaming").remote(window.rows)
        self.window, self.last_reply = window, time.monotonic()

    def end(self) -> None:
        """End it: Ray first, then the process itself, since a stopped process does not answer Ray."""
        ray.kill(self.actor, no_restart=True)
        if self.process:
            with contextlib.suppress(psutil.Error):
                self.process.kill()


class Scheduler:
    """Capture all windows of a data set.

    Args:
        start: Starts a worker, which loads the model first.
        num_workers: How many workers to run.
        writer: The index to commit to.
        windows: All rows, window by window.
        report: Called with the number of rows that are done.
        set_note: Called with the throughput, in words.
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
        self.results: dict[int, WrittenWindow] = {}  # not committed: an earlier window is missing
        self.num_read = self.num_committed = 0  # windows
        self.num_rows = self.num_reported = self.num_tokens = 0
        self.losses = 0  # consecutive, without a batch between them
        self.slowest_batch = 0.0
        self.all_read = False
        self.skipped: Skipped = []
        self.first_batch: float | None = None  # when it began

    def run(self) -> Skipped:
        """Capture and commit all windows; the skipped rows, in order."""
        try:
            while self._assign():
                self._poll()
                self._show()
        finally:
            for worker in self.workers:
                worker.end()
        return self.skipped

    def _assign(self) -> bool:
        """Give each idle worker the next window; whether any window is left."""
        if not self.workers and (window := self._next_window()):  # starts no worker if there is nothing to do
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
        """Take all replies, or wait a second for one; replace a worker that is silent for too long."""
        busy = [worker for worker in self.workers if worker.pending is not None]
        if not busy:
            return
        refs = [worker.pending for worker in busy]
        # without waiting first: a driver that was itself stopped must not take its workers for dead
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
        except RayTaskError as error:  # an error of our own code there is raised as if it had occurred here
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
        """Commit, at once, all windows before which none is missing."""
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
        """A commit of files that are not here would lose rows: all nodes have to share the folder."""
        for name in (file.path for fragment in fragments for file in fragment.files):
            file = self.writer.path / "rows.lance" / "data" / name
            if isinstance(file, Path) and not file.exists():
                do = "write to a folder that all nodes share, or to an object store, such as s3://bucket/idx"
                raise StoreError(f"what a worker wrote to {self.writer.path} is not there", got=f"no {name}", do=do)

    def _replace(self, worker: WorkerHandle, reason: str) -> None:
        """End a worker, start another, and queue its window again, unless the window is the cause."""
        worker.end()
        self.losses += 1
        if worker.window:
            worker.window.deaths.append(worker.progress.next_rows if worker.progress else ())
            _refuse_lethal(worker.window, reason)
            self.retries.append(worker.window)
            self.retries.sort(key=lambda window: window.position)
        if self.losses >= MAX_WORKER_LOSSES + self.num_workers:
            do = "see whether a worker has the memory for the model (fewer --workers), and what `ray status` says"
            raise ModelError(f"{self.losses} workers were lost before any had done a batch", got=reason, do=do)
        self.workers[self.workers.index(worker)] = self.start()

    def _show(self) -> None:
        active = [worker.progress for worker in self.workers if worker.progress]
        # a death takes some rows back, and progress does not
        self.num_reported = max(self.num_reported, self.num_rows + sum(progress.num_rows for progress in active))
        self.report(self.num_reported)
        if self.set_note and self.first_batch is not None:
            num_tokens = self.num_tokens + sum(progress.num_tokens for progress in active)
            rate = num_tokens / max(1, time.monotonic() - self.first_batch)
            busy = sum(worker.window is not None for worker in self.workers)
            self.set_note(f"{num_tokens:,} tokens, {rate:,.0f}/s by {busy} workers")


def _refuse_lethal(window: Window, reason: str) -> None:
    """Name the rows that workers die of, if it is always the same ones."""
    last = window.deaths[-MAX_DEATHS:]
    rows = [window.rows[position] for position in last[-1]]
    if len(last) < MAX_DEATHS or len(set(last)) > 1 or not rows:
        if len(window.deaths) < MAX_WINDOW_LOSSES:
            return
        rows = [window.rows[0], window.rows[-1]]
    names = ", ".join(row.source for row in rows[:8]) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
    do = "remove them, or shorten them (--max-length), or give workers more memory; then run the same command again"
    what = f"workers die or hang at the same rows, {len(window.deaths)} times"
    raise DataError(what, got=f"{names}: {reason}", do=do)
