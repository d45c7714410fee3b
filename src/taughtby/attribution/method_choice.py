"""Which method to trace by, and whether the index holds what it compares."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from taughtby.index.reader import Index
from taughtby.methods import Method, get_method
from taughtby.models.model import Model


def choose_method(index: Index, model: Model, method: Method | str | None) -> Method:
    """The method to trace by; options that its name leaves open are as the index was made with."""
    made: dict[str, dict[str, Any]] = index.manifest["settings"]["methods"]
    if method is None:
        method = next(iter(made))
    if isinstance(method, str):
        name, _, said = method.partition(":")
        known = [f"{key}={value}" for key, value in made.get(name, {}).items() if key != "name"]
        method = get_method(f"{name}:{','.join([*known, said])}")  # what is said last holds
    method = method.resolve_layers(model.depth, None)
    names = method.feature_names(model.depth)
    # of the options that the index has otherwise, those that the names of blocks hold
    other = [f"{key}: index has {value}, asked {getattr(method, key)}" for key, value in made.get(method.name, {}).items()
             if key != "name" and replace(method, **{key: value}).feature_names(model.depth) != names]  # fmt: skip
    index.require_features(names, method.spec_string(), "; ".join(other))
    return method
