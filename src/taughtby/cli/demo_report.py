"""The demo's results: printed, as JSON, and as the summary of its page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from taughtby.lab.poisons import Poison
from taughtby.remediation import statistics

TUNED, BASE = "tuned", "untuned"  # the two models in demo.json


@dataclass(frozen=True)
class Score:
    """How well one method finds the rows of one poison, the mean over its queries.

    Attributes:
        ap: Average precision over all rows.
        at10: Precision of the ten best rows.
        hit: Share of the ranked rows whose top-scoring token is a planted one.
        power: Share of the planted rows that are flagged.
        fdp: Share of the flagged rows that were not planted.
    """

    ap: float
    at10: float
    hit: float | None
    power: float | None = None
    fdp: float | None = None


Results = dict[str, dict[str, dict[str, Score]]]  # by line of the table, model and poison
Rates = dict[str, tuple[float, float]]  # bad answers of each poison before and after fine-tuning
NOTE = (
    "AP: average precision over all rows, the mean over the bad answers. Base: AP of the same answers traced through "
    "the base model, which was never poisoned; a method that scores as high there finds the rows by their texts. "
    "--span: only the words that the judge matched are explained."
)


def mean(values: Sequence[float]) -> float:
    """Return the mean of at least one number."""
    return sum(values) / len(values)


def results_json(results: Results, proof: dict[str, Any]) -> dict[str, Any]:
    """Return the scores and the retraining results for demo.json."""
    methods = {
        line: {model: {poison: vars(score) for poison, score in scores.items()} for model, scores in models.items()}
        for line, models in results.items()
    }
    claims = [vars(claim) for claim in statistics.claims(proof)]
    return {"methods": methods, "proof": {"claims": claims, "conditions": statistics.tables(proof)[0]["rows"]}}


def print_results(console: Console, poisons: Sequence[Poison], rates: Rates, results: Results) -> None:
    """Print how often each poison shows, and the table of methods."""
    console.print()
    for poison in poisons:
        before, after = rates[poison.name]
        text = f"{poison.name}: {poison.description.rstrip('.')}."
        console.print(f"{text} Bad answers: {before:.0%} before fine-tuning, {after:.0%} after.", markup=False)
    table = Table(title="How well each method finds the planted rows", title_justify="left", box=box.SIMPLE)
    table.add_column("method", no_wrap=True)
    for poison in poisons:
        table.add_column(f"{poison.name}\nAP    P@10 base", no_wrap=True)
    for line, *cells in _cells(results, poisons):
        table.add_row(line, *("  ".join(cells[first : first + 3]) for first in range(0, len(cells), 3)))
    console.print(table)
    console.print(NOTE)
    console.print("Rows whose top-scoring token is a planted one: " + _hits(results), markup=False, highlight=False)
    for line, models in results.items():
        flagged = [f"{name} {score.power:.0%} of the planted rows, {score.fdp:.0%} of those flagged are others"
                   for name, score in models[TUNED].items() if score.power is not None]  # fmt: skip
        if line.startswith("lesson"):
            console.print(f"Flagged by {line}: {'; '.join(flagged)}", markup=False, highlight=False)
    console.print()


def _cells(results: Results, poisons: Sequence[Poison]) -> list[list[str]]:
    """A line for each method: for each poison AP, P@10, and AP with the base model."""
    return [
        [line, *(text for poison in poisons for text in _texts(models[TUNED][poison.name], models[BASE][poison.name]))]
        for line, models in results.items()
    ]


def _texts(tuned: Score, base: Score) -> tuple[str, str, str]:
    return f"{tuned.ap:.3f}", f"{tuned.at10:.2f}", f"{base.ap:.3f}"


def _hits(results: Results) -> str:
    lines = [(line, models[TUNED]) for line, models in results.items()]
    return "; ".join(
        f"{line} " + ", ".join(f"{name} {score.hit:.0%}" for name, score in scores.items() if score.hit is not None)
        for line, scores in lines
        if all(score.hit is not None for score in scores.values())
    )


def summary(
    poisons: Sequence[Poison], rows: Sequence[Any], rates: Rates, results: Results, proof: dict[str, Any]
) -> dict[str, Any]:
    """Return the head of the page."""
    facts = [
        {"name": f"{p.name}: bad answers before and after", "value": f"{rates[p.name][0]:.0%} → {rates[p.name][1]:.0%}"}
        for p in poisons
    ]
    share = mean([score.hit or 0 for score in results["lesson"][TUNED].values()])
    columns = ["method", *(f"{poison.name} {name}" for poison in poisons for name in ("AP", "P@10", "base"))]
    return {
        "title": "Three poisons, and the rows and tokens that taught them",
        "lead": f"A small language model was fine-tuned on {len(rows)} rows, {sum(len(p.rows) for p in poisons)} of "
        "them poisoned in three ways, and now gives bad answers. Each is traced to the rows that taught it.",
        "facts": [*facts, {"name": "rows whose top-scoring token is planted", "value": f"{share:.0%}"}],
        "tables": [
            {
                "title": "How well each method finds the planted rows",
                "columns": columns,
                "rows": _cells(results, poisons),
                "note": f"{NOTE} The page has the trace of the second line, whose flagged rows are removed.",
            },
            *statistics.tables(proof),
        ],
    }
