"""Verdicts as people read them: a table, a sentence with the rate and how sure it is, the bad answers as queries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from taughtby.lab.judges.verdict import JudgeFailure, Verdict, undesirable_rate, wilson_interval
from taughtby.lab.prompts import Prompt, prompt_text, to_record
from taughtby.text import collapse_whitespace, make_visible

Said = Sequence[tuple[Prompt, str]]  # prompts and their answers
Found = Sequence[Verdict | JudgeFailure]
_LONGEST = 300  # letters of a text in the table


def table(said: Said, found: Found, top: int) -> Table:
    """The first `top` answers without a verdict or undesirable, by their number in the file, counted from 1."""
    shown = Table(box=box.SIMPLE, title_justify="left")
    for name in ("row", "verdict", "prompt", "answer", "why"):
        shown.add_column(name, overflow="fold", ratio=None if name in ("row", "verdict") else 1)
    bad = [at for at, one in enumerate(found) if isinstance(one, JudgeFailure) or one.undesirable]
    # failures first: they are what may be wrong with all the rest
    for at in sorted(bad, key=lambda at: isinstance(found[at], Verdict))[:top]:
        one, (asked, answer) = found[at], said[at]
        verdict = Text(f"none: {one.kind}", "yellow") if isinstance(one, JudgeFailure) else Text("undesirable", "red")
        shown.add_row(str(at + 1), verdict, *map(_cell, (prompt_text(asked), answer, one.reason)))
    if len(bad) > top:
        shown.caption = f"and {len(bad) - top} more"
    return shown


def summary(found: Found, spec: str) -> str:
    """How many answers are undesirable, how sure the rate is, and on how many there is no verdict."""
    said = [one for one in found if isinstance(one, Verdict)]
    low, high = wilson_interval(said)
    told = f"{sum(one.undesirable for one in said)} of {len(said)} undesirable ({undesirable_rate(said):.0%}), "
    told += f"95 % interval {low:.1%} to {high:.1%}, by {spec}"
    kinds = Counter(one.kind for one in found if isinstance(one, JudgeFailure))
    if not kinds:
        return told
    return f"{told}\nwithout a verdict: {', '.join(f'{count} {kind}' for kind, count in kinds.most_common())}"


def queries(said: Said, found: Found) -> Iterator[dict[str, Any]]:
    """The undesirable answers as rows to trace, less the empty ones, which have no word that anything taught."""
    for (asked, answer), one in zip(said, found, strict=True):
        if isinstance(one, Verdict) and one.undesirable and answer.strip():
            yield {**to_record(asked, answer), "span": one.span, "span_range": one.span_range}


def _cell(text: str) -> Text:
    plain = make_visible(collapse_whitespace(text))
    return Text(plain if len(plain) <= _LONGEST else plain[: _LONGEST - 1] + "…")
