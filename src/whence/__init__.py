"""whence: trace what a fine-tuned language model says back to the rows, and words, that taught it.

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
    "Example": "whence.example",
    "Index": "whence.index",
    "Query": "whence.query",
    "Trace": "whence.trace",
    "WhenceError": "whence.errors",
    "build_index": "whence.build",
    "load_model": "whence.model",
    "method": "whence.methods",
    "trace_queries": "whence.trace",
}

__all__ = [
    "Example",
    "Index",
    "Query",
    "Trace",
    "WhenceError",
    "build_index",
    "load_model",
    "method",
    "trace_queries",
]

if TYPE_CHECKING:
    from whence.build import build_index
    from whence.errors import WhenceError
    from whence.example import Example
    from whence.index import Index
    from whence.methods import method
    from whence.model import load_model
    from whence.query import Query
    from whence.trace import Trace, trace_queries


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'whence' has no attribute {name!r}")
