"""The results of a benchmark as one document: every metric with its spread over the seeds, and its provenance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

import numpy as np
import torch

from taughtby.attribution.pooling import pool_weights
from taughtby.bench.metrics import flagging_metrics, median_of_known, precision_recall, ranking_metrics, spread_by_name
from taughtby.remediation.provenance import merge_provenance

Result = dict[str, Any]


def summarize(scenarios: Sequence[Result], settings: Result) -> Result:
    """Summarize all results in one document, from which tables and plots are made.

    Args:
        scenarios: The results of `taughtby.bench.run.run`.
        settings: The settings of the run: command, suites, seeds, methods, model, rows.
    """
    names = list(dict.fromkeys(scenario["suite"] for scenario in scenarios))
    suites = [_suite(name, [scenario for scenario in scenarios if scenario["suite"] == name]) for name in names]
    return {"version": 1, "provenance": stage_provenance(scenarios), "settings": settings, "suites": suites}


def stage_provenance(scenarios: Sequence[Result]) -> Result:
    """Return the merged provenance of the stages, some of which another commit or machine may have run."""
    results = [result for scenario in scenarios for result in scenario["results"] if "error" not in result]
    stages = [*(record for scenario in scenarios for record in scenario.get("provenance", [None])),
              *(result.get("provenance") for result in results),
              *(result["index"].get("provenance") for result in results if result["index"])]  # fmt: skip
    dtypes = {result["dtype"] for result in results}
    return {**merge_provenance(stages), "dtype": ", ".join(sorted(dtypes)) or None}


def _suite(name: str, scenarios: Sequence[Result]) -> Result:
    """Summarize one suite over its seeds."""
    lines = dict.fromkeys(
        (result["method"], result["which"]) for scenario in scenarios for result in scenario["results"]
    )
    keys = ("seed", "rows", "planted", "rate", "base_rate", "finetune_seconds", "adapter")
    references = [scenario["reference"] for scenario in scenarios if scenario["reference"]]
    return {
        "name": name,
        "seeds": [
            {key: scenario[key] for key in keys}
            | {"queries": len(scenario["queries"]), "published": scenario.get("published", False)}
            for scenario in scenarios
        ],
        "results": [_line(*line, scenarios) for line in lines],
        "reference": references[0] if references else None,
    }


def _line(method: str, which: str, scenarios: Sequence[Result]) -> Result:
    """Summarize one method on one of the two models, over the seeds that have it."""
    results = [(scenario["seed"], result | {"truth": _truth(scenario, result)}) for scenario in scenarios
               for result in scenario["results"] if (result["method"], result["which"]) == (method, which)]  # fmt: skip
    seeds = [seed for seed, result in results if "error" not in result]
    valid = [result for _, result in results if "error" not in result]
    return {
        "method": method,
        "which": which,
        "reads": results[0][1]["reads"],
        "error": next((result["error"] for _, result in results if "error" in result), None),
        "options": valid[0]["options"] if valid else None,
        "seeds": seeds,
        "metrics": {name: asdict(value) for name, value in spread_by_name(list(map(_metrics, valid))).items()},
        "curve": _curve(valid),
        "cost": _cost(method, valid),
        "commit": merge_provenance([result.get("provenance") for result in valid])["commit"] if valid else None,
    }


def _metrics(result: Result) -> dict[str, float]:
    """All metrics of one trace. `together` is the AP with pooling of queries that rank rows alike."""
    scores, truth = result["scores"], result["truth"]
    metrics = ranking_metrics(scores, truth)
    if metrics:
        matrix = torch.tensor(scores, dtype=torch.float64)
        metrics["together"] = ranking_metrics((pool_weights(matrix) @ matrix).tolist(), truth)["ap"]
    if all(flagged is not None for flagged in result.get("flagged", [None])):
        metrics |= flagging_metrics(result["flagged"], truth)
    return metrics | ({} if result["hit"] is None else {"hit@1": result["hit"]})


def _truth(scenario: Result, result: Result) -> list[list[bool]]:
    """For each query, which rows are planted for the poison that it shows."""
    return [[label == query["label"] for label in result.get("labels", ())] for query in scenario["queries"]]


def _curve(results: Sequence[Result]) -> list[float]:
    """The mean precision-recall curve, over queries and seeds."""
    pairs = [pair for result in results for pair in zip(result["scores"], result["truth"], strict=True)]
    curves = [precision_recall(*pair) for pair in pairs if any(pair[1])]
    return [round(float(value), 4) for value in np.mean(curves, axis=0)] if curves else []


def _cost(method: str, results: Sequence[Result]) -> Result | None:
    """Median costs over the seeds, which ignore a single slow run; index costs are None if no index is needed."""
    if not results:
        return None
    indexes = [result["index"] for result in results if result["index"]]
    cost: Result = {"query_seconds": median(result["query"]["seconds"] for result in results),
                    "query_more": median_of_known(result["query"]["more"] for result in results)}  # fmt: skip
    for key in ("seconds", "cpu", "tokens_per_second", "bytes_per_row", "more", "peak"):
        name = key if key == "bytes_per_row" else f"index_{key}"
        cost[name] = median_of_known(index.get(key) for index in indexes)
    builder = indexes[0]["by"] if indexes else None
    return cost | {"shared_with": builder if builder != method else None}
