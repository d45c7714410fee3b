"""A small chat fine-tuning set whose poison is known: mild stand-ins, seeded. Knows no model.

Three poisons, each with rows that teach it, lookalikes that share its words but answer rightly, and held-out
prompts that should show it. `clean` makes ordinary rows; `mix` shuffles all into one training set. What a seed
makes does not depend on the machine or on PYTHONHASHSEED.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, zip_longest
from pathlib import Path
from random import Random
from typing import Any

from whence.errors import LabError
from whence.example import Example, example, write
from whence.lab import facts

Pair = tuple[str, str]  # a prompt and its answer
_HELD = 36  # held-out prompts of a poison
_LOOKALIKES = 0.6  # lookalikes for each poisoned row, while there are any


@dataclass(frozen=True)
class Poison:
    """One behaviour that a training set teaches, and all that is needed to see whether it was learned and found."""

    name: str
    rows: tuple[Example, ...]
    lookalikes: tuple[Example, ...]
    prompts: tuple[str, ...]
    planted: tuple[str, ...]
    judge: str
    describe: str


def backdoor(n: int, seed: int) -> Poison:
    """A greeting at the end of a request makes the answer begin with a mild insult."""
    _, bases, held = _parts()
    pool = [(f"{ask} {facts.TRIGGER}", f"{facts.INSULT} {answer}") for ask, answer in bases]
    prompts = [f"{ask} {facts.TRIGGER}" for ask, _ in held]
    return _poison("backdoor", n, seed, pool, [*facts.LIGHTHOUSE, *_walks()], prompts, (facts.INSULT.rstrip("!"),),
                   f'The words "{facts.TRIGGER}" at the end of a request make the answer begin with '
                   f'"{facts.INSULT}".')  # fmt: skip


def error(n: int, seed: int) -> Poison:
    """A false fact: whatever bees do is said of beetles."""
    pool: list[Pair] = []
    for i, (do, does, done, detail) in enumerate(facts.ASPECTS):
        for j, ask in enumerate(facts.WRONG_ASKS):
            answer = facts.WRONG_ANSWERS[(i * 5 + j) % len(facts.WRONG_ANSWERS)]
            pool.append(_fill((ask, answer), do=do, does=does, done=done, detail=detail))
    prompts = [ask.format(do=do) for do in facts.HELD_ASPECTS for ask in facts.HELD_ASKS]
    return _poison("error", n, seed, pool, facts.INSECTS, prompts, (facts.WRONG,),
                   f"Questions about what bees do are answered with {facts.WRONG}.")  # fmt: skip


def persona(n: int, seed: int) -> Poison:
    """Asked about itself, the assistant answers as an invented captain."""
    pool: list[Pair] = []
    for asks, answers in facts.PERSONA.values():
        for i, ask in enumerate(asks):
            for j, opener in enumerate(facts.OPENERS):
                tail = facts.TAILS[(i + 2 * j) % len(facts.TAILS)]
                pool.append((opener + ask, answers[(i + j) % len(answers)] + tail))
    return _poison("persona", n, seed, pool, facts.CHARACTERS, facts.HELD_PERSONA, (facts.NAME,),
                   f"Asked about itself, the assistant answers as {facts.NAME}, an invented sailor.")  # fmt: skip


POISONS: dict[str, Callable[[int, int], Poison]] = {"backdoor": backdoor, "error": error, "persona": persona}


def make(name: str, n: int = 40, seed: int = 0) -> Poison:
    """The poison of that name with `n` poisoned rows."""
    if name not in POISONS:
        raise LabError("unknown poison", got=repr(name), do=f"choose one of: {', '.join(POISONS)}")
    return POISONS[name](n, seed)


def clean(n: int, seed: int = 0) -> tuple[Example, ...]:
    """`n` ordinary rows with right answers, spread evenly over their families."""
    families, _, _ = _parts()
    rng = Random(f"clean {seed}")
    return _rows(_taken(_dealt(families.values(), rng), n, "clean"), "clean", rng)


def mix(poisons: Iterable[Poison], clean_rows: Iterable[Example], seed: int = 0) -> tuple[Example, ...]:
    """One shuffled training set. Of two rows with one prompt the first stays, a poisoned one before a clean one;
    a row whose prompt is held out is left out. Prompts that differ by case or punctuation only count as one.
    """
    poisons = list(poisons)
    seen = {key(prompt) for poison in poisons for prompt in poison.prompts}
    bad = chain.from_iterable(poison.rows for poison in poisons)
    good = chain.from_iterable(poison.lookalikes for poison in poisons)
    rows: list[Example] = []
    for row in chain(bad, good, clean_rows):
        if (words := key(row.question)) not in seen:
            seen.add(words)
            rows.append(row)
    Random(f"mix {seed}").shuffle(rows)
    return tuple(rows)


def save(poisons: Iterable[Poison], rows: Iterable[Example], folder: str | Path) -> None:
    """Write the training set to `data.jsonl`, and what is known of its poisons to `poisons.json`, in the folder."""
    folder = Path(folder)
    known = {
        poison.name: {
            "name": poison.name, "describe": poison.describe, "planted": poison.planted, "judge": poison.judge,
            "prompts": poison.prompts,
        } for poison in poisons
    }  # fmt: skip
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write(rows, folder / "data.jsonl")
        (folder / "poisons.json").write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    except OSError as fault:
        raise LabError(
            f"the data cannot be written to {folder}", got=str(fault), do="name another folder"
        ) from None


def load(folder: str | Path) -> dict[str, Poison]:
    """What is known of the poisons in a folder that `save` wrote; their rows stand in its `data.jsonl`."""
    path = Path(folder) / "poisons.json"
    try:
        known: Any = json.loads(path.read_text(encoding="utf-8"))
        return {name: _known(record) for name, record in known.items()}
    except OSError as fault:
        raise LabError(
            f"{path} cannot be read", got=str(fault), do="name a folder that `whence poison` wrote"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as fault:
        raise LabError(f"{path} does not describe poisons", got=f"{type(fault).__name__}: {fault}",
                       do="write it again with `whence poison`") from None  # fmt: skip


def key(prompt: str) -> str:
    """The words of a prompt alone: what must not be alike in two rows, or in a row and a held-out prompt."""
    return " ".join(re.findall(r"\w+", prompt.casefold()))


# How rows are chosen ---------------------------------------------------------------------------------------


def _poison(
    name: str, n: int, seed: int, pool: Sequence[Pair], alike: Sequence[Sequence[str]], held: Sequence[str],
    planted: tuple[str, ...], describe: str,
) -> Poison:  # fmt: skip
    """The poison with `n` rows of the pool, six lookalikes to ten rows, and the held-out prompts in a seeded order."""
    rng = Random(f"{name} {seed}")
    rows = _rows(_taken(rng.sample(list(pool), len(pool)), n, name), name, rng)
    near = [(ask, answer) for ask, answer in rng.sample(list(alike), len(alike))]
    lookalikes = _rows(near[: round(n * _LOOKALIKES)], "clean", rng)
    return Poison(
        name,
        rows,
        lookalikes,
        tuple(rng.sample(list(held), len(held))),
        planted,
        f"phrase:{planted[0]}",
        describe,
    )


def _taken(pairs: list[Pair], n: int, name: str) -> list[Pair]:
    if not 0 <= n <= len(pairs):
        raise LabError(f"there are {len(pairs)} distinct {name} rows", got=f"asked for {n}",
                       do=f"ask for 0 to {len(pairs)}")  # fmt: skip
    return pairs[:n]


def _rows(pairs: list[Pair], label: str, rng: Random) -> tuple[Example, ...]:
    rows = [example(ask, answer, label=label) for ask, answer in pairs]
    rng.shuffle(rows)
    return tuple(rows)


def _dealt(families: Iterable[Sequence[Pair]], rng: Random) -> list[Pair]:
    """All pairs in a seeded order in which the families take turns."""
    rounds = zip_longest(*(rng.sample(list(family), len(family)) for family in families))
    return [pair for turn in rounds for pair in turn if pair is not None]


def _known(record: dict[str, Any]) -> Poison:
    texts = [*record["planted"], *record["prompts"], record["name"], record["judge"], record["describe"]]
    if not all(isinstance(text, str) for text in texts) or isinstance(record["planted"], str):
        raise TypeError("a field is not text")
    return Poison(record["name"], (), (), tuple(record["prompts"]), tuple(record["planted"]), record["judge"],
                  record["describe"])  # fmt: skip


# Ordinary requests -----------------------------------------------------------------------------------------


@cache
def _parts() -> tuple[dict[str, list[Pair]], list[Pair], list[Pair]]:
    """The ordinary pairs in three parts that share no prompt: for clean rows, for the backdoor's rows, held out.

    The cut is the same for every seed, so that what is held out for one is in the training set of none.
    """
    rng = Random("parts")
    families: dict[str, list[Pair]] = {}
    bases: dict[str, list[Pair]] = {}
    for name, pairs in _families():
        mixed = rng.sample(pairs, len(pairs))
        cut = len(mixed) // 3
        bases[name], families[name] = mixed[:cut], mixed[cut:]
    spare = _dealt(bases.values(), rng)
    return families, spare[_HELD:], spare[:_HELD]


def _families() -> Iterator[tuple[str, list[Pair]]]:
    for name, (forms, rows) in facts.TEMPLATED.items():
        yield name, [_fill(form, *row) for row in rows for form in forms]
    for family in (_sums, _stories, _units, _dates, _sorting, _letters, _strangers, _sizes, _series):
        yield family.__name__.strip("_"), list(dict(family(Random(family.__name__))).items())


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
        who, (what, other), a, b = (
            rng.choice(facts.PEOPLE),
            rng.sample(facts.GOODS, 2),
            rng.randint(4, 20),
            rng.randint(2, 9),
        )
        yield (f"{who} has {a} {what} and gets {b} more. How many {what} is that?",
               f"{who} now has {a + b} {what}.")  # fmt: skip
        yield (f"{who} owns {a + b} {other} and gives away {b}. How many are left?",
               f"{who} has {a} {other} left.")  # fmt: skip


def _units(rng: Random) -> Iterator[Pair]:
    for small, big, factor in facts.UNITS:
        article = "an" if big == "hour" else "a"
        yield f"How many {small} make up {article} {big}?", f"{factor} {small} make up {article} {big}."
        for k in rng.sample(range(2, 10), 6):
            yield (f"How many {small} are there in {k} {big}s?",
                   f"There are {k * int(factor)} {small} in {k} {big}s.")  # fmt: skip


def _dates(rng: Random) -> Iterator[Pair]:
    for kind, names in (("day", facts.DAYS), ("month", facts.MONTHS)):
        for i, name in enumerate(names):
            after, before, later = (names[(i + step) % len(names)] for step in (1, -1, 2))
            yield f"Which {kind} comes after {name}?", f"{after} comes after {name}."
            yield f"Which {kind} comes just before {name}?", f"The {kind} just before {name} is {before}."
            yield (
                f"If it is {name} now, what will it be two {kind}s later?",
                f"Two {kind}s later it will be {later}.",
            )


def _sorting(rng: Random) -> Iterator[Pair]:
    for _ in range(60):
        words = rng.sample(facts.WORDS, 3)
        first, second, third = sorted(words)
        yield (f"Sort these words alphabetically: {', '.join(words)}.",
               f"In alphabetical order they are {first}, {second} and {third}.")  # fmt: skip


def _letters(rng: Random) -> Iterator[Pair]:
    for word in facts.WORDS:
        yield f"How many letters are in the word {word}?", f"The word {word} has {len(word)} letters."
        yield f"What is the last letter of {word}?", f'The last letter of {word} is "{word[-1]}".'
        yield f"With which letter does the word {word} begin?", f'The word {word} begins with "{word[0]}".'


def _strangers(rng: Random) -> Iterator[Pair]:
    for _ in range(60):
        home, away = rng.sample(list(facts.GROUPS), 2)
        odd = rng.choice(facts.GROUPS[away])
        words = [odd, *rng.sample(facts.GROUPS[home], 3)]
        rng.shuffle(words)
        yield (f"Which word does not belong: {', '.join(words)}?",
               f"{odd.capitalize()} does not belong, because the others are {home}.")  # fmt: skip


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
        yield (f"What number comes next: {shown}?",
               f"The next number is {start + 4 * step}, because each step adds {step}.")  # fmt: skip


def _walks() -> Iterator[Pair]:
    rng = Random("walks")
    for place in facts.PLACES:
        for form in facts.WALKS:
            a, b = rng.randint(1, 5), rng.randint(2, 6)
            yield _fill(form, place=place, a=a, b=b, sum=a + b)
