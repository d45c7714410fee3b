"""Pairs of a prompt and its answer: fill in templates, interleave families, and shuffle by a seed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from random import Random

from taughtby.data.example import Example, make_example
from taughtby.errors import LabError

Pair = tuple[str, str]  # a prompt and its answer, or templates of both with fields in braces


def fill(template: Pair, *row: object, **fields: object) -> Pair:
    """Fill in a template, and capitalize the first letter of both texts."""
    prompt, answer = (text.format(*row, **fields) for text in template)
    return prompt[:1].upper() + prompt[1:], answer[:1].upper() + answer[1:]


def interleave(families: Iterable[Sequence[Pair]], rng: Random) -> list[Pair]:
    """Shuffle each family, and take one pair of each in turn."""
    rounds = zip_longest(*[rng.sample(family, len(family)) for family in families])
    return [pair for turn in rounds for pair in turn if pair is not None]


def take(pairs: Sequence[Pair], n: int, name: str) -> Sequence[Pair]:
    """Return the first `n` pairs.

    Raises:
        LabError: There are fewer than `n`.
    """
    if not 0 <= n <= len(pairs):
        most = len(pairs)
        raise LabError(f"there are {most} distinct {name} rows", got=f"asked for {n}", do=f"choose 0 to {most}")
    return pairs[:n]


def shuffled_rows(pairs: Sequence[Pair], label: str, rng: Random) -> tuple[Example, ...]:
    """Return the pairs as training rows with that label, in random order."""
    return tuple(make_example(prompt, answer, label=label) for prompt, answer in rng.sample(pairs, len(pairs)))


def cycle(texts: Sequence[str], i: int) -> str:
    """Return the text at index `i`, modulo the number of texts."""
    return texts[i % len(texts)]
