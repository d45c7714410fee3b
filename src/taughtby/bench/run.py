"""Benchmark methods: for each suite and seed, fine-tune, answer and judge; for each method, index and trace.

Every stage writes its result atomically to a folder named by a hash of the settings it depends on, so an interrupted
run resumes and loses at most one stage. All results are computed from these files.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from taughtby.attribution.query import Query
from taughtby.attribution.trace import trace_queries
from taughtby.bench import reference
from taughtby.bench.cost import measure_cost
from taughtby.bench.scenario import TUNED, UNTUNED, BenchPlan, Scenario, make_scenarios
from taughtby.bench.suites import CLEAN, word_hit
from taughtby.data.dataset import write_examples
from taughtby.data.tokenize import TokenizedExample, tokenize
from taughtby.errors import OptionError, TaughtbyError
from taughtby.index.build import build_index
from taughtby.index.reader import Index
from taughtby.lab.finetune import finetune
from taughtby.lab.generate import generate
from taughtby.lab.judges import get_judge
from taughtby.methods import Method, get_method
from taughtby.models.model import Model
from taughtby.remediation.stage_cache import Show, run_once

FEWEST_ANSWERS = 3  # with this many bad answers of the model itself, published ones are not needed
NUM_REFERENCE_ROWS = 12  # rows on which the reference's loop is timed
Result = dict[str, Any]  # the result of a stage, as JSON


def run(plan: BenchPlan, show: Show) -> list[Result]:
    """Run every stage that has no stored result.

    Args:
        plan: What to compare.
        show: Shows a stage's title and progress.

    Returns:
        For each suite and seed, the fine-tuning, the queries, and every method's traces.

    Raises:
        OptionError: If a suite or method does not exist, or an adapter is for a suite that is not in the plan.
    """
    methods = [(spec, get_method(spec)) for spec in plan.methods]
    if unknown := [name for name in plan.adapters if name not in plan.suites]:
        raise OptionError("an adapter is given for a suite that is not selected", got=", ".join(unknown),
                          do=f"choose among: {', '.join(plan.suites)}")  # fmt: skip
    return [ScenarioRun(scenario, show).run(methods) for scenario in make_scenarios(plan)]


def remove_results(plan: BenchPlan) -> None:
    """Remove the stored results of the plan's suites, with any settings."""
    for name in plan.suites:
        for folder in plan.out.glob(f"{name}-[0-9]*-*"):
            if (folder / "data.jsonl").exists():
                shutil.rmtree(folder)


class ScenarioRun:
    """The stages of one scenario."""

    def __init__(self, scenario: Scenario, show: Show) -> None:
        self.scenario, self.show, self.title = scenario, show, scenario.title

    def run(self, methods: Sequence[tuple[str, Method]]) -> Result:
        """Run all stages that do not depend on the method, then every method on both models."""
        scenario = self.scenario
        training, answers = self.train_and_answer()
        result: Result = {"suite": scenario.suite.name, "seed": scenario.seed, **training, **answers, "results": [],
                          "reference": None,
                          "provenance": [stage.get("provenance") for stage in (training, answers)]}  # fmt: skip
        if not answers["queries"]:
            return result
        if scenario.seed == 0:
            result["reference"] = run_once(scenario.folder / "reference.json", self.time_reference)
            result["provenance"].append(result["reference"].get("provenance"))
        queries = answers["queries"]
        result["results"] = [MethodRun(self, TUNED, spec, method, queries).run() for spec, method in methods]
        # without `base_control`, the base model is not run, but its stored results are shown
        control = [MethodRun(self, UNTUNED, spec, method, queries) for spec, method in methods]
        control = [method_run for method_run in control if scenario.plan.base_control or method_run.file.exists()]
        if any(method_run.reads_model for method_run in control):
            result["results"] += [method_run.run() for method_run in control]
        return result

    def train_and_answer(self) -> tuple[Result, Result]:
        """Run the stages that do not depend on the method: `fine_tune` and `answer`."""
        folder = self.scenario.folder
        return run_once(folder / "training.json", self.fine_tune), run_once(folder / "answers.json", self.answer)

    def fine_tune(self) -> Result:
        """Write the rows, and fine-tune on them unless there is an external adapter."""
        scenario, rows, seconds = self.scenario, self.scenario.suite.rows, None
        scenario.folder.mkdir(parents=True, exist_ok=True)
        write_examples(rows, scenario.data)
        if scenario.external_adapter is None:
            shutil.rmtree(scenario.adapter, ignore_errors=True)  # left by a run that was killed
            recipe = replace(scenario.plan.recipe, seed=scenario.seed)
            with self.show(f"{self.title}: fine-tune on {len(rows)} rows") as progress:
                model = scenario.plan.load()
                with measure_cost(model.device) as spent:
                    finetune(model, rows, scenario.adapter, recipe, progress=progress)
            seconds = spent.seconds
        num_planted = sum(row.label != CLEAN for row in rows)
        return {"rows": len(rows), "planted": num_planted, "adapter": scenario.external_adapter,
                "finetune_seconds": seconds}  # fmt: skip

    def answer(self) -> Result:
        """Measure both models' rates of bad answers to all prompts, and choose the queries.

        The queries are the first bad answers of the fine-tuned model, with the same maximum number for each poison. If
        it gives fewer than three, they are the published ones of a public set.
        """
        scenario, suite = self.scenario, self.scenario.suite
        prompts = [prompt for poison in suite.poisons for prompt in poison.prompts]
        answers: dict[str, list[str]] = {}
        with self.show(f"{self.title}: answer {len(prompts)} prompts, twice") as progress:
            for number, which in enumerate((UNTUNED, TUNED), 1):
                answers[which] = generate(scenario.model(which), prompts, max_new_tokens=suite.max_new_tokens,
                                          template=scenario.encoding.template)  # fmt: skip
                progress(number, 2)
        num_bad, queries, start = {UNTUNED: 0, TUNED: 0}, list[Result](), 0
        for poison in suite.poisons:
            judge, stop = get_judge(poison.judge), start + len(poison.prompts)
            bad = {which: [pair for pair in zip(poison.prompts, texts[start:stop], strict=True)
                           if judge(*pair).undesirable]
                   for which, texts in answers.items()}  # fmt: skip
            for which, pairs in bad.items():
                num_bad[which] += len(pairs)
            share = scenario.plan.size.num_queries // len(suite.poisons)
            queries += [{"prompt": prompt, "response": response, "label": poison.name}
                        for prompt, response in bad[TUNED][:share]]  # fmt: skip
            start = stop
        rates = {which: count / len(prompts) for which, count in num_bad.items()}
        published = bool(suite.published) and len(queries) < FEWEST_ANSWERS
        if published:
            queries = [{"prompt": prompt, "response": response, "label": suite.name}
                       for prompt, response in suite.published[: scenario.plan.size.num_queries]]  # fmt: skip
        return {"rate": rates[TUNED], "base_rate": rates[UNTUNED], "queries": queries, "published": published}

    def time_reference(self) -> Result:
        """Measure the cost of the reference's loop on this machine."""
        scenario, model = self.scenario, self.scenario.tuned
        rows = (tokenize(model.tokenizer, row, scenario.encoding) for row in scenario.suite.rows[:NUM_REFERENCE_ROWS])
        rows = [row for row in rows if isinstance(row, TokenizedExample)]
        layer = round(0.8 * model.depth)
        with self.show(f"{self.title}: the reference's loop on {len(rows)} rows"), measure_cost(model.device) as spent:
            features = reference.reference_features(model, rows, layer)
        rates = {"seconds_per_row": spent.seconds / len(rows), "cpu_per_row": spent.cpu / len(rows),
                 "tokens_per_second": sum(len(row.ids) for row in rows) / spent.seconds}  # fmt: skip
        return {**vars(spent), **rates, "bytes_per_row": 4 * features.shape[1], "rows": len(rows)}


@dataclass(frozen=True)
class MethodRun:
    """One method on one of the two models. A method that does not read the model has the same result on both."""

    parent: ScenarioRun
    which: str
    spec: str
    method: Method
    queries: Sequence[Result]

    @property
    def reads_model(self) -> bool:
        """Whether the result depends on the model."""
        return type(self.method).features is not Method.features

    @property
    def file(self) -> Path:
        """Where the traces are stored."""
        which = self.which if self.reads_model else "any"
        return self.parent.scenario.folder / f"{self.method.name}-{_digest(repr(self.method))}-{which}.json"

    def run(self) -> Result:
        """Return the traces, or the reason why there are none."""
        try:
            result = run_once(self.file, self.trace)
        except TaughtbyError as error:  # such as adapter gradients of a model without adapter
            result = {"error": error.what, "do": error.do}
        reads = "model" if self.reads_model else "words"
        return {**result, "method": self.spec, "which": self.which, "reads": reads}

    def trace(self) -> Result:
        """Index and trace; return the scores of all rows, costs, and flagged rows."""
        scenario, method = self.parent.scenario, self.method
        queries = [Query(query["prompt"], query["response"]) for query in self.queries]
        labels = [query["label"] for query in self.queries]
        with self.parent.show(f"{self.parent.title}: {self.spec}, {self.which}"):
            model = scenario.model(self.which)
            index, index_cost = self.build_index(model)
            with measure_cost(model.device) as spent:
                trace = trace_queries(index, model, queries, method=method, top_k=1, score_tokens=False)
            hit = None
            if self.which == TUNED and method.scores_tokens:
                num_planted = max(1, sum(row.label != CLEAN for row in scenario.suite.rows))
                ranked = trace_queries(index, model, queries, method=method, top_k=num_planted)
                hit = word_hit(ranked, labels, scenario.suite.poisons)
        return {
            "options": trace.method.spec(),
            "index": index_cost if index.features else None,
            "query": {**vars(spent), "seconds": spent.seconds / len(queries)},
            "dtype": str(model.dtype).removeprefix("torch."),
            "scores": [[float(score) for score in result.scores] for result in trace.queries],
            "flagged": [result.flagged for result in trace.queries],
            "labels": [row.label for row in index.examples()],
            "hit": hit,
        }

    def build_index(self, model: Model) -> tuple[Index, Result]:
        """Build the index with the method's features, and measure its cost; methods with equal features share one.

        An interrupted index is rebuilt from scratch, so that the cost is that of the whole index.
        """
        scenario = self.parent.scenario
        resolved = self.method.resolve_layers(model.depth, None)
        content = json.dumps([resolved.feature_names(model.depth), resolved.index_notes(model)])
        folder = scenario.folder / f"index-{self.which}-{_digest(content)}"

        def build() -> Result:
            shutil.rmtree(folder, ignore_errors=True)
            with measure_cost(model.device) as spent:
                index = build_index(
                    model, scenario.data, folder, [self.method], encoding=scenario.encoding, layers=False
                )
            lengths = index.dataset.to_table(columns=["n_prompt", "n_response"])
            num_tokens = sum(sum(lengths.column(name).to_pylist()) for name in lengths.column_names)
            size = sum(file.stat().st_size for file in (folder / "rows.lance" / "data").iterdir())
            rates = {"tokens_per_second": num_tokens / spent.seconds, "bytes_per_row": size / len(index)}
            return {"by": self.spec, **vars(spent), **rates, "skipped": len(index.manifest["skipped"])}

        cost = run_once(folder.with_suffix(".json"), build)
        return Index.open(folder), cost


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
