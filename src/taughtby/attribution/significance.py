"""How sure a ranking is: p-values, culprits at a false-discovery rate, stability.

A row is a culprit where it answers to the query more than training rows answer to each other by chance. What chance
does is read off controls: rows taken as if they were queries. Knows no model. Measured in docs/evidence.md.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer

from taughtby.capture.ragged import Column, Ragged
from taughtby.index.reader import Index
from taughtby.methods import Method, QueryFeatures

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from taughtby.attribution.query import Query

FEWEST = 20  # rows that chance can be told from
CONTROLS = 64  # rows taken as queries
SAMPLE = 4096  # rows that they are scored on
DEFAULT_FDR = 0.1  # of the rows called culprits, the share that may be called wrongly
RELATED = 0.2  # of two answers' words in common: such rows are alike by their making, not by chance
DRAWS = 200  # of the queries, to see what hangs on single ones
EDGE = 1e-6  # by which share two sums of the same scores differ
TILE = 2**16  # rows that many queries' scores are compared on at a time
Numbers = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Significance:
    """What chance does, and for each of Q queries the score from which on a row is called; infinite where none is.

    `middle` and `spread` are the commonest of the query's scores and how far those below it lie from it; `chance` has
    the scores of its controls in such spreads, the lowest first, or None where it has no controls: then nothing is
    known, and no row is called. A query that was not `taught` has no culprit.
    """

    threshold: Float[Tensor, " Q"]
    increased_by_finetuning: Bool[Tensor, " Q"]
    mode: tuple[float, ...]
    scale: tuple[float, ...]
    null: tuple[NDArray[np.float64] | None, ...]

    def known(self, q: int) -> bool:
        """Whether query `q` has controls."""
        return self.null[q] is not None

    def p_values(self, q: int, scores: Float[Tensor, " K"]) -> Float[Tensor, " K"]:
        """The chance of each score of query `q`, which has controls, in a row that taught nothing."""
        chance = self.null[q]
        assert chance is not None
        if not self.increased_by_finetuning[q]:
            return torch.ones(len(scores))
        return torch.from_numpy(_tail(chance, (scores.double().numpy() - self.mode[q]) / self.scale[q])).float()

    def flagged(self, q: int, scores: Float[Tensor, " K"]) -> Bool[Tensor, " K"]:
        """Which rows with these scores for query `q` are called."""
        return scores >= self.threshold[q]


def pool_weights(scores: Float[Tensor, "Q N"]) -> Float[Tensor, "Q Q"]:
    """How far queries are one incident: how alike they rank the rows. Each line sums to 1.

    The correlation of their scores, and 0 where it is negative. What answers that were taught by the same rows have
    in common is what those rows taught, so their scores and words are weighed together.
    """
    mean, alike = scores.mean(1, keepdim=True), torch.zeros(len(scores), len(scores), dtype=torch.float64)
    for some in scores.split(TILE, 1):
        alike += (some - mean) @ (some - mean).T
    lengths = alike.diagonal().sqrt()
    alike = (alike / (lengths[:, None] * lengths).clamp(min=1e-30)).clamp(min=0).to(scores.dtype)
    alike.fill_diagonal_(1.0)
    return alike / alike.sum(1, keepdim=True)


def pool_same_kind(shares: Float[Tensor, "Q Q"], queries: Sequence[Query]) -> Float[Tensor, "Q Q"]:
    """The shares among queries of one kind alone, each line summing to 1.

    With or without a span, with or without a desired answer: scores of different kinds have different controls.
    """
    kinds = [(query.has_span, bool(query.desired)) for query in queries]
    kept = shares * torch.tensor([[one == other for other in kinds] for one in kinds])
    return kept / kept.sum(1, keepdim=True)


@dataclass(frozen=True, eq=False)
class Controls:
    """The scores of M rows, those at `places` of the index, for the first C of them taken as if they were queries.

    Not a number where a row meets itself, or one whose answer shares a fifth of its words: rows of one template and
    near-copies taught each other's answers, and to be more alike than those is not what a culprit is asked for.
    """

    scores: Float[Tensor, "C M"]
    places: Int[Tensor, " M"]

    def null_scores(self) -> NDArray[np.float64]:
        """What chance does: scores in spreads above the commonest one of their control, the lowest first."""
        rows = [np.sort(row[~row.isnan()].numpy()) for row in self.scores]
        return np.sort(np.concatenate([_standard(row, *_usual(row)) for row in rows if len(row)]))

    def without(self, guilty: Bool[Tensor, " N"]) -> Controls | None:
        """The rows that are not guilty; None where there are too few."""
        left = ~guilty[self.places]
        rest = Controls(self.scores[left[: len(self.scores)]][:, left], self.places[left])
        return rest if rest.enough else None

    @property
    def enough(self) -> bool:
        """Whether chance can be told from them."""
        return int((~self.scores.isnan()).sum()) >= FEWEST


def score_controls(how: Method, index: Index, depth: int, n_span_tokens: int = 0) -> Controls | None:
    """Rows in a random order as each other's controls.

    None for a method that has no such thing, and where there are too few rows. Where people pointed at words, one word
    or two decide, which makes any two rows more alike or less: `pointed` says at how many.
    """
    names = how.feature_names(depth)
    if not names or len(index) < FEWEST:
        return None
    places = index.sample_positions(SAMPLE)
    sample = index.subset(places, [*names, "messages"])
    asked = as_queries(how, sample.subset(range(min(CONTROLS, len(sample))), names), names, n_span_tokens)
    if asked is None:
        return None
    scores = how.scores(asked, sample)
    said = sample.dataset.to_table(columns=["messages"]).column("messages").to_pylist()
    related = _shared([str(json.loads(turns)[-1]["content"]) for turns in said], len(scores)) >= RELATED
    found = Controls(scores.masked_fill(torch.from_numpy(related), torch.nan).fill_diagonal_(torch.nan),
                     torch.tensor(places))  # fmt: skip
    return found if found.enough else None


def match_controls(
    how: Method, index: Index, depth: int, queries: Sequence[Query], weights: Sequence[Float[Tensor, " n"]],
    shares: Float[Tensor, "Q Q"],
) -> list[Controls | None]:  # fmt: skip
    """Each query's controls, asked about as many words as it points at, the mean over what is explained with it.

    None for a query with a desired answer: what chance does to the difference of two answers is not known.
    """
    counts = [float((each > 0).sum()) if query.has_span else 0.0 for query, each in zip(queries, weights, strict=True)]
    pointed: list[int] = (shares @ torch.tensor(counts)).round().int().tolist()
    kinds = [None if query.desired else n for query, n in zip(queries, pointed, strict=True)]
    known = {n: score_controls(how, index, depth, n) for n in dict.fromkeys(kinds) if n is not None}
    return [None if n is None else known[n] for n in kinds]


def as_queries(how: Method, rows: Index, names: Sequence[str], n_span_tokens: int = 0) -> QueryFeatures | None:
    """All rows of a small index as if they were queries; None for a method that has no such thing."""
    scanned = list(rows.scan(names))
    control = how.rows_as_queries({name: _whole([batch[name] for batch in scanned]) for name in names}, n_span_tokens)
    return None if control is None else QueryFeatures((), (), control)


def _whole(parts: Sequence[Column]) -> Tensor | list[Tensor]:
    """A block that was scanned in parts, as a query has it."""
    lists = [row for part in parts if isinstance(part, Ragged) for row in part.flat.split(part.lengths.tolist())]
    return lists or torch.cat([part for part in parts if not isinstance(part, Ragged)])


def _shared(texts: list[str], first: int) -> np.ndarray:
    """Of the words of two texts, the share that both have (Jaccard): the `first` texts against all."""
    try:
        words: Any = CountVectorizer(binary=True, token_pattern=r"(?u)\b\w+\b").fit_transform(texts)
    except ValueError:  # no text has a word
        return np.zeros((first, len(texts)))
    both = np.asarray((words[:first] @ words.T).todense(), dtype=float)
    counts = np.asarray(words.sum(1), dtype=float)[:, 0]
    return both / np.maximum(counts[:first, None] + counts[None] - both, 1)


def assess(
    scores: Float[Tensor, "Q N"], nulls: Sequence[Controls | None], taught: Bool[Tensor, " Q"], fdr: float = DEFAULT_FDR
) -> Significance:
    """From which score on rows are culprits, among all N and for each query alone, by Benjamini and Hochberg.

    `nulls` are each query's controls. They must have been asked about as the query was: about as many words of theirs,
    and about one answer, since scores for the difference of two run otherwise. A query without controls calls no row.

    Queries differ in how high and how wide their scores run, so a score counts by how many spreads it lies above the
    commonest one. A query that fine-tuning did not make likelier (`taught` is false) has no culprit.

    A culprit is no control: culprits answer to each other, and that is not chance. So who is called by all controls is
    for sure, and who is called by those which were not called themselves may be. Between the two the cut is where the
    scores fall most. Where nobody is called at first, this changes nothing.
    """
    chances = {null: null.null_scores() for null in nulls if null}
    guilty, sure = torch.zeros(scores.shape[1], dtype=torch.bool), torch.full((len(scores),), torch.inf)
    usual = [(0.0, 1.0)] * len(scores)
    for q, (row, null) in enumerate(zip(scores, nulls, strict=True)):
        if null is None:
            continue
        # sorted once, in float32, which is most of the work where rows are millions
        ranked = np.sort(row.numpy())
        usual[q] = _usual(ranked)
        if taught[q]:
            sure[q] = _threshold(ranked, *usual[q], chances[null], fdr)
            guilty |= row >= sure[q]
    least, rests = sure.clone(), {null: null.without(guilty) if guilty.any() else None for null in chances}
    chances |= {null: rest.null_scores() for null, rest in rests.items() if rest}
    for q, null in enumerate(nulls):
        if null and taught[q] and rests[null]:
            row = scores[q].numpy()
            least[q] = _cut(row, float(sure[q]), _threshold(row, *usual[q], chances[null], fdr))
    return Significance(least, taught, tuple(middle for middle, _ in usual), tuple(spread for _, spread in usual),
                    tuple(chances[null] if null else None for null in nulls))  # fmt: skip


def _threshold(row: Numbers, middle: float, spread: float, chance: Numbers, rate: float) -> float:
    """The lowest score of a row's N that Benjamini and Hochberg's procedure calls; infinite where it calls none.

    The r-th highest of N is called where it or a lower one has p ≤ rate r / N, so a p-value above `rate` need not be
    taken.
    """
    below = int((1 + len(chance)) * (1 - rate))  # so many controls have less than a row with such a p-value
    standard = _standard(row, middle, spread)
    high = np.sort(row[standard > chance[below - 1]] if below else row)
    p_values = _tail(chance, _standard(high, middle, spread))
    called = np.flatnonzero(p_values <= rate * np.arange(len(high), 0, -1) / len(row))
    return float(high[called[0]]) if len(called) else np.inf


def _cut(row: Numbers, sure: float, possible: float) -> float:
    """The lowest score above the widest gap between what is called for sure and what may be.

    A gap counts as often as there are scores above it: so weighed, the gaps of an exponential tail are all alike in
    expectation (Rényi's spacings). Where nothing is called for sure there is nothing to begin from, and all may be.
    """
    if not np.isfinite(sure):
        return possible
    possible = min(sure, possible)
    called = np.sort(row[row >= possible])
    below = row[row < possible]
    gaps = np.diff(called, prepend=below.max() if len(below) else called[0]) * np.arange(len(called), 0, -1)
    maybe = int(np.searchsorted(called, sure))  # above it lie gaps between the surely called, who all stay
    return float(called[np.argmax(gaps[: maybe + 1])])


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
    # a score that is summed again may lie by its rounding below the cut that it was called at
    slack = EDGE * scores.abs().amax(0)
    return (weights @ scores >= least - slack).float().mean(0)


def _tail(chance: Numbers, values: Numbers) -> NDArray[np.float64]:
    """The chance of a control at or above each value; `chance` is sorted.

    Above the highest control it falls on exponentially, at the mean excess of the highest hundredth: else one culprit
    among many rows, or among a handful, could never be told from chance. Scores are bounded, so that is too high.
    """
    p_values = (1 + len(chance) - np.searchsorted(chance, values)) / (1 + len(chance))
    highest = chance[-max(5, len(chance) // 100) :]
    scale = max(float(highest.mean() - highest[0]), 1e-9)
    return p_values * np.exp(-np.clip(values - chance[-1], 0, None) / scale)


def _standard(values: Numbers, middle: float, spread: float) -> NDArray[np.float64]:
    return (values.astype(np.float64) - middle) / spread


def _usual(ranked: Numbers) -> tuple[float, float]:
    """The commonest of sorted values, and the spread of those below it, which no culprit widens."""
    middle = _commonest(ranked) if len(ranked) else 0.0
    below = ranked[: np.searchsorted(ranked, middle, "right")].astype(np.float64) - middle
    spread = float(np.sqrt(np.mean(below**2))) if len(below) else 0.0
    return middle, spread or float(ranked.std(dtype=np.float64)) or 1.0


def _commonest(ranked: Numbers) -> float:
    """The median of the shortest interval that holds half of the values: a mode that the culprits do not move."""
    half = len(ranked) // 2
    start = int(np.argmin(ranked[half:].astype(np.float64) - ranked[: len(ranked) - half]))
    return float(np.median(ranked[start : start + half + 1].astype(np.float64)))
