"""A user's Python function as judge, run in a separate process that is killed on a timeout."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taughtby.data.phrases import Range, occurrences
from taughtby.errors import LabError, OptionError
from taughtby.lab.judges.judge import call_within, judge_one
from taughtby.lab.judges.verdict import JudgeFailure, Pair, Verdict

LOAD = 120.0  # timeout in seconds for loading the file, which may import large libraries
_WORKER = Path(__file__).with_name("python_worker.py")
_FORM = "python:FILE.py:FUNCTION"


@dataclass(frozen=True)
class PythonFunction:
    """A function (prompt, answer) in a Python file, which is executed because the user named it.

    The function returns a bool; or a str, the reason why the answer is undesirable, empty if it is not; or
    (bool, reason) or (bool, reason, span), where the span is text copied from the answer or its characters
    (begin, end). If a call exceeds the limit, its process is killed, and a new one judges the next answer.
    """

    path: str
    function: str

    def __post_init__(self) -> None:
        if not self.function.isidentifier() or not Path(self.path).is_file():
            raise OptionError("the judge's function cannot be found", got=f"{self.function!r} in {self.path!r}",
                              do=f"write {_FORM}, with a file that exists")  # fmt: skip

    def __call__(self, prompt: str, answer: str) -> Verdict:
        """The verdict on one answer, from a new process."""
        return judge_one(self, prompt, answer)

    def judge_each(self, pairs: Sequence[Pair], limit: float) -> Generator[Verdict | JudgeFailure]:
        """Yield the verdicts on many answers, from one process unless it ends or is killed."""
        worker: subprocess.Popen[str] | None = None
        try:
            for pair in pairs:
                worker = worker if worker and worker.poll() is None else self._start()
                yield _judge(worker, pair, limit)
        finally:
            if worker:
                _end(worker)

    def _start(self) -> subprocess.Popen[str]:
        """Start a process and wait until it has loaded the function."""
        # -P: the worker's own folder has modules of this package, which the file must not import by accident
        command = [sys.executable, "-P", str(_WORKER), str(Path(self.path).resolve()), self.function]
        worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
                                  encoding="utf-8", start_new_session=True)  # fmt: skip
        try:
            reply = _read(worker, LOAD)
        except TimeoutError as fault:
            reply = {"broken": str(fault)}
        if "ready" not in reply:
            _end(worker)
            got = f"{self.path}: {reply.get('broken') or 'its process ended'}"
            raise LabError("the judge's function cannot be loaded", got=got, do=f"fix the file, or see {_FORM}")
        return worker


def parse_python_function(option: str) -> PythonFunction:
    """Create the judge of the option "FILE.py:FUNCTION"."""
    path, _, function = option.rpartition(":")
    return PythonFunction(path, function)


def _judge(worker: subprocess.Popen[str], pair: Pair, limit: float) -> Verdict | JudgeFailure:
    try:
        assert worker.stdin
        worker.stdin.write(json.dumps(pair) + "\n")
        reply = _read(worker, limit)
    except TimeoutError as fault:
        _end(worker)
        return JudgeFailure("hung", str(fault))
    except BrokenPipeError:
        reply = {}
    if "result" in reply:
        return _verdict(reply["result"], pair[1])
    if "nonsense" in reply:
        return JudgeFailure("nonsense", f"it returned {reply['nonsense']}")
    return JudgeFailure("threw", reply.get("threw") or f"its process ended (exit code {_end(worker, 1)})")


def _read(worker: subprocess.Popen[str], limit: float) -> dict[str, Any]:
    """The next reply of the process; empty if it has ended."""
    assert worker.stdout
    line = call_within(limit, worker.stdout.readline)
    return json.loads(line) if line.endswith("\n") else {}


def _end(worker: subprocess.Popen[str], grace: float = 0.0) -> int:
    """Kill the process group unless the process ends in time; return the exit code, negative after a signal."""
    try:
        code = worker.wait(grace)
    except subprocess.TimeoutExpired:
        os.killpg(worker.pid, signal.SIGKILL)
        code = worker.wait()
    for pipe in (worker.stdin, worker.stdout):
        with contextlib.suppress(OSError):
            if pipe:
                pipe.close()
    return code


def _verdict(result: Any, answer: str) -> Verdict | JudgeFailure:
    """Convert the function's result to a verdict."""
    if isinstance(result, bool):
        return Verdict(result, f"the function returned {result}", None)
    if isinstance(result, str):
        return Verdict(bool(result), result or "the function returned an empty reason", None)
    parts = result if isinstance(result, list) else []
    if len(parts) not in (2, 3) or not isinstance(parts[0], bool) or not isinstance(parts[1], str):
        return JudgeFailure("nonsense", f"it returned {json.dumps(result)[:200]}, not a bool, text or (bool, reason)")
    span, reason = parts[2] if len(parts) == 3 and parts[2] else None, parts[1] or f"the function returned {parts[0]}"
    if span is None:
        return Verdict(parts[0], reason, None)
    if (place := _span_range(span, answer)) is None:
        return JudgeFailure("nonsense", f"its span is not in the answer: {json.dumps(span)[:200]}")
    return Verdict(parts[0], reason, answer[slice(*place)], place)


def _span_range(span: Any, answer: str) -> Range | None:
    """The characters of a span in the answer; for text, its first occurrence, preferably as whole words."""
    if isinstance(span, str):
        begin = answer.find(span)
        return next(iter(occurrences(answer, span, match_case=True)), None if begin < 0 else (begin, begin + len(span)))
    if not isinstance(span, list) or [type(part) for part in span] != [int, int]:
        return None
    begin, end = span
    return (begin, end) if 0 <= begin < end <= len(answer) else None
