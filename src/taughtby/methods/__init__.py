"""Attribution methods by name, one paper per file."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

from taughtby.errors import OptionError
from taughtby.methods.base import Features, Method, QueryFeatures, StateMethod, WeightMethod
from taughtby.methods.bm25 import BM25
from taughtby.methods.datainf import DataInf
from taughtby.methods.embedding import Embedding
from taughtby.methods.first_word import FirstWord
from taughtby.methods.hybrid import Hybrid
from taughtby.methods.less import LESS
from taughtby.methods.lesson import Lesson
from taughtby.methods.lissa import LiSSA
from taughtby.methods.logra import LoGra
from taughtby.methods.random import Random
from taughtby.methods.rapidin import RapidIn
from taughtby.methods.repsim import RepSim
from taughtby.methods.rept import RepT
from taughtby.methods.rftc import RFTC
from taughtby.methods.rise import RISE
from taughtby.methods.shift import Shift
from taughtby.methods.tfidf import TfIdf
from taughtby.methods.tracin import TracIn, TracInLN
from taughtby.text import closest

_CLASSES = (
    Lesson, Shift, RepT, RepSim, RISE,
    TracIn, TracInLN, RapidIn, LESS, LoGra, DataInf, LiSSA,
    Embedding, Hybrid, BM25, TfIdf, RFTC, FirstWord, Random,
)  # fmt: skip
METHODS: dict[str, type[Method]] = {cls.name: cls for cls in _CLASSES}
DEFAULT_METHOD = "lesson"

__all__ = [
    "DEFAULT_METHOD",
    "METHODS",
    "Features",
    "Method",
    "QueryFeatures",
    "StateMethod",
    "WeightMethod",
    "get_method",
]


def get_method(spec: str | dict[str, Any] | Method, **options: Any) -> Method:
    """Create a method.

    Args:
        spec: `name`, `name:key=value,key=value`, the method's entry in a manifest, or a method.
        options: options that override those of `spec`; None leaves an option unchanged.

    Raises:
        OptionError: there is no such method or option, or a value is invalid.

    Example:
        >>> get_method("rept:layer=14,scale=raw")
        RepT(layer=14, scale='raw', h=1.0, g=0.25)
    """
    changes = {key: value for key, value in options.items() if value is not None}
    if isinstance(spec, Method) and not changes:
        return spec
    name, values = _read_spec(spec)
    cls = METHODS.get(name)
    if cls is None:
        raise OptionError("no such method", got=name, do=closest(name, METHODS))
    values |= changes
    types = {field.name: str(field.type) for field in fields(cls)}
    for key in values:
        if key not in types:
            do = f"its options are: {', '.join(types) or 'none'}"
            raise OptionError(f"{name} has no option {key}", got=str(spec), do=do)
    return cls(**{key: _parse(name, key, types[key], value) for key, value in values.items()})


def _read_spec(spec: str | dict[str, Any] | Method) -> tuple[str, dict[str, Any]]:
    """A method's name, and its options as they are written."""
    entry = spec.spec() if isinstance(spec, Method) else spec
    if isinstance(entry, dict):
        return str(entry.get("name")), {key: value for key, value in entry.items() if key != "name"}
    if not isinstance(entry, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError("a method is neither a name nor a Method", got=repr(entry)[:80], do=closest("", METHODS))
    name, _, rest = entry.partition(":")
    pairs = [pair.strip() for pair in rest.split(",") if pair.strip()]
    if invalid := [pair for pair in pairs if "=" not in pair]:
        do = f"write {name}:key=value,key=value"
        raise OptionError(f"an option of {name} is not key=value", got=invalid[0], do=do)
    return name.strip(), dict(pair.split("=", 1) for pair in pairs)


def _parse(method: str, key: str, kind: str, value: Any) -> Any:
    if kind == "bool":
        word = str(value).strip().lower()
        if word not in ("true", "false"):
            message = f"{method}: {key} is neither true nor false"
            raise OptionError(message, got=str(value), do=f"give {key}=true or false")
        return word == "true"
    try:
        if kind in ("int", "float"):
            number = {"int": int, "float": float}[kind](value)
            if not math.isfinite(number) or number != float(value):
                raise ValueError
            return number
    except (TypeError, ValueError):
        raise OptionError(f"{method}: {key} is not a number", got=str(value), do=f"give {key} as {kind}") from None
    try:
        return int(str(value))
    except ValueError:
        return str(value)
