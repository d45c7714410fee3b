"""What later packages add to an index; `taughtby/__init__.py` sets it, since packages import in one direction only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

trace: Callable[..., Any] | None = None  # what `Index.trace` calls
