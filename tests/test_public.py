"""The front door: few names, all there, and nothing heavy happens on the way in."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import taughtby
from test_package_order import ORDER

HEAVY = ("torch", "transformers", "peft", "lance", "pyarrow", "numpy", "datasets")


def python(code: str, **environment: str) -> str:
    """What a fresh interpreter prints; OMP_WAIT_POLICY is as in `environment`, not as pytest has it."""
    kept = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_few_sorted_names() -> None:
    assert taughtby.__all__ == sorted(set(taughtby.__all__))
    assert 1 <= len(taughtby.__all__) <= 10


def test_every_name_is_what_its_module_holds() -> None:
    for name in taughtby.__all__:
        thing = getattr(taughtby, name)
        assert thing.__name__ == name
        assert thing.__module__.startswith("taughtby.")
        assert inspect.getdoc(thing)


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(inspect.getfile(taughtby)).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = [alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(seen) == taughtby.__all__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'taughtby' has no attribute 'nonsense'"):
        _ = taughtby.nonsense  # type: ignore[attr-defined]
    assert python("from taughtby import *; print('Trace' in dir())") == "True"


def test_importing_does_no_work() -> None:
    code = f"import sys, taughtby; print([name for name in {HEAVY} if name in sys.modules], taughtby.__version__)"
    assert python(code) == f"[] {taughtby.__version__}"


def test_idle_threads_sleep_unless_the_user_says_otherwise() -> None:
    code = "import os, taughtby; print(os.environ['OMP_WAIT_POLICY'])"
    assert python(code) == "passive"
    assert python(code, OMP_WAIT_POLICY="active") == "active"


HELP = """
import sys, time
sys.argv = ["taughtby", "--help"]
from taughtby.cli import main
try:
    code = main()
except SystemExit as stop:
    code = stop.code
heavy = [name for name in {heavy} if name in sys.modules]
print("ENDED", code or 0, heavy, time.process_time())
"""


def test_help_is_quick_and_light() -> None:
    """Aim: 0.3 s. The bound is 0.6 s of processor time, best of three, so that a busy machine fails nobody."""
    best = 9.0
    for _ in range(3):
        *text, last = python(HELP.format(heavy=HEAVY)).splitlines()
        ended, code, heavy, seconds = last.split(" ")
        assert (ended, code, heavy) == ("ENDED", "0", "[]")
        assert any("trace" in line for line in text)
        best = min(best, float(seconds))
    assert best < 0.6


def test_the_map_of_the_packages_is_in_reading_order() -> None:
    root = Path(__file__).parents[1]
    page = (root / "docs" / "explanation" / "architecture.md").read_text()
    named = re.findall(r"^([a-z_]+(?:\.py|/))  +\S", page, re.MULTILINE)
    order = [name.removesuffix(".py").removesuffix("/") for name in named]
    assert order == [name for name in ORDER if name in order]
    rooms = {path.name for path in (root / "src" / "taughtby").iterdir() if path.is_dir() or path.suffix == ".py"}
    assert {name.rstrip("/") for name in named} == {name for name in rooms if not name.startswith("__")}


def test_the_readme_is_short_and_its_python_parses() -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    assert max(map(len, text.splitlines())) <= 100
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    compile(code, "README.md", "exec")
