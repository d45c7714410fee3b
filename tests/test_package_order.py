"""Packages are imported in one order, files and functions are short, and names of files are specific."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "taughtby"
ORDER = (
    "errors", "text", "progress", "tracking",
    "models", "data", "capture", "methods", "index", "reporting", "lab", "attribution", "remediation",
    "bench", "server", "cli", "__main__",
)  # fmt: skip
LONGEST, LONGEST_FUNCTION = 300, 50  # lines of a file, and of a function


def sources() -> dict[str, str]:
    """Source by path below the package, such as lab/generate.py."""
    return {str(file.relative_to(ROOT)): file.read_text() for file in sorted(ROOT.rglob("*.py"))}


def module_of(path: str) -> tuple[str, ...]:
    parts = Path(path).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def imports(path: str, source: str, modules: set[tuple[str, ...]]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """(line, module) of every import in a source, those inside functions and under TYPE_CHECKING included."""
    package = Path(path).parent.parts
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = tuple(node.module.split(".")) if node.module else ()
            if node.level:
                base = ("taughtby", *package[: len(package) - node.level + 1], *base)
            targets = [(*base, alias.name) if (*base, alias.name)[1:] in modules else base for alias in node.names]
        else:
            continue
        yield from ((node.lineno, target[1:]) for target in targets if target[:1] == ("taughtby",))


def wrong_imports(files: dict[str, str]) -> list[str]:
    """Each import of a package that comes later in the order."""
    modules = {module_of(path) for path in files}
    wrong: list[str] = []
    for path, source in files.items():
        here = module_of(path)
        if not here:
            continue  # the public names, which come from everywhere
        for line, target in imports(path, source, modules):
            if not target or ORDER.index(target[0]) > ORDER.index(here[0]):
                wrong.append(f"{path}:{line} imports taughtby{''.join(f'.{part}' for part in target)}")
    return wrong


def cycles(files: dict[str, str]) -> list[str]:
    """The modules that import each other, however long the way round."""
    modules = {module_of(path) for path in files}
    graph: dict[tuple[str, ...], set[tuple[str, ...]]] = {module: set() for module in modules if module}
    for path, source in files.items():
        here = module_of(path)
        if here:
            graph[here] |= {
                target for _, target in imports(path, source, modules) if target in graph and target != here
            }
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return [".".join(module) for module in error.args[1]]
    return []


def test_every_package_is_in_the_import_order() -> None:
    assert {module_of(path)[0] for path in sources() if module_of(path)} == set(ORDER)
    assert sum("/" not in path and "__" not in path for path in sources()) <= 3
    assert len({path.split("/")[0] for path in sources() if "/" in path}) <= 14


def test_packages_are_imported_in_order() -> None:
    assert wrong_imports(sources()) == []


def test_modules_have_no_import_cycles() -> None:
    assert cycles(sources()) == []


@pytest.mark.parametrize(
    "import_", ["from taughtby.cli import main", "import taughtby.server.app", "from taughtby import trace"]
)
@pytest.mark.parametrize("place", ["{}", "def f():\n    {}", "if TYPE_CHECKING:\n    {}"])
def test_wrong_import_order_is_detected(import_: str, place: str) -> None:
    files = {**sources(), "data/new.py": place.format(import_)}
    assert [text.partition(" ")[0].partition(":")[0] for text in wrong_imports(files)] == ["data/new.py"]


def test_import_cycle_is_detected() -> None:
    files = {**sources(), "data/one.py": "import taughtby.data.two", "data/two.py": "from taughtby.data import one"}
    assert {"data.one", "data.two"} <= set(cycles(files))


def test_files_are_short_and_have_specific_names() -> None:
    long = {path: lines for path, source in sources().items()
            if (lines := len(source.splitlines())) > LONGEST}  # fmt: skip
    assert long == {}
    nothing = {"utils", "util", "common", "helpers", "misc", "core", "base_utils"}
    assert [path for path in sources() if nothing & set(module_of(path))] == []


def test_no_function_is_too_long() -> None:
    functions = [(path, node) for path, source in sources().items() for node in ast.walk(ast.parse(source))
                 if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]  # fmt: skip
    lengths = {f"{path}::{node.name}": (node.end_lineno or 0) - node.lineno + 1 for path, node in functions}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FUNCTION} == {}


def test_test_modules_import_each_other_from_the_python_path() -> None:
    """A folder of tests can be run alone, as `make test-gpu` does."""
    root = Path(__file__).parents[1]
    paths = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["pythonpath"]
    files = {file.stem: file for file in (root / "tests").rglob("*.py")}
    imported = {
        node.module
        for file in files.values()
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module in files
    }
    assert "test_demo" in imported
    assert [name for name in imported if files[name].parent.relative_to(root).as_posix() not in paths] == []
