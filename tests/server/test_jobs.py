"""Jobs: one at a time, in order, with progress, cancellation and error messages."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from taughtby.errors import OptionError
from taughtby.server import jobs
from taughtby.server.jobs import Job, JobQueue, ReportProgress, Status


def ended(job: Job) -> Job:
    until = time.monotonic() + 300
    while not job.has_ended and time.monotonic() < until:
        time.sleep(0.002)
    assert job.has_ended
    return job


def test_jobs_run_one_at_a_time_in_order() -> None:
    queue, running, order = JobQueue(), [0], []

    def work(number: int) -> Any:
        def do(report: ReportProgress) -> int:
            running[0] += 1
            assert running[0] == 1
            time.sleep(0.002)
            order.append(number)
            running[0] -= 1
            return number

        return do

    submitted = [queue.submit(work(number)) for number in range(10)]
    assert [ended(job).result for job in submitted] == order == list(range(10))


def test_job_reports_progress_and_can_be_cancelled() -> None:
    queue, begun, go, went_on = JobQueue(), threading.Event(), threading.Event(), list[str]()

    def work(report: ReportProgress) -> None:
        report("counting", 1, 3)
        begun.set()
        go.wait(300)
        report("counting", 2, 3)
        went_on.append("after its next report")

    job, second, third = queue.submit(work), queue.submit(lambda _: "second"), queue.submit(lambda _: "third")
    assert begun.wait(300)
    assert job.status == Status("running", "counting", 1, 3)
    assert [queue.num_ahead(each) for each in (job, second, third)] == [0, 1, 2]
    queue.cancel(second)
    assert second.state == "cancelled"
    assert queue.num_ahead(third) == 1
    queue.cancel(job)
    assert job.state == "cancelled"  # at once, although its work still runs
    go.set()
    assert ended(job).state == "cancelled"
    assert ended(third).result == "third" and went_on == []
    assert second.result is None


def test_job_status_is_consistent() -> None:
    """No thread reads a stage with the numbers of another, or an end without its result."""
    queue, stop, views = JobQueue(), threading.Event(), [list[Status]() for _ in range(3)]

    def work(report: ReportProgress) -> str:
        for at in range(3000):
            report(str(at), at, at + 1)
            if at % 100 == 0:  # the readers have their turn
                time.sleep(0.002)
        return "done"

    def read(job: Job, seen: list[Status]) -> None:
        while not stop.is_set():
            seen.append(job.status)
        seen.append(job.status)  # a thread may sleep between its last reading and the end of the job

    job = queue.submit(work)
    readers = [threading.Thread(target=read, args=(job, seen)) for seen in views]
    for reader in readers:
        reader.start()
    assert ended(job).result == "done"
    stop.set()
    for reader in readers:
        reader.join()
    for seen in views:  # one list a thread: the threads' readings are in no common order
        assert all(now.stage in ("", str(now.done)) and (now.of is None or now.of == now.done + 1) for now in seen)
        assert all((now.result == "done") == (now.state == "done") for now in seen)
        assert [now.done for now in seen] == sorted(now.done for now in seen) and seen[-1].result == "done"
    assert len({now.stage for seen in views for now in seen}) > 3
    with pytest.raises(AttributeError):
        job.result = 1  # type: ignore[misc]


def test_job_errors_are_recorded_as_messages(capsys: pytest.CaptureFixture[str]) -> None:
    queue = JobQueue()

    def mistaken(_: ReportProgress) -> None:
        raise OptionError("the span does not occur", got="x", do="copy it")

    def broken(_: ReportProgress) -> None:
        raise ZeroDivisionError("secret")

    assert ended(queue.submit(mistaken)).error == {"what": "the span does not occur", "got": "x", "do": "copy it"}
    fault = ended(queue.submit(broken))
    assert fault.state == "failed" and "secret" not in str(fault.error)
    assert "ZeroDivisionError: secret" in capsys.readouterr().err
    assert ended(queue.submit(lambda _: 1)).state == "done"


def test_queue_and_stored_results_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "MAX_WAITING", 3)
    monkeypatch.setattr(jobs, "MAX_JOBS", 5)
    queue, go = JobQueue(), threading.Event()
    first = queue.submit(lambda _: go.wait(300))
    while first.state == "waiting":
        time.sleep(0.002)
    for _ in range(3):
        queue.submit(lambda _: None)
    with pytest.raises(OptionError, match="too many requests are waiting\n  got: 3 waiting"):
        queue.submit(lambda _: None)
    go.set()
    ended(first)
    for _ in range(10):
        ended(queue.submit(lambda _: None))
    assert queue.get(first.id) is None
    assert len(queue._jobs) <= 6
