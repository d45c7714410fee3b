"""taughtby: trace what a fine-tuned language model says back to the rows, and words, that taught it.

Importing does no work: each public name is loaded when it is first used.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# OpenMP's default lets idle threads spin, which on a busy or virtual machine costs a factor of 2 to 5; it is read
# once, when torch loads
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# oneDNN keeps the code it makes for each shape of a bfloat16 product; a batch needs some tens of them, and of its
# usual thousand most would never be met again
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")

__version__ = "0.1.0"

_HOME = {
    "Example": "taughtby.data.example",
    "Index": "taughtby.index.reader",
    "Query": "taughtby.attribution.query",
    "Trace": "taughtby.attribution.trace",
    "TaughtbyError": "taughtby.errors",
    "build_index": "taughtby.index.build",
    "load_model": "taughtby.models.model",
    "method": "taughtby.methods",
    "trace_queries": "taughtby.attribution.trace",
}

__all__ = [
    "Example",
    "Index",
    "Query",
    "TaughtbyError",
    "Trace",
    "build_index",
    "get_method",
    "load_model",
    "trace_queries",
]

if TYPE_CHECKING:
    from taughtby.attribution.query import Query
    from taughtby.attribution.trace import Trace, trace_queries
    from taughtby.data.example import Example
    from taughtby.errors import TaughtbyError
    from taughtby.index.build import build_index
    from taughtby.index.reader import Index
    from taughtby.methods import get_method
    from taughtby.models.model import load_model


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'taughtby' has no attribute {name!r}")
