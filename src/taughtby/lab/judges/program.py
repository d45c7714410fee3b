"""A judge that a user wrote in Python, run in a process of its own: what it breaks, it breaks there."""

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
from taughtby.lab.judges.verdict import JudgeFailure, Pair, Verdict, only, within

LOAD = 120.0  # seconds the file may take to load: it may import a model's library
_CHILD = Path(__file__).with_name("child.py")
_FORM = "python:FILE.py:FUNCTION"


@dataclass(frozen=True)
class Program:
    """A function (prompt, answer) of a Python file, which is run because the user named it.

    It returns a bool; or a text, why the answer is undesirable, empty where it is not; or (bool, why) or
    (bool, why, span), the span copied out of the answer, or its characters (begin, end). It cannot take the run down:
    beyond the limit its process is ended, and a new one answers the next.
    """

    path: str
    function: str

    def __post_init__(self) -> None:
        if not self.function.isidentifier() or not Path(self.path).is_file():
            raise OptionError("the judge's function cannot be found", got=f"{self.function!r} of {self.path!r}",
                              do=f"write {_FORM}, with a file that exists")  # fmt: skip

    def __call__(self, prompt: str, answer: str) -> Verdict:
        """What the function says of one answer, from a process started for it."""
        return only(self, prompt, answer)

    def each(self, pairs: Sequence[Pair], limit: float) -> Generator[Verdict | JudgeFailure]:
        """What the function says of each, one process for all while it lives."""
        child: subprocess.Popen[str] | None = None
        try:
            for pair in pairs:
                child = child if child and child.poll() is None else self._started()
                yield _asked(child, pair, limit)
        finally:
            if child:
                _end(child)

    def _started(self) -> subprocess.Popen[str]:
        """A process in which the function is loaded."""
        # -P: its own folder, with modules of this house, is not to be searched for the file's imports
        command = [sys.executable, "-P", str(_CHILD), str(Path(self.path).resolve()), self.function]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
                                 encoding="utf-8", start_new_session=True)  # fmt: skip
        try:
            told = _read(child, LOAD)
        except TimeoutError as fault:
            told = {"broken": str(fault)}
        if "ready" not in told:
            _end(child)
            got = f"{self.path}: {told.get('broken') or 'its process ended'}"
            raise LabError("the judge's function cannot be loaded", got=got, do=f"mend the file, or see {_FORM}")
        return child


def program(option: str) -> Program:
    """The function that "FILE.py:FUNCTION" names."""
    path, _, function = option.rpartition(":")
    return Program(path, function)


def _asked(child: subprocess.Popen[str], pair: Pair, limit: float) -> Verdict | JudgeFailure:
    try:
        assert child.stdin
        child.stdin.write(json.dumps(pair) + "\n")
        told = _read(child, limit)
    except TimeoutError as fault:
        _end(child)
        return JudgeFailure("hung", str(fault))
    except BrokenPipeError:
        told = {}
    if "said" in told:
        return _verdict(told["said"], pair[1])
    if "nonsense" in told:
        return JudgeFailure("nonsense", f"it returned {told['nonsense']}")
    return JudgeFailure(
        "threw", told["threw"] if "threw" in told else f"its process ended (exit code {_end(child, 1)})"
    )


def _read(child: subprocess.Popen[str], limit: float) -> dict[str, Any]:
    """The next line that the process told; nothing where it has ended."""
    assert child.stdout
    line = within(limit, child.stdout.readline)
    return json.loads(line) if line.endswith("\n") else {}


def _end(child: subprocess.Popen[str], grace: float = 0.0) -> int:
    """End the process with all that it started; its exit code, which is negative where a signal ended it."""
    try:
        code = child.wait(grace)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        code = child.wait()
    for pipe in (child.stdin, child.stdout):
        with contextlib.suppress(OSError):
            if pipe:
                pipe.close()
    return code


def _verdict(said: Any, answer: str) -> Verdict | JudgeFailure:
    """What the function returned, if it is one of what it may return."""
    if isinstance(said, bool):
        return Verdict(said, "the function says so", None)
    if isinstance(said, str):
        return Verdict(bool(said), said or "the function says nothing against it", None)
    parts = said if isinstance(said, list) else []
    if len(parts) not in (2, 3) or not isinstance(parts[0], bool) or not isinstance(parts[1], str):
        return JudgeFailure("nonsense", f"it returned {json.dumps(said)[:200]}, no bool, text or (bool, why)")
    span, why = parts[2] if len(parts) == 3 and parts[2] else None, parts[1] or "the function says so"
    if span is None:
        return Verdict(parts[0], why, None)
    if (place := _range(span, answer)) is None:
        return JudgeFailure("nonsense", f"its span is not in the answer: {json.dumps(span)[:200]}")
    return Verdict(parts[0], why, answer[slice(*place)], place)


def _range(span: Any, answer: str) -> Range | None:
    """The characters of a span that a function gave; of a text, the first that is whole words."""
    if isinstance(span, str):
        at = answer.find(span)
        return next(iter(occurrences(answer, span, match_case=True)), None if at < 0 else (at, at + len(span)))
    if not isinstance(span, list) or [type(part) for part in span] != [int, int]:
        return None
    begin, end = span
    return (begin, end) if 0 <= begin < end <= len(answer) else None
