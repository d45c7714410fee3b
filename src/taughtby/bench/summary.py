"""What the runs told, as one document: every number with its spread over the seeds, and what made it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

import numpy as np
import torch

from taughtby.attribution.pooling import pool_weights
from taughtby.bench.metrics import gathered, judged, measured, precision_recall
from taughtby.remediation.provenance import merged

Told = dict[str, Any]


def document(worlds: Sequence[Told], settings: Told) -> Told:
    """Everything that table and pictures are made from; `settings` are what was asked for."""
    suites = list(dict.fromkeys(world["suite"] for world in worlds))
    return {
        "version": 1,
        "made": made(worlds),
        "settings": settings,
        "suites": [_suite(name, [world for world in worlds if world["suite"] == name]) for name in suites],
    }


def made(worlds: Sequence[Told]) -> Told:
    """What made the stages that the numbers are told from: when, which versions, which machine, which number format.

    As each stage's own file says, since a stage may be read that another commit or machine left there.
    """
    results = [told for world in worlds for told in world["results"] if "error" not in told]
    stages = [*(one for world in worlds for one in world.get("made", [None])), *(told.get("made") for told in results),
              *(told["index"].get("made") for told in results if told["index"])]  # fmt: skip
    dtypes = {told["dtype"] for told in results}
    return {**merged(stages), "dtype": ", ".join(sorted(dtypes)) or None}


def _suite(name: str, worlds: Sequence[Told]) -> Told:
    """One suite over its seeds."""
    lines = list(dict.fromkeys((told["method"], told["which"]) for world in worlds for told in world["results"]))
    keys = ("seed", "rows", "planted", "rate", "base_rate", "finetune_seconds", "adapter")
    yardsticks = [world["yardstick"] for world in worlds if world["yardstick"]]
    return {
        "name": name,
        "seeds": [{key: world[key] for key in keys} | {"queries": len(world["queries"])} for world in worlds],
        "results": [_line(*line, worlds) for line in lines],
        "yardstick": yardsticks[0] if yardsticks else None,
    }


def _line(method: str, which: str, worlds: Sequence[Told]) -> Told:
    """One method on one of the two models, over the seeds that have it."""
    found = [(world["seed"], told | {"truth": _truth(world, told)}) for world in worlds for told in world["results"]
             if (told["method"], told["which"]) == (method, which)]  # fmt: skip
    sound = [(seed, told) for seed, told in found if "error" not in told]
    told = [one for _, one in sound]
    numbers = [_numbers(one) for one in told]
    return {
        "method": method,
        "which": which,
        "reads": found[0][1]["reads"],
        "error": next((one["error"] for _, one in found if "error" in one), None),
        "options": told[0]["options"] if told else None,
        "seeds": [seed for seed, _ in sound],
        "metrics": {name: asdict(value) for name, value in gathered(numbers).items()},
        "curve": _curve(told),
        "cost": _cost(method, told),
        "commit": merged([one.get("made") for one in told])["commit"] if told else None,
    }


def _numbers(told: Told) -> dict[str, float]:
    """Every number of one trace. `together`: AP where queries that rank the rows alike are explained as one."""
    scores, truth = told["scores"], told["truth"]
    found = measured(scores, truth)
    if found:
        whole = torch.tensor(scores, dtype=torch.float64)
        found["together"] = measured((pool_weights(whole) @ whole).tolist(), truth)["ap"]
    if all(called is not None for called in told.get("culprits", [None])):
        found |= judged(told["culprits"], truth)
    return found | ({} if told["hit"] is None else {"hit@1": told["hit"]})


def _truth(world: Told, told: Told) -> list[list[bool]]:
    """For each query, which rows were planted for the poison that it shows."""
    return [[label == query["label"] for label in told.get("labels", ())] for query in world["queries"]]


def _curve(told: Sequence[Told]) -> list[float]:
    """The mean precision-recall curve, over queries and seeds."""
    pairs = [pair for one in told for pair in zip(one["scores"], one["truth"], strict=True)]
    curves = [precision_recall(*pair) for pair in pairs if any(pair[1])]
    return [round(float(value), 4) for value in np.mean(curves, axis=0)] if curves else []


def _cost(method: str, told: Sequence[Told]) -> Told | None:
    """Medians over the seeds, so that one stumble of the machine does not count; None for an index not needed."""
    if not told:
        return None
    indexes = [one["index"] for one in told if one["index"]]
    cost: Told = {"query_seconds": median(one["query"]["seconds"] for one in told),
                  "query_more": _median(one["query"]["more"] for one in told)}  # fmt: skip
    for key in ("seconds", "cpu", "tokens_per_second", "bytes_per_row", "more", "peak"):
        cost["bytes_per_row" if key == "bytes_per_row" else f"index_{key}"] = _median(
            index.get(key) for index in indexes
        )
    by = indexes[0]["by"] if indexes else None
    return cost | {"shared_with": by if by != method else None}


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
