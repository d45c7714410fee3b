"""The rank a row would have, had the method read another layer: among the rows shown, which alone are read again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
from pyarrow.dataset import InMemoryDataset

from taughtby.attribution.method_choice import chosen
from taughtby.attribution.query import BUDGET, Query, ask
from taughtby.data.tokenize import Encoding, Row, batches, encode
from taughtby.errors import OptionError
from taughtby.index.arrow import to_arrow
from taughtby.index.reader import Index
from taughtby.methods import Blocks, Method
from taughtby.methods.base import gathered
from taughtby.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

STEPS = 8  # layers beside the method's own


def depths(
    index: Index,
    model: Model,
    query: Query,
    places: Sequence[int],
    by: str | None = None,
    progress: Callable[[int, int], Any] | None = None,
) -> dict[str, Any]:
    """`layers`, and for each place (a row of the index) its `ranks` at them, counted from 1 among these rows."""
    how = chosen(index, model, by)
    if not any(part.name == "layer" for part in fields(how)):
        raise OptionError(f"{how.name} reads no layer", do="trace by a method that does, such as lesson or rept")
    used = int(cast(Any, how).layer)
    layers = sorted({used, *(max(1, round(model.depth * step / STEPS)) for step in range(1, STEPS + 1))})
    encoding = Encoding(**index.manifest["settings"]["encoding"])
    encoded = [encode(model.tokenizer, stored.example, encoding) for stored in index.take(list(places))]
    rows = [row for row in encoded if isinstance(row, Row)]
    ranks: list[list[int]] = [[] for _ in rows]
    for done, layer in enumerate(layers):
        if progress:
            progress(done, len(layers))
        other = replace(how, **{"layer": layer})
        few = _again(index, model, other, rows)
        scores = other.scores(ask(model, other, [query], encoding).asked, few)[0]
        if query.desired:
            scores = scores - other.scores(ask(model, other, [query.instead()], encoding).asked, few)[0]
        for rank, at in enumerate(scores.argsort(descending=True, stable=True).tolist(), 1):
            ranks[at].append(rank)
    told = [place for place, row in zip(places, encoded, strict=True) if isinstance(row, Row)]
    return {"layers": layers, "used": used, "ranks": dict(zip(map(str, told), ranks, strict=True))}


def _again(index: Index, model: Model, how: Method, rows: Sequence[Row]) -> Index:
    """These rows as a small index by that method."""
    made: list[Blocks] = [{} for _ in rows]
    names = how.names(model.depth)
    for batch in batches(rows, BUDGET):
        blocks = how.blocks(model, batch)
        for place, at in enumerate(batch.rows):
            made[at] = {name: blocks[name][place] for name in names}
    joined = gathered(made, names)
    columns = {key: column for name, block in joined.items() for key, column in to_arrow(name, block).items()}
    manifest = {**index.manifest, "count": len(rows), "blocks": {name: at[0].shape[-1] for name, at in joined.items()}}
    return _Few(index.path, manifest, InMemoryDataset(pa.table(columns)), whole=index)


@dataclass(frozen=True)
class _Few(Index):
    """Some rows, read at another layer."""

    def mean(self, name: str) -> Float[Tensor, " d"]:
        """That of the whole index, where it holds the block; else of these rows."""
        if self.whole and name in self.whole.blocks:
            return self.whole.mean(name)
        return replace(self, whole=None).mean(name) if self.whole else super().mean(name)
