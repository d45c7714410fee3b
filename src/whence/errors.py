"""Mistakes a person can mend, each with one shape: what is wrong, what was found, what to do.

    WhenceError
    ├── DataError       a training set or query file that cannot be read
    ├── ModelError      a model, adapter or tokenizer that cannot be used
    ├── OptionError     a setting outside its range
    ├── StoreError      an index that is missing, unfinished, or made otherwise
    └── LabError        a poison, fine-tuning, generation or judge that cannot go on

The command line prints them without a traceback and leaves with exit code 1. Anything else that is raised is
a fault of ours and keeps its traceback.
"""

from __future__ import annotations

from functools import partial
from typing import Any


class WhenceError(Exception):
    """Says `what` is wrong, what was `got`, and what to `do` about it."""

    def __init__(self, what: str, *, do: str, got: str | None = None) -> None:
        self.what, self.got, self.do = what, got, do
        found = "" if got is None else f"\n  got: {got}"
        super().__init__(f"{what}{found}\n  do:  {do}")

    def __reduce__(self) -> Any:  # by its parts, to be the same where another process raised it
        return partial(type(self), self.what, do=self.do, got=self.got), ()


class DataError(WhenceError):
    """A training set or query file that cannot be read."""


class ModelError(WhenceError):
    """A model, adapter or tokenizer that cannot be used."""


class OptionError(WhenceError):
    """A setting outside its range."""


class StoreError(WhenceError):
    """An index that is missing, unfinished, or made with other settings."""


class LabError(WhenceError):
    """A poison, fine-tuning, generation or judge that cannot go on."""
