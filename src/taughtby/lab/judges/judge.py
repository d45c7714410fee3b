"""The protocol of judges, and a loop over many answers in which single failures do not end the run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Any, Protocol, runtime_checkable

from taughtby.errors import LabError, TaughtbyError
from taughtby.lab.judges.verdict import JudgeFailure, Pair, Verdict

LIMIT = 30.0  # timeout in seconds per answer
MAX_UNREACHABLE = 3  # consecutive failures to reach the judge that end the run


class Judge(Protocol):
    """Decides whether the answer to a prompt is undesirable, and why."""

    def __call__(self, prompt: str, answer: str) -> Verdict:
        """The verdict on one answer.

        Raises:
            JudgeFailure: There is no verdict.
        """
        ...


@runtime_checkable
class BatchJudge(Protocol):
    """A judge that takes many answers at once and enforces the timeout itself."""

    def judge_each(self, pairs: Sequence[Pair], limit: float) -> Generator[Verdict | JudgeFailure]:
        """Yield the verdicts on prompts and answers, in order; at most `limit` seconds each."""
        ...


def judge_all(
    judge: Judge, pairs: Sequence[Pair], *, limit: float = LIMIT, progress: Callable[[int, int], Any] | None = None
) -> list[Verdict | JudgeFailure]:
    """Judge every pair of a prompt and an answer.

    Args:
        judge: The judge.
        pairs: Prompts and their answers.
        limit: Timeout in seconds per answer.
        progress: Called with (answers done, total answers).

    Returns:
        A verdict or a failure for each pair, in order.

    Raises:
        LabError: The judge failed on every answer, or could not be reached several times in a row.
    """
    verdicts: list[Verdict | JudgeFailure] = []
    with closing(
        judge.judge_each(pairs, limit) if isinstance(judge, BatchJudge) else _judge_each(judge, pairs, limit)
    ) as results:
        for result in results:
            verdicts.append(result)
            if progress:
                progress(len(verdicts), len(pairs))
            _check_reachable(verdicts[-MAX_UNREACHABLE:])
    failures = [verdict for verdict in verdicts if isinstance(verdict, JudgeFailure)]
    if failures and len(failures) == len(verdicts):
        first = failures[0]
        raise LabError(f"the judge failed on every answer, {len(failures)} of {len(verdicts)}",
                       got=f"{first.kind}: {first.reason}", do="fix the judge, or use another one")  # fmt: skip
    return verdicts


def judge_one(judge: BatchJudge, prompt: str, answer: str) -> Verdict:
    """Return the verdict of a `BatchJudge` on one answer."""
    (verdict,) = judge.judge_each([(prompt, answer)], LIMIT)
    if isinstance(verdict, JudgeFailure):
        raise verdict
    return verdict


def call_within(limit: float, function: Callable[[], Any]) -> Any:
    """Call the function, and return or raise what it does; raise a TimeoutError after `limit` seconds.

    A function that times out keeps running in a daemon thread.
    """
    outcomes: list[Any] = []
    thread = threading.Thread(target=lambda: outcomes.append(_outcome(function)), daemon=True)
    thread.start()
    thread.join(limit)
    if not outcomes:
        raise TimeoutError(f"more than {limit:g} s")
    result, fault = outcomes[0]
    if fault is not None:
        raise fault
    return result


def _outcome(function: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return function(), None
    except BaseException as fault:  # SystemExit too: it would end the thread silently
        return None, fault


def _judge_each(judge: Judge, pairs: Sequence[Pair], limit: float) -> Generator[Verdict | JudgeFailure]:
    for prompt, answer in pairs:
        yield attempt(lambda prompt=prompt, answer=answer: judge(prompt, answer), limit)


def attempt(ask: Callable[[], Any], limit: float) -> Verdict | JudgeFailure:
    """Return a verdict or a failure; errors that the user can fix, such as a wrong option, are raised."""
    try:
        verdict = call_within(limit, ask)
    except TimeoutError as fault:
        return JudgeFailure("hung", str(fault))
    except JudgeFailure as failure:
        return failure.with_traceback(None)
    except TaughtbyError:
        raise
    except (Exception, SystemExit) as fault:
        return JudgeFailure("threw", f"{type(fault).__name__}: {fault}")
    if isinstance(verdict, Verdict | JudgeFailure):
        return verdict
    return JudgeFailure("nonsense", f"it returned {str(verdict)[:80]!r}, not a Verdict")


def _check_reachable(latest: Sequence[Verdict | JudgeFailure]) -> None:
    failures = [one for one in latest if isinstance(one, JudgeFailure) and one.kind == "unreachable"]
    if len(failures) == MAX_UNREACHABLE:
        raise LabError("the judge cannot be reached", got=f"{MAX_UNREACHABLE} times in a row: {failures[-1].reason}",
                       do="check that it runs and that its address is correct")  # fmt: skip
