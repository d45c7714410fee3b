"""Convert rows and their features to Arrow columns and back: vectors in float16, other features in float32."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from taughtby.capture.ragged import Column, Ragged
from taughtby.data.example import Example
from taughtby.data.tokenize import TokenizedExample

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

TEXT_COLUMNS = ("id", "source", "label", "messages", "more")  # the columns that `to_example` reads
MORE = (
    "tools",
    "rejected",
    "masked",
    "after",
    "loss_from",
    "token_ids",
    "loss_positions",
    "template_kwargs",
    "raw",
)  # fields that few rows have, stored as JSON
VECTORS_PER_ROW = 32  # estimate for a feature with one vector per token


def arrange_table(
    examples: Sequence[Example], rows: Sequence[TokenizedExample], features: Mapping[str, Tensor | list[Tensor]]
) -> pa.Table:
    """Return rows and their features as an Arrow table, as stored in the index.

    Args:
        examples: The rows.
        rows: The same rows, tokenized.
        features: (B, d) for a vector per row, (B,) for a number per row, or B tensors (n, k) for a vector per token.
    """
    columns: dict[str, Any] = {
        "id": [row.id for row in examples],
        "source": [escape_surrogates(row.source) for row in examples],
        "label": pa.array([row.label and escape_surrogates(row.label) for row in examples], pa.string()),
        "messages": [json.dumps(list(row.messages)) for row in examples],
        "more": pa.array([_more(row) for row in examples], pa.string()),
        "n_prompt": pa.array([row.n_prompt for row in rows], pa.int32()),
        "n_response": pa.array([row.n_response for row in rows], pa.int32()),
    }
    for name, feature in features.items():
        columns |= to_arrow(name, feature)
    return pa.table(columns)


def _more(row: Example) -> str | None:
    values = {name: getattr(row, name) for name in MORE}
    more = {name: value for name, value in values.items() if value not in ((), None) and value is not False}
    return json.dumps(more) if more else None


def to_example(record: Mapping[str, Any]) -> Example:
    """Build an example from the values of the `TEXT_COLUMNS`."""
    more: dict[str, Any] = json.loads(record.get("more") or "{}")
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in more.items() if name in MORE
    }
    values["masked"] = tuple((begin, end) for begin, end in more.get("masked", ()))
    messages = tuple(json.loads(record["messages"]))
    values["template_kwargs"] = tuple((name, value) for name, value in more.get("template_kwargs", ()))
    return Example(messages, record["label"], record["source"], record["id"], **values)


def escape_surrogates(text: str) -> str:
    """Escape lone surrogates, which JSON allows and UTF-8 does not."""
    return text.encode("utf-8", "backslashreplace").decode()


def to_arrow(name: str, feature: Tensor | list[Tensor]) -> dict[str, pa.Array]:
    """Convert a feature to columns. Vectors are stored as direction and norm, since raw gradients underflow float16."""
    if isinstance(feature, list):
        ends = np.cumsum([0, *map(len, feature)], dtype=np.int32)
        return {name: pa.ListArray.from_arrays(pa.array(ends), _vectors(torch.cat(feature)))}
    if feature.ndim == 1:
        return {name: pa.array(feature.float().numpy())}
    # divide by the largest number first: the squares of a well-learned row's gradients underflow float32
    largest = feature.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    feature = feature / largest
    norms = feature.norm(dim=1, keepdim=True)
    return {name: _vectors(feature / norms.clamp(min=1)), f"{name}_norm": pa.array((norms * largest)[:, 0].numpy())}


def _vectors(values: Float[Tensor, "B d"]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.half().numpy().reshape(-1)), values.shape[1])


def from_arrow(column: pa.Array) -> Column:
    """Convert a column to float32: (B, d), (B,) or a Ragged."""
    if pa.types.is_list(column.type):
        lengths = torch.from_numpy(column.value_lengths().to_numpy().astype(np.int64))
        return Ragged(_matrix(column.flatten()), lengths)
    if pa.types.is_fixed_size_list(column.type):
        return _matrix(column)
    return torch.from_numpy(column.to_numpy(zero_copy_only=False).copy())


def _matrix(column: pa.Array) -> Float[Tensor, "B d"]:
    # torch converts float16 to float32 twenty times as fast as NumPy
    return torch.from_dlpack(column.flatten()).view(-1, column.type.list_size).float()


def vector_width(kind: pa.DataType) -> int | None:
    """Return the width of a feature's vectors; None for a column that is not a feature."""
    if pa.types.is_list(kind):
        kind = kind.value_type
    return kind.list_size if pa.types.is_fixed_size_list(kind) else None


def feature_widths(schema: pa.Schema) -> dict[str, int]:
    """Return the width of each feature's vectors, by name."""
    return {column.name: width for column in schema if (width := vector_width(column.type))}


def numbers_per_row(kind: pa.DataType) -> int:
    """Return the approximate number of values per row in a column."""
    return (vector_width(kind) or 1) * (VECTORS_PER_ROW if pa.types.is_list(kind) else 1)
