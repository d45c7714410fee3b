"""What the verbs share: their options, and loading a model with a line that says so."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from whence.model import Model

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Trace what a fine-tuned language model says back to the training rows, and the words in them, that taught it.",
)

ModelName = Annotated[
    str, typer.Argument(metavar="MODEL", help="A folder, a hub id, a .gguf file, or smollm2 (embedded).")
]
DataName = Annotated[
    str, typer.Argument(metavar="DATA", help="JSONL, JSON, CSV, Parquet, a save_to_disk folder, or a hub id.")
]
Adapter = Annotated[str | None, typer.Option("--adapter", "-a", help="Folder of a PEFT adapter on top of MODEL.")]
Dtype = Annotated[
    str, typer.Option(help="float32, bfloat16, float16, or auto: bfloat16 where the machine computes in it.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, or auto.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Where to write.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same result.")]


def load(name: str, adapter: str | None, dtype: str = "auto", device: str = "auto") -> Model:
    """The model, with a line that says it is being loaded."""
    from whence.model import load_model
    from whence.progress import stage

    with stage(errors(), f"load {name}" + (f" with {adapter}" if adapter else ""), steps=False):
        return load_model(name, adapter, dtype=dtype, device=device)


def errors() -> Any:
    """Where progress and notes go, so that output can be piped."""
    from rich.console import Console

    return Console(stderr=True)


def output() -> Any:
    """Where results go."""
    from rich.console import Console

    return Console()
