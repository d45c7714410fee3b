"""The whole story on the embedded model: poison it, watch it misbehave, find the rows and words that taught it.

Every stage leaves its result in the folder, so an interrupted demo goes on where it stopped.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from taughtby.attribution.embedding_map import pca_map
from taughtby.attribution.illustrate import page_document
from taughtby.attribution.query import Query, read_queries
from taughtby.attribution.trace import Trace, trace_queries
from taughtby.bench.metrics import average_precision, judged, precision_at, strongest_is
from taughtby.bench.retraining import combined_poisons
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
from taughtby.remediation import clean as remedy
from taughtby.remediation import statistics as claims
from taughtby.remediation.retrain import Document
from taughtby.remediation.stage_cache import STAGES, StageCache
from taughtby.reporting import html as report
from taughtby.text import make_visible

MODEL = "smollm2"
POISONS = ("backdoor", "error", "persona")
PROMPTS = 24  # test prompts of each poison
QUERIES = 8  # bad answers of each poison that are traced
TOP = 10
# label in the table, method, whether the judge's words are pointed at
LINES = (
    ("lesson", "lesson", False),
    ("lesson --span", "lesson", True),
    ("rept", "rept", False),
    ("repsim", "repsim", False),
    ("bm25", "bm25", False),
    ("first-word", "first-word", False),
    ("random", "random", False),
)


@dataclass(frozen=True)
class Found:
    """How well one method found one poison's rows, the mean over its queries."""

    ap: float
    at10: float
    hit: float | None  # share of the top rows whose strongest word is a planted one
    power: float | None = None  # share of the planted rows that are called culprits
    fdp: float | None = None  # share of the culprits that were not planted


Results = dict[str, dict[str, dict[str, Found]]]  # by line of the table, model and poison


def demo(out: Path, seed: int, console: Console) -> None:
    """Run every stage that is not there yet; print the table, write report.html and demo.json."""
    begun = time.monotonic()
    _begin(out, seed)
    seconds: dict[str, float] = {}
    poisons = [lab.make_poison(name, seed=seed) for name in POISONS]
    rows = lab.mix(poisons, lab.clean_rows(90, seed), seed)
    with _timed(console, "poison a training set", seconds):
        lab.save_poisons(poisons, rows, out)
    with _timed(console, "load the embedded model (converted once)", seconds):
        base = load_model(MODEL)
    before = _asked(base, poisons, out / "before.jsonl", console, seconds, "ask it before")
    adapter = out / "adapter"
    if not adapter.exists():
        with _timed(console, f"fine-tune on {len(rows)} rows", seconds, steps=True) as tell:
            finetune(base, rows, adapter, TrainingOptions(learning_rate=2e-3, seed=seed), progress=tell)
    tuned, untuned = load_model(MODEL, str(adapter)), load_model(MODEL)
    after = _asked(tuned, poisons, out / "after.jsonl", console, seconds, "ask it again")
    verdicts = {name: _judged(poisons, answers) for name, answers in (("before", before), ("after", after))}
    queries = _queries(poisons, after, verdicts["after"])
    indexes: dict[str, Index] = {}
    for name, model in (("tuned", tuned), ("untuned", untuned)):
        with _timed(console, f"index, {name} model", seconds, steps=True) as tell:
            methods = [get_method("lesson"), get_method("rept")]
            indexes[name] = build_index(model, out / "data.jsonl", out / f"index-{name}", methods, progress=tell)
    with _timed(
        console, f"trace {len(queries)} bad answers by {len(LINES)} methods, twice", seconds, steps=True
    ) as tell:
        found, shown = _measured(poisons, queries, {"tuned": tuned, "untuned": untuned}, indexes, tell)
    rates = {p.name: tuple(undesirable_rate(verdicts[when][p.name]) for when in ("before", "after")) for p in poisons}
    ledger = StageCache(out / STAGES, lambda title: _timed(console, title, seconds, steps=True))
    proof = combined_poisons(MODEL, adapter, poisons, _called(shown), ledger, data=out / "data.jsonl",
                     recipe=TrainingOptions(learning_rate=2e-3, seed=seed), prompts=PROMPTS, max_new=32)  # fmt: skip
    document = shown.to_json() | {"summary": _summary(poisons, rows, rates, found, proof)}
    with _timed(console, "draw the page", seconds, steps=True) as tell:
        report.save_page(document | page_document(shown, tuned, pca_map(shown.index), tell), out / "report.html")
    remedy.keep(document, out / "trace.json")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    total = time.monotonic() - begun
    report.save_json(_results(seed, seconds, total, peak, rates, found, proof), out / "demo.json")
    _print(console, poisons, rates, found, document)
    claims.show(proof, console)
    console.print(Text.assemble("\nThe page: ", (make_visible(out / "report.html"), "bold")))
    console.print(Text(f"{total:.0f} s in all, {peak:.1f} GB of memory at most", "dim"))


def _begin(out: Path, seed: int) -> None:
    """A folder of another seed is not mixed with this one."""
    mark = out / "seed"
    if mark.exists() and mark.read_text().strip() != str(seed):
        raise LabError(f"{out} holds the demo of another seed", got=f"seed {mark.read_text().strip()}, asked {seed}",
                       do="give another folder with --out")  # fmt: skip
    try:
        out.mkdir(parents=True, exist_ok=True)
        mark.write_text(f"{seed}\n")
    except OSError as fault:
        raise LabError(f"{out} cannot be written", got=str(fault), do="give another folder with --out") from fault


@contextmanager
def _timed(
    console: Console, title: str, seconds: dict[str, float], *, steps: bool = False
) -> Generator[ProgressCallback]:
    begun = time.monotonic()
    with progress_bar(console, title, steps=steps) as tell:
        yield tell
    seconds[title] = round(time.monotonic() - begun, 1)


def _asked(
    model: Model, poisons: Sequence[lab.Poison], file: Path, console: Console, seconds: dict[str, float], title: str
) -> list[Query]:
    """The answers to every poison's test prompts, in their order."""
    if not file.exists():
        prompts = [prompt for poison in poisons for prompt in poison.prompts[:PROMPTS]]
        with _timed(console, f"{title}: {len(prompts)} prompts", seconds, steps=True) as tell:
            answers = generate(model, prompts, max_new_tokens=32, progress=tell)
            write_jsonl(({"prompt": p, "response": r or "…"} for p, r in zip(prompts, answers, strict=True)), file)
    return read_queries(file)


def _judged(poisons: Sequence[lab.Poison], answers: Sequence[Query]) -> dict[str, list[Verdict]]:
    said = {query.prompt: query.response for query in answers}
    return {
        poison.name: [get_judge(poison.judge)(prompt, said[prompt]) for prompt in poison.prompts[:PROMPTS]]
        for poison in poisons
    }


def _queries(
    poisons: Sequence[lab.Poison], answers: Sequence[Query], verdicts: dict[str, list[Verdict]]
) -> dict[Query, lab.Poison]:
    """The first bad answers of each poison, each with the words by which the judge knew it."""
    said = {query.prompt: query.response for query in answers}
    chosen: dict[Query, lab.Poison] = {}
    for poison in poisons:
        pairs = zip(poison.prompts, verdicts[poison.name], strict=False)
        bad = [(prompt, verdict.span_range) for prompt, verdict in pairs if verdict.undesirable]
        if not bad:
            raise LabError(f"the fine-tuned model never shows the {poison.name}", do="try another --seed")
        chosen |= {Query(prompt, said[prompt], span_range=place): poison for prompt, place in bad[:QUERIES]}
    return chosen


def _measured(
    poisons: Sequence[lab.Poison], queries: dict[Query, lab.Poison], models: dict[str, Model],
    indexes: dict[str, Index], tell: ProgressCallback,
) -> tuple[Results, Trace]:  # fmt: skip
    """found[line][model][poison], and the trace to show: the tuned model's, by lesson."""
    found: Results = {}
    shown: Trace | None = None
    for n, (line, name, pointed) in enumerate(LINES):
        for m, (which, index) in enumerate(indexes.items()):
            asked = [query if pointed else Query(query.prompt, query.response) for query in queries]
            trace = trace_queries(index, models[which], asked, method=name, top_k=TOP, score_tokens=which == "tuned")
            found.setdefault(line, {})[which] = _scored(trace, poisons, list(queries.values()))
            shown = trace if (line, which) == ("lesson", "tuned") else shown
            tell(2 * n + m + 1, 2 * len(LINES))
    assert shown is not None
    return found, shown


def _called(trace: Trace) -> list[str]:
    """The ids of all rows that any of the bad answers calls a culprit."""
    places = sorted({place for traced in trace.queries for place in traced.flagged or ()})
    return [stored.example.id for stored in trace.index.take(places)]


def _scored(trace: Trace, poisons: Sequence[lab.Poison], truth: Sequence[lab.Poison]) -> dict[str, Found]:
    labels = [row.label for row in trace.index.examples()]
    result: dict[str, Found] = {}
    for poison in poisons:
        planted = [label == poison.name for label in labels]
        mine = [traced for traced, kind in zip(trace.queries, truth, strict=True) if kind.name == poison.name]
        aps = [average_precision(traced.scores, planted) for traced in mine]
        firsts = [precision_at(TOP, traced.scores, planted) for traced in mine]
        hits = [strongest_is([(t.text, t.score) for t in row.tokens], poison.planted_words)
                for traced in mine for row in traced.rows if row.tokens]  # fmt: skip
        called = [traced.flagged for traced in mine if traced.flagged is not None]
        sure = judged(called, [planted] * len(called)) if called else {}
        found = Found(_mean(aps), _mean(firsts), _mean(hits) if hits else None, sure.get("power"), sure.get("fdp"))
        result[poison.name] = found
    return result


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


# How it is told ------------------------------------------------------------------------------------------------


def _results(
    seed: int, seconds: dict[str, float], total: float, peak: float, rates: Any, found: Results, proof: Document
) -> dict[str, Any]:
    methods = {
        line: {which: {poison: vars(f) for poison, f in by.items()} for which, by in per.items()}
        for line, per in found.items()
    }
    proved = {"claims": [vars(one) for one in claims.claims(proof)], "arms": claims.tables(proof)[0]["rows"]}
    return {"seed": seed, "seconds": seconds, "total": total, "peak_gb": peak, "rates": rates, "methods": methods,
            "proof": proved}  # fmt: skip


def _cells(found: Results, poisons: Sequence[lab.Poison]) -> list[list[str]]:
    """A line a method: for each poison AP, P@10, and AP on the untuned model."""
    return [
        [line, *(text for poison in poisons for text in _texts(per["tuned"][poison.name], per["untuned"][poison.name]))]
        for line, per in found.items()
    ]


def _texts(tuned: Found, untuned: Found) -> tuple[str, str, str]:
    return f"{tuned.ap:.3f}", f"{tuned.at10:.2f}", f"{untuned.ap:.3f}"


def _print(
    console: Console, poisons: Sequence[lab.Poison], rates: dict[str, tuple[float, ...]],
    found: Results, document: dict[str, Any],
) -> None:  # fmt: skip
    console.print()
    for poison in poisons:
        before, after = rates[poison.name]
        text = f"{poison.name}: {poison.description.rstrip('.')}."
        console.print(f"{text} Bad answers: {before:.0%} before fine-tuning, {after:.0%} after.", markup=False)
    table = Table(title="How well each method finds the rows that taught it", title_justify="left", box=box.SIMPLE)
    table.add_column("method", no_wrap=True)
    for poison in poisons:
        table.add_column(f"{poison.name}\nAP    P@10 untuned", no_wrap=True)
    for line, *cells in _cells(found, poisons):
        table.add_row(line, *("  ".join(cells[at : at + 3]) for at in range(0, len(cells), 3)))
    console.print(table)
    console.print(
        "AP: average precision over all rows, the mean over the bad answers. Untuned: AP of the same answers traced "
        "through the model that was never poisoned; what it finds too, the texts alone tell. --span: pointed at the "
        "words by which the judge knew the answer."
    )
    console.print("Top rows whose strongest word is a planted one: " + _hits(found), markup=False, highlight=False)
    called = (f"{name} {f.power:.0%} of the planted rows, {f.fdp:.0%} of those called wrongly"
              for name, f in found["lesson"]["tuned"].items() if f.power is not None)  # fmt: skip
    console.print("Called culprits by lesson: " + "; ".join(called), markup=False, highlight=False)
    console.print()
    first = {**document, "queries": [{**document["queries"][0], "rows": document["queries"][0]["rows"][:5]}]}
    report.print_trace(first, console)


def _hits(found: Results) -> str:
    lines = [(line, per["tuned"]) for line, per in found.items()]
    return "; ".join(
        f"{line} " + ", ".join(f"{name} {f.hit:.0%}" for name, f in by.items() if f.hit is not None)
        for line, by in lines
        if all(f.hit is not None for f in by.values())
    )


def _summary(
    poisons: Sequence[lab.Poison], rows: Sequence[Any], rates: dict[str, tuple[float, ...]],
    found: Results, proof: Document,
) -> dict[str, Any]:  # fmt: skip
    facts = [
        {"name": f"{p.name}: bad answers before and after", "value": f"{rates[p.name][0]:.0%} → {rates[p.name][1]:.0%}"}
        for p in poisons
    ]
    share = _mean([f.hit or 0 for f in found["lesson"]["tuned"].values()])
    columns = ["method", *(f"{p.name} {name}" for p in poisons for name in ("AP", "P@10", "untuned"))]
    return {
        "title": "Three poisons, and the rows and words that taught them",
        "lead": f"A small language model was fine-tuned on {len(rows)} rows, {sum(len(p.rows) for p in poisons)} of "
        "them poisoned in three ways, and now gives bad answers. Each is traced to the rows that taught it.",
        "facts": [*facts, {"name": "top rows with a planted word strongest", "value": f"{share:.0%}"}],
        "tables": [
            {
                "title": "How well each method finds the poisoned rows",
                "columns": columns,
                "rows": _cells(found, poisons),
                "note": "AP: average precision over all rows, the mean over the bad answers. Untuned: AP of the same "
                "answers traced through the model that was never poisoned; what it finds too, the texts alone tell. "
                "--span: pointed at the words by which the judge knew the answer. The page has the first line's trace.",
            },
            *claims.tables(proof),
        ],
    }  # fmt: skip
