"""Sanity check: does a model with random weights rank the rows the same way? Adebayo et al., arXiv 1810.03292."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from pyarrow.dataset import InMemoryDataset

from taughtby.attribution.check_report import EQUAL, Check, skipped_check
from taughtby.attribution.row_queries import rank_correlation, scores_of_rows
from taughtby.data.batching import make_batches
from taughtby.data.tokenize import Encoding, TokenizedExample, tokenize_all
from taughtby.index.arrow import to_arrow
from taughtby.index.reader import Index
from taughtby.methods import Features, Method
from taughtby.methods.base import stack_features
from taughtby.models.model import Model

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

RANDOM = "random model"
SIMILAR = 0.9  # rank correlation above which the check fails


def check_random_model(
    index: Index, model: Model, method: Method, positions: NDArray[np.int64], seed: int,
    progress: Callable[[int, int], Any] | None,
) -> Check:  # fmt: skip
    """Compare the rankings of rows, as queries, by the model and by one with random weights: mean Spearman's ρ."""
    if type(method).features is Method.features:
        return skipped_check(RANDOM, f"{method.name} does not read the model")
    if any(weight.is_meta or not weight.is_floating_point() for weight in _matrices(model)):
        return skipped_check(RANDOM, "quantized or offloaded weights cannot be randomized")
    names = method.feature_names(model.depth)
    encoding = Encoding(**index.manifest["settings"]["encoding"])
    encoded = tokenize_all(model.tokenizer, [stored.example for stored in index.take(positions.tolist())], encoding)
    usable = [number for number, row in enumerate(encoded) if isinstance(row, TokenizedExample)]
    with randomized_weights(model, seed):
        features = _features(model, method, [row for row in encoded if isinstance(row, TokenizedExample)], progress)
    if any(not bool(part.isfinite().all()) for feature in features.values() for part in feature):
        return skipped_check(RANDOM, "the features of a model with random weights are not finite")
    columns = {key: column for name in names for key, column in to_arrow(name, features[name]).items()}
    rows = InMemoryDataset(pa.table(columns).combine_chunks())
    random_index = Index(index.path, {**index.manifest, "num_rows": len(usable)}, rows)  # which computes its own means
    pair = (index.subset(positions[usable].tolist(), names), random_index)
    trained, random = (_without_self(scores_of_rows(method, each, names, range(len(usable)))) for each in pair)
    if not np.nanstd(trained, axis=1).any():
        return skipped_check(RANDOM, EQUAL)
    similarity = float(np.mean(np.nan_to_num(rank_correlation(trained, random))))
    if similarity <= SIMILAR:
        return Check(RANDOM, similarity, SIMILAR, True, "a model with random weights ranks the rows differently")
    finding = "a model with random weights ranks the rows almost identically: the ranking depends only on the texts"
    return Check(RANDOM, similarity, SIMILAR, False, finding, "treat it as a text search, or use another --method")


def _matrices(model: Model) -> list[Tensor]:
    """The weight matrices of the transformer blocks, with those of adapters; norms and biases are not matrices."""
    models = [model] if model.separate_base is None else [model, model.separate_base]
    return [weight for each in models for weight in each.blocks.parameters() if weight.ndim > 1]


@contextlib.contextmanager
def randomized_weights(model: Model, seed: int = 0) -> Generator[None]:
    """Randomize the weight matrices of a model in this context, each with its own mean and standard deviation."""
    weights = _matrices(model)
    originals = [weight.detach().to("cpu", copy=True) for weight in weights]
    generator = torch.Generator().manual_seed(seed)  # on the CPU, for the same numbers on every machine
    try:
        for weight, original in zip(weights, originals, strict=True):
            values = original.float()
            noise = torch.randn(values.shape, generator=generator)
            weight.data.copy_(values.mean() + values.std(correction=0) * noise)
        yield
    finally:
        for weight, original in zip(weights, originals, strict=True):
            weight.data.copy_(original)


def _features(
    model: Model, method: Method, rows: Sequence[TokenizedExample], progress: Callable[[int, int], Any] | None
) -> Features:
    features: list[Features] = [{} for _ in rows]
    done = 0
    for batch in make_batches(rows, method.token_budget(model)):
        batch_features = method.features(model, batch)
        for b, row in enumerate(batch.row_indices):
            features[row] = {name: feature[b] for name, feature in batch_features.items()}
        done += len(batch.row_indices)
        if progress:
            progress(done, len(rows))
    return stack_features(features, method.feature_names(model.depth))


def _without_self(scores: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """(C, C - 1): each query's scores without its own."""
    assert scores is not None
    return scores[~np.isnan(scores)].reshape(len(scores), -1)
