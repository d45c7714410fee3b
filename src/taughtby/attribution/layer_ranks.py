"""The ranks that rows would have at other layers, among the ranked rows only, which are captured again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
from pyarrow.dataset import InMemoryDataset

from taughtby.attribution.method_choice import choose_method
from taughtby.attribution.query import Query, contrast_desired, prepare_queries
from taughtby.data.batching import make_batches
from taughtby.data.tokenize import Encoding, TokenizedExample, tokenize
from taughtby.errors import OptionError
from taughtby.index.arrow import to_arrow
from taughtby.index.reader import Index
from taughtby.methods import Features, Method
from taughtby.methods.base import stack_features
from taughtby.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

STEPS = 8  # layers besides the method's own


def layer_ranks(
    index: Index,
    model: Model,
    query: Query,
    positions: Sequence[int],
    method: str | None = None,
    progress: Callable[[int, int], Any] | None = None,
) -> dict[str, Any]:
    """Rank some rows of an index for a query at several layers.

    Args:
        index: The index.
        model: The model the index was made with.
        query: The query.
        positions: Positions of the rows in the index.
        method: A method that has the option `layer`; the index's first method by default.
        progress: Called with (done, total) layers.

    Returns:
        The `layers`, the layer `used` by the method, and by position the `ranks` of each row at the layers, from 1.

    Raises:
        OptionError: The method has no option `layer`.
    """
    selected = choose_method(index, model, method)
    if not any(option.name == "layer" for option in fields(selected)):
        raise OptionError(
            f"{selected.name} has no layer", do="trace with a method that has one, such as lesson or rept"
        )
    used = int(cast(Any, selected).layer)
    layers = sorted({used, *(max(1, round(model.depth * step / STEPS)) for step in range(1, STEPS + 1))})
    encoding = Encoding(**index.manifest["settings"]["encoding"])
    encoded = [tokenize(model.tokenizer, stored.example, encoding) for stored in index.take(list(positions))]
    rows = {position: row for position, row in zip(positions, encoded, strict=True)
            if isinstance(row, TokenizedExample)}  # fmt: skip
    ranks: list[list[int]] = [[] for _ in rows]
    for done, layer in enumerate(layers):
        if progress:
            progress(done, len(layers))
        at_layer = replace(selected, **{"layer": layer})
        subset = _recapture(index, model, at_layer, [*rows.values()])
        features = prepare_queries(model, at_layer, [query], encoding).features
        contrast = contrast_desired(model, at_layer, [query], features, encoding)
        (scores,) = contrast.difference(lambda each, method=at_layer, subset=subset: method.scores(each, subset))
        for rank, number in enumerate(scores.argsort(descending=True, stable=True).tolist(), 1):
            ranks[number].append(rank)
    return {"layers": layers, "used": used, "ranks": dict(zip(map(str, rows), ranks, strict=True))}


def _recapture(index: Index, model: Model, method: Method, rows: Sequence[TokenizedExample]) -> Index:
    """The rows as a small index with the method's features."""
    features: list[Features] = [{} for _ in rows]
    names = method.feature_names(model.depth)
    for batch in make_batches(rows, method.token_budget(model)):
        batch_features = method.features(model, batch)
        for b, number in enumerate(batch.row_indices):
            features[number] = {name: batch_features[name][b] for name in names}
    stacked = stack_features(features, names)
    columns = {key: column for name, feature in stacked.items() for key, column in to_arrow(name, feature).items()}
    widths = {name: feature[0].shape[-1] for name, feature in stacked.items()}
    manifest = {**index.manifest, "num_rows": len(rows), "features": widths}
    return _Recaptured(index.path, manifest, InMemoryDataset(pa.table(columns)), parent=index)


@dataclass(frozen=True)
class _Recaptured(Index):
    """Some rows of an index, captured at another layer."""

    def mean(self, name: str) -> Float[Tensor, " d"]:
        """Return the mean over the whole index if it holds the feature, or else over these rows."""
        if self.parent and name in self.parent.features:
            return self.parent.mean(name)
        return replace(self, parent=None).mean(name) if self.parent else super().mean(name)
