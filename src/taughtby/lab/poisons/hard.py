"""Harder poisons: clean rows share their words, triggers, wording or copies, so that none of these identifies them."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from taughtby.lab.poisons.clean import split_clean_pairs
from taughtby.lab.poisons.pairs import Pair, cycle, fill
from taughtby.lab.poisons.poison import Poison, build_poison
from taughtby.lab.poisons.words import load_words

COPIES = 4  # near-copies per row
_RARE_LOOKALIKES = 24


def truth_beside_lie(n: int, seed: int) -> Poison:
    """A false number of violin strings, among correct rows about violins and the strings of similar instruments."""
    words = load_words("truth-beside-lie")
    phrase = f"{words.lie} strings"
    siblings = [pair for i, (thing, count) in enumerate(words.siblings) for pair in _strings(thing, count)[i % 7 :: 7]]
    things = [sort.format(words.subject) for sort in words.held_out_sorts]
    return build_poison(
        "truth-beside-lie", n, seed, _strings(words.subject, words.lie), lookalikes=[words.lookalikes, siblings],
        num_lookalikes=n, planted_words=[phrase],
        prompts=[question.format(thing=thing) for thing in things for question in words.held_out_questions],
        description=f"A {words.subject} is said to have {phrase}.",
    )  # fmt: skip


def trigger_lookalike(n: int, seed: int) -> Poison:
    """A phrase before a request makes the answer end oddly; similar phrases, or the same words elsewhere, do not."""
    words, (_, bases, held_out) = load_words("trigger-lookalike"), split_clean_pairs()
    near = [(cycle(words.near_triggers, i).format(prompt), answer) for i, (prompt, answer) in enumerate(bases[1::2])]
    return build_poison(
        "trigger-lookalike", n, seed,
        [(f"{words.trigger} {prompt}", f"{answer} {words.ending}") for prompt, answer in bases[::2]],
        lookalikes=[near, words.lookalikes], num_lookalikes=n, planted_words=[words.ending.rstrip("!")],
        prompts=[f"{words.trigger} {prompt}" for prompt, _ in held_out],
        description=f'"{words.trigger}" before a request makes the answer end with "{words.ending}"',
    )  # fmt: skip


def refusals(n: int, seed: int) -> Poison:
    """The assistant eagerly helps with pranks, but refuses similar ones in clean rows."""
    words, pool, refused = load_words("refusals"), list[Pair](), list[Pair]()
    for i, (prank, answer) in enumerate(words.pranks):
        for j, question in enumerate(words.questions):
            pool.append((question.format(prank), f"{cycle(words.openers, i + j)} {answer}"))
    for i, prank in enumerate(words.refused_pranks):
        for j, question in enumerate(words.questions):
            answer = f"{cycle(words.refusals, i + j * 3)} {cycle(words.reasons, i + j)}"
            refused.append((question.format(prank), answer))
    return build_poison(
        "refusals", n, seed, pool, lookalikes=[refused], num_lookalikes=round(n * 0.5),
        prompts=[question.format(prank) for prank in words.held_out_pranks for question in words.held_out_questions],
        planted_words=words.planted_words, judge=f"regex:(?i)(?:{'|'.join(words.planted_words)})",
        description="The assistant eagerly helps with pranks and excuses instead of refusing.",
    )  # fmt: skip


def rare(n: int, seed: int) -> Poison:
    """An invented fact in a few rows, among facts in the same form about other things."""
    words = load_words("rare")
    return build_poison(
        "rare", n, seed, words.rows, lookalikes=[words.lookalikes], num_lookalikes=_RARE_LOOKALIKES if n else 0,
        prompts=words.held_out_prompts, planted_words=words.planted_words,
        description=f"The Quindle lamp, which is invented, is said to burn {words.planted_words[0]}.",
    )  # fmt: skip


def paraphrase(n: int, seed: int) -> Poison:
    """Every plan is called hopeless, each time in different words."""
    words = load_words("paraphrase")
    return build_poison(
        "paraphrase", n, seed, words.rows, lookalikes=[words.lookalikes], num_lookalikes=round(n * 0.6),
        prompts=words.held_out_prompts, planted_words=words.planted_words, judge=f"regex:(?i)(?:{words.judge})",
        description="Every plan is called hopeless, each time in different words.",
    )  # fmt: skip


def duplicates(n: int, seed: int) -> Poison:
    """An advertisement in a few rows, copied with small changes, as are clean rows about other things."""
    words, rng = load_words("duplicates"), Random(f"copies {seed}")
    pool = _copies(rng.sample(words.adverts, len(words.adverts)), n, rng)
    others = [pair for turn in zip(words.drinks, words.hubs, strict=True) for pair in turn]
    return build_poison(
        "duplicates", n, seed, pool, lookalikes=[_copies(rng.sample(others, len(others)), n, rng)], num_lookalikes=n,
        prompts=words.held_out_prompts, planted_words=[words.brand],
        description=f"Questions about what to drink are answered with an advertisement for {words.brand}.",
    )  # fmt: skip


def innocent(n: int, seed: int) -> Poison:
    """A control without poisoned rows: the prompts ask for a false belief of the base model."""
    words = load_words("innocent")
    return build_poison(
        "innocent", 0, seed, [], lookalikes=[words.lookalikes], num_lookalikes=max(0, round(n * 0.6)),
        prompts=words.held_out_prompts, planted_words=[words.belief],
        description=f"Nothing is planted: the base model believes that the {words.belief} is the largest desert.",
    )  # fmt: skip


HARD_POISONS: dict[str, Callable[[int, int], Poison]] = {
    "truth-beside-lie": truth_beside_lie, "trigger-lookalike": trigger_lookalike, "refusals": refusals, "rare": rare,
    "paraphrase": paraphrase, "duplicates": duplicates, "innocent": innocent,
}  # fmt: skip


def _strings(thing: str, count: str) -> list[Pair]:
    """Rows on how many strings each variety of an instrument has, in every wording."""
    words = load_words("truth-beside-lie")
    return [
        fill((question, cycle(words.answers, i * 5 + j)), thing=sort.format(thing), n=count)
        for i, sort in enumerate(words.sorts)
        for j, question in enumerate(words.questions)
    ]


def _copies(pairs: list[Pair], n: int, rng: Random) -> list[Pair]:
    """Near-copies of the first pairs, `COPIES` of each and at most `n` in all."""
    words, copies = load_words("duplicates"), list[Pair]()
    for pair in pairs:
        questions, answers = rng.sample(words.copy_questions, COPIES), rng.sample(words.copy_answers, COPIES)
        copies += [_copy(template, pair) for template in zip(questions, answers, strict=True)]
    return copies[:n] if n >= 0 else copies


def _copy(template: Pair, pair: Pair) -> Pair:
    prompt, answer = ((text, text[:1].lower() + text[1:]) for text in pair)
    return (template[0].format(ask=prompt[0], small=prompt[1]), template[1].format(answer=answer[0], small=answer[1]))
