"""Functions of later packages that `Index` calls. `taughtby/__init__.py` sets them, since imports go one way only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

trace: Callable[..., Any] | None = None  # called by `Index.trace`
