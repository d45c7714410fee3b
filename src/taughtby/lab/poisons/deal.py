"""Rows dealt from pairs of a prompt and its answer, in an order that a seed gives. Knows not what they say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from random import Random

from taughtby.data.example import Example, make_example
from taughtby.errors import LabError
from taughtby.lab.poisons.mixture import Poison

Pair = tuple[str, str]  # a prompt and its answer, or a form of them with fields in braces


def deal(
    name: str, n: int, seed: int, pool: list[Pair], alike: Sequence[list[Pair]], beside: int, *,
    prompts: Sequence[str], planted: Sequence[str], judge: str, describe: str,
) -> Poison:  # fmt: skip
    """`n` rows of the pool, `beside` lookalikes of families that take turns, and the prompts in a seeded order."""
    rng = Random(f"{name} {seed}")
    rows = shuffled(taken(dealt([pool], rng), n, name), name, rng)
    lookalikes = shuffled(dealt(alike, rng)[:beside], "clean", rng)
    return Poison(name, rows, lookalikes, tuple(rng.sample(prompts, len(prompts))), tuple(planted), judge, describe)


def taken(pairs: list[Pair], n: int, name: str) -> list[Pair]:
    """The first `n`; a LabError where there are fewer."""
    if not 0 <= n <= len(pairs):
        most = len(pairs)
        raise LabError(f"there are {most} distinct {name} rows", got=f"asked for {n}", do=f"ask for 0 to {most}")
    return pairs[:n]


def shuffled(pairs: list[Pair], label: str, rng: Random) -> tuple[Example, ...]:
    """The pairs as rows with that label."""
    return tuple(make_example(ask, answer, label=label) for ask, answer in rng.sample(pairs, len(pairs)))


def dealt(families: Iterable[list[Pair]], rng: Random) -> list[Pair]:
    """All pairs in a seeded order in which the families take turns."""
    rounds = zip_longest(*[rng.sample(family, len(family)) for family in families])
    return [pair for turn in rounds for pair in turn if pair is not None]


def fill(form: Pair, *row: object, **named: object) -> Pair:
    """The form with its fields filled in; both sentences begin with a capital letter."""
    ask, answer = (text.format(*row, **named) for text in form)
    return ask[:1].upper() + ask[1:], answer[:1].upper() + answer[1:]
