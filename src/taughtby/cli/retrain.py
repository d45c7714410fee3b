"""The command that retrains without the flagged rows, to test whether they are the cause: retrain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from taughtby.cli import options
from taughtby.cli.app import IndexedCommand, app, command
from taughtby.cli.arguments import check_arguments, check_file
from taughtby.cli.console import change_read_options, note, output, read_lines
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
    Seeds,
    TopK,
    TrainSeed,
    Truth,
    check_files,
    given_settings,
    open_cache,
    read_behaviour,
    read_numbers,
    read_unaffected,
)
from taughtby.lab.training_options import check_training

if TYPE_CHECKING:
    from taughtby.data.dataset import ReadOptions
    from taughtby.remediation.selection import Removal
    from taughtby.remediation.trace_file import Document


@command(
    app,
    example='taughtby retrain trace.json data.jsonl --prompts prompts.txt --judge "phrase:beetles" -o retrained',
    page="how-to/retrain",
    panel="Fix",
    cls=IndexedCommand,
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

    OUT gets every model, its answers and verdicts, the results as JSON, and curve.png with --curve. An interrupted
    run resumes with the same command.
    """
    check_arguments("retrain", TRACE=trace, DATA=data)
    check_file(trace, "the file that `taughtby trace … --json FILE` wrote")
    check_files(prompts, held_out, ordinary)
    check_training(str(base))
    from taughtby.data.dataset import read_examples
    from taughtby.remediation.audit_report import save_proofs
    from taughtby.remediation.experiment_setup import design_from_trace, experiment_from_trace, with_seeds
    from taughtby.remediation.retrain import retrain as run
    from taughtby.remediation.run_report import retrain_record
    from taughtby.remediation.trace_file import load_trace, read_options_of
    from taughtby.tracking.registry import open_runs

    document = load_trace(trace)
    reading = change_read_options(read_options_of(document), columns, turns, response_template, split)
    chosen = _select_rows(document, data, reading, top_k, rows)
    settings = given_settings(epochs=epochs, learning_rate=learning_rate, rank=rank, batch_size=batch_size,
                              max_length=max_length, seed=seed)  # fmt: skip
    behaviour = read_behaviour(prompts, judge, reading)
    experiment, notes = experiment_from_trace(
        document, [behaviour], settings, base=base, max_new_tokens=max_new_tokens, dtype=dtype, device=device
    )
    for text in notes:
        note(text)
    design = design_from_trace(document, chosen, num_random=random, curve=read_numbers(curve),
                               truth_labels=truth or (), mask_words=mask_words)  # fmt: skip
    examples, cache = list(read_examples(data, reading)), open_cache(out)
    clean, usual = read_unaffected(held_out, ordinary, reading)
    with open_runs(report_to or (), out.resolve().name, out) as report:
        ids = [row.id for row in chosen]
        results = [run(seeded, examples, ids, cache, design=design, held_out=clean, ordinary=usual)
                   for seeded in with_seeds(experiment, seeds)]  # fmt: skip
        files = save_proofs(results, out)
        _print_results(results, out)
        if report_to:
            report(retrain_record(document, results, data, [Path(trace), *files]))


def _select_rows(
    document: Document, data: str, reading: ReadOptions, top_k: int | None, rows: str | None
) -> list[Removal]:
    """Return the flagged, the best or the listed rows, each with its id."""
    from taughtby.remediation.clean import plan_cleaning
    from taughtby.remediation.selection import select_rows

    chosen = select_rows(document, top_k=top_k, rows=read_lines(rows) if rows else None)
    # listed rows that the trace does not rank have only a source or an id
    return plan_cleaning(document, data, chosen, read_options=reading).selected if rows else chosen


def _print_results(results: list[Document], out: Path) -> None:
    """Print the experiment, and the spread over its seeds."""
    from taughtby.remediation.statistics import seed_table, show, show_table

    show(results[0], output())
    if len(results) > 1:
        show_table(seed_table(results), output())
    output().print(f"{out}: results as JSON, and every model, answer and verdict")
