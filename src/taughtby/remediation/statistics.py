"""What a proof's counts say, in sentences and tables: proved, not proved, or inconclusive, and by which test.

Knows the document of `taughtby.remediation.retrain` and no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from scipy.stats import fisher_exact, ttest_rel

from taughtby.remediation.retrain import Document, loss
from taughtby.remediation.trial import ALL, CLEANED, FIRST, GIVEN, MASKED, RANDOM, TRUTH
from taughtby.text import make_visible, markdown_text

SURE = 0.05  # two counts differ where chance alone would give such a difference more rarely
GONE = 0.05  # a behaviour that is shown no more often than this is gone
NOTE = (
    "Of the answers to the behaviour's prompts, how many are bad; in brackets Wilson's 95 % interval of the rate. "
    "Ordinary: the same of prompts that should not show it. Clean loss: the mean loss a token of held-out rows that no "
    "arm was trained on, and its change against all rows with the 95 % interval of a paired t-test."
)


@dataclass(frozen=True)
class Claim:
    """What was found of one behaviour: proved, not proved or inconclusive, and the sentence that says why."""

    behaviour: str
    verdict: str
    says: str


def claims(proof: Document) -> list[Claim]:
    """A claim a behaviour.

    Proved: without the called rows it is rarer than with all, and rarer than without as many random rows, each by
    Fisher's exact test, two-sided, at 5 %; of several random draws the one that shows it least counts.
    Inconclusive: trained on all rows the model shows it in less than half as many answers as the one that was given,
    or in none, so that nothing can be seen to go.
    """
    return [_claim(proof, one["name"]) for one in proof["behaviours"]]


def p_value(one: Document, other: Document) -> float:
    """Fisher's exact test, two-sided: the chance of counts so unlike if both models were equally bad."""
    table = [[each["bad"], each["judged"] - each["bad"]] for each in (one, other)]
    return float(fisher_exact(table)[1])  # pyright: ignore[reportArgumentType]


def loss_change(arm: Document, reference: Document) -> tuple[float, float, float] | None:
    """The change of the mean held-out loss against another arm's, as a share of it, with its 95 % interval."""
    mine, theirs = arm.get("losses"), reference.get("losses")
    whole = loss(reference)
    if not mine or not theirs or not whole or len(mine) < 2:
        return None
    change = (sum(mine) - sum(theirs)) / len(mine) / whole
    if mine == theirs:
        return change, change, change
    low, high = ttest_rel(mine, theirs).confidence_interval(0.95)  # pyright: ignore[reportAttributeAccessIssue]
    return change, float(low) / whole, float(high) / whole


def arm(proof: Document, name: str) -> Document:
    """The arm of that name; empty where it was not tried."""
    return next((one for one in proof["arms"] if one["name"] == name), {})


def drawn(proof: Document) -> list[Document]:
    """The arms without random rows."""
    return [one for one in proof["arms"] if one["name"].split()[0] == RANDOM]


def _claim(proof: Document, name: str) -> Claim:
    cleaned, whole, given = (_count(proof, which, name) for which in (CLEANED, ALL, GIVEN))
    controls = [count for one in drawn(proof) if (count := one["behaviours"][name])["judged"]]
    if not cleaned or not whole or not controls:
        return Claim(name, "inconclusive", "The judge gave no verdict on a whole arm, so nothing can be compared.")
    if not whole["bad"] or whole["rate"] < (given or whole)["rate"] / 2:
        told = f"; the model that was given, in {_share(given)}" if given else ""
        return Claim(name, "inconclusive", f"Trained again on all rows, the model shows it in {_share(whole)}{told}. "
                     "This training does not bring the behaviour back, so nothing can be seen to go.")  # fmt: skip
    chance = min(controls, key=lambda count: count["rate"])
    says = (f"Trained without the {arm(proof, CLEANED)['removed']} rows called, the model shows it in "
            f"{_share(cleaned)}; on all rows, in {_against(cleaned, whole)}; without as many random rows, in "
            f"{_against(cleaned, chance)}.")  # fmt: skip
    if not _rarer(cleaned, whole):
        return Claim(name, "not proved", f"{says} Taking them out changes no more than chance does.")
    if not _rarer(cleaned, chance):
        return Claim(name, "not proved", f"{says} Any other rows do it too.")
    return Claim(name, "proved", f"{says} It is {'gone' if cleaned['rate'] <= GONE else 'rarer, and not gone'}.")


def _count(proof: Document, name: str, behaviour: str) -> Document | None:
    """An arm's counts, if there is any verdict."""
    counts = [one["behaviours"][behaviour] for one in proof["arms"] if one["name"] == name]
    return counts[0] if counts and counts[0]["judged"] else None


def _rarer(count: Document, other: Document) -> bool:
    return count["rate"] < other["rate"] and p_value(count, other) < SURE


def masked(proof: Document) -> str | None:
    """What training on all rows with the guilty words masked does to each behaviour, where that was tried."""
    tried, whole = arm(proof, MASKED), arm(proof, ALL)
    if not tried:
        return None
    told = [f"{_share(count)}; with every word learned, in {_against(count, whole['behaviours'][name])}"
            for name, count in tried["behaviours"].items()]  # fmt: skip
    return f"With all rows kept and only their guilty words masked, the model shows it in {' and '.join(told)}."


def tables(proof: Document) -> list[dict[str, Any]]:
    """The arms as a table, and the removal curve as another where there is one; cells are texts."""
    names = [one["name"] for one in proof["behaviours"]]
    columns = ["trained", "rows out", *names, "ordinary", "clean loss", "change"]
    steps = [one for one in proof["arms"] if one["name"].split()[0] == FIRST]
    main = [one for one in proof["arms"] if one not in steps]
    made = [{"title": "Trained again, and asked again", "columns": columns,
             "rows": [_line(proof, one, names) for one in main], "note": NOTE}]  # fmt: skip
    if steps:
        rows = [_line(proof, one, names) for one in [arm(proof, ALL), *steps]]
        note = "The rows in the order of their best rank for any traced answer; the first k are taken out."
        made.append({"title": "Without the first k rows", "columns": columns, "rows": rows, "note": note})
    return made


def markdown(table: dict[str, Any]) -> str:
    """A table as Markdown, with its title and note."""
    head, *rows = ([markdown_text(cell) for cell in line] for line in [table["columns"], *table["rows"]])
    lines = [head, ["---"] * len(head), *rows]
    grid = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"### {table['title']}\n\n{grid}\n\n{table['note']}\n"


def show(proof: Document, console: Console) -> None:
    """Print a proof's tables, and the sentence of each behaviour."""
    for made in tables(proof):
        grid = Table(title=made["title"], title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
        for at, name in enumerate(made["columns"]):
            grid.add_column(Text(make_visible(name)), justify="right" if at == 1 else "left", overflow="fold")
        for line in made["rows"]:
            grid.add_row(*(Text(make_visible(cell)) for cell in line))
        console.print(grid)
    several = len(proof["behaviours"]) > 1
    for claim in claims(proof):
        name = f"{claim.behaviour}, " if several else ""
        console.print(Text(make_visible(f"{name}{claim.verdict}: {claim.says}"), "bold"))


def curve(proof: Document, name: str, kind: str = FIRST) -> list[tuple[int, float, float, float]]:
    """(rows taken out, rate of a behaviour, its interval's ends) of the arms of a kind; the curve begins with none."""
    kinds = {kind, ALL} if kind == FIRST else {kind}
    found = [(one["removed"], one["behaviours"][name]) for one in proof["arms"] if one["name"].split()[0] in kinds]
    return sorted((k, count["rate"], count["low"], count["high"]) for k, count in found if count["rate"] is not None)


def called(proof: Document, one: Document) -> str:
    """What an arm is, in words."""
    kind, _, number = one["name"].partition(" ")
    return {
        GIVEN: "the model that was given",
        ALL: "on all rows",
        CLEANED: "without the rows called",
        RANDOM: f"without random rows{f', draw {number}' if number else ''}",
        TRUTH: f"without the rows labelled {', '.join(proof['truth']['labels'] if proof['truth'] else ())}",
        MASKED: "with the guilty words masked",
        FIRST: f"without the first {number}",
    }[kind]


def _line(proof: Document, one: Document, names: Sequence[str]) -> list[str]:
    ordinary = list(one["ordinary"].values())
    usual = f"{sum(each['bad'] for each in ordinary)} of {sum(each['judged'] for each in ordinary)}"
    mean, change = loss(one), loss_change(one, arm(proof, ALL))
    return [
        called(proof, one),
        str(one.get("removed", "")),
        *(_counts(one["behaviours"][name]) for name in names),
        usual if proof["ordinary"] else "",
        "" if mean is None else f"{mean:.3f}",
        "" if change is None or one["name"] == ALL else f"{change[0]:+.1%} ({change[1]:+.1%} to {change[2]:+.1%})",
    ]


def _counts(count: Document) -> str:
    if count["rate"] is None:
        return "no verdict"
    failed = f", {count['failed']} not judged" if count["failed"] else ""
    return f"{count['bad']} of {count['judged']} ({count['low']:.0%} to {count['high']:.0%}){failed}"


def _share(count: Document) -> str:
    return f"{count['bad']} of {count['judged']} answers"


def _against(count: Document, other: Document) -> str:
    return f"{other['bad']} of {other['judged']} (p = {_p(p_value(count, other))})"


def _p(value: float) -> str:
    return f"{value:.1g}" if value < 0.001 else f"{value:.3f}"
