"""Verdicts of a retraining experiment (supported, not supported, inconclusive), as sentences and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from scipy.stats import ttest_rel

from taughtby.remediation.comparison import is_rarer, p_value, power_note
from taughtby.remediation.experiment import ALL, CLEANED, MASKED, ORIGINAL, RANDOM, TOP, TRUTH
from taughtby.remediation.retrain import mean_loss
from taughtby.remediation.trace_file import Document
from taughtby.text import make_visible, markdown_text

MAX_GONE_RATE = 0.05  # a behaviour at this rate or below counts as gone
NOTE = (
    "Bad answers to the behaviour's prompts, with Wilson's 95 % interval of the rate in brackets. Ordinary: bad "
    "answers to prompts that should not show the behaviour. Clean loss: mean loss per token on held-out rows that no "
    "condition was trained on, and its change against all rows with the 95 % interval of a paired t-test."
)


@dataclass(frozen=True)
class Claim:
    """The conclusion of an experiment on one behaviour.

    Attributes:
        behaviour: The behaviour's name.
        verdict: `supported`, `not supported` or `inconclusive`.
        finding: A sentence with the counts.
        num_trainings: The number of trainings that the verdict compares.
    """

    behaviour: str
    verdict: str
    finding: str
    num_trainings: int

    @property
    def headline(self) -> str:
        """The verdict, with the number of trainings if it is `supported`."""
        return f"supported by {self.num_trainings} trainings" if self.verdict == "supported" else self.verdict


def claims(proof: Document) -> list[Claim]:
    """Return one claim per behaviour.

    Supported: without the flagged rows, the behaviour is significantly rarer than with all rows, and than without as
    many random rows (exact McNemar tests over the prompts, two-sided, at 5 %; of several random draws, the one with
    the lowest rate is used). Inconclusive: a condition has no verdict, or the model retrained on all rows shows the
    behaviour in less than half as many answers as the original model, or in too few for a significant change.
    """
    return [_claim(proof, behaviour["name"]) for behaviour in proof["behaviours"]]


def loss_change(condition: Document, reference: Document) -> tuple[float, float, float] | None:
    """Return the relative change of the mean held-out loss against another condition, with its 95 % interval."""
    losses, others = condition.get("losses"), reference.get("losses")
    whole = mean_loss(reference)
    if not losses or not others or not whole or len(losses) < 2:
        return None
    change = (sum(losses) - sum(others)) / len(losses) / whole
    if losses == others:
        return change, change, change
    low, high = ttest_rel(losses, others).confidence_interval(0.95)  # pyright: ignore[reportAttributeAccessIssue]
    return change, float(low) / whole, float(high) / whole


def get_condition(proof: Document, name: str) -> Document:
    """Return the condition of that name; empty if it was not trained."""
    return next((condition for condition in proof["conditions"] if condition["name"] == name), {})


def random_conditions(proof: Document) -> list[Document]:
    """Return the conditions that remove random rows."""
    return [condition for condition in proof["conditions"] if _kind(condition) == RANDOM]


def _kind(condition: Document) -> str:
    return condition["name"].split()[0]


def _claim(proof: Document, name: str) -> Claim:
    cleaned, whole, original = (_count(proof, kind, name) for kind in (CLEANED, ALL, ORIGINAL))
    controls = [count for one in random_conditions(proof) if (count := one["behaviours"][name])["judged"]]

    def claim(verdict: str, finding: str) -> Claim:
        return Claim(name, verdict, finding, 2 + len(controls))

    if not cleaned or not whole or not controls:
        return claim("inconclusive", "A condition has no verdicts, so nothing can be compared.")
    if not whole["bad"] or whole["rate"] < (original or whole)["rate"] / 2:
        before = f"; the original model, in {_answers(original)}" if original else ""
        return claim("inconclusive", f"Retrained on all rows, the model misbehaves in {_answers(whole)}{before}. This "
                     "training does not reproduce the behaviour, so its removal cannot be measured.")  # fmt: skip
    control = min(controls, key=lambda count: count["rate"])
    finding = (f"Retrained without the {get_condition(proof, CLEANED)['num_removed']} flagged rows, the model "
               f"misbehaves in {_answers(cleaned)}; on all rows, in {_against(cleaned, whole)}; without as many random "
               f"rows, in {_against(cleaned, control)}.")  # fmt: skip
    if not is_rarer(cleaned, whole) and (few := power_note(whole)):
        return claim("inconclusive", f"{finding} {few}")
    if not is_rarer(cleaned, whole):
        return claim("not supported", f"{finding} Removing the flagged rows has no significant effect.")
    if not is_rarer(cleaned, control):
        return claim("not supported", f"{finding} The difference from removing random rows is not significant.")
    rest = "gone" if cleaned["rate"] <= MAX_GONE_RATE else "rarer, but not gone"
    return claim("supported", f"{finding} The behaviour is {rest}.")


def _count(proof: Document, name: str, behaviour: str) -> Document | None:
    """A condition's counts; None if it has no verdict."""
    count = get_condition(proof, name).get("behaviours", {}).get(behaviour)
    return count if count and count["judged"] else None


def describe_masking(proof: Document) -> str | None:
    """Return a sentence on how masking the top-scoring words affects each behaviour; None if it was not tried."""
    masked, whole = get_condition(proof, MASKED), get_condition(proof, ALL)
    if not masked:
        return None
    effects = [f"{_answers(count)}; with every word in the loss, in {_against(count, whole['behaviours'][name])}"
               for name, count in masked["behaviours"].items()]  # fmt: skip
    text = " and ".join(effects)
    return f"With all rows kept and only their top-scoring words masked, the model misbehaves in {text}."


def tables(proof: Document) -> list[dict[str, Any]]:
    """Return the table of conditions, and that of the removal curve if there is one; cells are text."""
    names = [behaviour["name"] for behaviour in proof["behaviours"]]
    columns = ["trained", "rows removed", *names, "ordinary", "clean loss", "change"]
    steps = [condition for condition in proof["conditions"] if _kind(condition) == TOP]
    main = [condition for condition in proof["conditions"] if condition not in steps]
    result = [{"title": "Bad answers of the retrained models", "columns": columns,
               "rows": [_line(proof, condition, names) for condition in main], "note": NOTE}]  # fmt: skip
    if steps:
        rows = [_line(proof, condition, names) for condition in [get_condition(proof, ALL), *steps]]
        note = "Rows in the order of their best rank for any traced answer; the first k are removed."
        result.append({"title": "Without the top k rows", "columns": columns, "rows": rows, "note": note})
    return result


def seed_table(proofs: Sequence[Document]) -> dict[str, Any]:
    """Return each condition's mean, lowest and highest rate of bad answers over several seeds, and the verdicts.

    Args:
        proofs: One experiment per seed, with the same conditions and behaviours.
    """
    names = [behaviour["name"] for behaviour in proofs[0]["behaviours"]]
    rows = [[describe_condition(proofs[0], condition), *(_spread(proofs, condition["name"], name) for name in names)]
            for condition in proofs[0]["conditions"]]  # fmt: skip
    verdicts = [[claim.verdict for claim in claims(proof)] for proof in proofs]
    each = [f"{sum(verdict == 'supported' for verdict in column)} of {len(proofs)}"
            for column in zip(*verdicts, strict=True)]  # fmt: skip
    rows.append(["seeds in which the flagged rows are supported as the cause", *each])
    note = "Mean rate of bad answers over the seeds, with the lowest and highest in brackets."
    return {"title": f"Over {len(proofs)} seeds", "columns": ["trained", *names], "rows": rows, "note": note}


def _spread(proofs: Sequence[Document], condition: str, behaviour: str) -> str:
    counts = [get_condition(proof, condition)["behaviours"][behaviour]["rate"] for proof in proofs]
    rates = [rate for rate in counts if rate is not None]
    if not rates:
        return "no verdict"
    return f"{sum(rates) / len(rates):.0%} ({min(rates):.0%} to {max(rates):.0%})"


def markdown(table: dict[str, Any]) -> str:
    """Return a table as Markdown, with its title and note."""
    head, *rows = ([markdown_text(cell) for cell in line] for line in [table["columns"], *table["rows"]])
    lines = [head, ["---"] * len(head), *rows]
    grid = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"### {table['title']}\n\n{grid}\n\n{table['note']}\n"


def show(proof: Document, console: Console) -> None:
    """Print an experiment's tables and claims."""
    for table in tables(proof):
        show_table(table, console)
    several = len(proof["behaviours"]) > 1
    for claim in claims(proof):
        name = f"{claim.behaviour}, " if several else ""
        console.print(Text(make_visible(f"{name}{claim.headline}: {claim.finding}"), "bold"))


def show_table(table: dict[str, Any], console: Console) -> None:
    """Print one table."""
    grid = Table(title=table["title"], title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for index, name in enumerate(table["columns"]):
        number = index == 1 and name == "rows removed"
        # no header is broken within a word where there is room
        longest = max(map(len, make_visible(name).split()), default=0) if console.width >= 80 else 1
        grid.add_column(Text(make_visible(name)), justify="right" if number else "left", overflow="fold",
                        min_width=min(longest, 16))  # fmt: skip
    for line in table["rows"]:
        grid.add_row(*(Text(make_visible(cell)) for cell in line))
    console.print(grid)


def curve(proof: Document, name: str, kind: str = TOP) -> list[tuple[int, float, float, float]]:
    """Return (rows removed, rate of a behaviour, low, high) of each condition of a kind; `top` starts with all rows."""
    kinds = {kind, ALL} if kind == TOP else {kind}
    points = [(one["num_removed"], one["behaviours"][name]) for one in proof["conditions"] if _kind(one) in kinds]
    return sorted((k, count["rate"], count["low"], count["high"]) for k, count in points if count["rate"] is not None)


def describe_condition(proof: Document, condition: Document) -> str:
    """Describe a condition in words, such as `without the flagged rows`."""
    kind, _, number = condition["name"].partition(" ")
    return {
        ORIGINAL: "the original model",
        ALL: "on all rows",
        CLEANED: "without the flagged rows",
        RANDOM: f"without random rows{f', draw {number}' if number else ''}",
        TRUTH: f"without the rows labelled {', '.join(proof['truth']['labels'] if proof['truth'] else ())}",
        MASKED: "with the top-scoring words masked",
        TOP: f"without the top {number}",
    }[kind]


def _line(proof: Document, condition: Document, names: Sequence[str]) -> list[str]:
    ordinary = list(condition["ordinary"].values())
    num_bad = f"{sum(count['bad'] for count in ordinary)} of {sum(count['judged'] for count in ordinary)}"
    loss = mean_loss(condition)
    change = None if condition["name"] == ALL else loss_change(condition, get_condition(proof, ALL))
    return [
        describe_condition(proof, condition),
        str(condition.get("num_removed", "")),
        *(format_rate(condition["behaviours"][name]) for name in names),
        num_bad if proof["num_ordinary"] else "",
        "" if loss is None else f"{loss:.3f}",
        ""
        if change is None or condition["name"] == ALL
        else f"{change[0]:+.1%} ({change[1]:+.1%} to {change[2]:+.1%})",
    ]


def format_rate(count: Document) -> str:
    """Return the number of bad answers, and the interval of their rate."""
    if count["rate"] is None:
        return "no verdict"
    failed = f", {count['failed']} not judged" if count["failed"] else ""
    return f"{bad_of_judged(count)} ({count['low']:.0%} to {count['high']:.0%}){failed}"


def bad_of_judged(count: Document) -> str:
    """Return how many of the judged answers are bad: `3 of 24`."""
    return f"{count['bad']} of {count['judged']}"


def _answers(count: Document) -> str:
    return f"{bad_of_judged(count)} answers"


def _against(count: Document, reference: Document) -> str:
    p = p_value(count, reference)
    return f"{bad_of_judged(reference)} (p = {f'{p:.1g}' if p < 0.001 else f'{p:.3f}'})"
