"""The word lists and templates of the poisons, one TOML file each in `data/`."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from types import SimpleNamespace
from typing import Any


@cache
def load_words(name: str) -> SimpleNamespace:
    """Return the contents of `data/NAME.toml`, with an attribute per key; arrays become tuples."""
    text = (files("taughtby.lab.poisons") / "data" / f"{name}.toml").read_text(encoding="utf-8")
    return SimpleNamespace(**_frozen(tomllib.loads(text)))


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
