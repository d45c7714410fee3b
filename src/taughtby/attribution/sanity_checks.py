"""Whether an index and its method can be believed: four checks on its own rows, taken as if they were queries.

The model's weights are drawn anew (Adebayo et al., arXiv 1810.03292), labels are shuffled, and rows that come first
whatever is asked, or by their length, are looked for. No query is needed. What they mean: docs/trace.md.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from pyarrow.dataset import InMemoryDataset
from scipy.stats import skew, spearmanr
from sklearn.metrics import average_precision_score

from taughtby.attribution.method_choice import choose_method
from taughtby.attribution.significance import SAMPLE, as_queries
from taughtby.data.tokenize import Encoding, TokenizedExample, make_batches, tokenize_all
from taughtby.errors import OptionError
from taughtby.index.arrow import to_arrow
from taughtby.index.reader import Index
from taughtby.methods import Features, Method
from taughtby.methods.base import stack_features
from taughtby.models.model import Model

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

FILE = "check.json"  # beside the manifest
ROWS = 64  # taken as queries, and read again by the random model
FEWEST = 10  # rows that say anything
BUDGET = 1024
TOP = 10
GROUP, SHUFFLES = 4, 20
ALIKE, CROWD, LENGTH = 0.9, 0.5, 0.7  # beyond these a check fails
RANDOM, LABELS, HUBS, ANSWERS = "random model", "labels shuffled", "hubs", "length"

Progress = Callable[[int, int], Any]


@dataclass(frozen=True)
class Check:
    """One number, the limit it is held against, and what that means; `passed` is None where it was not judged."""

    name: str
    value: float | None
    limit: float | None
    passed: bool | None
    says: str


@dataclass(frozen=True)
class CheckReport:
    """The checks of one index by one method. `rows` of its `count` rows were taken as queries, drawn by `seed`."""

    method: Method
    checks: tuple[Check, ...]
    rows: int
    seed: int
    count: int

    def to_json(self) -> dict[str, Any]:
        """The document that the index folder keeps as check.json."""
        checks = [asdict(check) for check in self.checks]
        said = {"rows": self.rows, "seed": self.seed, "count": self.count}
        return {"version": 1, "method": repr(self.method), **said, "checks": checks}


def warnings(index: Index, how: Method) -> list[str]:
    """What the checks kept beside the index have against this method; nothing where none were made of it."""
    try:
        kept: dict[str, Any] = json.loads((index.path / FILE).read_text(encoding="utf-8"))
        if kept["method"] != repr(how):
            return []
        failed = [str(check["says"]) for check in kept["checks"] if check["passed"] is False]
        had = int(kept.get("count", len(index)))
        if had != len(index):
            failed.append(f"the index was checked when it had {had:,} rows, and has {len(index):,}: run taughtby check")
        return failed
    except (OSError, ValueError, KeyError, TypeError):
        return []  # a note on the side, which no trace fails for


def check_index(
    index: Index,
    model: Model,
    *,
    method: Method | str | None = None,
    rows: int = ROWS,
    seed: int = 0,
    progress: Progress | None = None,
) -> CheckReport:
    """Check the ranking of `index` by the method `by`, or by the first that it was made for.

    `rows` are taken as queries, and read again by `model` with its weights drawn anew; it is given back as it was.
    """
    if rows < FEWEST:
        raise OptionError("too few rows to check by", got=str(rows), do=f"give at least {FEWEST}")
    how = choose_method(index, model, method)
    names, order = how.feature_names(model.depth), np.random.default_rng(seed).permutation(len(index))
    some, enough = order[:rows], len(index) >= FEWEST
    held = _held(index, names, order[:SAMPLE]) if names and enough else None
    null = _controls(how, held, names, range(len(some))) if held else None
    if held is None or null is None:
        why = f"{how.name} cannot take rows as queries" if enough else f"{len(index)} rows are too few"
        return CheckReport(how, tuple(_skipped(name, why) for name in (RANDOM, LABELS, HUBS, ANSWERS)), len(some), seed,
                       len(index))  # fmt: skip
    said = held.dataset.to_table(columns=["source", "label", "n_response"]).to_pydict()
    checks = (
        _random_model(index, model, how, some, seed, progress),
        _labels(how, held, names, said["label"], rows, seed),
        _hubs(null, said["source"]),
        _length(null, said["n_response"]),
    )
    return CheckReport(how, checks, len(some), seed, len(index))


def _held(index: Index, names: Sequence[str], places: NDArray[np.int64]) -> Index:
    """The rows at these places in memory: some of their blocks, and what is said of them."""
    wanted = (*names, *(f"{name}_norm" for name in names), "source", "label", "n_response")
    found = index.dataset.take(places.tolist(), columns=[name for name in wanted if name in index.dataset.schema.names])
    return _index(index, found)


def _index(index: Index, rows: pa.Table) -> Index:
    # in one piece, so that a scan yields as many rows as it is asked for
    return Index(index.path, {**index.manifest, "num_rows": len(rows)}, InMemoryDataset(rows.combine_chunks()))


def _controls(how: Method, held: Index, names: Sequence[str], at: Sequence[int]) -> NDArray[np.float64] | None:
    """(C, M): the scores of all rows held for those `at` these places; not a number where a row meets itself."""
    asked = as_queries(how, _index(held, held.dataset.take(list(at))), names)
    if asked is None:
        return None
    scores = how.scores(asked, held).double().numpy()
    scores[np.arange(len(scores)), list(at)[: len(scores)]] = np.nan
    return scores


# — the model randomised


def _random_model(
    index: Index, model: Model, how: Method, places: NDArray[np.int64], seed: int, progress: Progress | None
) -> Check:
    """How alike the model ranks the rows once what it learned is gone: Spearman's ρ, the mean over queries."""
    if type(how).features is Method.features:
        return _skipped(RANDOM, f"{how.name} does not read the model")
    if any(weight.is_meta or not weight.is_floating_point() for weight in _weights(model)):
        return _skipped(RANDOM, "weights that are rounded or put off cannot be drawn anew")
    names = how.feature_names(model.depth)
    encoding = Encoding(**index.manifest["settings"]["encoding"])
    encoded = tokenize_all(model.tokenizer, [stored.example for stored in index.take(places.tolist())], encoding)
    usable = [at for at, row in enumerate(encoded) if isinstance(row, TokenizedExample)]
    with forgotten(model, seed):
        blocks = _blocks(model, how, [row for row in encoded if isinstance(row, TokenizedExample)], progress)
    if any(not bool(part.isfinite().all()) for block in blocks.values() for part in block):
        return _skipped(RANDOM, "a model with random weights gives numbers that are not finite")
    columns = {key: column for name in names for key, column in to_arrow(name, blocks[name]).items()}
    pair = (_held(index, names, places[usable]), _index(index, pa.table(columns)))
    known, blank = (_apart(_controls(how, each, names, range(len(usable)))) for each in pair)
    alike = float(np.mean(np.nan_to_num(_spearman(known, blank))))
    says = ("a model with random weights ranks the rows alike: the ranking tells of the words alone" if alike > ALIKE
            else "a model with random weights ranks the rows otherwise")  # fmt: skip
    return Check(RANDOM, alike, ALIKE, alike <= ALIKE, says)


def _weights(model: Model) -> list[Tensor]:
    """The matrices within the blocks, an adapter's too; norms and biases are no matrices."""
    models = [model] if model.separate_base is None else [model, model.separate_base]
    return [weight for each in models for weight in each.blocks.parameters() if weight.ndim > 1]


@contextlib.contextmanager
def forgotten(model: Model, seed: int = 0) -> Generator[None]:
    """For as long, the model's blocks have random weights, each matrix of the mean and spread it had."""
    weights = _weights(model)
    kept = [weight.detach().to("cpu", copy=True) for weight in weights]
    draw = torch.Generator().manual_seed(seed)  # on the CPU, so that every machine draws the same
    try:
        for weight, had in zip(weights, kept, strict=True):
            had = had.float()
            weight.data.copy_(had.mean() + had.std(correction=0) * torch.randn(had.shape, generator=draw))
        yield
    finally:
        for weight, had in zip(weights, kept, strict=True):
            weight.data.copy_(had)


def _blocks(model: Model, how: Method, rows: Sequence[TokenizedExample], progress: Progress | None) -> Features:
    found: list[Features] = [{} for _ in rows]
    done = 0
    for batch in make_batches(rows, BUDGET):
        made = how.features(model, batch)
        for place, row in enumerate(batch.row_indices):
            found[row] = {name: block[place] for name, block in made.items()}
        done += len(batch.row_indices)
        if progress:
            progress(done, len(rows))
    return stack_features(found, how.feature_names(model.depth))


# — the labels shuffled


def _labels(
    how: Method, held: Index, names: Sequence[str], labels: Sequence[str | None], rows: int, seed: int
) -> Check:
    """Whether rows of one label find each other better than rows whose labels were dealt out anew.

    Mean average precision of rows as queries, themselves left out. The rarer labels ask: what most rows carry, such
    as `clean`, need not have anything in common.
    """
    of = np.array([label or "" for label in labels])
    kinds, counts = np.unique(of, return_counts=True)
    if len(kinds) < 2:
        return _skipped(LABELS, "the rows do not carry two labels")
    rarest = kinds[np.argsort(counts, kind="stable")][:-1]
    asking = [np.flatnonzero(of == kind) for kind in rarest if kind and int((of == kind).sum()) >= GROUP]
    if not asking:
        return _skipped(LABELS, f"no label but the commonest is on {GROUP} rows")
    at = np.concatenate(asking)[:rows]
    scores = _controls(how, held, names, at.tolist())
    assert scores is not None
    at, draw = at[: len(scores)], np.random.default_rng(seed)
    real = _mean_ap(scores, of, at, of[at])
    shuffled = [_mean_ap(scores, draw.permutation(of), at, of[at]) for _ in range(SHUFFLES)]
    limit = float(np.quantile(shuffled, 0.95))
    says = ("rows of one label find each other" if real > limit
            else "labels and ranking have nothing to do with each other")  # fmt: skip
    return Check(LABELS, real, limit, real > limit, f"{says}; labels shuffled: {np.mean(shuffled):.2f}")


def _mean_ap(scores: NDArray[np.float64], labels: NDArray[Any], at: NDArray[Any], asked: NDArray[Any]) -> float:
    """Mean average precision, for the rows at these places, of the other rows that carry the label asked for."""
    found: list[float] = []
    for line, place, label in zip(scores, at, asked, strict=True):
        wanted = labels == label
        # where a shuffle gave this row another label, one row more carries its own: as many must be wanted each time
        wanted[place if wanted[place] else int(np.argmax(wanted))] = False
        found.append(float(average_precision_score(np.delete(wanted, place), np.delete(line, place))))
    return float(np.mean(found))


# — rows that come first whatever is asked


def _hubs(null: NDArray[np.float64], sources: Sequence[str]) -> Check:
    """The share of queries that one row is among the first of, at most."""
    queries, rows = null.shape
    first = min(TOP, max(1, rows // 10))
    scores = np.where(np.isnan(null), -np.inf, null)
    edge = np.sort(scores, axis=1)[:, -first, None]
    above, level = scores > edge, scores == edge
    # rows that tie at the edge share the places that are left, so that none is a hub for where it stands in the data
    left = (first - above.sum(1, keepdims=True)) / level.sum(1, keepdims=True)
    counts = (above + level * left).sum(0)
    hub = int(counts.argmax())
    share = float(counts[hub] / queries)
    lopsided = float(skew(counts)) if counts.std() else 0.0
    often = (f"{sources[hub]} is among the first {first} of {share:.0%} of the rows taken as queries, "
             f"by chance {first / rows:.1%}; skewness {lopsided:.1f}")  # fmt: skip
    if queries < FEWEST:
        return replace(_skipped(HUBS, f"too few queries: {often}"), value=share)
    failed = share > CROWD
    return Check(HUBS, share, CROWD, not failed, f"a row comes first whatever is asked: {often}" if failed else often)


def _length(null: NDArray[np.float64], lengths: Sequence[int]) -> Check:
    """How far a row's mean score goes by how many tokens its answer has: Spearman's ρ."""
    (rho,) = _spearman(np.nanmean(null, axis=0)[None], np.array([lengths], dtype=float))
    if np.isnan(rho):
        return _skipped(ANSWERS, "all answers, or all scores, are alike")
    failed = abs(rho) > LENGTH
    kind = "long" if rho > 0 else "short"
    says = f"{kind} answers rank first whatever is asked" if failed else "length alone does not make the ranking"
    return Check(ANSWERS, float(rho), LENGTH, not failed, says)


def _skipped(name: str, why: str) -> Check:
    return Check(name, None, None, None, why)


def _apart(scores: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """(C, C - 1): each query's scores less its own."""
    assert scores is not None
    return scores[~np.isnan(scores)].reshape(len(scores), -1)


def _spearman(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rank correlation of each line with its like; not a number where a line is constant."""
    found: list[float] = []
    for pair in zip(one, other, strict=True):
        ranked: Any = spearmanr(*pair) if all(np.ptp(side) > 0 for side in pair) else (np.nan,)
        found.append(float(ranked[0]))
    return np.array(found)
