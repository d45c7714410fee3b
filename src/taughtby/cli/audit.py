"""The command that handles an incident from start to finish: audit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from taughtby.cli import options
from taughtby.cli.app import app, command
from taughtby.cli.arguments import check_arguments
from taughtby.cli.console import note, output, read_options
from taughtby.cli.retrain_options import (
    BatchSize,
    Curve,
    Epochs,
    HeldOut,
    LearningRate,
    MaskWords,
    MaxLength,
    Ordinary,
    Prompts,
    Random,
    Rank,
    TopK,
    TrainSeed,
    Truth,
    check_files,
    given_settings,
    read_behaviour,
    read_numbers,
    read_unaffected,
    show_stage,
)
from taughtby.lab.training_options import check_training

if TYPE_CHECKING:
    from taughtby.remediation.audit import AuditCase
    from taughtby.remediation.trace_file import Document

FLAGGED = 3  # the exit code of `audit --fail-on flagged`; 1 is an error, 2 wrong usage


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

    OUT gets report.md and report.html, where each claim has the command that reproduces it, and the files of every stage.
    An interrupted run resumes with the same command.
    """
    check_arguments("audit", MODEL=model, DATA=data)
    check_files(prompts, held_out, ordinary)
    check_training(model)
    from taughtby.data.dataset import parse_columns
    from taughtby.models.loading import load_without_weights
    from taughtby.remediation.audit import AuditCase
    from taughtby.remediation.audit_report import check_folder

    check_folder(out)
    files = {"held_out": held_out, "ordinary": ordinary}
    _, metadata, _ = load_without_weights(model, (adapter,) if adapter else ())
    reading = read_options(metadata, columns, turns, response_template, split).for_mask(metadata.mask)
    case = AuditCase(
        model, data, read_behaviour(prompts, judge, reading), adapter, base,
        given_settings(columns=parse_columns(columns) if columns else None, turns=turns,
                       response_template=response_template, split=split),
        queries, top_k, random, read_numbers(curve), tuple(truth or ()), mask_words,
        *read_unaffected(held_out, ordinary, reading),
        {name: str(file) for name, file in files.items() if file},
        given_settings(epochs=epochs, learning_rate=learning_rate, rank=rank, batch_size=batch_size, max_length=max_length,
                       seed=seed),
        max_new_tokens, dtype, device,
    )  # fmt: skip
    result = _run_audit(case, out, report_to or [])
    if fail_on and result["trace"] and any(query["num_flagged"] for query in result["trace"]["queries"]):
        raise typer.Exit(FLAGGED)


def _run_audit(case: AuditCase, out: Path, report_to: list[str]) -> Document:
    """Run the audit, write and print its report, and report to the trackers."""
    from taughtby.remediation.audit import audit as run
    from taughtby.remediation.audit_report import write_report
    from taughtby.remediation.run_report import audit_record
    from taughtby.tracking.registry import open_runs

    with open_runs(report_to, out.resolve().name, out) as report:
        result = run(case, out, show_stage)
        write_report(case, result, out)
        _print_audit(result)
        output().print(f"{out}: report.md, report.html, and the results of every stage")
        if report_to:
            report(audit_record(case, result, out))
    return result


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
