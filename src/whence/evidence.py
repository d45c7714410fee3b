"""How sure a ranking is: p-values, culprits at a false-discovery rate, stability.

A row is a culprit where it answers to the query more than training rows answer to each other by chance. What chance
does is read off controls: rows taken as if they were queries. Knows no model. Measured in docs/evidence.md.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.stats import false_discovery_control
from sklearn.feature_extraction.text import CountVectorizer

from whence.columns import Column, Ragged
from whence.index import Index
from whence.methods import Asked, Blocks, Method

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

FEWEST = 20  # rows that chance can be told from
CONTROLS = 64  # rows taken as queries
SAMPLE = 4096  # rows that they are scored on
RATE = 0.1  # of the rows called culprits, the share that may be called wrongly
RELATED = 0.2  # of two answers' words in common: such rows are alike by their making, not by chance
DRAWS = 200  # of the queries, to see what hangs on single ones


@dataclass(frozen=True)
class Evidence:
    """For Q queries and N rows: the chance of such a score in a row that taught nothing, and who is called.

    `least` is the score from which on a row is called, infinite where none is.
    """

    p_values: Float[Tensor, "Q N"]
    culprits: Bool[Tensor, "Q N"]
    least: Float[Tensor, " Q"]


def together(scores: Float[Tensor, "Q N"]) -> Float[Tensor, "Q Q"]:
    """How far queries are one incident: how alike they rank the rows. Each line sums to 1.

    The correlation of their scores, and 0 where it is negative. What answers that were taught by the same rows have
    in common is what those rows taught, so their scores and words are weighed together.
    """
    apart = scores - scores.mean(1, keepdim=True)
    apart = apart / apart.norm(dim=1, keepdim=True).clamp(min=1e-30)
    alike = (apart @ apart.T).clamp(min=0)
    alike.fill_diagonal_(1.0)
    return alike / alike.sum(1, keepdim=True)


def controls(how: Method, index: Index, depth: int, pointed: int = 0) -> Float[Tensor, "C M"] | None:
    """The scores of M rows for C of them taken as if they were queries.

    None for a method that has no such thing, and where there are too few rows. Where people pointed at words, one word
    or two decide, which makes any two rows more alike or less: `pointed` says at how many.

    Not a number where a row meets itself, or one whose answer shares a fifth of its words: rows of one template and
    near-copies taught each other's answers, and to be more alike than those is not what a culprit is asked for.
    """
    names = how.names(depth)
    if not names or len(index) < FEWEST:
        return None
    sample = index.sample(SAMPLE, [*names, "messages"])
    asked = as_queries(how, next(sample.scan(names, CONTROLS)), pointed)
    if asked is None:
        return None
    scores = how.scores(asked, sample)
    said = sample.rows.to_table(columns=["messages"]).column("messages").to_pylist()
    related = _shared([str(json.loads(turns)[-1]["content"]) for turns in said], len(scores)) >= RELATED
    null = scores.masked_fill(torch.from_numpy(related), torch.nan).fill_diagonal_(torch.nan)
    return null if int((~null.isnan()).sum()) >= FEWEST else None


def as_queries(how: Method, rows: dict[str, Column], pointed: int = 0) -> Asked | None:
    """Scanned rows as if they were queries; None for a method that has no such thing."""
    blocks: Blocks = {name: list(block.flat.split(block.lengths.tolist())) if isinstance(block, Ragged) else block
                      for name, block in rows.items()}  # fmt: skip
    control = how.control(blocks, pointed)
    return None if control is None else Asked((), (), control)


def _shared(texts: list[str], first: int) -> np.ndarray:
    """Of the words of two texts, the share that both have (Jaccard): the `first` texts against all."""
    try:
        words: Any = CountVectorizer(binary=True, token_pattern=r"(?u)\b\w+\b").fit_transform(texts)
    except ValueError:  # no text has a word
        return np.zeros((first, len(texts)))
    both = np.asarray((words[:first] @ words.T).todense(), dtype=float)
    counts = np.asarray(words.sum(1), dtype=float)[:, 0]
    return both / np.maximum(counts[:first, None] + counts[None] - both, 1)


def weigh(
    scores: Float[Tensor, "Q N"], null: Float[Tensor, "C M"], taught: Bool[Tensor, " Q"], rate: float = RATE
) -> Evidence:
    """Which rows are culprits, among all N and for each query alone, by Benjamini and Hochberg's procedure.

    `null` are the scores of controls. Queries differ in how high and how wide their scores run, so a score counts by
    how many spreads it lies above the commonest one. A query that fine-tuning did not make likelier (`taught` is
    false) has no culprit.
    """
    rows = [_standard(row[~row.isnan()].double().numpy()) for row in null]
    chance = np.sort(np.concatenate(rows))
    p_values = np.ones(scores.shape)
    for q, row in enumerate(scores.double().numpy()):
        if bool(taught[q]):
            p_values[q] = _tail(chance, _standard(row))
    culprits = torch.from_numpy(np.stack([false_discovery_control(row) <= rate for row in p_values]))
    least = scores.masked_fill(~culprits, torch.inf).amin(1)
    return Evidence(torch.from_numpy(p_values).float(), culprits, least)


def stability(
    scores: Float[Tensor, "Q K"], shares: Float[Tensor, " Q"], least: float, seed: int = 0
) -> Float[Tensor, " K"]:
    """How often K rows would be called again, were the queries others of their kind: a bootstrap over them.

    `scores` are each query's own; `shares` how much each counts in the explanation that calls from `least` on.
    """
    draws = torch.from_numpy(
        np.random.default_rng(seed).multinomial(len(shares), [1 / len(shares)] * len(shares), DRAWS)
    )
    weights = draws.float() * shares
    weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-30)
    return (weights @ scores >= least).float().mean(0)


def _tail(chance: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The chance of a control at or above each value; `chance` is sorted.

    Above the highest control it falls on exponentially, at the mean excess of the highest hundredth: else one culprit
    among many rows, or among a handful, could never be told from chance. Scores are bounded, so that is too high.
    """
    p_values = (1 + len(chance) - np.searchsorted(chance, values)) / (1 + len(chance))
    highest = chance[-max(5, len(chance) // 100) :]
    scale = max(float(highest.mean() - highest[0]), 1e-9)
    return p_values * np.exp(-np.clip(values - chance[-1], 0, None) / scale)


def _standard(values: np.ndarray) -> np.ndarray:
    """How far values lie above the commonest one, in units of the spread below it, which no culprit widens."""
    middle = _commonest(values) if len(values) else 0.0
    below = values[values <= middle] - middle
    spread = float(np.sqrt(np.mean(below**2))) if len(below) else 0.0
    return (values - middle) / (spread or float(values.std()) or 1.0)


def _commonest(values: np.ndarray) -> float:
    """The median of the shortest interval that holds half of the values: a mode that the culprits do not move."""
    values = np.sort(values)
    half = len(values) // 2
    start = int(np.argmin(values[half:] - values[: len(values) - half]))
    return float(np.median(values[start : start + half + 1]))
