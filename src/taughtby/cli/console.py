"""Consoles for results, notes and progress, and helpers that load models and read options."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taughtby.data.dataset import ReadOptions
    from taughtby.data.formats import DataFormat
    from taughtby.data.tokenize import Encoding
    from taughtby.index.reader import Index
    from taughtby.models.model import Model
    from taughtby.models.training_metadata import TrainingMetadata
    from taughtby.progress import Terminal


def output() -> Terminal:
    """Return the console for results."""
    from taughtby.progress import Terminal

    return Terminal()


def errors() -> Terminal:
    """Return the console for progress and notes, which are not results, so that output can be piped."""
    from taughtby.progress import Terminal

    return Terminal(stderr=True)


def note(text: str) -> None:
    """Print a note for the user on standard error."""
    errors().print(f"note: {text}", style="yellow")


def load(
    name: str,
    adapter: list[str] | None,
    dtype: str = "auto",
    device: str = "auto",
    *,
    base: str | None = None,
    quantize: str | None = None,
) -> Model:
    """Load a model, with a progress line and its notes."""
    from taughtby.models.model import load_model
    from taughtby.progress import progress_bar

    with progress_bar(errors(), f"load {name}" + (f" with {', '.join(adapter)}" if adapter else ""), steps=False):
        loaded = load_model(name, adapter, base=base, dtype=dtype, device=device, quantize=quantize)
    for text in loaded.notes:
        note(text)
    return loaded


def reload(
    index: Index,
    name: str | None,
    adapter: list[str] | None,
    base: str | None,
    device: str,
    quantize: str | None,
    *,
    new_base: bool = False,
) -> Model:
    """Load the model an index was built with, with a progress line and its notes.

    With `new_base` a base model may be given to an index that was built without one.
    """
    from taughtby.index.api import load_indexed_model

    return load_indexed_model(
        index, name, adapter, base, device=device, quantize=quantize, new_base=new_base, load=load, note=note
    )


def read_options(
    metadata: TrainingMetadata, columns: str | None, turns: Any, response_template: str | None, split: str | None
) -> ReadOptions:
    """Return how rows are read: as the options say, else as the trainer's folder does."""
    from taughtby.data import dataset

    named = columns or metadata.columns
    names = dataset.parse_columns(named) if named else ()
    return dataset.ReadOptions(names, turns or metadata.turns or "last", response_template, split, metadata.join)


def change_read_options(
    options: ReadOptions, columns: str | None, turns: Any, response_template: str | None, split: str | None
) -> ReadOptions:
    """Return how the index read its data, with what the options change."""
    from taughtby.data import dataset

    changes = {"columns": dataset.parse_columns(columns) if columns else None, "turns": turns, "split": split,
               "response_template": response_template}  # fmt: skip
    return replace(options, **{name: value for name, value in changes.items() if value is not None})


def encoding_options(
    metadata: TrainingMetadata,
    context_length: int,
    form: DataFormat,
    template: str | None,
    max_length: int | None = None,
    truncate: str | None = None,
    mask: str | None = None,
) -> Encoding:
    """Return how rows of that format are tokenized: by the options, else by the trainer's folder, else by default."""
    from taughtby.data.tokenize import default_options

    defaults = default_options(metadata, context_length, raw=form.raw)
    return defaults.with_options(template, max_length=max_length, truncate=truncate, mask=mask)


def explain_reading(
    metadata: TrainingMetadata, encoding: Encoding, form: DataFormat, tokenizer: Any, template: str | None,
    turns: str | None = None, mask: str | None = None,
) -> None:  # fmt: skip
    """Print which of the trainer's settings are followed and which are not, and notes on the chat template."""
    if mask is None and metadata.mask is None and not (form.raw or form.tokenized or "completion" in form.name):
        trl = ", as TRL does by default" if form.name == "messages" else ""
        note(f"loss on the answers only (give --mask all if prompts were trained on too{trl})")
    read_by = ("wording", "join", "columns", *(("turns",) if turns is None and metadata.turns == "all" else ()))
    for entry in metadata.entries:
        if entry.name in read_by and entry.followed:
            note(str(entry))
    for entry in metadata.unfollowed if template is None else ():
        note(f"not followed: {entry}: the model may have been trained on other texts than these")
    if not form.raw and "strftime_now" in str(encoding.template or tokenizer.chat_template):
        note(
            "the chat template writes today's date, but the model was trained with an earlier one; give a --template "
            "with that date, or set the template's date variable in chat_template_kwargs"
        )
    if encoding.template is None and not form.raw and not tokenizer.chat_template:
        note("no chat template: conversations are read as their texts, with a line break between; give --template FILE")


def read_lines(file: str) -> list[str]:
    """Return the non-empty lines of a file of rows (`-` is standard input), or the causes of exported verdicts."""
    from taughtby.errors import DataError
    from taughtby.remediation.row_verdicts import read_causes

    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        do = "give a text file with one id or file:line source per line"
        raise DataError(f"the rows in {file} cannot be read", got=str(error), do=do) from None
    causes = read_causes(text)
    return [line.strip() for line in text.split("\n") if line.strip()] if causes is None else causes
