"""The verbs that prove what a trace found: prove, audit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taughtby.cli import options
from taughtby.cli.options import DataName, Device, Dtype, ModelName, Out, app, errors, output

if TYPE_CHECKING:
    from taughtby.remediation.trace_file import Document

Prompts = Annotated[
    Path,
    typer.Option(
        "--prompts", "-p", help="What brings the behaviour out: a .txt with a prompt a line, or rows of any form."
    ),
]
Judge = Annotated[str, typer.Option("--judge", "-j", help="Which answers are bad, as in `taughtby judge --by`.")]
Top = Annotated[int | None, typer.Option(min=1, help="Take the best K rows of each answer, instead of its culprits.")]
Random = Annotated[int, typer.Option(min=1, help="How many times as many random rows are taken out, as a control.")]
Curve = Annotated[str | None, typer.Option(metavar="K,K,…", help="Train also without the best K rows, for each K.")]
Truth = Annotated[
    list[str] | None,
    typer.Option(metavar="LABEL", help="Train also without all rows of this label: the best that any trace could do."),
]
MaskWords = Annotated[
    bool, typer.Option("--mask-words", help="Train also on all rows, with the loss off the guilty words alone.")
]
HeldOut = Annotated[
    Path | None,
    typer.Option(
        help="Clean rows to measure the loss on. [default: a tenth of the rows that no answer called, at most 64, set aside from all trainings]"
    ),
]
Ordinary = Annotated[
    Path | None, typer.Option(help="Prompts that should not show the behaviour. [default: those of the held-out rows]")
]
MaxNew = Annotated[int, typer.Option(help="Tokens of an answer at most.")]
Epochs = Annotated[
    int | None, typer.Option(help="Times over the data. [default: as the adapter's folder says, as all that follow]")
]
Rate = Annotated[float | None, typer.Option(help="Learning rate.")]
Rank = Annotated[int | None, typer.Option(help="Rank of the LoRA adapter.")]
Batch = Annotated[int | None, typer.Option(help="Rows of a step.")]
TrainSeed = Annotated[int | None, typer.Option("--seed", help="Of the training, the random rows and those held out.")]


@app.command()
def prove(
    trace: Annotated[Path, typer.Argument(metavar="TRACE", help="What `taughtby trace … --json FILE` wrote.")],
    data: DataName,
    out: Out,
    prompts: Prompts,
    judge: Judge,
    top: Top = None,
    rows: Annotated[str | None, typer.Option(metavar="FILE", help="Just these rows: ids or file:line sources, one a line; - for standard input.")] = None,
    random: Random = 1,
    curve: Curve = None,
    truth: Truth = None,
    mask_words: MaskWords = False,
    held_out: HeldOut = None,
    ordinary: Ordinary = None,
    max_new: MaxNew = 48,
    epochs: Epochs = None,
    rate: Rate = None,
    rank: Rank = None,
    batch: Batch = None,
    max_length: options.MaxLength = None,
    seed: TrainSeed = None,
    base: options.Base = None,
    columns: options.Columns = None,
    turns: options.Turns = None,
    response_template: options.ResponseTemplate = None,
    split: options.Split = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:  # fmt: skip
    """Train again without the rows that a trace called, and without as many random ones; ask and judge again.

    OUT gets every model, answer and verdict, proof.json, and curve.png with --curve. Killed, the same command goes on.
    """
    from taughtby.cli.options import reread, ticked
    from taughtby.data.dataset import read_examples
    from taughtby.lab.prompts import read_prompts
    from taughtby.remediation.audit_report import save_proof
    from taughtby.remediation.experiment import Behaviour
    from taughtby.remediation.experiment_setup import design_from_trace, experiment_from_trace
    from taughtby.remediation.retrain import retrain as run
    from taughtby.remediation.selection import select_rows
    from taughtby.remediation.stage_cache import STAGES, StageCache
    from taughtby.remediation.statistics import show
    from taughtby.remediation.trace_file import load_trace, read_options_of

    document = load_trace(trace)
    reading = reread(read_options_of(document), columns, turns, response_template, split)
    chosen = select_rows(document, top_k=top, rows=ticked(rows) if rows else None)
    asked = _asked(epochs=epochs, learning_rate=rate, rank=rank, batch_size=batch, max_length=max_length, seed=seed)
    behaviour = Behaviour("bad answers", tuple(read_prompts(prompts)), judge)
    trial, notes = experiment_from_trace(
        document, [behaviour], asked, base=base, max_new_tokens=max_new, dtype=dtype, device=device
    )
    for text in notes:
        options.note(text)
    design = design_from_trace(
        document, chosen, num_random=random, curve=_numbers(curve), truth_labels=truth or (), mask_words=mask_words
    )
    proof = run(
        trial, list(read_examples(data, reading)), [one.id for one in chosen], StageCache(out / STAGES, _shown()), design=design,
        held_out=list(read_examples(str(held_out))) if held_out else None, ordinary=read_prompts(ordinary) if ordinary else None,
    )  # fmt: skip
    save_proof(proof, out)
    show(proof, output())
    output().print(f"{out}: proof.json, and every model, answer and verdict")


@app.command()
def audit(
    model: ModelName,
    data: DataName,
    out: Out,
    prompts: Prompts,
    judge: Judge,
    adapter: Annotated[str | None, typer.Option("--adapter", "-a", metavar="FOLDER", help="The PEFT adapter that misbehaves, on top of MODEL.")] = None,
    base: options.Base = None,
    queries: Annotated[int, typer.Option(min=1, help="How many of the bad answers are traced, the first of them.")] = 16,
    top: Top = None,
    random: Random = 1,
    curve: Curve = None,
    truth: Truth = None,
    mask_words: MaskWords = False,
    held_out: HeldOut = None,
    ordinary: Ordinary = None,
    max_new: MaxNew = 48,
    epochs: Epochs = None,
    rate: Rate = None,
    rank: Rank = None,
    batch: Batch = None,
    max_length: options.MaxLength = None,
    seed: TrainSeed = None,
    columns: options.Columns = None,
    turns: options.Turns = None,
    response_template: options.ResponseTemplate = None,
    split: options.Split = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:  # fmt: skip
    """Ask, judge, index, trace, clean and prove, in one command: from a model that misbehaves to the proof.

    OUT gets report.md and report.html, in which each claim stands with the command that makes it again, and what every
    stage made. Killed, the same command goes on.
    """
    from taughtby.data.dataset import read_examples
    from taughtby.lab.prompts import read_prompts
    from taughtby.models.training_metadata import TrainingMetadata
    from taughtby.remediation.audit import AuditCase
    from taughtby.remediation.audit import audit as run
    from taughtby.remediation.audit_report import write_report
    from taughtby.remediation.experiment import Behaviour

    asked = any((columns, turns, response_template, split))
    files = {"held_out": held_out, "ordinary": ordinary}
    case = AuditCase(
        model, data, Behaviour("bad answers", tuple(read_prompts(prompts)), judge), adapter, base,
        options.reading(TrainingMetadata(), columns, turns, response_template, split) if asked else None,
        queries, top, random, _numbers(curve), tuple(truth or ()), mask_words,
        tuple(read_examples(str(held_out))) if held_out else None, tuple(read_prompts(ordinary)) if ordinary else None,
        {name: str(file) for name, file in files.items() if file},
        _asked(epochs=epochs, learning_rate=rate, rank=rank, batch_size=batch, max_length=max_length, seed=seed),
        max_new, dtype, device,
    )  # fmt: skip
    found = run(case, out, _shown())
    write_report(case, found, out)
    _found(found)
    output().print(f"{out}: report.md, report.html, and what every stage made")


def _found(found: Document) -> None:
    """What came of an audit, in the terminal."""
    from taughtby.remediation.statistics import show

    answers, console = found["answers"], output()
    console.print(f"{answers['bad']} of {answers['judged']} answers are bad")
    if found["trace"]:
        console.print(f"{len(found['removals'])} of {found['num_rows']} training rows are flagged")
    for note in found["notes"]:
        options.note(note)
    if found["proof"]:
        show(found["proof"], console)


def _shown() -> Any:
    """Each stage with its bar."""
    from taughtby.progress import progress_bar

    return lambda title: progress_bar(errors(), title)


def _asked(**recipe: Any) -> dict[str, Any]:
    return {name: value for name, value in recipe.items() if value is not None}


def _numbers(text: str | None) -> tuple[int, ...]:
    from taughtby.errors import OptionError

    try:
        return tuple(sorted({int(part) for part in text.split(",")})) if text else ()
    except ValueError:
        raise OptionError("the curve is not a list of numbers", got=str(text), do="write --curve 5,10,20") from None
