"""Summarize the causal benchmark: effects with intervals, by suite and overall, also as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from taughtby.bench.table import markdown_grid
from taughtby.text import markdown_text

Result = dict[str, Any]
NUM_RESAMPLES = 1_000
LEGEND = (
    "QLD: by how many nats per token the loss of the traced answers rises when the model is trained again without the "
    "method's top rows, or with its top tokens masked from the loss; higher is better, and negative means that the "
    "answers became more likely. Rate: bad answers to the test prompts after that training. Clean: the change of the "
    "loss on held-out clean rows. All methods have the same budget: as many rows as are planted, as many tokens as "
    "planted words have. LDS: Spearman's correlation of summed scores and loss over random halves of the rows. In "
    "brackets: 95 % percentile bootstrap, over answers within a scenario, over scenarios and seeds in the mean."
)
_HEADS = ("method", "QLD rows", "rate", "clean", "QLD tokens", "rate", "clean", "LDS")


def summarize(results: Sequence[Result], settings: Result) -> Result:
    """Effects of every method in every scenario and seed, and their means over all scenarios."""
    effects = [_effects(result) for result in results if result["queries"]]
    suites = dict.fromkeys(result["suite"] for result in results)
    scenarios = [
        {"suite": result["suite"], "seed": result["seed"], "rate": result["rate"], "base_rate": result["base_rate"],
         "num_rows": result["num_rows"], "num_queries": len(result["queries"])}
        for result in results
    ]  # fmt: skip
    by_suite = {suite: _table([each for each in effects if each["suite"] == suite], over="queries") for suite in suites}
    return {"version": 1, "settings": settings, "scenarios": scenarios, "effects": effects,
            "suites": by_suite, "mean": _table(effects, over="scenarios")}  # fmt: skip


def markdown(summary: Result) -> str:
    """All tables as Markdown."""
    lines = ["# Effects of retraining without the top rows or tokens", "", LEGEND, ""]
    lines += ["## Mean over scenarios and seeds", ""]
    lines += _grid(summary["mean"])
    for suite, table in summary["suites"].items():
        runs = [one for one in summary["scenarios"] if one["suite"] == suite]
        rates = ", ".join(f"{one['base_rate']:.0%} → {one['rate']:.0%}" for one in runs)
        lines += [f"## {suite}", "", f"Bad answers before and after fine-tuning, by seed: {rates}.", "", *_grid(table)]
    return "\n".join(lines) + "\n"


def lds(scores: NDArray[np.float64], halves: Sequence[Result]) -> tuple[float, float, float]:
    """The linear datamodeling score of one method: mean over the queries, with its 95 % interval over the halves.

    Args:
        scores: (Q, N), higher is more responsible.
        halves: For each half, the removed rows, and the losses of the Q queries after training on the rest.
    """
    present = np.ones((len(halves), scores.shape[1]))
    for half, record in zip(present, halves, strict=True):
        half[record["rows"]] = 0
    sums, losses = scores @ present.T, np.array([record["losses"] for record in halves]).T  # (Q, S) both
    value = float(_spearman(sums, -losses).mean())
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(halves), (NUM_RESAMPLES, len(halves)))
    again = [float(_spearman(sums[:, draw], -losses[:, draw]).mean()) for draw in draws]
    low, high = np.percentile(again, [2.5, 97.5])
    return value, float(low), float(high)


def _spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spearman's correlation of each pair of rows; 0 if one of them is constant."""
    ranks = [rankdata(part, axis=1) for part in (first, second)]
    a, b = (part - part.mean(1, keepdims=True) for part in ranks)
    norm = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return np.divide((a * b).sum(1), norm, out=np.zeros(len(norm)), where=norm > 0)


def _effects(result: Result) -> Result:
    """For each method and kind: QLD per query, rate and change of the clean loss, averaged over random draws."""
    (whole,) = [line for line in result["lines"] if not line["num_rows"] and not line["num_tokens"]]
    reference, clean = np.array(whole["query_losses"]), float(np.mean(whole["clean_losses"]))
    groups: dict[tuple[str, str], list[Result]] = {}
    for line in result["lines"]:
        if line is not whole:
            groups.setdefault((line["method"], line["kind"]), []).append(line)
    methods: dict[str, Result] = {}
    for (method, kind), lines in groups.items():
        methods.setdefault(method, {})[kind] = {
            "qld": np.mean([np.array(line["query_losses"]) - reference for line in lines], axis=0).tolist(),
            "rate": float(np.mean([line["bad"] / line["answered"] for line in lines])),
            "clean": float(np.mean([np.mean(line["clean_losses"]) - clean for line in lines])),
            "num_planted": float(np.mean([line["num_planted"] for line in lines])),
            "num_draws": len(lines),
        }
    for method, scores in result["scores"].items():
        if result["subsets"]:
            methods[method]["lds"] = lds(np.array(scores), result["subsets"])
    base = np.array(result["base"]["query_losses"]) - reference
    return {"suite": result["suite"], "seed": result["seed"], "methods": methods,
            "rate": whole["bad"] / whole["answered"], "base_qld": base.tolist()}  # fmt: skip


def _table(effects: Sequence[Result], *, over: str) -> list[Result]:
    """A line per method, the highest QLD of rows first."""
    names = dict.fromkeys(method for each in effects for method in each["methods"])
    lines: list[Result] = []
    for name in names:
        found = [each["methods"][name] for each in effects if name in each["methods"]]
        line: Result = {"method": name}
        for kind in ("rows", "tokens"):
            parts = [one[kind] for one in found if kind in one]
            if not parts:
                continue
            values = [part["qld"] if over == "queries" else [float(np.mean(part["qld"]))] for part in parts]
            line[kind] = {
                "qld": _interval(np.concatenate(values)),
                "rate": float(np.mean([part["rate"] for part in parts])),
                "clean": float(np.mean([part["clean"] for part in parts])),
                "num_scenarios": len(parts),
            }
        scores = [one["lds"] for one in found if "lds" in one]
        if len(scores) == 1:
            line["lds"] = list(scores[0])
        elif scores:
            line["lds"] = _interval(np.array([score[0] for score in scores]))
        lines.append(line)
    return sorted(lines, key=lambda line: -(line.get("rows") or line["tokens"])["qld"][0])


def _interval(values: NDArray[np.float64]) -> list[float]:
    """The mean, and its 95 % percentile bootstrap interval."""
    draws = np.random.default_rng(0).choice(values, (NUM_RESAMPLES, len(values))).mean(1)
    return [float(values.mean()), *np.percentile(draws, [2.5, 97.5]).tolist()]


def _grid(table: Sequence[Result]) -> list[str]:
    rows = [[markdown_text(line["method"]), *_cells(line.get("rows")), *_cells(line.get("tokens")),
             _bracketed(line.get("lds"))] for line in table]  # fmt: skip
    return markdown_grid(_HEADS, rows)


def _cells(part: Result | None) -> list[str]:
    if part is None:
        return ["–"] * 3
    return [_bracketed(part["qld"]), f"{part['rate']:.0%}", f"{part['clean']:+.3f}"]


def _bracketed(value: Sequence[float] | None) -> str:
    return "–" if value is None else f"{value[0]:.3f} ({value[1]:.3f} to {value[2]:.3f})"
