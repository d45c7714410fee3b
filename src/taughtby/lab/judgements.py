"""Present verdicts on answers: a table, a summary with the rate and its interval, and queries to trace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from taughtby.data.example import prompt_source
from taughtby.lab.judges import JudgeFailure, Verdict, undesirable_rate, wilson_interval
from taughtby.lab.prompts import Prompt, prompt_text, to_record
from taughtby.text import collapse_whitespace, make_visible

Answers = Sequence[tuple[Prompt, str]]  # prompts and their answers
Verdicts = Sequence[Verdict | JudgeFailure]
_MAX_CELL = 300  # characters of text per table cell


def verdict_table(answers: Answers, verdicts: Verdicts, top_k: int) -> Table:
    """Return a table of up to `top_k` answers that are undesirable or not judged, numbered from 1 as in the file."""
    table = Table(box=box.SIMPLE, title_justify="left")
    for name in ("row", "verdict", "prompt", "answer", "why"):
        table.add_column(name, overflow="fold", no_wrap=name == "row", ratio=None if name in ("row", "verdict") else 1)
    indices = [i for i, each in enumerate(verdicts) if isinstance(each, JudgeFailure) or each.undesirable]
    # failures first: they may mean that all other verdicts are wrong
    for i in sorted(indices, key=lambda i: isinstance(verdicts[i], Verdict))[:top_k]:
        verdict, (prompt, answer) = verdicts[i], answers[i]
        failed = isinstance(verdict, JudgeFailure)
        label = Text(f"none: {verdict.kind}", "yellow") if failed else Text("undesirable", "red")
        table.add_row(
            _cell(prompt_source(prompt).rpartition("/")[2] or str(i + 1)),
            label,
            *map(_cell, (prompt_text(prompt), answer, verdict.reason)),
        )
    if len(indices) > top_k:
        table.caption = f"and {len(indices) - top_k} more"
    return table


def verdict_summary(verdicts: Verdicts, spec: str) -> str:
    """Return how many answers are undesirable, the interval of the rate, and how many answers have no verdict."""
    judged = [verdict for verdict in verdicts if isinstance(verdict, Verdict)]
    low, high = wilson_interval(judged)
    num_undesirable = sum(verdict.undesirable for verdict in judged)
    text = f"{num_undesirable} of {len(judged)} undesirable ({undesirable_rate(judged):.0%}), "
    text += f"95 % interval {low:.1%} to {high:.1%}, by {spec}"
    kinds = Counter(failure.kind for failure in verdicts if isinstance(failure, JudgeFailure))
    if not kinds:
        return text
    return f"{text}\nwithout a verdict: {', '.join(f'{count} {kind}' for kind, count in kinds.most_common())}"


def undesirable_queries(answers: Answers, verdicts: Verdicts) -> Iterator[dict[str, Any]]:
    """Yield the undesirable answers as query records, except empty ones, which have no token to trace."""
    for (prompt, answer), verdict in zip(answers, verdicts, strict=True):
        if isinstance(verdict, Verdict) and verdict.undesirable and answer.strip():
            yield {**to_record(prompt, answer), "span": verdict.span, "span_range": verdict.span_range}


def _cell(text: str) -> Text:
    plain = make_visible(collapse_whitespace(text))
    return Text(plain if len(plain) <= _MAX_CELL else plain[: _MAX_CELL - 1] + "…")
