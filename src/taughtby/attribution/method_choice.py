"""Which method to trace by, and whether the index holds what it compares."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from taughtby.index.reader import Index
from taughtby.methods import Method, method
from taughtby.models.model import Model


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
