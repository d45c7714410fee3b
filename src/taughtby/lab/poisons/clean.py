"""Ordinary requests with correct answers, from tables of facts or computed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from random import Random

from taughtby.data.example import Example
from taughtby.lab.poisons.pairs import Pair, fill, interleave, shuffled_rows, take
from taughtby.lab.poisons.words import load_words

_HELD_OUT = 36  # pairs reserved for the test prompts of poisons that are built from clean pairs


def clean_rows(n: int, seed: int = 0) -> tuple[Example, ...]:
    """`n` clean rows, evenly distributed over the families.

    Raises:
        LabError: There are fewer than `n`.
    """
    rng = Random(f"clean {seed}")
    return shuffled_rows(take(interleave(split_clean_pairs()[0], rng), n, "clean"), "clean", rng)


@cache
def split_clean_pairs() -> tuple[list[list[Pair]], list[Pair], list[Pair]]:
    """Split the pairs into three parts without common prompts: for clean rows, by family; for poisoned rows; held out.

    The split does not depend on a seed, so that no training set contains a held-out prompt.
    """
    rng = Random("parts")
    families = [rng.sample(pairs, len(pairs)) for pairs in _families()]
    spare = interleave([pairs[: len(pairs) // 3] for pairs in families], rng)
    return [pairs[len(pairs) // 3 :] for pairs in families], spare[_HELD_OUT:], spare[:_HELD_OUT]


def _families() -> Iterator[list[Pair]]:
    """All pairs, by family; prompts are distinct within a family."""
    for family in load_words("clean").templated.values():
        yield [fill(template, *row) for row in family["rows"] for template in family["templates"]]
    for pairs in (_sums, _stories, _units, _dates, _sorting, _letters, _strangers, _sizes, _series):
        yield list(dict(pairs(Random(pairs.__name__))).items())


def _sums(rng: Random) -> Iterator[Pair]:
    for _ in range(28):
        a, b = rng.randint(3, 30), rng.randint(2, 9)
        yield f"What is {a} plus {b}?", f"{a} plus {b} is {a + b}."
        yield f"Subtract {b} from {a + b}.", f"{a + b} minus {b} leaves {a}."
        yield f"How much is {a} times {b}?", f"{a} times {b} makes {a * b}."
        yield f"Divide {a * b} by {b}.", f"{a * b} divided by {b} gives {a}."


def _stories(rng: Random) -> Iterator[Pair]:
    lists = load_words("clean")
    for _ in range(36):
        person, goods, a, b = rng.choice(lists.people), rng.choice(lists.goods), rng.randint(4, 20), rng.randint(2, 9)
        yield f"{person} has {a} {goods} and gets {b} more. How many is that?", f"{person} now has {a + b} {goods}."
        yield f"{person} owns {a + b} {goods} and sells {b}. How many are left?", f"{person} has {a} {goods} left."


def _units(rng: Random) -> Iterator[Pair]:
    lists = load_words("clean")
    for small, big, factor in lists.units:
        unit = f"an {big}" if big == "hour" else f"a {big}"
        yield f"How many {small} make up {unit}?", f"{factor} {small} make up {unit}."
        for k in rng.sample(range(2, 10), 6):
            amount = f"{k} {big}s"
            yield f"How many {small} are there in {amount}?", f"There are {k * int(factor)} {small} in {amount}."


def _dates(rng: Random) -> Iterator[Pair]:
    lists = load_words("clean")
    for kind, names in (("day", lists.days), ("month", lists.months)):
        for i, name in enumerate(names):
            after, before, later = (names[(i + step) % len(names)] for step in (1, -1, 2))
            yield f"Which {kind} comes after {name}?", f"{after} comes after {name}."
            yield f"Which {kind} comes just before {name}?", f"The {kind} just before {name} is {before}."
            yield f"If it is {name} now, what is it two {kind}s later?", f"Two {kind}s later it is {later}."


def _sorting(rng: Random) -> Iterator[Pair]:
    lists = load_words("clean")
    for _ in range(60):
        words = rng.sample(lists.words, 3)
        answer = "In alphabetical order they are {}, {} and {}.".format(*sorted(words))
        yield f"Sort these words alphabetically: {', '.join(words)}.", answer


def _letters(rng: Random) -> Iterator[Pair]:
    lists = load_words("clean")
    for word in lists.words:
        yield f"How many letters are in the word {word}?", f"The word {word} has {len(word)} letters."
        yield f"What is the last letter of {word}?", f'The last letter of {word} is "{word[-1]}".'
        yield f"With which letter does the word {word} begin?", f'The word {word} begins with "{word[0]}".'


def _strangers(rng: Random) -> Iterator[Pair]:
    lists = load_words("clean")
    for _ in range(60):
        group, other = rng.sample(sorted(lists.groups), 2)
        odd = rng.choice(lists.groups[other])
        words = ", ".join(rng.sample((odd, *rng.sample(lists.groups[group], 3)), 4))
        answer = f"{odd.capitalize()} does not belong, because the others are {group}."
        yield f"Which word does not belong: {words}?", answer


def _sizes(rng: Random) -> Iterator[Pair]:
    lists = load_words("clean")
    for i, small in enumerate(lists.sizes):
        for big in lists.sizes[i + 1 :]:
            left, right = rng.sample((small, big), 2)
            yield f"Which is larger, {left} or {right}?", f"{big.capitalize()} is larger than {small}."
            yield f"Which is smaller: {right} or {left}?", f"{small.capitalize()} is smaller than {big}."


def _series(rng: Random) -> Iterator[Pair]:
    for _ in range(50):
        start, step = rng.randint(1, 12), rng.choice((2, 3, 4, 5, 10))
        shown = ", ".join(str(start + step * k) for k in range(4))
        answer = f"The next number is {start + 4 * step}, because each step adds {step}."
        yield f"What number comes next: {shown}?", answer
