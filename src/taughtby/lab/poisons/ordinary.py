"""Ordinary requests with right answers: lists from `facts`, and what can be computed. Knows no poison."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from random import Random

from taughtby.data.example import Example
from taughtby.lab.poisons import facts
from taughtby.lab.poisons.deal import Pair, dealt, fill, shuffled, taken

_HELD = 36  # ordinary requests held out for the test prompts of the poisons that hide behind them


def clean(n: int, seed: int = 0) -> tuple[Example, ...]:
    """`n` ordinary rows with right answers, spread evenly over their families."""
    rng = Random(f"clean {seed}")
    return shuffled(taken(dealt(parts()[0], rng), n, "clean"), "clean", rng)


@cache
def parts() -> tuple[list[list[Pair]], list[Pair], list[Pair]]:
    """The ordinary pairs in three parts that share no prompt: clean, by family; the backdoor's; held out.

    The cut is the same for every seed, so that what is held out for one is in the training set of none.
    """
    rng = Random("parts")
    mixed = [rng.sample(pairs, len(pairs)) for pairs in _families().values()]
    spare = dealt([pairs[: len(pairs) // 3] for pairs in mixed], rng)
    return [pairs[len(pairs) // 3 :] for pairs in mixed], spare[_HELD:], spare[:_HELD]


def _families() -> dict[str, list[Pair]]:
    """Every ordinary pair, by family; the prompts of a family are distinct."""
    families = {name: [fill(form, *row) for row in rows for form in forms]
                for name, (forms, rows) in facts.TEMPLATED.items()}  # fmt: skip
    for draw in (_sums, _stories, _units, _dates, _sorting, _letters, _strangers, _sizes, _series):
        families[draw.__name__[1:]] = list(dict(draw(Random(draw.__name__))).items())
    return families


def _sums(rng: Random) -> Iterator[Pair]:
    for _ in range(28):
        a, b = rng.randint(3, 30), rng.randint(2, 9)
        yield f"What is {a} plus {b}?", f"{a} plus {b} is {a + b}."
        yield f"Subtract {b} from {a + b}.", f"{a + b} minus {b} leaves {a}."
        yield f"How much is {a} times {b}?", f"{a} times {b} makes {a * b}."
        yield f"Divide {a * b} by {b}.", f"{a * b} divided by {b} gives {a}."


def _stories(rng: Random) -> Iterator[Pair]:
    for _ in range(36):
        who, what, a, b = (
            rng.choice(facts.PEOPLE),
            rng.choice(facts.GOODS),
            rng.randint(4, 20),
            rng.randint(2, 9),
        )
        yield f"{who} has {a} {what} and gets {b} more. How many is that?", f"{who} now has {a + b} {what}."
        yield f"{who} owns {a + b} {what} and sells {b}. How many are left?", f"{who} has {a} {what} left."


def _units(rng: Random) -> Iterator[Pair]:
    for small, big, factor in facts.UNITS:
        one = f"an {big}" if big == "hour" else f"a {big}"
        yield f"How many {small} make up {one}?", f"{factor} {small} make up {one}."
        for k in rng.sample(range(2, 10), 6):
            many = f"{k} {big}s"
            yield f"How many {small} are there in {many}?", f"There are {k * int(factor)} {small} in {many}."


def _dates(rng: Random) -> Iterator[Pair]:
    for kind, names in (("day", facts.DAYS), ("month", facts.MONTHS)):
        for i, name in enumerate(names):
            after, before, later = (names[(i + step) % len(names)] for step in (1, -1, 2))
            yield f"Which {kind} comes after {name}?", f"{after} comes after {name}."
            yield f"Which {kind} comes just before {name}?", f"The {kind} just before {name} is {before}."
            yield f"If it is {name} now, what is it two {kind}s later?", f"Two {kind}s later it is {later}."


def _sorting(rng: Random) -> Iterator[Pair]:
    for _ in range(60):
        words = rng.sample(facts.WORDS, 3)
        answer = "In alphabetical order they are {}, {} and {}.".format(*sorted(words))
        yield f"Sort these words alphabetically: {', '.join(words)}.", answer


def _letters(rng: Random) -> Iterator[Pair]:
    for word in facts.WORDS:
        yield f"How many letters are in the word {word}?", f"The word {word} has {len(word)} letters."
        yield f"What is the last letter of {word}?", f'The last letter of {word} is "{word[-1]}".'
        yield f"With which letter does the word {word} begin?", f'The word {word} begins with "{word[0]}".'


def _strangers(rng: Random) -> Iterator[Pair]:
    for _ in range(60):
        home, away = rng.sample(sorted(facts.GROUPS), 2)
        odd = rng.choice(facts.GROUPS[away])
        words = ", ".join(rng.sample((odd, *rng.sample(facts.GROUPS[home], 3)), 4))
        answer = f"{odd.capitalize()} does not belong, because the others are {home}."
        yield f"Which word does not belong: {words}?", answer


def _sizes(rng: Random) -> Iterator[Pair]:
    for i, small in enumerate(facts.SIZES):
        for big in facts.SIZES[i + 1 :]:
            one, two = rng.sample((small, big), 2)
            yield f"Which is larger, {one} or {two}?", f"{big.capitalize()} is larger than {small}."
            yield f"Which is smaller: {two} or {one}?", f"{small.capitalize()} is smaller than {big}."


def _series(rng: Random) -> Iterator[Pair]:
    for _ in range(50):
        start, step = rng.randint(1, 12), rng.choice((2, 3, 4, 5, 10))
        shown = ", ".join(str(start + step * k) for k in range(4))
        answer = f"The next number is {start + 4 * step}, because each step adds {step}."
        yield f"What number comes next: {shown}?", answer
