"""Command-line arguments and output that the benchmark scripts share."""

from __future__ import annotations

import sys
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, Namespace
from pathlib import Path

from rich.table import Table

from taughtby.errors import TaughtbyError
from taughtby.models.model import Model, load_model
from taughtby.progress import Terminal
from taughtby.text import shell_quote


def parser(description: str) -> ArgumentParser:
    """A parser with the options of every script: model, adapter, number format, device and output folder."""
    result = ArgumentParser(description=description, formatter_class=ArgumentDefaultsHelpFormatter)
    result.add_argument("--model", default="smollm2", help="a folder, a hub id, a .gguf file, or smollm2")
    result.add_argument("--adapter", "-a", help="a PEFT adapter on top of the model")
    result.add_argument("--dtype", default="auto", help="number format of the model")
    result.add_argument("--device", default="auto", help="device of the model")
    result.add_argument("--out", "-o", type=Path, default=Path("taughtby-bench"), help="folder of the results")
    return result


def parse(arguments: ArgumentParser) -> Namespace:
    """Parse the command line, and create the output folder before long work starts."""
    options = arguments.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    return options


def load(options: Namespace, dtype: str | None = None) -> Model:
    """Load the model of the options; exit with the error's message if that fails."""
    try:
        return load_model(options.model, options.adapter, dtype=dtype or options.dtype, device=options.device)
    except TaughtbyError as fault:
        sys.exit(f"error: {fault}")


def command() -> str:
    """This command line, quoted for a shell."""
    return " ".join(map(shell_quote, ["python", *sys.argv]))


def print_table(table: Table) -> None:
    """Print every column in full, even on a narrow terminal."""
    console = Terminal()
    console.width = max(console.width, 140)  # `print(width=)` can only narrow it
    console.print(table)
