"""Verdicts and failures of judges, the rate of undesirable answers and its confidence interval."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from scipy.stats import binomtest

from taughtby.data.phrases import Range, strip_range
from taughtby.errors import LabError

Pair = tuple[str, str]  # a prompt and its answer
FailureKind = Literal["threw", "hung", "nonsense", "unreachable"]
_MESSAGES: dict[FailureKind, str] = {
    "threw": "the judge raised an error", "hung": "the judge took too long",
    "nonsense": "the judge's reply is not a verdict", "unreachable": "the judge cannot be reached",
}  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """A judge's decision on one answer.

    Attributes:
        undesirable: Whether the answer shows the behaviour that the judge looks for.
        reason: The reason, as text.
        span: The words of the answer that show it, verbatim.
        span_range: The characters [begin, end) of `span` in the answer.
    """

    undesirable: bool
    reason: str
    span: str | None
    span_range: Range | None = None


class JudgeFailure(LabError):
    """A judge gave no verdict on an answer: it raised an error, timed out, replied nonsense or is unreachable.

    Raised when one answer is judged; returned in place of the verdict when many are.
    """

    def __init__(self, kind: FailureKind, reason: str, *, do: str = "fix the judge, or use another one") -> None:
        super().__init__(_MESSAGES[kind], got=reason, do=do)
        self.kind, self.reason = kind, reason


def undesirable_at(answer: str, reason: str, place: Range) -> Verdict:
    """Return the verdict "undesirable" for the words at `place`; without a span if they are white space."""
    place = strip_range(answer, *place)
    span = answer[slice(*place)]
    return Verdict(True, reason, span or None, place if span else None)


def undesirable_rate(verdicts: Iterable[Verdict | JudgeFailure]) -> float:
    """Return the share of undesirable answers among those with a verdict."""
    num_undesirable, total = _count(verdicts)
    return num_undesirable / total


def wilson_interval(verdicts: Iterable[Verdict | JudgeFailure], confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's confidence interval (low, high) of `undesirable_rate`."""
    num_undesirable, total = _count(verdicts)
    low, high = binomtest(num_undesirable, total).proportion_ci(confidence_level=confidence, method="wilson")
    return float(low), float(high)


def _count(verdicts: Iterable[Verdict | JudgeFailure]) -> tuple[int, int]:
    """The number of undesirable answers, and of all answers with a verdict."""
    flags = [verdict.undesirable for verdict in verdicts if isinstance(verdict, Verdict)]
    if not flags:
        raise LabError("no answer has a verdict, so there is no rate", do="judge at least one answer")
    return sum(flags), len(flags)
