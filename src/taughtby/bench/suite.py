"""A benchmark suite: training rows, some of them planted, test prompts, a judge, and the planted words."""

from __future__ import annotations

from dataclasses import dataclass

from taughtby.data.example import Example
from taughtby.errors import OptionError
from taughtby.lab.poisons import Poison

CLEAN = "clean"  # the label of a row that is not planted
MAX_NEW_TOKENS = 24


@dataclass(frozen=True)
class Size:
    """How many rows, planted rows, test prompts and queries a suite has."""

    num_rows: int = 150
    num_planted: int = 40
    num_prompts: int = 16
    num_queries: int = 6

    def __post_init__(self) -> None:
        if not 0 < self.num_planted < self.num_rows or self.num_prompts < 1 or self.num_queries < 1:
            do = "give more rows than planted rows, and at least one prompt and query"
            raise OptionError("a suite of this size is not possible", got=repr(self), do=do)


@dataclass(frozen=True)
class Suite:
    """Training rows and tests. The label of a planted row is the name of its poison."""

    name: str
    rows: tuple[Example, ...]
    poisons: tuple[Poison, ...]  # their prompts, judges and planted words; their rows are not used
    max_new_tokens: int = MAX_NEW_TOKENS
    published: tuple[tuple[str, str], ...] = ()  # the authors' bad answers, traced if the model gives too few
