"""A queue of jobs with one worker thread: there is one model, and one processor or GPU that runs it."""

from __future__ import annotations

import queue
import secrets
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any, Literal

from taughtby.errors import OptionError, TaughtbyError, machine_fault
from taughtby.text import make_visible

MAX_WAITING = 32  # jobs that wait
MAX_JOBS = 200  # jobs whose results are kept

State = Literal["waiting", "running", "done", "failed", "cancelled"]
ReportProgress = Callable[[str, int, int | None], None]  # (stage, steps done, total steps if known)
Work = Callable[[ReportProgress], Any]


class QueueFullError(OptionError):
    """Too many jobs wait."""


class JobCancelled(Exception):
    """Raised by `Job.report_progress` to end the work of a cancelled job."""


@dataclass(frozen=True)
class Status:
    """The status of a job at one moment; `error` has `what`, `got` and `do`, and a `result` is never changed.

    `start` is when the steps of the stage began to be counted, and how many were done then.
    """

    state: State = "waiting"
    stage: str = ""
    done: int = 0
    of: int | None = None
    start: tuple[float, int] = field(default=(0.0, 0), compare=False)
    result: Any = None
    error: dict[str, str | None] | None = None


@dataclass
class Job:
    """A piece of work. Its status is replaced as a whole, so that no thread reads half of a change."""

    id: str
    work: Work
    status: Status = Status()
    cancel_requested: threading.Event = field(default_factory=threading.Event)
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def report_progress(self, stage: str, done: int, of: int | None) -> None:
        """Record the progress of the work.

        Raises:
            JobCancelled: The job was cancelled.
        """
        with self._lock:
            if self.cancel_requested.is_set():
                raise JobCancelled
            now = time.monotonic()
            begins = stage != self.status.stage or self.status.of is None
            self.status = replace(self.status, stage=stage, done=done, of=of,
                                  start=(now, done) if begins else self.status.start)  # fmt: skip

    def end(self, state: State, *, result: Any = None, error: dict[str, str | None] | None = None) -> None:
        """Record how the job ended; a cancelled job stays cancelled."""
        with self._lock:
            if self.state != "cancelled":
                self.status = replace(self.status, state=state, result=result, error=error)

    @property
    def rate(self) -> float | None:
        """Steps per second of the current stage; None before the first one."""
        begin, first = self.status.start
        steps, seconds = self.status.done - first, time.monotonic() - begin
        return steps / seconds if steps > 0 and seconds > 0 else None

    @property
    def state(self) -> State:
        """The state of the job."""
        return self.status.state

    @property
    def result(self) -> Any:
        """The result of a finished job; None before that."""
        return self.status.result

    @property
    def error(self) -> dict[str, str | None] | None:
        """The error of a failed job."""
        return self.status.error

    @property
    def has_ended(self) -> bool:
        """Whether the job has ended."""
        return self.state in ("done", "failed", "cancelled")


class JobQueue:
    """Jobs in the order of their submission, run by one worker thread."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._queue: queue.Queue[Job] = queue.Queue()
        self._lock = threading.Lock()
        threading.Thread(target=self._run_forever, name="jobs", daemon=True).start()

    def submit(self, work: Work) -> Job:
        """Submit a job.

        Raises:
            QueueFullError: Too many jobs wait.
        """
        with self._lock:
            num_waiting = sum(job.state == "waiting" for job in self._jobs.values())
            if num_waiting >= MAX_WAITING:
                raise QueueFullError(
                    "too many requests are waiting", got=f"{num_waiting} waiting", do="try again in a minute"
                )
            job = Job(secrets.token_urlsafe(12), work)
            self._jobs[job.id] = job
            ended = [job.id for job in self._jobs.values() if job.has_ended]
            for id in ended[: max(0, len(self._jobs) - MAX_JOBS)]:
                del self._jobs[id]
            self._queue.put(job)
        return job

    def get(self, id: str) -> Job | None:
        """Return a job by its id; None if there is none, or if its result is no longer kept."""
        return self._jobs.get(id)

    def cancel(self, job: Job) -> None:
        """Cancel a job. The work of a running job ends the next time it reports its progress."""
        with self._lock:
            job.cancel_requested.set()
            if not job.has_ended:
                job.end("cancelled")

    def num_ahead(self, job: Job) -> int:
        """Return how many jobs run or wait before this one."""
        with self._lock:
            earlier = takewhile(lambda other: other is not job, self._jobs.values())
            return sum(not other.has_ended for other in earlier)

    def _run_forever(self) -> None:
        while True:
            job = self._queue.get()
            with self._lock:
                if job.state != "waiting":
                    continue
                job.status = replace(job.status, state="running")
            _run(job)


def _run(job: Job) -> None:
    """Run a job and record its error, if any; an unexpected one is also printed with its traceback."""
    try:
        job.end("done", result=job.work(job.report_progress))
    except JobCancelled:
        job.end("cancelled")
    except TaughtbyError as error:
        job.end("failed", error={"what": error.what, "got": error.got, "do": error.do})
    except Exception as error:
        print(make_visible(traceback.format_exc()), file=sys.stderr)
        what, do = "internal error in taughtby", "see the traceback in its terminal, or try another query"
        what, do = machine_fault(error) or (what, do)
        job.end("failed", error={"what": what, "got": type(error).__name__, "do": do})
