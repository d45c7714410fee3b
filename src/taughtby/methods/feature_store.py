"""The part of an index that methods read, as a protocol that `taughtby.index.reader.Index` implements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from taughtby.data.example import Example

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class FeatureStore(Protocol):
    """Rows with their features, in a fixed order."""

    @property
    def manifest(self) -> dict[str, Any]:
        """The index's manifest."""
        ...

    def __len__(self) -> int: ...

    def scan(self, names: Sequence[str], rows: int = 4096) -> Iterator[dict[str, Any]]:
        """Yield features in float32, up to `rows` rows at a time."""
        ...

    def mean(self, name: str) -> Float[Tensor, " d"]:
        """Return the mean of a feature's unit vectors over all rows."""
        ...

    def examples(self) -> Iterator[Example]:
        """Yield all rows without their features."""
        ...
