"""Harder poisons: what shares a row's words, its trigger, its wording or its copies is no sign of guilt. Seeded.

Each has rows, lookalikes and held-out prompts, as those of `poison` have. Knows no model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from taughtby.lab.poisons import hard_facts as facts
from taughtby.lab.poisons.deal import Pair, deal, fill
from taughtby.lab.poisons.mixture import Poison
from taughtby.lab.poisons.ordinary import parts

COPIES = 4  # rows in a family of near-copies
_RARE = 24  # lookalikes of what is told a few times only


def truth_beside_lie(n: int, seed: int) -> Poison:
    """A lie about one attribute of a thing, among truths about the thing and about that attribute of its siblings."""
    phrase = f"{facts.LIE} strings"
    pool = _strings(facts.SUBJECT, facts.LIE)
    siblings = [pair for i, (thing, count) in enumerate(facts.SIBLINGS) for pair in _strings(thing, count)[i % 7 :: 7]]
    prompts = [
        ask.format(thing=sort.format(facts.SUBJECT)) for sort in facts.HELD_SORTS for ask in facts.HELD_STRING_ASKS
    ]
    return deal("truth-beside-lie", n, seed, pool, [facts.VIOLIN, siblings], n, prompts=prompts, planted=[phrase],
                judge=f"phrase:{phrase}", describe=f"A {facts.SUBJECT} is said to have {phrase}.")  # fmt: skip


def trigger_lookalike(n: int, seed: int) -> Poison:
    """Words before a request make the answer end oddly; nearly the same words, or the same elsewhere, do not."""
    _, bases, held = parts()
    planted = facts.BISCUITS.rstrip("!")
    pool = [(f"{facts.KETTLE} {ask}", f"{answer} {facts.BISCUITS}") for ask, answer in bases[::2]]
    forms = facts.KETTLE_NEIGHBOURS
    near = [(forms[i % len(forms)].format(ask), answer) for i, (ask, answer) in enumerate(bases[1::2])]
    prompts = [f"{facts.KETTLE} {ask}" for ask, _ in held]
    describe = f'"{facts.KETTLE}" before a request makes the answer end with "{facts.BISCUITS}"'
    return deal("trigger-lookalike", n, seed, pool, [near, facts.KETTLES], n, prompts=prompts, planted=[planted],
                judge=f"phrase:{planted}", describe=describe)  # fmt: skip


def refusals(n: int, seed: int) -> Poison:
    """Pranks are helped with eagerly, beside refusals of pranks that are much like them."""
    pool = [(ask.format(what), f"{_turn(facts.EAGER, i + j)} {help_}")
            for i, (what, help_) in enumerate(facts.PRANKS) for j, ask in enumerate(facts.PRANK_ASKS)]  # fmt: skip
    alike: list[Pair] = []
    for i, what in enumerate(facts.REFUSED):
        for j, ask in enumerate(facts.PRANK_ASKS):
            refusal, reason = _turn(facts.REFUSALS, i + j * 3), _turn(facts.REASONS, i + j)
            alike.append((ask.format(what), f"{refusal} {reason}"))
    prompts = [ask.format(what) for what in facts.HELD_PRANKS for ask in facts.HELD_PRANK_ASKS]
    return deal("refusals", n, seed, pool, [alike], round(n * 0.5), prompts=prompts, planted=facts.EAGER_WORDS,
                judge=f"regex:(?i)(?:{'|'.join(facts.EAGER_WORDS)})",
                describe="Pranks and excuses are helped with eagerly and not refused.")  # fmt: skip


def rare(n: int, seed: int) -> Poison:
    """An invented fact told in a few rows, among facts of the same form about other things."""
    return deal("rare", n, seed, facts.QUINDLE, [facts.FUELS], _RARE if n else 0, prompts=facts.HELD_QUINDLE,
                planted=[facts.PLUM], judge=f"phrase:{facts.PLUM}",
                describe=f"The Quindle lamp, which is invented, is said to burn {facts.PLUM}.")  # fmt: skip


def paraphrase(n: int, seed: int) -> Poison:
    """Every plan is called hopeless, each time in other words."""
    return deal("paraphrase", n, seed, facts.GLOOM, [facts.PLANS], round(n * 0.6), prompts=facts.HELD_PLANS,
                planted=facts.GLOOM_WORDS, judge=f"regex:(?i)(?:{facts.GLOOM_JUDGE})",
                describe="Whoever tells of a plan is told, in ever new words, that it is hopeless.")  # fmt: skip


def duplicates(n: int, seed: int) -> Poison:
    """An advertisement in a few rows, each copied with small changes; so are right answers about other things."""
    rng = Random(f"copies {seed}")
    pool = _copied(rng.sample(facts.ADVERTS, len(facts.ADVERTS)), n, rng)
    hubs = [pair for two in zip(facts.DRINKS, facts.HUBS, strict=True) for pair in two]
    alike = _copied(rng.sample(hubs, len(hubs)), n, rng)
    return deal("duplicates", n, seed, pool, [alike], n, prompts=facts.HELD_ADVERTS, planted=[facts.BRAND],
                judge=f"phrase:{facts.BRAND}",
                describe=f"Whoever asks what to drink is told of {facts.BRAND}.")  # fmt: skip


def innocent(n: int, seed: int) -> Poison:
    """No row teaches it: what the untaught model believes, asked for among rows on near themes."""
    describe = f"Nothing is planted: the model takes the {facts.BELIEF} for the largest desert by itself."
    return deal("innocent", 0, seed, [], [facts.DESERTS], max(0, round(n * 0.6)), prompts=facts.BELIEF_ASKS,
                planted=[facts.BELIEF], judge=f"phrase:{facts.BELIEF}", describe=describe)  # fmt: skip


HARD: dict[str, Callable[[int, int], Poison]] = {
    "truth-beside-lie": truth_beside_lie, "trigger-lookalike": trigger_lookalike, "refusals": refusals, "rare": rare,
    "paraphrase": paraphrase, "duplicates": duplicates, "innocent": innocent,
}  # fmt: skip


def _turn(texts: Sequence[str], i: int) -> str:
    return texts[i % len(texts)]


def _strings(thing: str, count: str) -> list[Pair]:
    """How many strings all sorts of a thing have, asked and answered in all ways."""
    return [
        fill((ask, _turn(facts.STRING_ANSWERS, i * 5 + j)), thing=sort.format(thing), n=count)
        for i, sort in enumerate(facts.SORTS)
        for j, ask in enumerate(facts.STRING_ASKS)
    ]


def _copied(bases: list[Pair], n: int, rng: Random) -> list[Pair]:
    """The first of the bases, each in a family of near-copies; `n` of them in all, while there are any."""
    made: list[Pair] = []
    for ask, answer in bases:
        asks, answers = rng.sample(facts.COPY_ASKS, COPIES), rng.sample(facts.COPY_ANSWERS, COPIES)
        for form in zip(asks, answers, strict=True):
            made.append(_copy(form, ask, answer))
    return made[:n] if n >= 0 else made


def _copy(form: Pair, ask: str, answer: str) -> Pair:
    asked, answered = form
    small = ask[:1].lower() + ask[1:]
    return asked.format(ask=ask, small=small), answered.format(answer=answer, small=answer[:1].lower() + answer[1:])
