"""What the verbs share: their options, and loading a model with a line that says so."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from taughtby.data.dataset import ReadOptions
    from taughtby.data.formats import DataFormat
    from taughtby.data.tokenize import Encoding
    from taughtby.index.reader import Index
    from taughtby.models.model import Model
    from taughtby.models.training_metadata import TrainingMetadata

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Trace what a fine-tuned language model says back to the training rows, and the words in them, that taught it.",
)

ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A model's or adapter's folder, a hub id, a .gguf file, or smollm2 (embedded)."
    ),
]
DataName = Annotated[
    str,
    typer.Argument(
        metavar="DATA", help="JSONL, JSON, CSV, Parquet, Arrow (also .gz, .zst), a save_to_disk folder, or a hub id."
    ),
]
Adapter = Annotated[
    list[str] | None,
    typer.Option("--adapter", "-a", metavar="FOLDER", help="A PEFT adapter on top of MODEL; several are all on."),
]
Base = Annotated[str | None, typer.Option(help="Of a full or merged fine-tune: the model it began from.")]
Quantize = Annotated[str | None, typer.Option(help="Round the weights to 4bit or 8bit, on a GPU.")]
# how rows are read, and how they become ids
Columns = Annotated[
    str | None, typer.Option(metavar="WHAT=NAME,…", help="Which column is which, as in prompt=question,response=reply.")
]
Turns = Annotated[
    str | None,
    typer.Option(help="last: the last answer of a conversation was learned; all: a row for each. [default: last]"),
]
ResponseTemplate = Annotated[
    str | None, typer.Option(metavar="TEXT", help="In plain text, the words behind which the answer begins.")
]
Split = Annotated[str | None, typer.Option(help="Of a hub data set or a folder with several. [default: train]")]
Template = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help="A Jinja chat template, or none: the texts as they stand. [default: MODEL's own]"
    ),
]
MaxLength = Annotated[
    int | None,
    typer.Option(help="Tokens of a row that are kept. [default: the trainer's, else 1024 or the model's window]"),
]
Truncate = Annotated[
    str | None,
    typer.Option(
        help="A longer row loses its end (right), its beginning (left), or is left out (skip). [default: right]"
    ),
]
Mask = Annotated[
    str | None, typer.Option(help="What was learned: the response, or all, prompts too. [default: response]")
]
Dtype = Annotated[
    str, typer.Option(help="float32, bfloat16, float16, or auto: bfloat16 where the machine computes in it.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, auto, or map: spread over all there are.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Where to write.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same result.")]


def load(
    name: str,
    adapter: list[str] | None,
    dtype: str = "auto",
    device: str = "auto",
    *,
    base: str | None = None,
    quantize: str | None = None,
) -> Model:
    """The model, with a line that says it is being loaded, and one for each thing to know about it."""
    from taughtby.models.model import load_model
    from taughtby.progress import progress_bar

    with progress_bar(errors(), f"load {name}" + (f" with {', '.join(adapter)}" if adapter else ""), steps=False):
        loaded = load_model(name, adapter, base=base, dtype=dtype, device=device, quantize=quantize)
    for text in loaded.notes:
        note(text)
    return loaded


def reload(
    made: Index, name: str | None, adapter: list[str] | None, base: str | None, device: str, quantize: str | None
) -> Model:
    """The model an index was made with, from where it was then or from where it is now."""
    from taughtby.errors import TaughtbyError, machine_fault
    from taughtby.index.build import check_same_model
    from taughtby.index.model_sources import model_sources

    found = model_sources(made.manifest, made.path, name, adapter, base)
    for one in found:
        try:
            dtype = made.manifest["settings"]["dtype"]
            loaded = load(one.model, list(one.adapters), dtype, device, base=one.base, quantize=quantize)
            check_same_model(made, loaded)
        except TaughtbyError as fault:
            if one is found[-1] or machine_fault(fault):
                raise
            note(f"what lies beside {made.path} is not what it was made with: looking where that was")
        else:
            return loaded
    raise AssertionError("there is always one")


def reading(
    origin: TrainingMetadata, columns: str | None, turns: Any, response_template: str | None, split: str | None
) -> ReadOptions:
    """How rows are to be read: as asked, else as the trainer's folder says."""
    from taughtby.data import dataset

    named = dataset.parse_columns(columns) if columns else ()
    return dataset.ReadOptions(named, turns or origin.turns or "last", response_template, split)


def reread(
    known: ReadOptions, columns: str | None, turns: Any, response_template: str | None, split: str | None
) -> ReadOptions:
    """How the index read its data, but for what was asked."""
    from taughtby.data import dataset

    asked = {"columns": dataset.parse_columns(columns) if columns else None, "turns": turns, "split": split,
             "response_template": response_template}  # fmt: skip
    return replace(known, **{name: value for name, value in asked.items() if value is not None})


def ticked(file: str) -> list[str]:
    """What a person ticked, one a line."""
    from taughtby.errors import DataError

    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as fault:
        do = "give a text file with an id or file:line source a line"
        raise DataError(f"the rows in {file} cannot be read", got=str(fault), do=do) from None
    return [line.strip() for line in text.split("\n") if line.strip()]


def encoding(
    origin: TrainingMetadata,
    window: int,
    form: DataFormat,
    template: str | None,
    max_length: int | None = None,
    truncate: str | None = None,
    mask: str | None = None,
) -> Encoding:
    """How rows of that form become ids: as asked, else as the trainer's folder says, else as goes without saying."""
    from taughtby.data.default_options import default_options

    made = default_options(origin, window, raw=form.raw)
    return made.with_options(template, max_length=max_length, truncate=truncate, mask=mask)


def note(text: str) -> None:
    """A line that nobody asked for and everybody should know."""
    errors().print(f"note: {text}", style="yellow")


def errors() -> Any:
    """Where progress and notes go, so that output can be piped."""
    from taughtby.progress import Terminal

    return Terminal(stderr=True)


def output() -> Any:
    """Where results go."""
    from taughtby.progress import Terminal

    return Terminal()
