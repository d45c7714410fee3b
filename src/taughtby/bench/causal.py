"""The causal benchmark: retrain without the rows or tokens to which a method attributes bad answers.

For each scenario and method, with the same budget for all:

- Change: *rows* removes the top rows; *tokens* keeps the top tokens in their rows, but without loss.
- Effect, relative to the model trained on everything: the increase of the loss of the traced answers (query loss
  difference, QLD), the rate of the behaviour on test prompts, and the loss of clean held-out rows.
- The linear datamodeling score (LDS; Park et al., arXiv 2303.14186): over random halves of the rows, the rank
  correlation of the summed scores of a half with the (negative) loss of the answers after training on it.

Controls are random rows and tokens, random tokens of the same rows, and the planted rows and tokens. Equal changes are
trained once. Every result is stored, so an interrupted run resumes.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from taughtby.bench.attributions import Attribution, attribution, export_inputs, read_peer, score_scenario
from taughtby.bench.counterfactual import (
    Change,
    Measurement,
    learned_positions,
    measure,
    measure_base,
    start_worker,
)
from taughtby.bench.run import MethodRun, ScenarioRun
from taughtby.bench.scenario import TUNED, BenchPlan, Scenario, make_scenarios
from taughtby.bench.suites import CLEAN
from taughtby.data.example import make_example
from taughtby.data.phrases import Range, occurrences, tokens_in_ranges
from taughtby.data.tokenize import TokenizedExample, token_texts, tokenize_all
from taughtby.lab import poisons as lab
from taughtby.lab.judges import get_judge
from taughtby.methods import get_method
from taughtby.remediation.stage_cache import Show, run_once

Result = dict[str, Any]
PLANTED, RANDOM, SAME_ROWS = "planted", "random", "random tokens of the same rows"
WITH_SPANS = " with spans"  # of the words that the judge shows, as `judge` writes them for `trace`
NUM_HELD_OUT = 32
CAUSAL_SUITES = ("backdoor", "error", "persona", "truth-beside-lie", "refusals")
TOKEN_SHARE = 0.1  # of the tokens with loss: the budget if no planted words are known


@dataclass(frozen=True)
class CausalPlan:
    """What to compare.

    Attributes:
        bench: Suites, methods, seeds, sizes, model and recipe.
        budget: Number of rows to remove, as a share of the planted ones; tokens likewise.
        num_random: Number of random draws.
        num_subsets: Number of random halves for the LDS; 0 for none.
        num_lds_seeds: Number of seeds with an LDS.
        num_workers: Number of parallel trainings.
    """

    bench: BenchPlan
    budget: float = 1.0
    num_random: int = 3
    num_subsets: int = 32
    num_lds_seeds: int = 1
    num_workers: int = 1


def run(plan: CausalPlan, show: Show) -> list[Result]:
    """Run what has no stored result; return queries, changes, measurements and scores of each scenario."""
    scenarios = sorted(make_scenarios(plan.bench), key=lambda scenario: scenario.seed)  # every suite's first seed first
    return [CausalScenario(plan, scenario, show).run() for scenario in scenarios]


class CausalScenario:
    """One suite with one seed."""

    def __init__(self, plan: CausalPlan, scenario: Scenario, show: Show) -> None:
        self.plan, self.scenario, self.show = plan, scenario, show
        self.base_run = ScenarioRun(scenario, show)
        self.folder = scenario.folder / "causal"
        self.rng = np.random.default_rng(scenario.seed)

    def run(self) -> Result:
        """Run all stages; return the queries, the measurements of each change and random half, and the scores."""
        scenario = self.scenario
        _, answers = self.base_run.train_and_answer()
        result = {"suite": scenario.suite.name, "seed": scenario.seed, **answers, "num_rows": len(scenario.suite.rows)}
        if not answers["queries"]:
            return result
        self.queries: list[Result] = answers["queries"]
        attributions = self.attributions()
        changes = self.changes(attributions)
        subsets = self.subsets()
        measured = self.measure_all(list({change.key: change for _, _, change in changes}.values()), subsets)
        labels = [row.label != CLEAN for row in scenario.suite.rows]
        lines = [{"method": method, "kind": kind, "num_rows": len(change.rows), "num_tokens": len(change.tokens),
                  "num_planted": sum(labels[n] for n in {*change.rows, *(row for row, _ in change.tokens)}),
                  **measured[change.key]} for method, kind, change in changes]  # fmt: skip
        halves = [{"rows": list(half.rows), "losses": measured[f"loss {half.key}"]["query_losses"]} for half in subsets]
        return {**result, "planted": labels, "base": measure_base(self.measurement),
                "lines": lines, "subsets": halves,
                "scores": {one.method: one.rows.tolist() for one in attributions}}  # fmt: skip

    @cached_property
    def encoded(self) -> list[TokenizedExample]:
        """The tokenized rows, to whose positions the changes refer."""
        rows = tokenize_all(self.scenario.tuned.tokenizer, self.scenario.suite.rows, self.scenario.encoding)
        usable = [row for row in rows if isinstance(row, TokenizedExample)]
        assert len(usable) == len(rows), "a suite's rows all have learned tokens"
        return usable

    @cached_property
    def measurement(self) -> Measurement:
        """What is measured on every counterfactual model."""
        scenario, bench = self.scenario, self.plan.bench
        ordinary = lab.clean_rows(bench.size.num_rows + 4 * NUM_HELD_OUT, scenario.seed)
        held_out = lab.unseen_rows(ordinary, scenario.suite.rows)[:NUM_HELD_OUT]
        return Measurement(
            bench, replace(bench.recipe, seed=scenario.seed), scenario.suite.rows,
            tuple(make_example(query["prompt"], query["response"]) for query in self.queries),
            tuple((poison.prompts, poison.judge) for poison in scenario.suite.poisons), tuple(held_out),
            scenario.suite.max_new_tokens, self.folder,
        )  # fmt: skip

    def attributions(self) -> list[Attribution]:
        """The scores of every method, and of every other tool with a file in the scenario's folder."""
        scenario, result = self.scenario, list[Attribution]()
        peers = self.folder / "peers"
        if not (peers / "queries.jsonl").exists():
            export_inputs(peers, scenario.tuned, self.encoded, self.queries, scenario.encoding)
        for number, spec in enumerate(self.plan.bench.methods):
            run = MethodRun(self.base_run, TUNED, spec, get_method(spec), self.queries)
            result.append(attribution(spec, self._score(run, spec, f"scores-{run.file.name}")))
            if number == 0 and run.method.scores_tokens and self.spans:
                scores = self._score(run, spec + WITH_SPANS, f"scores-span-{run.file.name}", self.spans)
                result.append(attribution(spec + WITH_SPANS, scores))
        return result + [read_peer(file, self.encoded, len(self.queries)) for file in sorted(peers.glob("*.json"))]

    def _score(self, run: MethodRun, title: str, file: str, spans: Sequence[Range] | None = None) -> Result:
        def score() -> Result:
            with self.show(f"{self.scenario.title}: scores of {title}"):
                return score_scenario(run, self.scenario.tuned, spans)

        return run_once(self.folder / file, score)

    @cached_property
    def spans(self) -> list[Range]:
        """The characters of each traced answer that its judge shows; empty if it shows none of one of them."""
        judges = {poison.name: get_judge(poison.judge) for poison in self.scenario.suite.poisons}
        verdicts = [judges[query["label"]](query["prompt"], query["response"]) for query in self.queries]
        spans = [verdict.span_range for verdict in verdicts if verdict.span_range]
        return spans if len(spans) == len(verdicts) else []

    def planted_tokens(self) -> list[tuple[int, int]]:
        """The tokens of the planted words in planted rows."""
        tokenizer = self.scenario.tuned.tokenizer
        words = {poison.name: poison.planted_words for poison in self.scenario.suite.poisons}
        result: list[tuple[int, int]] = []
        for number, (row, tokens) in enumerate(zip(self.scenario.suite.rows, self.encoded, strict=True)):
            pieces = token_texts(tokenizer, tokens.response)
            text = "".join(pieces)
            ranges = [span for word in words.get(row.label or "", ()) for span in occurrences(text, word)]
            result += [(number, tokens.n_prompt + place) for place in sorted(tokens_in_ranges(pieces, ranges))]
        return result

    def changes(self, attributions: Sequence[Attribution]) -> list[tuple[str, str, Change]]:
        """What is removed or masked: (method, `rows` or `tokens`, change)."""
        planted_rows = [n for n, row in enumerate(self.scenario.suite.rows) if row.label != CLEAN]
        planted_tokens = self.planted_tokens()
        learned = [(n, place) for n, row in enumerate(self.encoded) for place in learned_positions(row)]
        num_rows = max(1, round(self.plan.budget * len(planted_rows)))
        num_tokens = max(1, round(self.plan.budget * (len(planted_tokens) or TOKEN_SHARE * len(learned))))
        changes = [("all rows", "rows", Change())]
        changes += [(PLANTED, "rows", Change(tuple(self._draw(planted_rows, num_rows))))]
        if planted_tokens:
            changes += [(PLANTED, "tokens", Change(tokens=tuple(self._draw(planted_tokens, num_tokens))))]
        for _ in range(self.plan.num_random):
            changes += [(RANDOM, "rows", Change(tuple(self._draw(range(len(self.encoded)), num_rows))))]
            changes += [(RANDOM, "tokens", Change(tokens=tuple(self._draw(learned, num_tokens))))]
        for one in attributions:
            changes += [(one.method, "rows", Change(_top(one.mean_rows, num_rows)))]
            if one.tokens is not None:
                top = self._top_tokens(one.tokens, num_tokens)
                changes += [(one.method, "tokens", Change(tokens=top))]
                if one.method == self.plan.bench.methods[0]:
                    draws = [self._same_rows(top) for _ in range(self.plan.num_random)]
                    changes += [(f"{one.method}, {SAME_ROWS}", "tokens", draw) for draw in draws]
        return changes

    def subsets(self) -> list[Change]:
        """Random halves, as the changes that remove the other half."""
        if self.scenario.seed >= self.plan.num_lds_seeds:
            return []
        count = len(self.encoded)
        rng = np.random.default_rng(self.scenario.seed + 1_000)
        return [Change(tuple(sorted(rng.permutation(count)[: count // 2].tolist())))
                for _ in range(self.plan.num_subsets)]  # fmt: skip

    def measure_all(self, changes: Sequence[Change], subsets: Sequence[Change]) -> dict[str, Result]:
        """Train and measure what is not stored, in parallel."""
        measurement = self.measurement
        tasks = {f"loss {half.key}": (half, True) for half in subsets}
        tasks |= {change.key: (change, False) for change in changes}
        missing = [task for task in tasks.values() if not measurement.file(task[0], loss_only=task[1]).exists()]
        if missing:
            for name in ("tuned", "base"):  # free their memory for the workers
                self.scenario.__dict__.pop(name, None)
            with self.show(f"{self.scenario.title}: {len(missing)} trainings") as progress:
                for done in train(measurement, missing, self.plan.num_workers):
                    progress(done, len(missing))
        return {key: measure(measurement, change, loss_only=loss_only) for key, (change, loss_only) in tasks.items()}

    def _draw(self, items: Sequence[Any], count: int) -> list[Any]:
        chosen = self.rng.choice(len(items), min(count, len(items)), replace=False)
        return [items[place] for place in sorted(chosen.tolist())]

    def _top_tokens(self, tokens: Sequence[Sequence[float]], count: int) -> tuple[tuple[int, int], ...]:
        """The tokens with the highest scores among those with a loss."""
        places, scores = list[tuple[int, int]](), list[float]()
        for number, (row, values) in enumerate(zip(self.encoded, tokens, strict=True)):
            learned = set(learned_positions(row))
            for offset, value in enumerate(values):
                if (place := row.n_prompt + offset) in learned:
                    places.append((number, place))
                    scores.append(value)
        return tuple(sorted(places[n] for n in _top(np.array(scores), count)))

    def _same_rows(self, tokens: Sequence[tuple[int, int]]) -> Change:
        """Random tokens, as many from each row as in `tokens`."""
        counts = Counter(row for row, _ in tokens)
        return Change(tokens=tuple(
            (row, place) for row, count in counts.items()
            for place in self._draw(learned_positions(self.encoded[row]), count)
        ))  # fmt: skip


def train(measurement: Measurement, tasks: Sequence[tuple[Change, bool]], num_workers: int) -> Iterator[int]:
    """Train and store the result of every task; yield the number done."""
    if num_workers == 1:
        for done, (change, loss_only) in enumerate(tasks, 1):
            measure(measurement, change, loss_only=loss_only)
            yield done
        return
    threads = max(1, (os.cpu_count() or 1) // num_workers)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, context, start_worker, (threads,)) as pool:
        jobs = [pool.submit(measure, measurement, change, loss_only=loss_only) for change, loss_only in tasks]
        try:
            for done, job in enumerate(as_completed(jobs), 1):
                job.result()
                yield done
        except BaseException:  # also on Ctrl-C: cancel pending trainings
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _top(scores: Any, count: int) -> tuple[int, ...]:
    """The positions of the highest scores; ties are broken by the order of the (shuffled) data."""
    order: list[int] = np.argsort(-np.asarray(scores), kind="stable")[:count].tolist()
    return tuple(sorted(order))
