"""Commands that train again to test what a trace flagged: retrain, audit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from taughtby.cli import options
from taughtby.cli.app import app, command
from taughtby.cli.arguments import check_arguments, check_file
from taughtby.cli.console import change_read_options, errors, note, output, read_lines, read_options

if TYPE_CHECKING:
    from taughtby.remediation.trace_file import Document

FLAGGED = 3  # the exit code of `audit --fail-on flagged`; 1 is an error, 2 wrong usage
CONDITIONS = "What is trained"
Prompts = Annotated[
    Path,
    typer.Option(
        "--prompts",
        "-p",
        metavar="FILE",
        help="Prompts that cause the behaviour: a .txt with one per line, or rows of any format.",
    ),
]
TopK = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="K",
        help="The best K rows of each answer, instead of the flagged rows.",
        rich_help_panel=CONDITIONS,
    ),
]
Random = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="N",
        help="The number of trainings without random rows, as a control.",
        rich_help_panel=CONDITIONS,
    ),
]
Curve = Annotated[
    str | None,
    typer.Option(metavar="K,K,…", help="Train also without the best K rows, for each K.", rich_help_panel=CONDITIONS),
]
Truth = Annotated[
    list[str] | None,
    typer.Option(
        metavar="LABEL",
        help="Train also without all rows of this label: the best that any trace could do.",
        rich_help_panel=CONDITIONS,
    ),
]
MaskWords = Annotated[
    bool,
    typer.Option(
        "--mask-words",
        help="Train also on all rows, without the loss on the top-scoring words.",
        rich_help_panel=CONDITIONS,
    ),
]
HeldOut = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Clean rows to measure the loss on.",
        show_default="a tenth of the rows that are not flagged, at most 64, held out from all trainings",
        rich_help_panel=CONDITIONS,
    ),
]
Ordinary = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Prompts that should not cause the behaviour.",
        show_default="those of the held-out rows",
        rich_help_panel=CONDITIONS,
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Passes over the data.",
        show_default="as the adapter's folder says, like all of these",
        rich_help_panel=options.TRAINING,
    ),
]
LearningRate = Annotated[
    float | None, typer.Option(metavar="X", help="Learning rate.", rich_help_panel=options.TRAINING)
]
Rank = Annotated[
    int | None, typer.Option(metavar="N", help="Rank of the LoRA adapter.", rich_help_panel=options.TRAINING)
]
BatchSize = Annotated[int | None, typer.Option(metavar="N", help="Rows per step.", rich_help_panel=options.TRAINING)]
MaxLength = Annotated[
    int | None, typer.Option(metavar="N", help="Tokens of a row at most.", rich_help_panel=options.TRAINING)
]
TrainSeed = Annotated[
    int | None,
    typer.Option(
        "--seed",
        metavar="N",
        help="Seed of the training, the random rows and those held out.",
        rich_help_panel=options.TRAINING,
    ),
]
Seeds = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="N",
        help="Repeat all trainings with N seeds, and report the spread.",
        rich_help_panel=options.TRAINING,
    ),
]


@command(
    app,
    example='taughtby retrain trace.json data.jsonl --prompts prompts.txt --judge "phrase:beetles" -o retrained',
    page="how-to/retrain",
    panel="Fix",
)
def retrain(
    trace: options.TraceFile, data: options.DataName, out: options.Out, prompts: Prompts, judge: options.JudgeSpec,
    top_k: TopK = None, rows: options.RowsFile = None, random: Random = 1, curve: Curve = None, truth: Truth = None,
    mask_words: MaskWords = False, held_out: HeldOut = None, ordinary: Ordinary = None,
    max_new_tokens: options.MaxNewTokens = 48, epochs: Epochs = None, learning_rate: LearningRate = None,
    rank: Rank = None, batch_size: BatchSize = None, max_length: MaxLength = None, seed: TrainSeed = None,
    seeds: Seeds = 1, base: options.Base = None, columns: options.Columns = None, turns: options.Turns = None,
    response_template: options.ResponseTemplate = None, split: options.Split = None, dtype: options.Dtype = "auto",
    device: options.Device = "auto", report_to: options.ReportTo = None,
) -> None:  # fmt: skip
    """Train without the flagged rows and without as many random rows, and compare the answers.

    OUT gets every model, answer and verdict, retraining results as JSON, and curve.png with --curve. An interrupted
    run resumes with the same command.
    """
    check_arguments("retrain", TRACE=trace, DATA=data)
    check_file(trace, "the file that `taughtby trace … --json FILE` wrote")
    _check_files(prompts, held_out, ordinary)
    from taughtby.data.dataset import read_examples
    from taughtby.lab.prompts import read_prompts
    from taughtby.remediation.audit_report import save_proof
    from taughtby.remediation.experiment import Behaviour
    from taughtby.remediation.experiment_setup import design_from_trace, experiment_from_trace, with_seeds
    from taughtby.remediation.retrain import retrain as run
    from taughtby.remediation.run_report import retrain_record
    from taughtby.remediation.selection import select_rows
    from taughtby.remediation.stage_cache import STAGES, StageCache
    from taughtby.remediation.trace_file import load_trace, read_options_of
    from taughtby.tracking.registry import open_runs

    document = load_trace(trace)
    reading = change_read_options(read_options_of(document), columns, turns, response_template, split)
    chosen = select_rows(document, top_k=top_k, rows=read_lines(rows) if rows else None)
    settings = _given(epochs=epochs, learning_rate=learning_rate, rank=rank, batch_size=batch_size,
                      max_length=max_length, seed=seed)  # fmt: skip
    behaviour = Behaviour("bad answers", tuple(read_prompts(prompts, note=note)), judge)
    experiment, notes = experiment_from_trace(
        document, [behaviour], settings, base=base, max_new_tokens=max_new_tokens, dtype=dtype, device=device
    )
    for text in notes:
        note(text)
    design = design_from_trace(
        document, chosen, num_random=random, curve=_numbers(curve), truth_labels=truth or (), mask_words=mask_words
    )
    examples, cache = list(read_examples(data, reading)), StageCache(out / STAGES, _progress)
    clean = list(read_examples(str(held_out))) if held_out else None
    usual = read_prompts(ordinary, failed_only=False) if ordinary else None
    with open_runs(report_to or (), out.resolve().name, out) as report:
        results = [run(one, examples, [row.id for row in chosen], cache, design=design, held_out=clean, ordinary=usual)
                   for one in with_seeds(experiment, seeds)]  # fmt: skip
        folders = [out / f"seed-{result['recipe']['seed']}" if number else out for number, result in enumerate(results)]
        for result, folder in zip(results, folders, strict=True):
            save_proof(result, folder)
        _print_results(results, out)
        files = [Path(trace), out / "proof.json", out / "curve.png", *folders[1:]]
        if report_to:
            report(retrain_record(document, results, data, files))


@command(
    app,
    example='taughtby audit smollm2 data.jsonl --adapter adapter --prompts prompts.txt --judge "phrase:beetles" -o audit',
    page="how-to/audit",
    panel="Fix",
)
def audit(
    model: options.ModelName, data: options.DataName, out: options.Out, prompts: Prompts, judge: options.JudgeSpec,
    adapter: Annotated[str | None, typer.Option("--adapter", "-a", metavar="FOLDER", help="The PEFT adapter to audit, on top of MODEL.", rich_help_panel=options.MODEL_PANEL)] = None,
    base: options.Base = None,
    queries: Annotated[int, typer.Option(min=1, metavar="N", help="The number of bad answers to trace.")] = 16,
    top_k: TopK = None, random: Random = 1, curve: Curve = None, truth: Truth = None, mask_words: MaskWords = False,
    held_out: HeldOut = None, ordinary: Ordinary = None, max_new_tokens: options.MaxNewTokens = 48,
    epochs: Epochs = None, learning_rate: LearningRate = None, rank: Rank = None, batch_size: BatchSize = None,
    max_length: MaxLength = None, seed: TrainSeed = None, columns: options.Columns = None,
    turns: options.Turns = None, response_template: options.ResponseTemplate = None, split: options.Split = None,
    dtype: options.Dtype = "auto", device: options.Device = "auto",
    fail_on: Annotated[Literal["flagged"] | None, typer.Option(help=f"Exit with code {FLAGGED} if any row is flagged.")] = None,
    report_to: options.ReportTo = None,
) -> None:  # fmt: skip
    """Generate, judge, index, trace, clean and retrain in one command, and write a report.

    OUT gets report.md and report.html, where each claim has the command that reproduces it, and what every stage made.
    An interrupted run resumes with the same command.
    """
    check_arguments("audit", MODEL=model, DATA=data)
    _check_files(prompts, held_out, ordinary)
    from taughtby.data.dataset import read_examples
    from taughtby.lab.prompts import read_prompts
    from taughtby.models.training_metadata import TrainingMetadata
    from taughtby.remediation.audit import AuditCase
    from taughtby.remediation.audit import audit as run
    from taughtby.remediation.audit_report import write_report
    from taughtby.remediation.experiment import Behaviour
    from taughtby.remediation.run_report import audit_record
    from taughtby.tracking.registry import open_runs

    any_reading = any((columns, turns, response_template, split))
    files = {"held_out": held_out, "ordinary": ordinary}
    case = AuditCase(
        model, data, Behaviour("bad answers", tuple(read_prompts(prompts, note=note)), judge), adapter, base,
        read_options(TrainingMetadata(), columns, turns, response_template, split) if any_reading else None,
        queries, top_k, random, _numbers(curve), tuple(truth or ()), mask_words,
        tuple(read_examples(str(held_out))) if held_out else None, tuple(read_prompts(ordinary, failed_only=False)) if ordinary else None,
        {name: str(file) for name, file in files.items() if file},
        _given(epochs=epochs, learning_rate=learning_rate, rank=rank, batch_size=batch_size, max_length=max_length,
               seed=seed),
        max_new_tokens, dtype, device,
    )  # fmt: skip
    with open_runs(report_to or (), out.resolve().name, out) as report:
        result = run(case, out, _progress)
        write_report(case, result, out)
        _print_audit(result)
        output().print(f"{out}: report.md, report.html, and what every stage made")
        if report_to:
            report(audit_record(case, result, out))
    if fail_on and result["trace"] and any(query["num_flagged"] for query in result["trace"]["queries"]):
        raise typer.Exit(FLAGGED)


def _check_files(prompts: Path, held_out: Path | None, ordinary: Path | None) -> None:
    check_file(prompts, "a .txt with one prompt per line, or rows of any format")
    check_file(held_out, "a file of clean rows")
    check_file(ordinary, "a .txt with one prompt per line, or rows of any format")


def _print_results(results: list[Document], out: Path) -> None:
    """Print the experiment, and the spread over its seeds."""
    from taughtby.remediation.statistics import seed_table, show, show_table

    show(results[0], output())
    if len(results) > 1:
        show_table(seed_table(results), output())
    output().print(f"{out}: results as JSON, and every model, answer and verdict")


def _print_audit(result: Document) -> None:
    """Print the result of an audit."""
    from taughtby.remediation.statistics import show

    answers, console = result["answers"], output()
    console.print(f"{answers['bad']} of {answers['judged']} answers are bad")
    if result["trace"]:
        console.print(f"{len(result['removals'])} of {result['num_rows']} training rows are flagged")
    for text in result["notes"]:
        note(text)
    if result["proof"]:
        show(result["proof"], console)


def _progress(title: str) -> Any:
    """A progress bar for each stage."""
    from taughtby.progress import progress_bar

    return progress_bar(errors(), title)


def _given(**settings: Any) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _numbers(text: str | None) -> tuple[int, ...]:
    from taughtby.errors import OptionError

    try:
        return tuple(sorted({int(part) for part in text.split(",")})) if text else ()
    except ValueError:
        raise OptionError("the curve is not a list of numbers", got=str(text), do="write --curve 5,10,20") from None
