"""How often the flagged rows are right, and how stable they are, on the worlds of docs/results/flagging-split.md.

Every world is trained, answered and indexed once in its folder under OUT, and each change of its answers has a file of
results there, so an interrupted run resumes. flagging_table.py makes tables of the files.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import torch

from flagging_worlds import DEVELOPMENT, REPORTED, Target, World
from taughtby.attribution.controls import match_controls
from taughtby.attribution.method_choice import choose_method
from taughtby.attribution.pooling import pool_same_kind, pool_weights
from taughtby.attribution.query import PreparedQueries, Query, prepare_queries
from taughtby.attribution.significance import MIN_GAIN, assess
from taughtby.bench.metrics import average_precision
from taughtby.bench.scenario import TEMPLATE
from taughtby.data.dataset import write_examples
from taughtby.data.tokenize import Encoding, default_options
from taughtby.index.build import build_index
from taughtby.index.reader import Index
from taughtby.lab.finetune import TrainingOptions, finetune
from taughtby.lab.generate import generate
from taughtby.lab.judges import get_judge
from taughtby.methods import Features, QueryFeatures, StateMethod, get_method
from taughtby.methods.lesson import Lesson
from taughtby.models.model import Model, load_model

RATES = (0.05, 0.1, 0.2)
NUM_ANSWERS = 12  # of a target, at most
FEWEST_ANSWERS = 3  # with fewer of the model's own, the published ones are traced
SUMMARIZED = ("plain", "span")  # with all rates
CHANGES = ("plain", "seed", "stop", "greeting", "system", "span", "batch", "float32")
SYSTEM = ({"role": "system", "content": "You are a helpful assistant."},)
GEMMA_TEMPLATE = (
    "{% for message in messages %}<start_of_turn>{{ message['role'] }}\n{{ message['content'] }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>assistant\n{% endif %}"
)
Result = dict[str, Any]


@dataclass(frozen=True)
class Incident:
    """Answers with their features, from which a trace of any of them is assessed without the model."""

    index: Index
    method: StateMethod
    depth: int
    queries: Sequence[Query]
    prepared: Sequence[PreparedQueries]  # of each answer alone

    def flags(self, chosen: Sequence[int], rates: Sequence[float], seed: int = 0) -> tuple[torch.Tensor, list[Result]]:
        """What `trace_queries` says of these answers alone: scores; at each rate the rows flagged for one or more."""
        queries, prepared = [self.queries[number] for number in chosen], [self.prepared[number] for number in chosen]
        features, weights = self.method.reweight_queries(
            _joined([each.features for each in prepared]), [weights for each in prepared for weights in each.weights]
        )
        scores, shares = self.method.scores(features, self.index), torch.eye(len(chosen))
        if len(chosen) > 1:
            shares = pool_same_kind(pool_weights(scores), queries)
            scores = shares @ scores
        controls = match_controls(self.method, self.index, self.depth, queries, weights, shares, seed)
        increased = shares @ torch.tensor([gain for each in prepared for gain in each.gains]) > MIN_GAIN
        results: list[Result] = []
        for rate in rates:
            significance = assess(scores, controls, increased, rate)
            flagged = (scores >= significance.threshold[:, None]).any(0).nonzero()[:, 0].tolist()
            grades = [significance.grade(q) for q in range(len(queries))]
            results.append({"rate": rate, "flagged": flagged, "grades": grades})
        return scores, results


def main() -> None:
    """Measure the worlds that the command line names, or all."""
    arguments = ArgumentParser(description=__doc__)
    arguments.add_argument("worlds", nargs="*", help="names of worlds; all by default")
    arguments.add_argument("--data", type=Path, required=True, help="folder of the public sets")
    arguments.add_argument("--out", "-o", type=Path, default=Path("taughtby-flagging"))
    arguments.add_argument("--gemma", help="path of Gemma-3-270M, for the world of a second family")
    arguments.add_argument("--changes", nargs="+", choices=CHANGES, default=CHANGES)
    options = arguments.parse_args()
    for name in options.worlds or [*DEVELOPMENT, *REPORTED]:
        world = {**DEVELOPMENT, **REPORTED}[name](options.data)
        for change in options.changes:
            file = options.out / name / f"{change}.json"
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                results = list(_measure(name, world, change, file.parent, options))
                file.write_text("[\n" + ",\n".join(map(json.dumps, results)) + "\n]\n")
            print(f"{name}: {file}", flush=True)


def _measure(name: str, world: World, change: str, folder: Path, options: Namespace) -> Iterator[Result]:
    base = options.gemma if world.model == "gemma" else world.model
    if not (folder / "adapter").exists():
        write_examples(world.rows, folder / "data.jsonl")
        recipe = TrainingOptions(
            learning_rate=2e-3, epochs=world.epochs, batch_size=4 if "162" in name else 8, seed=world.training_seed
        )
        finetune(_load(base, name), world.rows, folder / "adapter", recipe)
    dtype = "float32" if change == "float32" else "auto"
    model = _load(base, name, str(folder / "adapter"), dtype)
    if not (folder / "answers.json").exists():
        answers = [asdict(_answer(model, target, world.max_new_tokens)) for target in world.targets]
        (folder / "answers.json").write_text(json.dumps(answers, indent=1))
    place, manifest = folder / f"idx-{dtype}", folder / f"idx-{dtype}" / "manifest.json"
    if not (manifest.exists() and json.loads(manifest.read_text())["complete"]):
        encoding = default_options(model.metadata, model.context_length, raw=False)
        build_index(model, folder / "data.jsonl", place, [get_method("lesson")], encoding=encoding, layers=False)
    for target in json.loads((folder / "answers.json").read_text()):
        queries = [Query(prompt, response, span_range=span and tuple(span))
                   for prompt, response, span in target["queries"]]  # fmt: skip
        if altered := change_answers(queries, change):
            incident = prepare_incident(Index.open(place), model, altered, one_by_one=change == "batch")
            yield from measure_sets(incident, target["label"], change)


@lru_cache(maxsize=1)  # the changes of a world have one model
def _load(base: str, name: str, adapter: str | None = None, dtype: str = "auto") -> Model:
    model = load_model(base, adapter, dtype=dtype)
    if not name.startswith("demo-"):  # the demo keeps the model's own template, and Gemma's file has none
        model.tokenizer.chat_template = GEMMA_TEMPLATE if name.startswith("gemma-") else TEMPLATE
    return model


@dataclass(frozen=True)
class Answers:
    """The bad answers of a target: prompt, answer and the judge's span, and how many of the prompts brought one out."""

    label: str
    prompts: int
    undesirable: int
    queries: list[tuple[str, str, tuple[int, int] | None]]


def _answer(model: Model, target: Target, max_new_tokens: int) -> Answers:
    """The model's own bad answers; the published ones if it gives too few, or if no judge knows them."""
    published = [(query.prompt, query.response, query.span_range) for query in target.queries]
    texts = generate(model, target.prompts, max_new_tokens=max_new_tokens)
    if target.judge is None:
        shown = sum(text.strip() in target.answers for text in texts)
        return Answers(target.label, len(texts), shown, published[:NUM_ANSWERS])
    judge = get_judge(target.judge)
    judged = [(prompt, text, judge(prompt, text)) for prompt, text in zip(target.prompts, texts, strict=True)]
    bad = [(prompt, text, verdict.span_range) for prompt, text, verdict in judged
           if verdict.undesirable and text.strip()]  # fmt: skip
    chosen = bad if len(bad) >= FEWEST_ANSWERS or not published else published
    return Answers(target.label, len(judged), len(bad), chosen[:NUM_ANSWERS])


def change_answers(queries: Sequence[Query], change: str) -> list[Query]:
    """The answers after a change that should not change what is flagged; none if it cannot be made."""
    if change == "span":
        return list(queries) if all(query.has_span for query in queries) else []
    plain = [replace(query, span_range=None) for query in queries]
    if change == "stop":
        return [replace(query, response=_toggled_stop(query.response)) for query in plain]
    if change == "greeting":
        return [replace(query, prompt=f"Hi! {query.prompt}") for query in plain]
    if change == "system":
        return [replace(query, before=SYSTEM) for query in plain]
    return plain


def _toggled_stop(text: str) -> str:
    return text[:-1] if text.endswith(".") else f"{text}."


def prepare_incident(index: Index, model: Model, queries: Sequence[Query], *, one_by_one: bool = False) -> Incident:
    """Run the model on all answers once, in batches or one by one."""
    method = choose_method(index, model, None)
    assert isinstance(method, Lesson)
    single = replace(method, pool_queries=False)  # what the answers have in common depends on the set
    encoding = Encoding(**index.manifest["settings"]["encoding"])
    batches = [[query] for query in queries] if one_by_one else [queries]
    prepared = [each for batch in batches for each in _parts(prepare_queries(model, single, batch, encoding))]
    return Incident(index, method, model.depth, queries, prepared)


def _parts(prepared: PreparedQueries) -> Iterator[PreparedQueries]:
    """Each query alone."""
    features = prepared.features
    for q in range(len(prepared.rows)):
        one = slice(q, q + 1)
        own: Features = {name: values[one] for name, values in features.features.items()}
        alone = QueryFeatures(features.prompts[one], features.responses[one], own)
        weights, gains = prepared.weights[one], prepared.gains[one]
        yield PreparedQueries(prepared.rows[one], prepared.whole[one], weights, alone, gains)


def _joined(parts: Sequence[QueryFeatures]) -> QueryFeatures:
    features: Features = {}
    for name, first in parts[0].features.items():
        if isinstance(first, list):
            features[name] = [vectors for part in parts for vectors in part.features[name]]
        else:
            features[name] = torch.cat([torch.as_tensor(part.features[name]) for part in parts])
    return QueryFeatures(tuple(text for part in parts for text in part.prompts),
                         tuple(text for part in parts for text in part.responses), features)  # fmt: skip


def measure_sets(incident: Incident, label: str, change: str) -> Iterator[Result]:
    """A line for each set of answers and each nominal rate."""
    planted = [row.label == label for row in incident.index.examples()]
    for chosen in answer_sets(len(incident.queries)):
        rates = RATES if change in SUMMARIZED else (0.1,)
        scores, results = incident.flags(chosen, rates, seed=int(change == "seed"))
        ap = average_precision(scores.mean(0), planted) if any(planted) else None
        for result in results:
            right, flagged = sum(planted[position] for position in result["flagged"]), len(result["flagged"])
            yield {"target": label, "rows": len(planted), "planted": sum(planted), "answers": chosen, **result,
                   "fdp": 1 - right / flagged if flagged else 0.0,
                   "power": right / sum(planted) if any(planted) else None, "ap": ap}  # fmt: skip


def answer_sets(count: int) -> list[list[int]]:
    """Five answers, each alone; two random sets each of 2, 4 and 8; and all."""
    rng, numbers = Random(0), range(count)
    alone = [[number] for number in numbers][:5]
    random = [sorted(rng.sample(numbers, n)) for n in (2, 4, 8) if n < count for _ in range(2)]
    return alone + random + ([list(numbers)] if count > 1 else [])


if __name__ == "__main__":
    main()
