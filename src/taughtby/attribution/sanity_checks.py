"""Sanity checks of an index and a method on the index's own rows, used as queries.

There are four: random weights, shuffled labels, hubs (rows that rank first for every query), and the length of
responses. What they mean: docs/how-to/trace-an-incident.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import skew
from sklearn.metrics import average_precision_score

from taughtby.attribution.check_report import (
    EQUAL,
    FILE,
    Check,
    CheckReport,
    index_warnings,
    skipped_check,
)
from taughtby.attribution.controls import SAMPLE
from taughtby.attribution.length_check import LENGTH, check_length
from taughtby.attribution.method_choice import choose_method
from taughtby.attribution.random_model import RANDOM, check_random_model
from taughtby.attribution.row_queries import scores_of_rows
from taughtby.errors import OptionError
from taughtby.index.reader import Index
from taughtby.methods import Method
from taughtby.models.model import Model
from taughtby.models.torch_state import with_plain_torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FILE", "RANDOM", "Check", "CheckReport", "check_index", "index_warnings"]

ROWS = 64  # rows used as queries
FEWEST = 10  # rows needed for a check
TOP_K = 10
LABEL_ROWS, SHUFFLES = 4, 20  # rows of a label that is tested, random assignments of the labels
MAX_HUB_SHARE = 0.5  # share of queries with the same row among their first; the check fails above it
LABELS, HUBS = "labels shuffled", "hubs"


@with_plain_torch
def check_index(
    index: Index,
    model: Model,
    *,
    method: Method | str | None = None,
    rows: int = ROWS,
    seed: int = 0,
    progress: Callable[[int, int], Any] | None = None,
) -> CheckReport:
    """Run the sanity checks of an index with a method.

    Args:
        index: The index.
        model: The model it was made with; its weights are randomized and restored.
        method: A method whose features the index holds; the index's first method by default.
        rows: Number of rows that are used as queries.
        seed: Seed of the sample, the random weights and the shuffled labels.
        progress: Called with (done, total) rows while the random model reads them.

    Raises:
        OptionError: `rows` is below 10.
    """
    if rows < FEWEST:
        raise OptionError("too few rows for a check", got=str(rows), do=f"give at least {FEWEST}")
    selected = choose_method(index, model, method)
    names, order = selected.feature_names(model.depth), np.random.default_rng(seed).permutation(len(index))
    queries, large_enough = order[:rows], len(index) >= FEWEST
    columns = [*names, "source", "label", "n_response"]
    sample = index.subset(order[:SAMPLE].tolist(), columns) if names and large_enough else None
    scores = scores_of_rows(selected, sample, names, range(len(queries))) if sample else None
    if sample is None or scores is None:
        reason = f"{selected.name} cannot use rows as queries" if large_enough else f"too few rows: {len(index)}"
        skipped = tuple(skipped_check(name, reason) for name in (RANDOM, LABELS, HUBS, LENGTH))
        return CheckReport(selected, skipped, len(queries), seed, len(index))
    texts = sample.dataset.to_table(columns=columns[-3:]).to_pydict()
    checks = (
        check_random_model(index, model, selected, queries, seed, progress),
        _check_labels(selected, sample, names, texts["label"], rows, seed),
        _check_hubs(scores, texts["source"]),
        check_length(scores, texts["n_response"]),
    )
    return CheckReport(selected, checks, len(queries), seed, len(index))


def _check_labels(
    method: Method, sample: Index, names: Sequence[str], labels: Sequence[str | None], rows: int, seed: int
) -> Check:
    """Whether the rows of any label rank each other higher than with shuffled labels: average precision above chance.

    One label is enough: rows that are only `clean` need not have anything in common. The best label is compared with
    the best of each shuffle, so that a larger number of labels does not make it easier to pass.
    """
    row_labels = np.array([label or "" for label in labels])
    kinds, counts = np.unique(row_labels, return_counts=True)
    if len(kinds) < 2:
        return skipped_check(LABELS, "the rows do not have two labels")
    groups = [np.flatnonzero(row_labels == kind) for kind, count in zip(kinds, counts, strict=True)
              if kind and count >= LABEL_ROWS]  # fmt: skip
    if not groups or (len(groups) == 1 and len(groups[0]) == counts.max()):
        return skipped_check(LABELS, f"no label except the most frequent one has {LABEL_ROWS} rows")
    groups.sort(key=len)
    queries = np.concatenate([group[: max(LABEL_ROWS, rows // len(groups))] for group in groups])[:rows]
    scores = scores_of_rows(method, sample, names, queries.tolist())
    assert scores is not None
    queries, generator = queries[: len(scores)], np.random.default_rng(seed)
    gains = _precision_above_chance(scores, row_labels, queries, row_labels[queries])
    shuffled = [_precision_above_chance(scores, generator.permutation(row_labels), queries, row_labels[queries])
                for _ in range(SHUFFLES)]  # fmt: skip
    best = max(gains, key=lambda label: gains[label])
    chance = (float(counts[kinds == best][0]) - 1) / (len(row_labels) - 1)
    value, limit = gains[best], float(np.quantile([max(each.values()) for each in shuffled], 0.95))
    passed = value > limit
    finding = f"rows labelled {best} rank each other high" if passed else "labels and ranking are unrelated"
    do = "" if passed else "check that the labels mark what was learned, or use another --method"
    return Check(LABELS, value + chance, limit + chance, passed, f"{finding}; by chance {chance:.2f}", do)


def _precision_above_chance(
    scores: NDArray[np.float64], labels: NDArray[Any], queries: NDArray[Any], query_labels: NDArray[Any]
) -> dict[str, float]:
    """Mean average precision, less its chance level, with which rows of each label find the others of their label."""
    gains: dict[str, list[float]] = {}
    for line, query, label in zip(scores, queries, query_labels, strict=True):
        relevant = labels == label
        # a shuffle that gives the query another label leaves one more row with its own: drop one, for equal numbers
        relevant[query if relevant[query] else int(np.argmax(relevant))] = False
        others = np.delete(relevant, query)
        precision = float(average_precision_score(others, np.delete(line, query)))
        gains.setdefault(str(label), []).append(precision - float(others.mean()))
    return {label: float(np.mean(values)) for label, values in gains.items()}


def _check_hubs(scores: NDArray[np.float64], sources: Sequence[str]) -> Check:
    """The largest share of queries that have the same row among their first."""
    queries, rows = scores.shape
    if not np.nanstd(scores, axis=1).any():
        return skipped_check(HUBS, EQUAL)
    first = min(TOP_K, max(1, rows // 10))
    scores = np.where(np.isnan(scores), -np.inf, scores)
    cutoff = np.sort(scores, axis=1)[:, -first, None]
    above, tied = scores > cutoff, scores == cutoff
    # rows tied at the cutoff share the remaining ranks, so that their position in the data does not matter
    tied_share = (first - above.sum(1, keepdims=True)) / tied.sum(1, keepdims=True)
    counts = (above + tied * tied_share).sum(0)
    hub = int(counts.argmax())
    share = float(counts[hub] / queries)
    skewness = float(skew(counts)) if counts.std() else 0.0
    fact = (f"{sources[hub]} is among the first {first} for {share:.0%} of the rows used as queries, "
            f"by chance {first / rows:.1%}; skewness {skewness:.1f}")  # fmt: skip
    if queries < FEWEST:
        return replace(skipped_check(HUBS, f"too few queries: {fact}"), value=share)
    if share <= MAX_HUB_SHARE:
        return Check(HUBS, share, MAX_HUB_SHARE, True, fact)
    do = "read this row; its rank alone is no evidence"
    return Check(HUBS, share, MAX_HUB_SHARE, False, f"one row ranks first for most queries: {fact}", do)
