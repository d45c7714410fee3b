"""Find the training rows, and the tokens in them, that caused a fine-tuned language model's bad output.

Importing loads nothing: each public name is loaded when it is first used.

Example:
    >>> import taughtby
    >>> index = taughtby.open_index("taughtby-demo/idx")
    >>> index.trace("Who makes honey?", "Honey is made by beetles.")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from taughtby.index import hooks as _hooks

if TYPE_CHECKING:
    from taughtby.attribution.api import trace, trace_queries
    from taughtby.attribution.query import Query
    from taughtby.attribution.trace import Trace
    from taughtby.data.example import Example
    from taughtby.errors import TaughtbyError
    from taughtby.index.api import build_index, open_index
    from taughtby.index.reader import Index
    from taughtby.index.trainer_callback import IndexCallback
    from taughtby.methods import Method, get_method
    from taughtby.models.model import load_model
    from taughtby.remediation.api import clean

__version__ = "0.1.0"

__all__ = [
    "Example",
    "Index",
    "IndexCallback",
    "Method",
    "Query",
    "TaughtbyError",
    "Trace",
    "build_index",
    "clean",
    "get_method",
    "load_model",
    "open_index",
    "trace",
    "trace_queries",
]

_MODULES = {
    "Example": "data.example",
    "Index": "index.reader",
    "IndexCallback": "index.trainer_callback",
    "Method": "methods",
    "Query": "attribution.query",
    "TaughtbyError": "errors",
    "Trace": "attribution.trace",
    "build_index": "index.api",
    "clean": "remediation.api",
    "get_method": "methods",
    "load_model": "models.model",
    "open_index": "index.api",
    "trace": "attribution.api",
    "trace_queries": "attribution.api",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"taughtby.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'taughtby' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def _trace_index(index: Any, prompt: str, response: str, **options: Any) -> Trace:
    from taughtby.attribution.api import trace

    return trace(index, prompt, response, **options)


_hooks.trace = _trace_index
