"""The rank a row would have, had the method read another layer: among the rows shown, which alone are read again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
from pyarrow.dataset import InMemoryDataset

from taughtby.attribution.method_choice import choose_method
from taughtby.attribution.query import BUDGET, Query, prepare_queries
from taughtby.data.tokenize import Encoding, TokenizedExample, make_batches, tokenize
from taughtby.errors import OptionError
from taughtby.index.arrow import to_arrow
from taughtby.index.reader import Index
from taughtby.methods import Features, Method
from taughtby.methods.base import stack_features
from taughtby.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

STEPS = 8  # layers beside the method's own


def layer_ranks(
    index: Index,
    model: Model,
    query: Query,
    places: Sequence[int],
    method: str | None = None,
    progress: Callable[[int, int], Any] | None = None,
) -> dict[str, Any]:
    """`layers`, and for each place (a row of the index) its `ranks` at them, counted from 1 among these rows."""
    how = choose_method(index, model, method)
    if not any(part.name == "layer" for part in fields(how)):
        raise OptionError(f"{how.name} reads no layer", do="trace by a method that does, such as lesson or rept")
    used = int(cast(Any, how).layer)
    layers = sorted({used, *(max(1, round(model.depth * step / STEPS)) for step in range(1, STEPS + 1))})
    encoding = Encoding(**index.manifest["settings"]["encoding"])
    encoded = [tokenize(model.tokenizer, stored.example, encoding) for stored in index.take(list(places))]
    rows = [row for row in encoded if isinstance(row, TokenizedExample)]
    ranks: list[list[int]] = [[] for _ in rows]
    for done, layer in enumerate(layers):
        if progress:
            progress(done, len(layers))
        other = replace(how, **{"layer": layer})
        few = _again(index, model, other, rows)
        scores = other.scores(prepare_queries(model, other, [query], encoding).features, few)[0]
        if query.desired:
            scores = (
                scores - other.scores(prepare_queries(model, other, [query.desired_query()], encoding).features, few)[0]
            )
        for rank, at in enumerate(scores.argsort(descending=True, stable=True).tolist(), 1):
            ranks[at].append(rank)
    told = [place for place, row in zip(places, encoded, strict=True) if isinstance(row, TokenizedExample)]
    return {"layers": layers, "used": used, "ranks": dict(zip(map(str, told), ranks, strict=True))}


def _again(index: Index, model: Model, how: Method, rows: Sequence[TokenizedExample]) -> Index:
    """These rows as a small index by that method."""
    made: list[Features] = [{} for _ in rows]
    names = how.feature_names(model.depth)
    for batch in make_batches(rows, BUDGET):
        blocks = how.features(model, batch)
        for place, at in enumerate(batch.row_indices):
            made[at] = {name: blocks[name][place] for name in names}
    joined = stack_features(made, names)
    columns = {key: column for name, block in joined.items() for key, column in to_arrow(name, block).items()}
    manifest = {**index.manifest, "num_rows": len(rows), "features": {name: at[0].shape[-1] for name, at in joined.items()}}
    return _Few(index.path, manifest, InMemoryDataset(pa.table(columns)), parent=index)


@dataclass(frozen=True)
class _Few(Index):
    """Some rows, read at another layer."""

    def mean(self, name: str) -> Float[Tensor, " d"]:
        """That of the whole index, where it holds the block; else of these rows."""
        if self.parent and name in self.parent.features:
            return self.parent.mean(name)
        return replace(self, parent=None).mean(name) if self.parent else super().mean(name)
