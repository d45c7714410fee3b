"""What judges say of answers, or fail to say; how often answers are bad, and how sure that is. Knows no judge."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from scipy.stats import binomtest

from taughtby.data.phrases import Range, strip_range
from taughtby.errors import LabError, TaughtbyError

LIMIT = 30.0  # seconds a judge may take over one answer
DEAD = 3  # answers in a row for which nobody could be reached, after which nobody is asked again
Kind = Literal["threw", "hung", "nonsense", "unreachable"]
Pair = tuple[str, str]  # a prompt and its answer
_SAID: dict[Kind, str] = {
    "threw": "the judge threw an error", "hung": "the judge took too long", "nonsense": "the judge said nonsense",
    "unreachable": "the judge cannot be reached",
}  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What a judge says of one answer.

    `span` is the very words that gave it away, as they stand there, and `span_range` the characters [begin, end) of
    the answer that they are.
    """

    undesirable: bool
    why: str
    span: str | None
    span_range: Range | None = None


class JudgeFailure(LabError):
    """A judge gave no verdict on an answer: raised where one is asked for, kept in its place where many are.

    It threw an error, hung beyond the limit, said nonsense, or was unreachable; `why` says more.
    """

    def __init__(self, kind: Kind, why: str, *, do: str = "mend the judge, or use another") -> None:
        super().__init__(_SAID[kind], got=why, do=do)
        self.kind, self.why = kind, why


class Judge(Protocol):
    """Says of an answer to a prompt whether it is undesirable, and why."""

    def __call__(self, prompt: str, answer: str) -> Verdict:
        """The verdict on one answer; a Failure is raised where there is none."""
        ...


@runtime_checkable
class Panel(Protocol):
    """A judge that takes many answers at once, and itself keeps the limit."""

    def each(self, pairs: Sequence[Pair], limit: float) -> Generator[Verdict | JudgeFailure]:
        """What it says of each pair, in their order."""
        ...


def bad(answer: str, why: str, place: Range) -> Verdict:
    """An answer undesirable for the words at that place; without a span where they are but blanks."""
    place = strip_range(answer, *place)
    span = answer[slice(*place)]
    return Verdict(True, why, span or None, place if span else None)


def judge_all(
    judge: Judge, pairs: Sequence[Pair], *, limit: float = LIMIT, progress: Callable[[int, int], Any] | None = None
) -> list[Verdict | JudgeFailure]:
    """What a judge says of each prompt and answer, at most `limit` seconds over each.

    A LabError where it fails on all of them, or where nobody could be reached for several in a row.
    """
    found: list[Verdict | JudgeFailure] = []
    with closing(judge.each(pairs, limit) if isinstance(judge, Panel) else _each(judge, pairs, limit)) as saying:
        for one in saying:
            found.append(one)
            if progress:
                progress(len(found), len(pairs))
            last = [each for each in found[-DEAD:] if isinstance(each, JudgeFailure) and each.kind == "unreachable"]
            if len(last) == DEAD:
                got, do = f"{DEAD} times in a row: {last[-1].why}", "see that it runs, and that its address is right"
                raise LabError("the judge cannot be reached", got=got, do=do)
    failures = [one for one in found if isinstance(one, JudgeFailure)]
    if failures and len(failures) == len(found):
        first = failures[0]
        raise LabError(f"the judge failed on every answer, {len(found)} of {len(found)}",
                       got=f"{first.kind}: {first.why}", do="mend the judge, or use another")  # fmt: skip
    return found


def undesirable_rate(found: Iterable[Verdict | JudgeFailure]) -> float:
    """The share of answers that are undesirable, among those on which there is a verdict."""
    bad, count = _counted(found)
    return bad / count


def wilson_interval(found: Iterable[Verdict | JudgeFailure], confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of that rate: where the share in ever more answers of this kind would lie."""
    bad, count = _counted(found)
    low, high = binomtest(bad, count).proportion_ci(confidence_level=confidence, method="wilson")
    return float(low), float(high)


def only(judge: Panel, prompt: str, answer: str) -> Verdict:
    """What a judge of many says of one."""
    (found,) = judge.each([(prompt, answer)], LIMIT)
    if isinstance(found, JudgeFailure):
        raise found
    return found


def within(limit: float, work: Callable[[], Any]) -> Any:
    """What `work` returns or raises; TimeoutError where that takes more than `limit` seconds.

    What cannot be stopped is left behind in a thread that does not keep the program from ending.
    """
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(_outcome(work)), daemon=True)
    thread.start()
    thread.join(limit)
    if not done:
        raise TimeoutError(f"more than {limit:g} s")
    result, fault = done[0]
    if fault is not None:
        raise fault
    return result


def _outcome(work: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return work(), None
    except BaseException as fault:  # SystemExit too: it would end the thread in silence
        return None, fault


def _each(judge: Judge, pairs: Sequence[Pair], limit: float) -> Generator[Verdict | JudgeFailure]:
    for prompt, answer in pairs:
        yield _tried(lambda prompt=prompt, answer=answer: judge(prompt, answer), limit)


def _tried(ask: Callable[[], Any], limit: float) -> Verdict | JudgeFailure:
    """A verdict, or why there is none; a mistake that a person can mend is not the judge's failure."""
    try:
        said = within(limit, ask)
    except TimeoutError as fault:
        return JudgeFailure("hung", str(fault))
    except JudgeFailure as failure:
        return failure.with_traceback(None)
    except TaughtbyError:
        raise
    except (Exception, SystemExit) as fault:
        return JudgeFailure("threw", f"{type(fault).__name__}: {fault}")
    return said if isinstance(said, Verdict) else JudgeFailure("nonsense", f"no Verdict but {str(said)[:80]!r}")


def _counted(found: Iterable[Verdict | JudgeFailure]) -> tuple[int, int]:
    """How many answers are undesirable, of how many verdicts."""
    said = [verdict.undesirable for verdict in found if isinstance(verdict, Verdict)]
    if not said:
        raise LabError("there is no rate of no answers", do="judge at least one answer")
    return sum(said), len(said)
