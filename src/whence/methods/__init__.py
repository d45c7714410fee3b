"""The methods by name: one paper a file, one shape (`method.py`)."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from whence.errors import OptionError
from whence.index import Index
from whence.methods.bm25 import BM25
from whence.methods.chance import Chance
from whence.methods.datainf import DataInf
from whence.methods.embedding import Embedding
from whence.methods.first_word import FirstWord
from whence.methods.less import LESS
from whence.methods.lesson import Lesson
from whence.methods.lissa import LiSSA
from whence.methods.logra import LoGra
from whence.methods.method import Asked, Blocks, Method
from whence.methods.rapidin import RapidIn
from whence.methods.readout import Readout
from whence.methods.repsim import RepSim
from whence.methods.rept import RepT
from whence.methods.tfidf import TfIdf
from whence.methods.tracin import TracIn, TracInLN
from whence.model import Model

_KINDS = (
    Lesson, RepT, RepSim, Readout,
    TracIn, TracInLN, RapidIn, LESS, LoGra, DataInf, LiSSA,
    Embedding, BM25, TfIdf, FirstWord, Chance,
)  # fmt: skip
METHODS: dict[str, type[Method]] = {kind.name: kind for kind in _KINDS}
DEFAULT = "lesson"

__all__ = ["DEFAULT", "METHODS", "Asked", "Blocks", "Method", "chosen", "method"]


def method(spec: str | dict[str, Any], **more: Any) -> Method:
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


def chosen(index: Index, model: Model, by: Method | str | None) -> Method:
    """The method to trace by; options that its name leaves open are as the index was made with."""
    made: dict[str, dict[str, Any]] = index.manifest["settings"]["methods"]
    if by is None:
        by = next(iter(made))
    if isinstance(by, str):
        name, _, said = by.partition(":")
        known = [f"{key}={value}" for key, value in made.get(name, {}).items() if key != "name"]
        by = method(f"{name}:{','.join([*known, said])}")  # what is said last holds
    by = by.resolved(model.depth, None)
    names = by.names(model.depth)
    # of the options that the index has otherwise, those that the names of blocks hold
    other = [f"{key}: index has {value}, asked {getattr(by, key)}" for key, value in made.get(by.name, {}).items()
             if key != "name" and replace(by, **{key: value}).names(model.depth) != names]  # fmt: skip
    index.require(names, by.written(), "; ".join(other))
    return by


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
