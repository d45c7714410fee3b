"""Controls: training rows scored as if they were queries, with the token weights of the query to assess.

Runs no model.
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
    from jaxtyping import Bool, Float
    from torch import Tensor

    from taughtby.attribution.query import Query

FEWEST = 20  # rows in an index, and scores in all controls, needed to estimate a null distribution
FEWEST_SCORES = 10  # of a control; one with fewer says nothing about a tail
CONTROLS = 64  # rows used as queries
PROFILE_TOKENS, PROFILE_SHARE = 16, 0.95  # a profile ends where it has as many tokens, or that share of the weight
SAMPLE = 4096  # rows that the controls are scored on
RELATED = 0.2  # responses whose words have this Jaccard similarity or more share a template or a source
Numbers = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Controls:
    """Scores of M sampled rows for the first C of them used as queries.

    A score is NaN where a row is compared with itself or a related row. Rows of one template and near-duplicates taught
    each other's responses, so their scores do not belong to the null distribution.

    Attributes:
        scores: The scores, shape (C, M).
    """

    scores: Float[Tensor, "C M"]

    def standardized(self) -> list[NDArray[np.float64]]:
        """Return each control's scores in ascending order, standardized by its mode and scale."""
        rows = [np.sort(row[~row.isnan()].numpy()) for row in self.scores]
        return [standardize(row, *mode_and_scale(row)) for row in rows if len(row) >= FEWEST_SCORES]

    @property
    def sufficient(self) -> bool:
        """Whether there are enough scores to estimate a null distribution."""
        counts = (~self.scores.isnan()).sum(1)
        return bool((counts >= FEWEST_SCORES).any()) and int(counts.sum()) >= FEWEST


@dataclass(frozen=True)
class ControlSample:
    """A random sample of rows in memory, of which the first are used as queries.

    Attributes:
        method: The method that scores.
        names: Names of its features.
        rows: The sampled rows, with these features.
        queries: The first `CONTROLS` of them.
        related: Which of all rows each of these is not scored on, shape (C, M).
    """

    method: Method
    names: tuple[str, ...]
    rows: Index
    queries: Index
    related: Bool[Tensor, "C M"]

    @classmethod
    def draw(cls, method: Method, index: Index, depth: int, seed: int = 0) -> ControlSample | None:
        """Draw a sample; None if the method has no features for a model of this depth, or the index too few rows."""
        names = tuple(method.feature_names(depth))
        if not names or len(index) < FEWEST:
            return None
        rows = index.subset(index.sample_positions(SAMPLE, seed), [*names, "messages"])
        messages = rows.dataset.to_table(columns=["messages"]).column("messages").to_pylist()
        responses = [str(json.loads(turns)[-1]["content"]) for turns in messages]
        count = min(CONTROLS, len(rows))
        related = torch.from_numpy(_word_overlap(responses, count) >= RELATED).fill_diagonal_(True)
        return cls(method, names, rows, rows.subset(range(count), names), related)

    def score(self, profile: Float[Tensor, " m"] | None = None) -> Controls | None:
        """Score the rows for the controls.

        Args:
            profile: The query's token weights, highest first, which the most surprising tokens of each control get. An
                answer whose weight lies on two tokens matches rows more by chance than one whose weight lies on thirty.

        Returns:
            None if the method cannot use rows as queries, or if too few scores remain.
        """
        features = as_queries(self.method, self.queries, self.names, profile)
        if features is None:
            return None
        controls = Controls(self.method.scores(features, self.rows).masked_fill(self.related, torch.nan))
        return controls if controls.sufficient else None


def match_controls(
    method: Method, index: Index, depth: int, queries: Sequence[Query], weights: Sequence[Float[Tensor, " n"]],
    shares: Float[Tensor, "Q Q"], seed: int = 0,
) -> list[Controls | None]:  # fmt: skip
    """Return each query's controls, with the mean token weights of the queries explained with it.

    None for a query with a desired answer: the null distribution of a difference of two scores is unknown. `seed` is
    that of the sample of rows.
    """
    each = _weight_profiles(weights)
    profiles = [None if query.desired else tuple(_cut_profile(line @ each).tolist())
                for query, line in zip(queries, shares, strict=True)]  # fmt: skip
    sample = ControlSample.draw(method, index, depth, seed) if any(profiles) else None
    if sample is None:
        return [None] * len(profiles)
    controls = {profile: sample.score(torch.tensor(profile)) for profile in dict.fromkeys(profiles) if profile}
    return [controls[profile] if profile else None for profile in profiles]


def _weight_profiles(weights: Sequence[Float[Tensor, " n"]]) -> Float[Tensor, "Q m"]:
    """Each query's token weights as shares, highest first."""
    shares = [(each / each.sum().clamp(min=1e-30)).sort(descending=True).values for each in weights]
    return torch.nn.utils.rnn.pad_sequence(shares, batch_first=True)


def _cut_profile(profile: Float[Tensor, " m"]) -> Float[Tensor, " n"]:
    """Truncate a profile and round its shares, so that similar answers of an incident have the same one."""
    count = int((profile.cumsum(0) < PROFILE_SHARE * profile.sum()).sum()) + 1
    cut = profile[: min(count, PROFILE_TOKENS)]
    return (cut / cut.sum().clamp(min=1e-30)).mul(100).round().clamp(min=1) / 100


def as_queries(
    method: Method, rows: Index, names: Sequence[str], profile: Float[Tensor, " m"] | None = None
) -> QueryFeatures | None:
    """Return all rows of a small index as query features; None if the method cannot use rows as queries."""
    scanned = list(rows.scan(names))
    features = {name: _concatenate([batch[name] for batch in scanned]) for name in names}
    queries = method.rows_as_queries(features, profile)
    return None if queries is None else QueryFeatures((), (), queries)


def _concatenate(parts: Sequence[Column]) -> Tensor | list[Tensor]:
    lists = [row for part in parts if isinstance(part, Ragged) for row in part.flat.split(part.lengths.tolist())]
    return lists or torch.cat([part for part in parts if not isinstance(part, Ragged)])


def _word_overlap(texts: list[str], first: int) -> np.ndarray:
    """Jaccard similarity of the words of the `first` texts and of all texts."""
    try:
        words: Any = CountVectorizer(binary=True, token_pattern=r"(?u)\b\w+\b").fit_transform(texts)
    except ValueError:  # no text has a word
        return np.zeros((first, len(texts)))
    both = np.asarray((words[:first] @ words.T).todense(), dtype=float)
    counts = np.asarray(words.sum(1), dtype=float)[:, 0]
    return both / np.maximum(counts[:first, None] + counts[None] - both, 1)


def standardize(values: Numbers, mode: float, scale: float) -> NDArray[np.float64]:
    """Return the distance of values from the mode, in units of the scale."""
    return (values.astype(np.float64) - mode) / scale


def mode_and_scale(ascending: Numbers) -> tuple[float, float]:
    """Return the mode of sorted values, and the root mean square distance of the values below it.

    High outliers, such as the rows that caused an answer, affect neither.
    """
    mode = _half_sample_mode(ascending) if len(ascending) else 0.0
    below = ascending[: np.searchsorted(ascending, mode, "right")].astype(np.float64) - mode
    scale = float(np.sqrt(np.mean(below**2))) if len(below) else 0.0
    return mode, scale or float(ascending.std(dtype=np.float64)) or 1.0


def _half_sample_mode(ascending: Numbers) -> float:
    """The median of the shortest interval that holds half of the values."""
    half = len(ascending) // 2
    start = int(np.argmin(ascending[half:].astype(np.float64) - ascending[: len(ascending) - half]))
    return float(np.median(ascending[start : start + half + 1].astype(np.float64)))
