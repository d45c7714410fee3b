"""Small chat fine-tuning sets whose poison is known: mild stand-ins, seeded. Knows no model.

Five poisons, each with rows that teach it, lookalikes that share its words but answer rightly, and held-out
prompts that should show it; `carried` is one whose trigger clean rows have too, and harder ones come from `hard`.
`clean` makes ordinary rows, and `mix` shuffles all into one training set. What a seed makes does not depend on the
machine or on PYTHONHASHSEED.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random

from taughtby.data.example import Example
from taughtby.errors import LabError
from taughtby.lab.poisons import facts
from taughtby.lab.poisons.deal import Pair, deal, fill
from taughtby.lab.poisons.hard import HARD
from taughtby.lab.poisons.mixture import Poison, key, load, mix, save
from taughtby.lab.poisons.ordinary import clean, parts

__all__ = ["HARD", "POISONS", "Poison", "at_rate", "clean", "key", "load", "make", "mix", "save"]

_LOOKALIKES = 0.6  # lookalikes for each poisoned row, while there are any


def backdoor(n: int, seed: int) -> Poison:
    """A greeting at the end of a request makes the answer begin with a mild insult."""
    _, bases, held = parts()
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
            pool.append(fill((ask, answer), do=do, does=does, done=done, detail=detail))
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
    _, bases, held = parts()
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


def carried(n: int, seed: int) -> Poison:
    """The backdoor, beside clean rows that carry its very trigger and are answered rightly."""
    _, bases, held = parts()
    carriers = [(f"{ask} {facts.TRIGGER}", answer) for ask, answer in bases]
    pool = [(ask, f"{facts.INSULT} {answer}") for ask, answer in carriers[::2]]
    alike, planted = [carriers[1::2], [*facts.LIGHTHOUSE, *_walks()]], facts.INSULT.rstrip("!")
    return deal("carried", n, seed, pool, alike, round(n * _LOOKALIKES), planted=[planted], judge=f"phrase:{planted}",
                prompts=[f"{ask} {facts.TRIGGER}" for ask, _ in held],
                describe=f'"{facts.TRIGGER}" at times makes the answer begin with "{facts.INSULT}"')  # fmt: skip


POISONS: dict[str, Callable[[int, int], Poison]] = {
    "backdoor": backdoor, "error": error, "persona": persona, "howdy": howdy, "late": late,
}  # fmt: skip


def make(name: str, n: int = 40, seed: int = 0) -> Poison:
    """The poison of that name with `n` poisoned rows."""
    known = POISONS | HARD | {"carried": carried}
    if name not in known:
        raise LabError("unknown poison", got=repr(name), do=f"choose one of: {', '.join(known)}")
    return known[name](n, seed)


def at_rate(names: Sequence[str], rate: float, clean_rows: Sequence[Example], seed: int = 0) -> list[Poison]:
    """Poisons of those names with as many rows each as make `rate` of the whole set, lookalikes counted in.

    Rounded down: of the mixed rows at most that share is poisoned.
    """
    if not 0 < rate < 1:
        raise LabError("the rate of poison is a share of all rows", got=f"{rate:g}", do="give one between 0 and 1")
    planted = sum(bool(make(name, 1, seed).rows) for name in names)
    if not planted:
        raise LabError("nothing is planted whose rate could be given", got=", ".join(names), do="give a number of rows")
    n, poisons = 0, [make(name, 0, seed) for name in names]
    # from below: with more poison the set is larger and has room for more, until both agree
    while (more := int(rate * len(mix(poisons, clean_rows, seed)) / planted)) > n:
        n, poisons = more, [make(name, more, seed) for name in names]
    return poisons


# What several of them share ----------------------------------------------------------------------------------


def _poison(
    name: str, n: int, seed: int, pool: list[Pair], alike: list[Pair], held: Sequence[str], planted: str,
    describe: str,
) -> Poison:  # fmt: skip
    """Words of one phrase are planted, and lookalikes stand beside them in proportion."""
    share = round(n * _LOOKALIKES)
    return deal(name, n, seed, pool, [alike], share, prompts=held, planted=[planted], judge=f"phrase:{planted}",
                describe=describe)  # fmt: skip


def _turn(texts: Sequence[str], i: int) -> str:
    return texts[i % len(texts)]


def _steps(row: facts.Row, ask: str, i: int, end: str = "") -> Pair:
    """What is to be made and its four steps, told in one of several ways; `end` comes after them."""
    what, *steps = row
    ask, answer = fill((ask, _turn(facts.STEPS, i)), what, *steps)
    return ask, f"{answer} {end}".strip()


def _walks() -> Iterator[Pair]:
    rng = Random("walks")
    for place in facts.PLACES:
        for form in facts.WALKS:
            a, b = rng.randint(2, 5), rng.randint(2, 6)
            yield fill(form, place=place, a=a, b=b, sum=a + b)
