"""Functions that `taughtby/__init__.py` adds to `Index`, because packages import in one direction only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

trace: Callable[..., Any] | None = None  # what `Index.trace` calls
