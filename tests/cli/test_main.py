"""The command line as a module."""

from __future__ import annotations

import subprocess
import sys

import taughtby


def test_python_runs_the_package_as_the_command() -> None:
    result = subprocess.run([sys.executable, "-m", "taughtby", "--version"], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, f"taughtby {taughtby.__version__}\n")
