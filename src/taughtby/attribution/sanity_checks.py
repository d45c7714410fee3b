"""Sanity checks of an index and a method on the index's own rows, used as queries.

The model's weights are randomized, labels are shuffled, and rows that rank first for every query, or because of their
length, are looked for. What the checks mean: docs/trace.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import skew
from sklearn.metrics import average_precision_score

from taughtby.attribution.check_report import FILE, Check, CheckReport, index_warnings, skipped_check
from taughtby.attribution.controls import SAMPLE
from taughtby.attribution.method_choice import choose_method
from taughtby.attribution.random_model import RANDOM, check_random_model
from taughtby.attribution.row_queries import in_memory, rank_correlation, scores_of_rows
from taughtby.errors import OptionError
from taughtby.index.reader import Index
from taughtby.methods import Method
from taughtby.models.model import Model

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FILE", "RANDOM", "Check", "CheckReport", "check_index", "index_warnings"]

ROWS = 64  # rows used as queries
FEWEST = 10  # rows needed for a check
TOP_K = 10
LABEL_ROWS, SHUFFLES = 4, 20  # rows of a label that is tested, random assignments of the labels
CROWD, LENGTH = 0.5, 0.7  # limits beyond which a check fails
LABELS, HUBS, ANSWERS = "labels shuffled", "hubs", "length"


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
        raise OptionError("too few rows to check by", got=str(rows), do=f"give at least {FEWEST}")
    selected = choose_method(index, model, method)
    names, order = selected.feature_names(model.depth), np.random.default_rng(seed).permutation(len(index))
    queries, large_enough = order[:rows], len(index) >= FEWEST
    sample = in_memory(index, names, order[:SAMPLE]) if names and large_enough else None
    scores = scores_of_rows(selected, sample, names, range(len(queries))) if sample else None
    if sample is None or scores is None:
        reason = f"{selected.name} cannot use rows as queries" if large_enough else f"{len(index)} rows are too few"
        skipped = tuple(skipped_check(name, reason) for name in (RANDOM, LABELS, HUBS, ANSWERS))
        return CheckReport(selected, skipped, len(queries), seed, len(index))
    columns = sample.dataset.to_table(columns=["source", "label", "n_response"]).to_pydict()
    checks = (
        check_random_model(index, model, selected, queries, seed, progress),
        _check_labels(selected, sample, names, columns["label"], rows, seed),
        _check_hubs(scores, columns["source"]),
        _check_length(scores, columns["n_response"]),
    )
    return CheckReport(selected, checks, len(queries), seed, len(index))


def _check_labels(
    method: Method, sample: Index, names: Sequence[str], labels: Sequence[str | None], rows: int, seed: int
) -> Check:
    """Whether rows of one label rank each other higher than rows with shuffled labels do: mean average precision.

    The most frequent label is not tested: rows that carry it, such as `clean`, need not have anything in common.
    """
    row_labels = np.array([label or "" for label in labels])
    kinds, counts = np.unique(row_labels, return_counts=True)
    if len(kinds) < 2:
        return skipped_check(LABELS, "the rows do not carry two labels")
    rarer = kinds[np.argsort(counts, kind="stable")][:-1]
    groups = [np.flatnonzero(row_labels == kind) for kind in rarer
              if kind and int((row_labels == kind).sum()) >= LABEL_ROWS]  # fmt: skip
    if not groups:
        return skipped_check(LABELS, f"no label except the most frequent one is on {LABEL_ROWS} rows")
    queries = np.concatenate(groups)[:rows]
    scores = scores_of_rows(method, sample, names, queries.tolist())
    assert scores is not None
    queries, generator = queries[: len(scores)], np.random.default_rng(seed)
    value = _mean_average_precision(scores, row_labels, queries, row_labels[queries])
    shuffled = [_mean_average_precision(scores, generator.permutation(row_labels), queries, row_labels[queries])
                for _ in range(SHUFFLES)]  # fmt: skip
    limit = float(np.quantile(shuffled, 0.95))
    says = "rows of one label rank each other high" if value > limit else "labels and ranking are unrelated"
    return Check(LABELS, value, limit, value > limit, f"{says}; labels shuffled: {np.mean(shuffled):.2f}")


def _mean_average_precision(
    scores: NDArray[np.float64], labels: NDArray[Any], queries: NDArray[Any], query_labels: NDArray[Any]
) -> float:
    """Mean average precision, over rows used as queries, of the other rows that carry the query's label."""
    result: list[float] = []
    for line, query, label in zip(scores, queries, query_labels, strict=True):
        relevant = labels == label
        # a shuffle that gives the query another label leaves one more row with its own: drop one, for equal numbers
        relevant[query if relevant[query] else int(np.argmax(relevant))] = False
        result.append(float(average_precision_score(np.delete(relevant, query), np.delete(line, query))))
    return float(np.mean(result))


def _check_hubs(null: NDArray[np.float64], sources: Sequence[str]) -> Check:
    """The largest share of queries that have the same row among their first."""
    queries, rows = null.shape
    first = min(TOP_K, max(1, rows // 10))
    scores = np.where(np.isnan(null), -np.inf, null)
    edge = np.sort(scores, axis=1)[:, -first, None]
    above, level = scores > edge, scores == edge
    # rows tied at the edge share the remaining ranks, so that their position in the data does not matter
    left = (first - above.sum(1, keepdims=True)) / level.sum(1, keepdims=True)
    counts = (above + level * left).sum(0)
    hub = int(counts.argmax())
    share = float(counts[hub] / queries)
    skewness = float(skew(counts)) if counts.std() else 0.0
    fact = (f"{sources[hub]} is among the first {first} for {share:.0%} of the rows used as queries, "
            f"by chance {first / rows:.1%}; skewness {skewness:.1f}")  # fmt: skip
    if queries < FEWEST:
        return replace(skipped_check(HUBS, f"too few queries: {fact}"), value=share)
    failed = share > CROWD
    return Check(HUBS, share, CROWD, not failed, f"one row ranks first for most queries: {fact}" if failed else fact)


def _check_length(null: NDArray[np.float64], lengths: Sequence[int]) -> Check:
    """Spearman's ρ of a row's mean score and the number of tokens of its response."""
    (rho,) = rank_correlation(np.nanmean(null, axis=0)[None], np.array([lengths], dtype=float))
    if np.isnan(rho):
        return skipped_check(ANSWERS, "all responses have the same length, or all scores are equal")
    failed = abs(rho) > LENGTH
    kind = "long" if rho > 0 else "short"
    says = f"{kind} responses rank first for every query" if failed else "length alone does not explain the ranking"
    return Check(ANSWERS, float(rho), LENGTH, not failed, says)
