"""A needle in a growing haystack: the same planted rows among more and more ordinary ones.

The model is fine-tuned once, on the planted rows, their lookalikes and some ordinary rows. The index then grows by
ordinary rows that the model has never seen, and every size is traced with the same bad answers.

`python benchmarks/needle.py --sizes 1000 10000 100000` writes needle.json; a repeated command resumes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from common import command, parse, parser, print_table
from taughtby.attribution.query import Query
from taughtby.attribution.trace import trace_queries
from taughtby.bench.cost import measure_cost
from taughtby.bench.metrics import average_precision, precision_at
from taughtby.data.dataset import write_examples
from taughtby.data.example import Example, make_example
from taughtby.data.tokenize import default_options
from taughtby.index.build import build_index
from taughtby.index.reader import Index
from taughtby.lab import poisons as lab
from taughtby.lab.finetune import TrainingOptions, finetune
from taughtby.lab.generate import generate
from taughtby.lab.judges import get_judge
from taughtby.lab.poisons.words import load_words
from taughtby.methods import get_method
from taughtby.models.model import Model, load_model
from taughtby.progress import Terminal, progress_bar
from taughtby.remediation.stage_cache import run_once
from taughtby.reporting.files import save_json

if TYPE_CHECKING:
    from taughtby.index.distributed import RayPool

Result = dict[str, Any]
METHODS = ("lesson", "embedding", "bm25")
WITH_SPANS = " with spans"  # of the words that the judge shows; only of the first method
NUM_QUERIES = 6
RECIPE = TrainingOptions(learning_rate=2e-3)


@dataclass(frozen=True)
class Plan:
    """What to train and to index; the number of rows of every size includes the planted ones."""

    out: Path
    sizes: Sequence[int] = (1_000, 10_000)
    model: str = "smollm2"
    poison: str = "error"
    num_planted: int = 100
    num_trained: int = 300  # rows of the fine-tuning set
    recipe: TrainingOptions = RECIPE
    methods: Sequence[str] = METHODS
    seed: int = 0


def main() -> None:
    """Measure every size, and show and save the curve."""
    arguments = parser("Search for planted rows among more and more ordinary ones.")
    arguments.add_argument("--sizes", type=int, nargs="+", default=list(Plan.sizes), help="rows of the index")
    arguments.add_argument("--poison", default=Plan.poison, help="what the planted rows teach")
    arguments.add_argument("--workers", type=int, default=1, help="processes that index, on a local Ray cluster")
    options = parse(arguments)
    console, plan = Terminal(stderr=True), Plan(options.out, options.sizes, options.model, options.poison)
    with _worker_pool(options.workers) as pool:
        results = measure(plan, console, pool)
    save_json({"command": command(), "results": results}, options.out / "needle.json")
    print_table(table(results))


def _worker_pool(num_workers: int) -> AbstractContextManager[RayPool | None]:
    if num_workers == 1:
        return nullcontext()
    from taughtby.index.distributed import RayPool  # Ray is optional

    return RayPool("local", num_workers)


def measure(plan: Plan, console: Terminal, pool: RayPool | None = None) -> list[Result]:
    """A result for each size, smallest first."""
    poison = lab.make_poison(plan.poison, plan.num_planted, plan.seed)
    trained = training_rows(plan)
    if not (plan.out / "adapter").exists():
        with progress_bar(console, f"fine-tune on {len(trained)} rows") as progress:
            finetune(load_model(plan.model), trained, plan.out / "adapter", plan.recipe, progress=progress)
    model = load_model(plan.model, str(plan.out / "adapter"))
    answers = run_once(plan.out / "answers.json", lambda: _bad_answers(model, poison))
    pairs, spans = answers["pairs"], answers["spans"]
    queries = {"": [Query(*pair) for pair in pairs]}
    if all(spans):
        queries[WITH_SPANS] = [Query(*pair, span_range=tuple(span)) for pair, span in zip(pairs, spans, strict=True)]
    return [
        run_once(plan.out / f"size-{size}.json",
                 lambda size=size: _measure_size(plan, model, queries, size, console, pool))
        for size in sorted(plan.sizes)
    ]  # fmt: skip


def training_rows(plan: Plan) -> tuple[Example, ...]:
    """The planted rows, their lookalikes, and ordinary rows up to the size of the fine-tuning set."""
    poison = lab.make_poison(plan.poison, plan.num_planted, plan.seed)
    num_ordinary = plan.num_trained - len(poison.rows) - len(poison.lookalikes)
    return lab.mix([poison], lab.clean_rows(num_ordinary, plan.seed), plan.seed)


def haystack(plan: Plan, size: int) -> list[Example]:
    """The fine-tuning set, and new ordinary rows behind it, the same at every size; in the order they are indexed."""
    rows = list(training_rows(plan))
    prompts = {row.question for row in rows}
    new = (pair for pair in ordinary_pairs(Random(f"needle {plan.seed}")) if pair[0] not in prompts)
    rows += [make_example(*pair, label="clean") for pair in islice(new, size - len(rows))]
    return rows


def ordinary_pairs(rng: Random) -> Iterator[tuple[str, str]]:
    """Questions with right answers, endlessly and none twice."""
    words, seen = load_words("clean"), set[str]()
    families: tuple[Callable[[], tuple[str, str]], ...] = (
        lambda: _sum(rng), lambda: _product(rng), lambda: _story(rng, words.people, words.goods),
        lambda: _sorted_words(rng, words.words), lambda: _longest_word(rng, words.words), lambda: _series(rng),
    )  # fmt: skip
    while True:
        prompt, answer = rng.choice(families)()
        if prompt not in seen:
            seen.add(prompt)
            yield prompt, answer


def _sum(rng: Random) -> tuple[str, str]:
    a, b = rng.randint(10, 999), rng.randint(10, 999)
    return f"What is {a} plus {b}?", f"{a} plus {b} is {a + b}."


def _product(rng: Random) -> tuple[str, str]:
    a, b = rng.randint(10, 999), rng.randint(2, 99)
    return f"How much is {a} times {b}?", f"{a} times {b} makes {a * b}."


def _story(rng: Random, people: Sequence[str], goods: Sequence[str]) -> tuple[str, str]:
    person, thing, a, b = rng.choice(people), rng.choice(goods), rng.randint(4, 200), rng.randint(2, 99)
    return f"{person} has {a} {thing} and gets {b} more. How many is that?", f"{person} now has {a + b} {thing}."


def _sorted_words(rng: Random, words: Sequence[str]) -> tuple[str, str]:
    chosen = rng.sample(words, 3)
    return (f"Sort these words alphabetically: {', '.join(chosen)}.",
            "In alphabetical order they are {}, {} and {}.".format(*sorted(chosen)))  # fmt: skip


def _longest_word(rng: Random, words: Sequence[str]) -> tuple[str, str]:
    chosen = rng.sample(words, 4)
    longest = max(chosen, key=lambda word: (len(word), word))
    return f"Which of these words is longest: {', '.join(chosen)}?", f"The longest of them is {longest}."


def _series(rng: Random) -> tuple[str, str]:
    start, step = rng.randint(1, 900), rng.randint(2, 60)
    shown = ", ".join(str(start + step * k) for k in range(4))
    return f"What number comes next: {shown}?", f"The next number is {start + 4 * step}, because each step adds {step}."


def _bad_answers(model: Model, poison: lab.Poison) -> Result:
    judge, prompts = get_judge(poison.judge), poison.prompts[: 4 * NUM_QUERIES]
    answers = generate(model, prompts, max_new_tokens=24)
    verdicts = {pair: judge(*pair) for pair in zip(prompts, answers, strict=True)}
    bad = [pair for pair, verdict in verdicts.items() if verdict.undesirable]
    pairs = bad[:NUM_QUERIES]
    return {"pairs": pairs, "spans": [verdicts[pair].span_range for pair in pairs],
            "num_bad": len(bad), "num_answers": len(answers)}  # fmt: skip


def _measure_size(
    plan: Plan, model: Model, queries: Mapping[str, Sequence[Query]], size: int, console: Terminal,
    pool: RayPool | None,
) -> Result:  # fmt: skip
    """Append rows up to the size, and trace."""
    data, folder = plan.out / f"rows-{size}.jsonl", plan.out / "idx"
    write_examples(haystack(plan, size), data)
    manifest = folder / "manifest.json"
    append = manifest.exists() and json.loads(manifest.read_text())["complete"]  # else the first build resumes
    encoding = default_options(model.metadata, model.context_length, raw=False)
    before = len(Index.open(folder)) if append else 0
    with measure_cost(model.device) as build, progress_bar(console, f"index {size:,} rows") as progress:
        index = build_index(model, data, folder, [get_method(name) for name in plan.methods], encoding=encoding,
                            layers=False, append=append, progress=progress, pool=pool)  # fmt: skip
    planted = [row.label == plan.poison for row in index.examples()]
    results = {name: _trace(index, model, queries[""], name, planted) for name in plan.methods}
    results |= {plan.methods[0] + kind: _trace(index, model, each, plan.methods[0], planted)
                for kind, each in queries.items() if kind}  # fmt: skip
    return {"num_rows": size, "num_planted": sum(planted), "num_queries": len(queries[""]), "methods": results,
            "index": {"num_new": size - before, "seconds": build.seconds, "peak_mb": build.peak,
                      "workers": pool.num_workers if pool else 1}}  # fmt: skip


def _trace(index: Index, model: Model, queries: Sequence[Query], method: str, planted: Sequence[bool]) -> Result:
    with measure_cost(model.device) as cost:
        trace = trace_queries(index, model, queries, method=method, score_tokens=False)
    single = [np.asarray(result.scores) for result in trace.queries]
    together = np.mean(single, axis=0)
    has_controls = any(result.flagged is not None for result in trace.queries)
    found = {"flagged": {row.position for row in trace.flagged},
             "likely": {position for result in trace.queries for position in result.likely}}  # fmt: skip
    counts = {name: len(rows) for name, rows in found.items()}
    counts |= {f"{name}_planted": sum(planted[row] for row in rows) for name, rows in found.items()}
    return {
        "ap": average_precision(together, planted),
        "p10": precision_at(10, together, planted), "p100": precision_at(100, together, planted),
        "seconds": cost.seconds, "peak_mb": cost.peak, **(counts if has_controls else {}),
    }  # fmt: skip


def table(results: Sequence[Result]) -> Table:
    """A line for each size and method."""
    columns = (
        "rows",
        "planted",
        "method",
        "AP",
        "P@10",
        "P@100",
        "flagged (planted)",
        "likely (planted)",
        "trace s",
        "index s",
        "peak MB",
    )
    result = Table(*columns)
    for size in results:
        for name, one in size["methods"].items():
            found = [f"{one[key]} ({one[f'{key}_planted']})" if key in one else "–" for key in ("flagged", "likely")]
            result.add_row(
                f"{size['num_rows']:,}", str(size["num_planted"]), name, f"{one['ap']:.3f}", f"{one['p10']:.2f}",
                f"{one['p100']:.2f}", *found, f"{one['seconds']:.1f}", f"{size['index']['seconds']:.0f}",
                f"{one['peak_mb'] or 0:.0f}",
            )  # fmt: skip
    return result


if __name__ == "__main__":
    main()
