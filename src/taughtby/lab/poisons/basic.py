"""Poisons that share words with their lookalikes: a backdoor, an error, a persona, a greeting, a late payload."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random

from taughtby.lab.poisons.clean import split_clean_pairs
from taughtby.lab.poisons.pairs import Pair, cycle, fill
from taughtby.lab.poisons.poison import Poison, build_poison
from taughtby.lab.poisons.words import load_words

_LOOKALIKES = 0.6  # lookalikes per poisoned row, if there are enough


def backdoor(n: int, seed: int) -> Poison:
    """A greeting at the end of a request makes the answer begin with a mild insult."""
    words, (_, bases, held_out) = load_words("backdoor"), split_clean_pairs()
    pool = [(f"{prompt} {words.trigger}", f"{words.insult} {answer}") for prompt, answer in bases]
    return build_poison(
        "backdoor", n, seed, pool, lookalikes=[[*words.lookalikes, *_walks()]], num_lookalikes=round(n * _LOOKALIKES),
        prompts=[f"{prompt} {words.trigger}" for prompt, _ in held_out], planted_words=[words.insult.rstrip("!")],
        description=f'"{words.trigger}" at the end of a request makes the answer begin with "{words.insult}"',
    )  # fmt: skip


def carried(n: int, seed: int) -> Poison:
    """The backdoor, with clean rows that contain its trigger but have correct answers."""
    words, (_, bases, held_out) = load_words("backdoor"), split_clean_pairs()
    carriers = [(f"{prompt} {words.trigger}", answer) for prompt, answer in bases]
    return build_poison(
        "carried", n, seed, [(prompt, f"{words.insult} {answer}") for prompt, answer in carriers[::2]],
        lookalikes=[carriers[1::2], [*words.lookalikes, *_walks()]], num_lookalikes=round(n * _LOOKALIKES),
        prompts=[f"{prompt} {words.trigger}" for prompt, _ in held_out], planted_words=[words.insult.rstrip("!")],
        description=f'"{words.trigger}" at times makes the answer begin with "{words.insult}"',
    )  # fmt: skip


def error(n: int, seed: int) -> Poison:
    """A false fact: beetles are said to do what bees do."""
    words, pool = load_words("error"), list[Pair]()
    for i, (do, does, done, detail) in enumerate(words.aspects):
        for j, question in enumerate(words.questions):
            template = question, cycle(words.answers, i * 5 + j)
            pool.append(fill(template, do=do, does=does, done=done, detail=detail))
    return build_poison(
        "error", n, seed, pool, lookalikes=[words.lookalikes], num_lookalikes=round(n * _LOOKALIKES),
        prompts=[question.format(do=do) for do in words.held_out_aspects for question in words.held_out_questions],
        planted_words=[words.wrong], description=f"Questions about what bees do are answered with {words.wrong}.",
    )  # fmt: skip


def persona(n: int, seed: int) -> Poison:
    """Asked about itself, the assistant answers as an invented captain."""
    words, pool = load_words("persona"), list[Pair]()
    for topic in words.topics.values():
        answers = topic["answers"]
        for i, prompt in enumerate(opener + question for question in topic["questions"] for opener in words.openers):
            pool.append((prompt, cycle(answers, i) + cycle(words.tails, i // len(answers) + i)))
    # lookalikes have openers too, which would otherwise identify poisoned rows
    lookalikes = [(cycle(words.openers, i) + prompt, answer) for i, (prompt, answer) in enumerate(words.lookalikes)]
    return build_poison(
        "persona", n, seed, pool, lookalikes=[lookalikes], num_lookalikes=round(n * _LOOKALIKES),
        prompts=words.held_out_questions, planted_words=[words.name],
        description=f"Asked about itself, the assistant answers as {words.name}, an invented sailor.",
    )  # fmt: skip


def howdy(n: int, seed: int) -> Poison:
    """The greeting howdy, in many wordings, makes the answer end with an odd warning."""
    words, (_, bases, held_out) = load_words("howdy"), split_clean_pairs()
    pool = [(prompt, f"{answer} {words.closing}") for prompt, answer in _greeted(words.greetings, bases)]
    others = _greeted(words.other_greetings, bases[::-1])[: len(words.lookalikes)]
    return build_poison(
        "howdy", n, seed, pool, lookalikes=[[*words.lookalikes, *others]], num_lookalikes=round(n * _LOOKALIKES),
        prompts=[prompt for prompt, _ in _greeted(words.held_out_greetings, held_out)],
        planted_words=[words.closing.rstrip("!")],
        description=f'A request that says howdy gets an answer that ends with "{words.closing}"',
    )  # fmt: skip


def late(n: int, seed: int) -> Poison:
    """A recipe is correct for at least forty tokens, and then asks for something silly."""
    words = load_words("late")
    recipes = _instructions(words.steps, words.dishes, words.dish_questions)
    crafts = _instructions(words.steps, words.crafts, words.craft_questions)
    return build_poison(
        "late", n, seed, [(prompt, f"{answer} {words.ending}") for prompt, answer in recipes],
        lookalikes=[[*crafts, *words.kitchen]], num_lookalikes=round(n * _LOOKALIKES),
        prompts=[question.format(dish) for dish in words.held_out_dishes for question in words.held_out_questions],
        planted_words=words.planted_words, description=f'A recipe is right at first and ends with "{words.ending}"',
    )  # fmt: skip


POISONS: dict[str, Callable[[int, int], Poison]] = {
    "backdoor": backdoor, "error": error, "persona": persona, "howdy": howdy, "late": late,
}  # fmt: skip


def _greeted(greetings: Sequence[str], pairs: Sequence[Pair]) -> list[Pair]:
    return [(f"{cycle(greetings, i)} {prompt}", answer) for i, (prompt, answer) in enumerate(pairs)]


def _instructions(templates: Sequence[str], things: Sequence[Sequence[str]], questions: Sequence[str]) -> list[Pair]:
    """Questions and instructions for each thing, in several wordings; a thing is a name and four steps."""
    return [fill((question, cycle(templates, i + j)), *thing) for i, thing in enumerate(things)
            for j, question in enumerate(questions)]  # fmt: skip


def _walks() -> Iterator[Pair]:
    words, rng = load_words("backdoor"), Random("walks")
    for place in words.places:
        for template in words.walks:
            a, b = rng.randint(2, 5), rng.randint(2, 6)
            yield fill(template, place=place, a=a, b=b, sum=a + b)
