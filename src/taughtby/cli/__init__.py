"""The command line: one function per verb. Heavy modules are imported inside them, so that `--help` is quick."""

from __future__ import annotations

import sys
import warnings
from io import StringIO

import typer

# each adds its verbs, in the order in which `--help` shows them
from taughtby.cli import (
    bench,
    proof,
    serve,
    tracing,
)  # isort: skip
from taughtby.cli import (
    clean as remedy,
)
from taughtby.cli import (
    lab as world,
)
from taughtby.cli import (
    maintenance as upkeep,
)
from taughtby.cli.options import app

__all__ = ["app", "bench", "main", "proof", "remedy", "serve", "tracing", "upkeep", "world"]


def main() -> None:
    """Run a verb; a person's mistake ends with a message and 1, an interruption with 130."""
    from taughtby.errors import TaughtbyError
    from taughtby.text import make_visible

    # what libraries tell each other's developers is not for the person at this terminal
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # pyright: ignore[reportAttributeAccessIssue]
    try:
        code = app(standalone_mode=False)
    except TaughtbyError as mistake:
        print(make_visible(f"error: {mistake}"), file=sys.stderr)
        sys.exit(1)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except typer.Exit as end:
        code = end.exit_code
    except Exception as fault:
        if hasattr(fault, "format_message") and hasattr(fault, "exit_code"):  # click's usage errors
            said = StringIO()
            fault.show(said)  # pyright: ignore[reportAttributeAccessIssue]
            print(make_visible(said.getvalue()), end="", file=sys.stderr)
            sys.exit(2)
        raise
    if code == 130:
        print("interrupted; what was finished is kept, and the same command goes on from there", file=sys.stderr)
    sys.exit(code or 0)
