"""Windows of rows handed out to workers on Ray, done again where a worker dies or hangs, and committed in order."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import ray as typed
from ray.exceptions import RayError, RayTaskError

from taughtby.data.example import Example
from taughtby.errors import DataError, ModelError, StoreError
from taughtby.index.pipeline import WindowProgress
from taughtby.index.writer import Writer

ray: Any = typed  # its types know neither streams nor options
AHEAD = 2  # windows a worker that are read and not yet committed
PATIENCE = 3600.0  # seconds for a batch while none has been seen, and for a worker to be ready
SLOW, LEAST = 20, 300.0  # so many times the slowest batch seen, and at least so many seconds, is a hang
DEATHS = 5  # one after the other with the same rows open: it is the rows
CLOCK = 1.0  # seconds by which two readings of when a process began may differ
LOSSES = 10  # of a window, whatever was open; and of workers one after the other, before any has done a batch
Skipped = list[dict[str, str]]


@dataclass(frozen=True)
class WrittenWindow:
    """A window as fragments on disk that are not committed yet; no schema where none of its rows can be used."""

    fragments: list[Any] = field(default_factory=list[Any])
    schema: pa.Schema | None = None
    skipped: Skipped = field(default_factory=Skipped)
    tokens: int = 0


@dataclass
class Window:
    """Rows to be captured, the window's place in the order, and which of them were open at each death of a worker.

    `size` counts the rows too that are there already.
    """

    at: int
    rows: list[Example]
    size: int
    deaths: list[tuple[int, ...]] = field(default_factory=list[tuple[int, ...]])


@dataclass(frozen=True)
class Home:
    """The process that a worker runs in. Its number alone may be another process's by the time it is used."""

    pid: int
    began: float
    node: str

    @classmethod
    def here(cls) -> Home:
        """This process."""
        process = psutil.Process()
        return cls(process.pid, process.create_time(), ray.get_runtime_context().get_node_id())

    def process(self) -> psutil.Process | None:
        """A handle on the process, which never kills another of the same number; None on another node, or once gone."""
        if self.node != ray.get_runtime_context().get_node_id():
            return None
        try:
            found = psutil.Process(self.pid)
            return found if abs(found.create_time() - self.began) < CLOCK else None
        except psutil.Error:
            return None


@dataclass
class WorkerHandle:
    """A worker as the driver sees it: what is waited for from it, since when, and its process if it is on this node."""

    actor: Any
    pending: Any  # its word that it is ready, or a stream of steps; None while it has nothing to do
    heard: float = field(default_factory=time.monotonic)
    window: Window | None = None
    step: WindowProgress | None = None
    process: psutil.Process | None = None

    def begin(self, window: Window) -> None:
        """Give it a window."""
        self.pending = self.actor.window.options(num_returns="streaming").remote(window.rows)
        self.window, self.heard = window, time.monotonic()

    def end(self) -> None:
        """Take it away, and be sure that it is gone: Ray asks, and a process that is stopped does not answer."""
        ray.kill(self.actor, no_restart=True)
        if self.process:
            with contextlib.suppress(psutil.Error):
                self.process.kill()


class Scheduler:
    """All windows of one data set, until the last is committed. `start` makes a worker, which loads the model first."""

    def __init__(
        self,
        start: Callable[[], WorkerHandle],
        workers: int,
        writer: Writer,
        windows: Iterator[list[Example]],
        tell: Callable[[int], None],
        say: Callable[[str], None] | None,
    ) -> None:
        self.start, self.workers, self.writer, self.windows = start, workers, writer, windows
        self.tell, self.say = tell, say
        self.hands: list[WorkerHandle] = []
        self.again: list[Window] = []
        self.made: dict[int, WrittenWindow] = {}  # those before which one is still missing
        self.read = self.next = 0  # windows read, and committed
        self.rows = self.seen = self.tokens = self.losses = 0
        self.slowest = 0.0
        self.over = False
        self.skipped: Skipped = []
        self.begun = 0.0  # when the first batch was

    def run(self) -> Skipped:
        """The rows that were skipped, in their order, once all others are committed."""
        try:
            while self._deal():
                self._listen()
                self._show()
        finally:
            for hand in self.hands:
                hand.end()
        return self.skipped

    def _deal(self) -> bool:
        """Give each idle worker the oldest window that waits; whether any window is left."""
        if not self.hands and (window := self._window()):  # so that none is started where nothing is to be done
            self.again.append(window)
            self.hands = [self.start() for _ in range(self.workers)]
        for hand in self.hands:
            if hand.pending is None and (window := self._window()):
                hand.begin(window)
        return not self.over or self.next < self.read

    def _window(self) -> Window | None:
        if self.again:
            return self.again.pop(0)
        while not self.over and self.read < self.next + AHEAD * self.workers:
            rows = next(self.windows, None)
            if rows is None:
                self.over = True
                break
            window = Window(self.read, [row for row in rows if row.id not in self.writer.done], len(rows))
            self.read += 1
            if window.rows:
                return window
            self._keep(window, WrittenWindow())
        return None

    def _listen(self) -> None:
        """Hear what has come, or wait a second for it; a worker that has been silent for too long is lost."""
        waiting = [hand for hand in self.hands if hand.pending is not None]
        if not waiting:
            return
        refs = [hand.pending for hand in waiting]
        # all that is there: a driver that was itself stopped for a while must not take its workers for dead
        ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        if not ready:
            ready, _ = ray.wait(refs, num_returns=1, timeout=1)
        for hand in waiting:
            silent = time.monotonic() - hand.heard
            if any(hand.pending is one for one in ready):
                self._hear(hand)
            elif not ready and silent > self._patience(hand):
                self._lost(hand, f"nothing heard for {silent:.0f} s")

    def _patience(self, hand: WorkerHandle) -> float:
        return max(LEAST, SLOW * self.slowest) if self.slowest and hand.window else PATIENCE

    def _hear(self, hand: WorkerHandle) -> None:
        try:
            told = ray.get(next(hand.pending) if hand.window else hand.pending)
        except RayTaskError as fault:  # what went wrong there is told as if it had been here
            raise fault.cause from fault
        except RayError as fault:
            self._lost(hand, str(fault).strip().splitlines()[0])
            return
        now = time.monotonic()
        if hand.step:
            self.slowest, self.losses = max(self.slowest, now - hand.heard), 0
        hand.heard = now
        if hand.window is None:
            hand.process, hand.pending = told.process(), None
        elif isinstance(told, WindowProgress):
            hand.step, self.begun = told, self.begun or now
        else:
            window, hand.window, hand.step, hand.pending = hand.window, None, None, None
            self.tokens += told.tokens
            self._keep(window, told)

    def _keep(self, window: Window, made: WrittenWindow) -> None:
        """Commit all windows before which none is missing, at once."""
        self.made[window.at] = made
        self.rows += window.size
        whole: list[WrittenWindow] = []
        while self.next in self.made:
            whole.append(self.made.pop(self.next))
            self.next += 1
        fragments = [one for made in whole for one in made.fragments]
        if fragments:
            self._check(fragments)
            self.writer.join(fragments, next(made.schema for made in whole if made.schema))
        self.skipped += [skip for made in whole for skip in made.skipped]

    def _check(self, fragments: list[Any]) -> None:
        """A commit of files that are not there would lose rows: on a cluster the folder has to be one all see."""
        for file in (file.path for fragment in fragments for file in fragment.files):
            where = self.writer.path / "rows.lance" / "data" / file
            if isinstance(where, Path) and not where.exists():
                do = "write to a folder that all nodes share, or to an object store, such as s3://bucket/idx"
                raise StoreError(f"what a worker wrote to {self.writer.path} is not there", got=f"no {file}", do=do)

    def _lost(self, hand: WorkerHandle, why: str) -> None:
        """Have the window done by another, unless it is the window that is at fault."""
        hand.end()
        self.losses += 1
        if hand.window:
            hand.window.deaths.append(hand.step.open if hand.step else ())
            _refuse(hand.window, why)
            self.again.append(hand.window)
            self.again.sort(key=lambda window: window.at)
        if self.losses >= LOSSES + self.workers:
            do = "see whether a worker has the memory for the model (fewer --workers), and what `ray status` says"
            raise ModelError(f"{self.losses} workers were lost before any had done a batch", got=why, do=do)
        self.hands[self.hands.index(hand)] = self.start()

    def _show(self) -> None:
        open_ = [hand.step for hand in self.hands if hand.step]
        self.seen = max(self.seen, self.rows + sum(step.done for step in open_))  # a death takes some back
        self.tell(self.seen)
        if self.say and self.begun:
            tokens = self.tokens + sum(step.tokens for step in open_)
            rate = tokens / max(1, time.monotonic() - self.begun)
            busy = sum(hand.window is not None for hand in self.hands)
            self.say(f"{tokens:,} tokens, {rate:,.0f}/s by {busy} workers")


def _refuse(window: Window, why: str) -> None:
    """Say which rows workers die of, where it is always the same ones."""
    last = window.deaths[-DEATHS:]
    rows = [window.rows[at] for at in last[-1]]
    if len(last) < DEATHS or len(set(last)) > 1 or not rows:
        if len(window.deaths) < LOSSES:
            return
        rows = [window.rows[0], window.rows[-1]]
    named = ", ".join(row.source for row in rows[:8]) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
    do = "take them out, or shorten them (--max-length), or give workers more memory; then run the same command again"
    raise DataError(f"workers die or hang at the same rows, {len(window.deaths)} times", got=f"{named}: {why}", do=do)
