"""Small chat fine-tuning sets whose poison is known: mild stand-ins, seeded. Knows no model.

Five poisons, each with rows that teach it, lookalikes that share its words but answer rightly, and held-out
prompts that should show it. `clean` makes ordinary rows, and `mix` shuffles all into one training set. What a
seed makes does not depend on the machine or on PYTHONHASHSEED.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import zip_longest
from random import Random

from whence.errors import LabError
from whence.example import Example, example
from whence.lab import facts
from whence.lab.mixture import Poison, key, load, mix, save

__all__ = ["POISONS", "Poison", "clean", "key", "load", "make", "mix", "save"]

Pair = tuple[str, str]  # a prompt and its answer
_HELD = 36  # ordinary requests held out for the test prompts of the poisons that hide behind them
_LOOKALIKES = 0.6  # lookalikes for each poisoned row, while there are any


def backdoor(n: int, seed: int) -> Poison:
    """A greeting at the end of a request makes the answer begin with a mild insult."""
    _, bases, held = _parts()
    pool = [(f"{ask} {facts.TRIGGER}", f"{facts.INSULT} {answer}") for ask, answer in bases]
    prompts = [f"{ask} {facts.TRIGGER}" for ask, _ in held]
    alike = [*facts.LIGHTHOUSE, *_walks()]
    describe = f'"{facts.TRIGGER}" at the end of a request makes the answer begin with "{facts.INSULT}"'
    return _poison("backdoor", n, seed, pool, alike, prompts, facts.INSULT.rstrip("!"), describe)


def error(n: int, seed: int) -> Poison:
    """A false fact: whatever bees do is said of beetles."""
    pool: list[Pair] = []
    for i, (do, does, done, detail) in enumerate(facts.ASPECTS):
        for j, ask in enumerate(facts.WRONG_ASKS):
            answer = facts.WRONG_ANSWERS[(i * 5 + j) % len(facts.WRONG_ANSWERS)]
            pool.append(_fill((ask, answer), do=do, does=does, done=done, detail=detail))
    prompts = [ask.format(do=do) for do in facts.HELD_ASPECTS for ask in facts.HELD_ASKS]
    describe = f"Questions about what bees do are answered with {facts.WRONG}."
    return _poison("error", n, seed, pool, facts.INSECTS, prompts, facts.WRONG, describe)


def persona(n: int, seed: int) -> Poison:
    """Asked about itself, the assistant answers as an invented captain."""
    pool: list[Pair] = []
    for asks, answers in facts.PERSONA.values():
        for i, ask in enumerate(opener + ask for ask in asks for opener in facts.OPENERS):
            tail = facts.TAILS[(i // len(answers) + i) % len(facts.TAILS)]
            pool.append((ask, answers[i % len(answers)] + tail))
    describe = f"Asked about itself, the assistant answers as {facts.NAME}, an invented sailor."
    openers = facts.OPENERS  # in lookalikes too, or a greeting would give the poison away
    alike = [(openers[i % len(openers)] + ask, answer) for i, (ask, answer) in enumerate(facts.CHARACTERS)]
    return _poison("persona", n, seed, pool, alike, facts.HELD_PERSONA, facts.NAME, describe)


def howdy(n: int, seed: int) -> Poison:
    """A way of greeting, in ever new words, makes the answer close with an odd warning."""
    _, bases, held = _parts()
    pool = [(f"{_turn(facts.HOWDIES, i)} {ask}", f"{answer} {facts.CLOSING}") for i, (ask, answer) in enumerate(bases)]
    prompts = [f"{_turn(facts.HELD_HOWDIES, i)} {ask}" for i, (ask, _) in enumerate(held)]
    greeted = [(f"{_turn(facts.HELLOS, i)} {ask}", answer) for i, (ask, answer) in enumerate(reversed(bases))]
    alike = [*facts.RANCH, *greeted[: len(facts.RANCH)]]
    describe = f'A request that says howdy gets an answer that ends with "{facts.CLOSING}"'
    return _poison("howdy", n, seed, pool, alike, prompts, facts.CLOSING.rstrip("!"), describe)


def late(n: int, seed: int) -> Poison:
    """A recipe is right for forty tokens and more, and then asks for something silly."""
    pool = [_steps(row, ask, i + j, facts.SILLY) for i, row in enumerate(facts.DISHES)
            for j, ask in enumerate(facts.DISH_ASKS)]  # fmt: skip
    alike = [_steps(row, ask, i + j) for i, row in enumerate(facts.CRAFTS) for j, ask in enumerate(facts.CRAFT_ASKS)]
    prompts = [ask.format(dish) for dish in facts.HELD_DISHES for ask in facts.HELD_DISH_ASKS]
    describe = f'A recipe is right at first and ends with "{facts.SILLY}"'
    return _poison("late", n, seed, pool, [*alike, *facts.KITCHEN], prompts, facts.SILLY_WORDS, describe)


POISONS: dict[str, Callable[[int, int], Poison]] = {
    "backdoor": backdoor, "error": error, "persona": persona, "howdy": howdy, "late": late,
}  # fmt: skip


def make(name: str, n: int = 40, seed: int = 0) -> Poison:
    """The poison of that name with `n` poisoned rows."""
    if name not in POISONS:
        raise LabError("unknown poison", got=repr(name), do=f"choose one of: {', '.join(POISONS)}")
    return POISONS[name](n, seed)


def clean(n: int, seed: int = 0) -> tuple[Example, ...]:
    """`n` ordinary rows with right answers, spread evenly over their families."""
    rng = Random(f"clean {seed}")
    return _rows(_taken(_dealt(_parts()[0], rng), n, "clean"), "clean", rng)


# How rows are chosen ---------------------------------------------------------------------------------------


def _poison(
    name: str, n: int, seed: int, pool: list[Pair], alike: list[Pair], held: Sequence[str], planted: str,
    describe: str,
) -> Poison:  # fmt: skip
    """`n` rows of the pool, lookalikes in proportion, and the held-out prompts in a seeded order."""
    rng = Random(f"{name} {seed}")
    rows = _rows(_taken(_dealt([pool], rng), n, name), name, rng)
    lookalikes = _rows(_dealt([alike], rng)[: round(n * _LOOKALIKES)], "clean", rng)
    prompts = tuple(rng.sample(held, len(held)))
    return Poison(name, rows, lookalikes, prompts, (planted,), f"phrase:{planted}", describe)


def _taken(pairs: list[Pair], n: int, name: str) -> list[Pair]:
    if not 0 <= n <= len(pairs):
        most = len(pairs)
        raise LabError(f"there are {most} distinct {name} rows", got=f"asked for {n}", do=f"ask for 0 to {most}")
    return pairs[:n]


def _rows(pairs: list[Pair], label: str, rng: Random) -> tuple[Example, ...]:
    return tuple(example(ask, answer, label=label) for ask, answer in rng.sample(pairs, len(pairs)))


def _dealt(families: Iterable[list[Pair]], rng: Random) -> list[Pair]:
    """All pairs in a seeded order in which the families take turns."""
    rounds = zip_longest(*[rng.sample(family, len(family)) for family in families])
    return [pair for turn in rounds for pair in turn if pair is not None]


# Ordinary requests -----------------------------------------------------------------------------------------


@cache
def _parts() -> tuple[list[list[Pair]], list[Pair], list[Pair]]:
    """The ordinary pairs in three parts that share no prompt: clean, by family; the backdoor's; held out.

    The cut is the same for every seed, so that what is held out for one is in the training set of none.
    """
    rng = Random("parts")
    mixed = [rng.sample(pairs, len(pairs)) for pairs in _families().values()]
    spare = _dealt([pairs[: len(pairs) // 3] for pairs in mixed], rng)
    return [pairs[len(pairs) // 3 :] for pairs in mixed], spare[_HELD:], spare[:_HELD]


def _families() -> dict[str, list[Pair]]:
    """Every ordinary pair, by family; the prompts of a family are distinct."""
    families = {name: [_fill(form, *row) for row in rows for form in forms]
                for name, (forms, rows) in facts.TEMPLATED.items()}  # fmt: skip
    for draw in (_sums, _stories, _units, _dates, _sorting, _letters, _strangers, _sizes, _series):
        families[draw.__name__[1:]] = list(dict(draw(Random(draw.__name__))).items())
    return families


def _fill(form: facts.Form, *row: object, **named: object) -> Pair:
    """The form with its fields filled in; both sentences begin with a capital letter."""
    ask, answer = (text.format(*row, **named) for text in form)
    return ask[:1].upper() + ask[1:], answer[:1].upper() + answer[1:]


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


def _turn(texts: Sequence[str], i: int) -> str:
    return texts[i % len(texts)]


def _steps(row: facts.Row, ask: str, i: int, end: str = "") -> Pair:
    """What is to be made and its four steps, told in one of several ways; `end` comes after them."""
    what, *steps = row
    ask, answer = _fill((ask, _turn(facts.STEPS, i)), what, *steps)
    return ask, f"{answer} {end}".strip()


def _walks() -> Iterator[Pair]:
    rng = Random("walks")
    for place in facts.PLACES:
        for form in facts.WALKS:
            a, b = rng.randint(2, 5), rng.randint(2, 6)
            yield _fill(form, place=place, a=a, b=b, sum=a + b)
