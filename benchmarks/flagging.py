"""How often the flagged rows are right, and how stable they are, on the worlds of docs/results/flagging-split.md.

Every world is trained, answered and indexed once in its folder under OUT, so an interrupted run resumes.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from flagging_worlds import DEVELOPMENT, REPORTED, Target, World
from taughtby.attribution.query import Query
from taughtby.attribution.trace import trace_queries
from taughtby.bench.metrics import average_precision
from taughtby.bench.scenario import TEMPLATE
from taughtby.data.dataset import write_examples
from taughtby.data.tokenize import default_options
from taughtby.index.build import build_index
from taughtby.index.reader import Index
from taughtby.lab.finetune import TrainingOptions, finetune
from taughtby.lab.generate import generate
from taughtby.lab.judges import get_judge
from taughtby.methods import get_method
from taughtby.models.model import Model, load_model

RATES = (0.05, 0.1, 0.2)
NUM_ANSWERS = 12  # of a target, at most
Result = dict[str, Any]


def main() -> None:
    """Measure the worlds that the command line names, or all."""
    arguments = ArgumentParser(description=__doc__)
    arguments.add_argument("worlds", nargs="*", help="names of worlds; all by default")
    arguments.add_argument("--data", type=Path, required=True, help="folder of the public sets")
    arguments.add_argument("--out", "-o", type=Path, default=Path("taughtby-flagging"))
    arguments.add_argument("--gemma", help="path of Gemma-3-270M, for the world of a second family")
    options = arguments.parse_args()
    for name in options.worlds or [*DEVELOPMENT, *REPORTED]:
        folder = options.out / name
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "flags.json").exists():
            world = {**DEVELOPMENT, **REPORTED}[name](options.data)
            results = list(_measure(name, world, folder, options))
            (folder / "flags.json").write_text(json.dumps(results, indent=1))
        for line in json.loads((folder / "flags.json").read_text()):
            print(json.dumps(line))


def _measure(name: str, world: World, folder: Path, options: Namespace) -> Iterator[Result]:
    base = options.gemma if world.model == "gemma" else world.model
    if not (folder / "adapter").exists():
        write_examples(world.rows, folder / "data.jsonl")
        recipe = TrainingOptions(learning_rate=2e-3, epochs=world.epochs, batch_size=4 if "162" in name else 8)
        finetune(_load(base, name), world.rows, folder / "adapter", recipe)
    model = _load(base, name, str(folder / "adapter"))
    if not (folder / "idx" / "manifest.json").exists():
        encoding = default_options(model.metadata, model.context_length, raw=False)
        build_index(model, folder / "data.jsonl", folder / "idx", [get_method("lesson")], encoding=encoding,
                    layers=False)  # fmt: skip
    index = Index.open(folder / "idx")
    for target in world.targets:
        if queries := _bad_answers(model, target, world.max_new_tokens):
            yield from _flags(index, model, target, queries)


def _load(base: str, name: str, adapter: str | None = None) -> Model:
    model = load_model(base, adapter)
    if not name.startswith("demo-"):  # the demo keeps the model's own template
        model.tokenizer.chat_template = TEMPLATE
    return model


def _bad_answers(model: Model, target: Target, max_new_tokens: int) -> list[Query]:
    """The model's own bad answers; the published ones if it gives fewer than three."""
    if target.judge is None:
        return list(target.queries)[:NUM_ANSWERS]
    judge, answers = get_judge(target.judge), generate(model, target.prompts, max_new_tokens=max_new_tokens)
    pairs = [(prompt, answer, judge(prompt, answer)) for prompt, answer in zip(target.prompts, answers, strict=True)]
    bad = [Query(prompt, answer, span_range=verdict.span_range) for prompt, answer, verdict in pairs
           if verdict.undesirable and answer.strip()]  # fmt: skip
    return (bad if len(bad) >= 3 or not target.queries else list(target.queries))[:NUM_ANSWERS]


def _flags(index: Index, model: Model, target: Target, queries: Sequence[Query]) -> Iterator[Result]:
    """A line for each set of answers and each change of them."""
    planted = [row.label == target.label for row in index.examples()]
    rng, numbers = Random(0), range(len(queries))
    sets = [[number] for number in numbers][:5]
    sets += [sorted(rng.sample(numbers, n)) for n in (2, 4, 8) if n < len(queries) for _ in range(2)] + [list(numbers)]
    for chosen in sets:
        for change, altered in _changes([queries[number] for number in chosen]).items():
            for rate in RATES if change == "plain" else (0.1,):
                result = trace_queries(index, model, altered, top_k=1, score_tokens=False, fdr=rate).queries
                flagged = sorted({position for each in result for position in each.flagged or ()})
                right = sum(planted[position] for position in flagged)
                yield {
                    "target": target.label, "answers": chosen, "change": change, "rate": rate, "flagged": flagged,
                    "fdp": 1 - right / len(flagged) if flagged else 0.0,
                    "power": right / sum(planted) if any(planted) else None,
                    "grades": [each.grade for each in result],
                    "ap": average_precision(result[0].scores, planted) if any(planted) else None,
                }  # fmt: skip


def _changes(queries: Sequence[Query]) -> dict[str, list[Query]]:
    plain = [replace(query, span_range=None) for query in queries]
    system = ({"role": "system", "content": "You are a helpful assistant."},)
    changes = {
        "plain": plain,
        "stop": [replace(query, response=_toggled_stop(query.response)) for query in plain],
        "greeting": [replace(query, prompt=f"Hi! {query.prompt}") for query in plain],
        "system": [replace(query, before=system) for query in plain],
    }
    return changes | ({"span": list(queries)} if all(query.has_span for query in queries) else {})


def _toggled_stop(text: str) -> str:
    return text[:-1] if text.endswith(".") else f"{text}."


if __name__ == "__main__":
    main()
