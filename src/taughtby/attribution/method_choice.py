"""Select the method of a trace, and check that the index holds its features."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from taughtby.capture.layer_similarity import read_layer_similarity
from taughtby.index.reader import Index
from taughtby.methods import Method, get_method
from taughtby.models.model import Model


def choose_method(index: Index, model: Model, method: Method | str | None) -> Method:
    """Return the method to trace with, with every layer a number.

    Args:
        index: The index.
        model: The model, whose depth resolves layers.
        method: A method; or its name, with options that default to those the index was made with; or None for the
            index's first method.

    Raises:
        StoreError: The index does not hold the method's features.
        OptionError: There is no such method or option.
    """
    methods: dict[str, dict[str, Any]] = index.manifest["settings"]["methods"]
    if method is None:
        method = next(iter(methods))
    if isinstance(method, str):
        get_method(method)  # reports an unknown option in the user's words
        name, _, options = method.partition(":")
        defaults = [f"{key}={value}" for key, value in methods.get(name, {}).items() if key != "name"]
        method = get_method(f"{name}:{','.join([*defaults, options])}")  # the last value of an option is used
    elif not isinstance(method, Method):  # pyright: ignore[reportUnnecessaryIsInstance]
        method = get_method(method)
    method = method.resolve_layers(model.depth, read_layer_similarity(index.manifest["layers"]))
    names = method.feature_names(model.depth)
    stored = {key: value for key, value in methods.get(method.name, {}).items() if key != "name"}
    # only the options that change the stored features
    differences = [f"{key}: the index has {value}, but {getattr(method, key)} was given"
                   for key, value in stored.items()
                   if replace(method, **{key: value}).feature_names(model.depth) != names]  # fmt: skip
    index.require_features(names, method.spec_string(), "; ".join(differences))
    return method
