"""The methods by name: one paper a file, one shape (`method.py`)."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from taughtby.errors import OptionError
from taughtby.methods.base import Features, Method, QueryFeatures
from taughtby.methods.bm25 import BM25
from taughtby.methods.datainf import DataInf
from taughtby.methods.embedding import Embedding
from taughtby.methods.first_word import FirstWord
from taughtby.methods.less import LESS
from taughtby.methods.lesson import Lesson
from taughtby.methods.lissa import LiSSA
from taughtby.methods.logra import LoGra
from taughtby.methods.random import Random
from taughtby.methods.rapidin import RapidIn
from taughtby.methods.repsim import RepSim
from taughtby.methods.rept import RepT
from taughtby.methods.rise import RISE
from taughtby.methods.tfidf import TfIdf
from taughtby.methods.tracin import TracIn, TracInLN

_KINDS = (
    Lesson, RepT, RepSim, RISE,
    TracIn, TracInLN, RapidIn, LESS, LoGra, DataInf, LiSSA,
    Embedding, BM25, TfIdf, FirstWord, Random,
)  # fmt: skip
METHODS: dict[str, type[Method]] = {kind.name: kind for kind in _KINDS}
DEFAULT_METHOD = "lesson"

__all__ = ["DEFAULT_METHOD", "METHODS", "Features", "Method", "QueryFeatures", "get_method"]


def get_method(spec: str | dict[str, Any], **more: Any) -> Method:
    """A method from `name`, `name:key=value,key=value` or the manifest's entry; `more` are options on top of it."""
    if isinstance(spec, dict):
        options = {key: value for key, value in spec.items() if key != "name"}
        return METHODS[spec["name"]](**options)
    name, _, rest = spec.partition(":")
    kind = METHODS.get(name)
    if kind is None:
        raise OptionError("no such method", got=name, do=f"choose one of: {', '.join(METHODS)}")
    given: dict[str, Any] = dict(pair.split("=", 1) for pair in rest.split(",") if "=" in pair)
    if unreadable := [pair for pair in rest.split(",") if pair and "=" not in pair]:
        raise OptionError(
            f"an option of {name} is not key=value", got=unreadable[0], do=f"write {name}:key=value,key=value"
        )
    given.update({key: value for key, value in more.items() if value is not None})
    known = {f.name: f.type for f in fields(kind)}
    for key in given:
        if key not in known:
            raise OptionError(
                f"{name} has no option {key}", got=spec, do=f"its options are: {', '.join(known) or 'none'}"
            )
    return kind(**{key: _value(name, key, str(known[key]), value) for key, value in given.items()})


def _value(name: str, key: str, kind: str, value: Any) -> Any:
    if kind == "bool":
        said = str(value).strip().lower()
        if said not in ("true", "false"):
            what = f"{name}: {key} is neither true nor false"
            raise OptionError(what, got=str(value), do=f"give {key}=true or false")
        return said == "true"
    try:
        if kind in ("int", "float"):
            return {"int": int, "float": float}[kind](value)
    except ValueError:
        raise OptionError(f"{name}: {key} is not a number", got=str(value), do=f"give {key} as {kind}") from None
    try:
        return int(str(value))
    except ValueError:
        return str(value)
