"""One job at a time, the others in a queue: the model is one, and so is the machine. Knows no model and no web."""

from __future__ import annotations

import queue
import secrets
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from whence.errors import OptionError, WhenceError, machine_fault
from whence.text import visible

WAITING = 32  # jobs in the queue
KEPT = 200  # jobs whose results are remembered

State = Literal["waiting", "running", "done", "failed", "cancelled"]
Tell = Callable[[str, int, int | None], None]  # (stage, done, in all where that is known)
Work = Callable[[Tell], Any]


class Busy(OptionError):
    """Too many jobs wait already."""


class Cancelled(Exception):
    """Raised inside a job that is no longer wanted, as it tells how far it is."""


@dataclass(frozen=True)
class Status:
    """What is known of a job at one moment. `error` has what, got and do, in words; nobody changes a `result`."""

    state: State = "waiting"
    stage: str = ""
    done: int = 0
    of: int | None = None
    result: Any = None
    error: dict[str, str | None] | None = None


@dataclass
class Job:
    """A piece of work. The worker replaces its status as a whole, so that others never read half of a change."""

    id: str
    work: Work
    status: Status = Status()
    unwanted: threading.Event = field(default_factory=threading.Event)

    def tell(self, stage: str, done: int, of: int | None) -> None:
        """How far the job is; ends it where it is no longer wanted."""
        if self.unwanted.is_set():
            raise Cancelled
        self.status = replace(self.status, stage=stage, done=done, of=of)

    def end(self, state: State, *, result: Any = None, error: dict[str, str | None] | None = None) -> None:
        """Nothing more will come of the job."""
        self.status = replace(self.status, state=state, result=result, error=error)

    @property
    def state(self) -> State:
        """Waiting, running, done, failed or cancelled."""
        return self.status.state

    @property
    def result(self) -> Any:
        """What the job gave; None while it has not."""
        return self.status.result

    @property
    def error(self) -> dict[str, str | None] | None:
        """Why the job failed."""
        return self.status.error

    @property
    def over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in ("done", "failed", "cancelled")


class Jobs:
    """A queue with one worker thread; the first job it is given runs first."""

    def __init__(self) -> None:
        self._known: dict[str, Job] = {}
        self._queue: queue.Queue[Job] = queue.Queue()
        self._lock = threading.Lock()
        threading.Thread(target=self._run, name="jobs", daemon=True).start()

    def put(self, work: Work) -> Job:
        """Queue a piece of work; Busy where too many wait."""
        with self._lock:
            waiting = sum(job.state == "waiting" for job in self._known.values())
            if waiting >= WAITING:
                raise Busy("too many questions wait", got=f"{waiting} waiting", do="try again in a minute")
            job = Job(secrets.token_urlsafe(12), work)
            self._known[job.id] = job
            over = [old.id for old in self._known.values() if old.over]
            for old in over[: max(0, len(self._known) - KEPT)]:
                del self._known[old]
            self._queue.put(job)
        return job

    def get(self, id: str) -> Job | None:
        """The job of that name, while it is remembered."""
        return self._known.get(id)

    def cancel(self, job: Job) -> None:
        """Let go of a job: one that waits never begins, one that runs ends when next it tells how far it is."""
        with self._lock:
            job.unwanted.set()
            if job.state == "waiting":
                job.end("cancelled")

    def before(self, job: Job) -> int:
        """How many jobs are to be done before this one begins."""
        ahead = 0
        with self._lock:
            known = list(self._known.values())
        for other in known:
            if other is job:
                break
            ahead += not other.over
        return ahead

    def _run(self) -> None:
        while True:
            job = self._queue.get()
            with self._lock:
                if job.state != "waiting":
                    continue
                job.status = replace(job.status, state="running")
            _do(job)


def _do(job: Job) -> None:
    """Run a job to its end; what goes wrong is told in words, and a fault of ours in the terminal as well."""
    try:
        job.end("done", result=job.work(job.tell))
    except Cancelled:
        job.end("cancelled")
    except WhenceError as mistake:
        job.end("failed", error={"what": mistake.what, "got": mistake.got, "do": mistake.do})
    except Exception as fault:
        print(visible(traceback.format_exc()), file=sys.stderr)
        said, do = "this is a fault of whence: its terminal says more", "look there, and try another question"
        said, do = machine_fault(fault) or (said, do)
        job.end("failed", error={"what": said, "got": type(fault).__name__, "do": do})
