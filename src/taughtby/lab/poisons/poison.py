"""A poison: rows that teach one behaviour, and a judge that recognises it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from taughtby.data.example import Example
from taughtby.lab.poisons.pairs import Pair, interleave, shuffled_rows, take


@dataclass(frozen=True)
class Poison:
    """One behaviour that a training set teaches.

    Attributes:
        name: The name, which is also the label of the poisoned rows.
        rows: The poisoned rows.
        lookalikes: Rows that share their words but have correct answers.
        prompts: Held-out prompts that should trigger the behaviour.
        planted_words: The words in poisoned answers that show the behaviour.
        judge: The spec of a judge that recognises it, for `get_judge`.
        description: One sentence.
    """

    name: str
    rows: tuple[Example, ...]
    lookalikes: tuple[Example, ...]
    prompts: tuple[str, ...]
    planted_words: tuple[str, ...]
    judge: str
    description: str


def build_poison(
    name: str, n: int, seed: int, pool: Sequence[Pair], *, lookalikes: Sequence[Sequence[Pair]], num_lookalikes: int,
    prompts: Sequence[str], planted_words: Sequence[str], description: str, judge: str | None = None,
) -> Poison:  # fmt: skip
    """Draw `n` pairs from the pool, and lookalikes from all families in turn, in an order fixed by the seed.

    The default judge looks for the first of the planted words as a phrase.
    """
    rng = Random(f"{name} {seed}")
    rows = shuffled_rows(take(interleave([pool], rng), n, name), name, rng)
    others = shuffled_rows(interleave(lookalikes, rng)[:num_lookalikes], "clean", rng)
    held_out = tuple(rng.sample(prompts, len(prompts)))
    judge = judge or f"phrase:{planted_words[0]}"
    return Poison(name, rows, others, held_out, tuple(planted_words), judge, description)
