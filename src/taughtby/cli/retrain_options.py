"""Options and helpers of the commands that retrain: retrain and audit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taughtby.cli import options
from taughtby.cli.arguments import check_file
from taughtby.cli.console import errors, note

if TYPE_CHECKING:
    from taughtby.data.dataset import ReadOptions
    from taughtby.data.example import Example
    from taughtby.lab.prompts import Prompt
    from taughtby.remediation.experiment import Behaviour
    from taughtby.remediation.stage_cache import StageCache

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
    typer.Option(metavar="K,K,…", help="Also train without the best K rows, for each K.", rich_help_panel=CONDITIONS),
]
Truth = Annotated[
    list[str] | None,
    typer.Option(
        metavar="LABEL",
        help="Also train without all rows of this label: the best result that any trace can have.",
        rich_help_panel=CONDITIONS,
    ),
]
MaskWords = Annotated[
    bool,
    typer.Option(
        "--mask-words",
        help="Also train on all rows, without loss on the top-scoring words.",
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
        show_default="all options here: as recorded in the adapter's folder",
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
    int | None, typer.Option(metavar="N", help="Maximum number of tokens of a row.", rich_help_panel=options.TRAINING)
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


def check_files(prompts: Path, held_out: Path | None, ordinary: Path | None) -> None:
    """Refuse files that do not exist, before any long computation."""
    check_file(prompts, "a .txt with one prompt per line, or rows of any format")
    check_file(held_out, "a file of clean rows")
    check_file(ordinary, "a .txt with one prompt per line, or rows of any format")


def read_behaviour(prompts: Path, judge: str, reading: ReadOptions) -> Behaviour:
    """Return the behaviour that the judge recognizes, with the prompts that cause it, read like the data if possible."""
    from taughtby.lab.prompts import read_prompts
    from taughtby.remediation.experiment import Behaviour

    return Behaviour("bad answers", tuple(read_prompts(prompts, note=note, reading=reading)), judge)


def read_unaffected(
    held_out: Path | None, ordinary: Path | None, reading: ReadOptions
) -> tuple[tuple[Example, ...] | None, tuple[Prompt, ...] | None]:
    """Return the rows to measure the loss on, and prompts that should not show the behaviour; None without a file.

    Both are read like the data, if they have its columns.
    """
    from taughtby.lab.prompts import read_prompts

    rows = tuple(_read_like(held_out, reading)) if held_out else None
    return rows, tuple(read_prompts(ordinary, failed_only=False, reading=reading)) if ordinary else None


def _read_like(file: Path, reading: ReadOptions) -> Iterator[Example]:
    """The rows of a file, with the data's columns if it has them, and its response template if it is plain text."""
    from taughtby.data.dataset import detect_format, read_examples
    from taughtby.errors import DataError

    own = replace(reading, split=None)
    try:
        raw = detect_format(file, own).raw
    except DataError:
        own = replace(own, columns=())
        raw = detect_format(file, own).raw
    yield from read_examples(file, own if raw else replace(own, response_template=None))


def open_cache(out: Path) -> StageCache:
    """Return the stages stored in a result's folder."""
    from taughtby.remediation.stage_cache import STAGES, StageCache

    return StageCache(out / STAGES, show_stage)


def show_stage(title: str) -> Any:
    """Return a progress bar for each stage."""
    from taughtby.progress import progress_bar

    return progress_bar(errors(), title)


def given_settings(**settings: Any) -> dict[str, Any]:
    """Return the settings that are not None."""
    return {name: value for name, value in settings.items() if value is not None}


def read_numbers(text: str | None) -> tuple[int, ...]:
    """Return the numbers of a list such as `5,10,20`, in order."""
    from taughtby.errors import OptionError

    try:
        return tuple(sorted({int(part) for part in text.split(",")})) if text else ()
    except ValueError:
        raise OptionError("the curve is not a list of numbers", got=str(text), do="write --curve 5,10,20") from None
