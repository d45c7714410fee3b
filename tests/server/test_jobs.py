"""Jobs: one at a time, in order; told, ended, and never a traceback to who asked."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from taughtby.errors import OptionError
from taughtby.server import jobs
from taughtby.server.jobs import Job, Jobs, Status, Tell


def ended(job: Job) -> Job:
    until = time.monotonic() + 300
    while not job.over and time.monotonic() < until:
        time.sleep(0.002)
    assert job.over
    return job


def test_jobs_run_one_at_a_time_in_order() -> None:
    desk, running, order = Jobs(), [0], []

    def work(number: int) -> Any:
        def do(tell: Tell) -> int:
            running[0] += 1
            assert running[0] == 1
            time.sleep(0.002)
            order.append(number)
            running[0] -= 1
            return number

        return do

    made = [desk.put(work(number)) for number in range(10)]
    assert [ended(job).result for job in made] == order == list(range(10))


def test_a_job_says_how_far_it_is_and_ends_when_it_is_let_go() -> None:
    desk, begun, go = Jobs(), threading.Event(), threading.Event()

    def work(tell: Tell) -> None:
        tell("counting", 1, 3)
        begun.set()
        go.wait(300)
        tell("counting", 2, 3)
        raise AssertionError("it went on")

    job, second, third = desk.put(work), desk.put(lambda _: "second"), desk.put(lambda _: "third")
    assert begun.wait(300)
    assert job.status == Status("running", "counting", 1, 3)
    assert [desk.before(each) for each in (job, second, third)] == [0, 1, 2]
    desk.cancel(second)
    assert second.state == "cancelled"
    assert desk.before(third) == 1
    desk.cancel(job)
    go.set()
    assert ended(job).state == "cancelled"
    assert ended(third).result == "third"
    assert second.result is None


def test_what_is_known_of_a_job_is_of_one_moment() -> None:
    """However the threads are timed, nobody reads a stage with another's numbers, or an end without its result."""
    desk, seen, stop = Jobs(), list[Status](), threading.Event()

    def work(tell: Tell) -> str:
        for at in range(3000):
            tell(str(at), at, at + 1)
        return "done"

    def read(job: Job) -> None:
        while not stop.is_set():
            seen.append(job.status)

    job = desk.put(work)
    readers = [threading.Thread(target=read, args=(job,)) for _ in range(3)]
    for reader in readers:
        reader.start()
    assert ended(job).result == "done"
    stop.set()
    for reader in readers:
        reader.join()
    assert all(now.stage in ("", str(now.done)) and (now.of is None or now.of == now.done + 1) for now in seen)
    assert all((now.result == "done") == (now.state == "done") for now in seen)
    with pytest.raises(AttributeError):
        job.result = 1  # type: ignore[misc]


def test_what_goes_wrong_is_told_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    desk = Jobs()

    def mistaken(_: Tell) -> None:
        raise OptionError("the span does not occur", got="x", do="copy it")

    def broken(_: Tell) -> None:
        raise ZeroDivisionError("secret")

    assert ended(desk.put(mistaken)).error == {"what": "the span does not occur", "got": "x", "do": "copy it"}
    fault = ended(desk.put(broken))
    assert fault.state == "failed" and "secret" not in str(fault.error)
    assert "ZeroDivisionError: secret" in capsys.readouterr().err
    assert ended(desk.put(lambda _: 1)).state == "done"


def test_the_queue_and_the_memory_end_somewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "WAITING", 3)
    monkeypatch.setattr(jobs, "KEPT", 5)
    desk, go = Jobs(), threading.Event()
    first = desk.put(lambda _: go.wait(300))
    while first.state == "waiting":
        time.sleep(0.002)
    for _ in range(3):
        desk.put(lambda _: None)
    with pytest.raises(OptionError, match="too many questions wait\n  got: 3 waiting"):
        desk.put(lambda _: None)
    go.set()
    ended(first)
    for _ in range(10):
        ended(desk.put(lambda _: None))
    assert desk.get(first.id) is None
    assert len(desk._known) <= 6
