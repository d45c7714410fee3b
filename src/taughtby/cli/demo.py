"""The demo: poison the bundled model, find the rows and tokens that taught it, and retrain without them.

Every stage saves its result in the folder, so an interrupted demo resumes. At most one copy of the model is in memory:
the fine-tuned model with its adapter off is the base model.
"""

from __future__ import annotations

import ctypes
import gc
import resource
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from taughtby.attribution.embedding_map import pca_map
from taughtby.attribution.illustrate import page_document
from taughtby.attribution.query import Query, read_queries
from taughtby.attribution.trace import Trace, trace_queries
from taughtby.bench.metrics import average_precision, flagging_metrics, precision_at, strongest_is
from taughtby.bench.retraining import combined_poisons
from taughtby.cli import demo_report
from taughtby.cli.demo_report import BASE, TUNED, Results, Score, mean
from taughtby.errors import LabError
from taughtby.index.build import build_index
from taughtby.index.reader import Index
from taughtby.lab import poisons as lab
from taughtby.lab.answers import write_jsonl
from taughtby.lab.finetune import TrainingOptions, finetune
from taughtby.lab.generate import generate
from taughtby.lab.judges import Verdict, get_judge, undesirable_rate
from taughtby.methods import get_method
from taughtby.models.model import Model, load_model
from taughtby.progress import ProgressCallback, progress_bar
from taughtby.remediation import statistics
from taughtby.remediation.stage_cache import STAGES, StageCache
from taughtby.remediation.trace_file import save_trace
from taughtby.reporting import html as report
from taughtby.text import cli_command, make_visible

MODEL = "smollm2"
POISONS = ("backdoor", "error", "persona")
PLANTED, CLEAN = 24, 48  # rows of each poison, and ordinary rows; the poisons' lookalikes come on top
BATCH_SIZE = 4  # gives the 162 rows as many steps as 282 rows have in batches of 8
PROMPTS = 16  # test prompts of each poison
QUERIES = 6  # bad answers of each poison that are traced
TOP_K = 10
MAX_NEW_TOKENS = 24
# label in the table, method, whether the query has the judge's words as its span
LINES = (
    ("lesson", "lesson", False),
    ("lesson --span", "lesson", True),
    ("rept", "rept", False),
    ("bm25", "bm25", False),
    ("first-word", "first-word", False),
    ("random", "random", False),
)
# the line whose flagged rows are removed; `lab judge` writes the spans that `trace --queries` reads
FLAGGING = "lesson --span"
TEXT_METHODS = ("bm25", "first-word", "random")  # read no model, so one trace serves both models


@dataclass
class _Run:
    """A running demo: where it writes and prints, and the seconds of each stage."""

    out: Path
    seed: int
    console: Console
    poisons: list[lab.Poison]
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def stage(self, title: str, *, steps: bool = True) -> Generator[ProgressCallback]:
        """Show the progress of a stage, and record how long it took."""
        begin = time.monotonic()
        with progress_bar(self.console, title, steps=steps) as progress:
            yield progress
        self.seconds[title] = round(time.monotonic() - begin, 1)

    @property
    def recipe(self) -> TrainingOptions:
        """How all models are trained."""
        return TrainingOptions(learning_rate=2e-3, batch_size=BATCH_SIZE, seed=self.seed)


def demo(out: Path, seed: int, console: Console) -> None:
    """Run every stage whose result is not stored yet; print tables, write report.html, trace.json and demo.json."""
    begin = time.monotonic()
    _check_folder(out, seed)
    run = _Run(out, seed, console, [lab.make_poison(name, PLANTED, seed=seed) for name in POISONS])
    rows = lab.mix(run.poisons, lab.clean_rows(CLEAN, seed), seed)
    with run.stage("poison a training set", steps=False):
        lab.save_poisons(run.poisons, rows, out)
        error = next(poison for poison in run.poisons if poison.name == "error")
        (out / "prompts.txt").write_text("".join(f"{prompt}\n" for prompt in error.prompts[:PROMPTS]))
    _finetune(run, rows)
    rates, results, trace, page = _trace(run)
    _free_memory()
    cache = StageCache(out / STAGES, run.stage)
    proof = combined_poisons(MODEL, out / "adapter", run.poisons, [row.id for row in _flagged(trace)], cache,
                             data=out / "data.jsonl", recipe=run.recipe, num_prompts=PROMPTS,
                             max_new_tokens=MAX_NEW_TOKENS)  # fmt: skip
    document = page | {"summary": demo_report.summary(run.poisons, rows, rates, results, proof)}
    report.save_page(document, out / "report.html")
    save_trace(trace.to_json() | {"summary": document["summary"]}, out / "trace.json")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    total = time.monotonic() - begin
    facts = {"seed": seed, "seconds": run.seconds, "total": total, "peak_gb": peak, "rates": rates}
    report.save_json(facts | demo_report.results_json(results, proof), out / "demo.json")
    demo_report.print_results(console, run.poisons, rates, results)
    statistics.show(proof, console)
    console.print(Text.assemble("\nThe page: ", (make_visible(out / "report.html"), "bold")))
    follow_up = cli_command("trace", out / "idx", prompt="Who makes honey?", response="Honey is made by beetles.")
    console.print(Text.assemble("Trace an answer yourself: ", (make_visible(follow_up), "bold")), soft_wrap=True)
    console.print(Text(f"{total:.0f} s in total, {peak:.1f} GB of memory at most", "dim"))


def _check_folder(out: Path, seed: int) -> None:
    """Refuse the folder of another seed, and one that cannot be written."""
    mark = out / "seed"
    do = "give another folder with --out"
    if mark.exists() and mark.read_text().strip() != str(seed):
        got = f"it has seed {mark.read_text().strip()}, but seed {seed} was given"
        raise LabError(f"{out} holds the demo of another seed", got=got, do=do)
    try:
        out.mkdir(parents=True, exist_ok=True)
        mark.write_text(f"{seed}\n")
    except OSError as error:
        raise LabError(f"{out} cannot be written", got=str(error), do=do) from error


def _finetune(run: _Run, rows: Sequence[Any]) -> None:
    """Train the adapter on all rows."""
    if (run.out / "adapter").exists():
        return
    with run.stage("load the bundled model (converted once)", steps=False):
        base = load_model(MODEL)
    with run.stage(f"fine-tune on {len(rows)} rows") as progress:
        finetune(base, rows, run.out / "adapter", run.recipe, progress=progress)
    del base
    _free_memory()


def _trace(run: _Run) -> tuple[dict[str, tuple[float, float]], Results, Trace, dict[str, Any]]:
    """Generate, index and trace.

    Returns:
        The rate of bad answers of each poison before and after fine-tuning, the scores of each method, the trace, and
        the content of its page.
    """
    tuned = load_model(MODEL, str(run.out / "adapter"))
    after = _answers(run, tuned, "after", "fine-tuned model")
    verdicts = _verdicts(run.poisons, after)
    queries = _queries(run.poisons, after, verdicts)
    index = _index(run, tuned, "idx", "fine-tuned model")
    with run.stage("trace the first bad answer", steps=False):
        first = trace_queries(index, tuned, list(queries)[:1], method="lesson", top_k=5)
    report.print_trace(first.to_json(), run.console)
    rates: dict[str, tuple[float, float]] = {}
    with tuned.base_model() as base:
        before = _verdicts(run.poisons, _answers(run, base, "before", "base model"))
        for poison in run.poisons:
            rates[poison.name] = undesirable_rate(before[poison.name]), undesirable_rate(verdicts[poison.name])
        base_index = _index(run, base, "idx-base", "base model")
    with run.stage(
        f"trace {len(queries)} bad answers with {len(LINES)} methods, and through the base model"
    ) as progress:
        results, trace = _compare(run.poisons, queries, tuned, index, base_index, progress)
    with run.stage("draw the page") as progress:
        page = page_document(trace, tuned, pca_map(index), progress)
    return rates, results, trace, page


def _answers(run: _Run, model: Model, name: str, title: str) -> list[Query]:
    """Return the model's answers to every poison's test prompts, in the order of the prompts."""
    file = run.out / f"{name}.jsonl"
    if not file.exists():
        prompts = [prompt for poison in run.poisons for prompt in poison.prompts[:PROMPTS]]
        with run.stage(f"{title}: answer {len(prompts)} prompts") as progress:
            answers = generate(model, prompts, max_new_tokens=MAX_NEW_TOKENS, progress=progress)
            write_jsonl(({"prompt": p, "response": r or "…"} for p, r in zip(prompts, answers, strict=True)), file)
    return read_queries(file)


def _index(run: _Run, model: Model, folder: str, title: str) -> Index:
    with run.stage(f"index the rows with the {title}") as progress:
        methods = [get_method("lesson"), get_method("rept")]
        return build_index(model, run.out / "data.jsonl", run.out / folder, methods, progress=progress)


def _verdicts(poisons: Sequence[lab.Poison], answers: Sequence[Query]) -> dict[str, list[Verdict]]:
    responses = {query.prompt: query.response for query in answers}
    return {
        poison.name: [get_judge(poison.judge)(prompt, responses[prompt]) for prompt in poison.prompts[:PROMPTS]]
        for poison in poisons
    }


def _queries(
    poisons: Sequence[lab.Poison], answers: Sequence[Query], verdicts: dict[str, list[Verdict]]
) -> dict[Query, lab.Poison]:
    """Return the first bad answers of each poison, each with the words that the judge matched as its span."""
    responses = {query.prompt: query.response for query in answers}
    chosen: dict[Query, lab.Poison] = {}
    for poison in poisons:
        pairs = zip(poison.prompts, verdicts[poison.name], strict=False)
        bad = [(prompt, verdict.span_range) for prompt, verdict in pairs if verdict.undesirable]
        if not bad:
            raise LabError(f"the fine-tuned model never shows the {poison.name}", do="try another --seed")
        chosen |= {Query(prompt, responses[prompt], span_range=span): poison for prompt, span in bad[:QUERIES]}
    return chosen


def _compare(
    poisons: Sequence[lab.Poison], queries: dict[Query, lab.Poison], tuned: Model, index: Index, base_index: Index,
    progress: ProgressCallback,
) -> tuple[Results, Trace]:  # fmt: skip
    """Return the scores of each line of the table for both models, and the trace whose flagged rows are removed."""
    results: Results = {line: {} for line, _, _ in LINES}
    flagging: Trace | None = None
    truth = list(queries.values())
    for number, (line, method, with_span) in enumerate(LINES, 1):
        line_queries = [query if with_span else Query(query.prompt, query.response) for query in queries]
        trace = trace_queries(index, tuned, line_queries, method=method, top_k=TOP_K)
        results[line][TUNED] = results[line][BASE] = _score(trace, poisons, truth)
        if line == FLAGGING:
            flagging = trace
        if method not in TEXT_METHODS:
            with tuned.base_model() as base:
                control = trace_queries(base_index, base, line_queries, method=method, top_k=TOP_K, score_tokens=False)
            results[line][BASE] = _score(control, poisons, truth)
        progress(number, len(LINES))
    assert flagging is not None
    return results, flagging


def _flagged(trace: Trace) -> list[Any]:
    """Return all rows that are flagged for any of the bad answers."""
    positions = sorted({position for result in trace.queries for position in result.flagged or ()})
    return [row.example for row in trace.index.take(positions)]


def _score(trace: Trace, poisons: Sequence[lab.Poison], truth: Sequence[lab.Poison]) -> dict[str, Score]:
    labels = [row.label for row in trace.index.examples()]
    scores: dict[str, Score] = {}
    for poison in poisons:
        planted = [label == poison.name for label in labels]
        own = [result for result, kind in zip(trace.queries, truth, strict=True) if kind.name == poison.name]
        ap = mean([average_precision(result.scores, planted) for result in own])
        precision = mean([precision_at(TOP_K, result.scores, planted) for result in own])
        hits = [strongest_is([(token.text, token.score) for token in row.tokens], poison.planted_words)
                for result in own for row in result.rows if row.tokens]  # fmt: skip
        flagged = [result.flagged for result in own if result.flagged is not None]
        rates = flagging_metrics(flagged, [planted] * len(flagged)) if flagged else {}
        scores[poison.name] = Score(ap, precision, mean(hits) if hits else None, rates.get("power"), rates.get("fdp"))
    return scores


def _free_memory() -> None:
    """Collect models and trainers that are in reference cycles, and return their memory to the system if possible."""
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL("libc.so.6").malloc_trim(0)
