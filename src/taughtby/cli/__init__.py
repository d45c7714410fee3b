"""The command line: one function per command. Heavy modules are imported inside them, so that `--help` is fast."""

from __future__ import annotations

import os
import sys
import warnings
from io import StringIO

from taughtby.cli import audit, bench, clean, data, hub, index, lab, maintenance, retrain, serve, site, trace
from taughtby.cli.app import app

__all__ = [
    "app",
    "audit",
    "bench",
    "clean",
    "data",
    "hub",
    "index",
    "lab",
    "main",
    "maintenance",
    "retrain",
    "serve",
    "site",
    "trace",
]

# Both are read once, when torch loads. OpenMP's idle threads spin by default, which costs a factor of 2 to 5 on a busy
# or virtual machine. oneDNN caches the code it generates for each shape of a bfloat16 product: a batch needs some tens
# of them, and most of the default thousand are never used again.
ENVIRONMENT = {"OMP_WAIT_POLICY": "passive", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64"}


def main() -> None:
    """Run a command. Exit code 1 is an error that the user can fix, 2 wrong usage, 3 a flagged row, 130 an interruption."""
    from taughtby.errors import TaughtbyError
    from taughtby.text import make_visible

    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # these warnings are for developers of the libraries, not for users of a command
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # pyright: ignore[reportAttributeAccessIssue]
    try:
        code = app(standalone_mode=False)
    except TaughtbyError as error:
        print(make_visible(f"error: {error}"), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        if type(error).__name__ == "Abort":  # raised by the parser on Ctrl+C
            code = 130
        elif hasattr(error, "format_message") and hasattr(error, "exit_code"):  # raised by the parser: wrong usage
            text = StringIO()
            error.show(text)  # pyright: ignore[reportAttributeAccessIssue]
            print(make_visible(text.getvalue()), end="", file=sys.stderr)
            sys.exit(2)
        elif type(error).__name__ == "Exit":
            code = getattr(error, "exit_code", 0)
        else:
            raise
    if code == 130:
        print("interrupted; finished work is saved, and the same command resumes", file=sys.stderr)
    sys.exit(code or 0)
