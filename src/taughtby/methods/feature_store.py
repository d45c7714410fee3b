"""What a method reads of an index: the protocol that `taughtby.index.reader.Index` fulfils."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from taughtby.data.example import Example

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class FeatureStore(Protocol):
    """Rows with their features, read in order."""

    @property
    def manifest(self) -> dict[str, Any]:
        """What the features were made with."""
        ...

    def __len__(self) -> int: ...

    def scan(self, names: Sequence[str], rows: int = 4096) -> Iterator[dict[str, Any]]:
        """Features in float32, in the order of the rows, up to `rows` at a time."""
        ...

    def mean(self, name: str) -> Float[Tensor, " d"]:
        """The mean of a feature's unit vectors over all rows."""
        ...

    def examples(self) -> Iterator[Example]:
        """All rows without their features, in order."""
        ...
