"""The house is read in one order, which is also the order of imports; no room is too long, none is a box of odds."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1] / "src" / "whence"
# rooms not built yet keep their places
ORDER = (
    "errors", "text", "example", "forms", "records", "dataset", "phrases", "sources", "spans", "rewrite", "template",
    "tokens", "fingerprint", "origin", "habits", "place", "paths", "weights", "adapter", "model", "capture",
    "gradients", "layers", "columns", "index", "claim", "writer", "methods", "work", "shift", "crew", "build", "upkeep",
    "verify",
    "query", "words", "survey", "sheet", "notebook", "evidence", "check", "trace",
    "progress", "provenance", "callback", "lab", "report",
    "remedy", "bench", "proof", "web", "demo", "cli",
)  # fmt: skip
# a folder whose rooms are read in an order of their own
INSIDE = {
    "lab": (
        "verdict", "rules", "program", "classifier", "chat", "judge", "prompts", "answers", "respond", "docket",
        "facts", "hard_facts", "mixture", "deal", "ordinary", "hard", "poison",
    ),
    "bench": (
        "cost", "metrics", "reference", "rowwise", "suites", "run", "summary", "table", "pictures",
        "speed_query", "speed_capture", "speed", "scale",
    ),
    "proof": ("ledger", "trial", "prove", "claims", "audit", "story", "worlds"),
    "web": ("links", "plane", "depths", "illustrate", "jobs", "shelf", "desk", "guard", "app"),
}  # fmt: skip
LONGEST = 320
DATA = {"lab/facts.py", "lab/hard_facts.py"}  # lists, and no code to read


def house() -> dict[str, str]:
    """Source by path, such as lab/facts.py; without the front door, which names everything and imports nothing."""
    files = {str(file.relative_to(HOUSE)): file.read_text() for file in sorted(HOUSE.rglob("*.py"))}
    del files["__init__.py"]
    return files


def parts_of(path: str) -> list[str]:
    """lab/facts.py as [lab, facts]; lab/__init__.py as [lab]."""
    parts = list(Path(path).with_suffix("").parts)
    return parts[:-1] if parts[-1] == "__init__" else parts


def imports(path: str, source: str, known: set[tuple[str, ...]]) -> Iterator[tuple[int, list[str]]]:
    """(line, module of this house) for every import anywhere in a source; the front door is []."""
    package = list(Path(path).parent.parts)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = (node.module or "").split(".") if node.module else []
            if node.level:
                base = ["whence", *package[: len(package) - node.level + 1], *base]
            # `from whence.lab import facts` names a module, `from whence.errors import DataError` does not
            targets = [[*base, alias.name] if tuple([*base, alias.name][1:]) in known else base for alias in node.names]
        else:
            continue
        for target in targets:
            if target[:1] == ["whence"]:
                yield node.lineno, target[1:]


def stands_before(target: list[str], here: list[str]) -> bool:
    """Whether both have places in the order inside their folder, and the target the earlier one."""
    places = [path[1] for path in (target, here) if len(path) == 2 and path[1] in INSIDE.get(path[0], ())]
    return len(places) == 2 and INSIDE[here[0]].index(places[0]) < INSIDE[here[0]].index(places[1])


def offences(files: dict[str, str]) -> list[str]:
    """Each import that goes against the order, in words."""
    known = {tuple(parts_of(path)) for path in files}
    found = {path: list(imports(path, source, known)) for path, source in files.items()}
    # within a folder, siblings may share one that stands on no other, methods/method.py, or one read before them
    roots = {
        tuple(parts_of(path))
        for path, targets in found.items()
        if not any(target[:1] == parts_of(path)[:1] for _, target in targets)
    }
    told = []
    for path, targets in found.items():
        here = parts_of(path)
        for line, target in targets:
            name = "whence." + ".".join(target)
            if not target:
                told.append(f"{path}:{line} imports the front door")
            elif target[0] != here[0]:
                if target[0] not in ORDER or ORDER.index(target[0]) > ORDER.index(here[0]):
                    told.append(f"{path}:{line} imports {name}, which stands behind it")
            elif here[0] == "methods" and here != ["methods"] and target != ["methods", "method"]:
                told.append(f"{path}:{line} imports {name}; methods share method.py alone")
            elif len(here) > 1 and stands_before(target, here):
                continue
            elif len(target) < 2 or (len(here) > 1 and tuple(target) not in roots):
                told.append(f"{path}:{line} imports {name}; in a folder only what imports no sibling is shared")
    return told


def test_every_room_has_its_place() -> None:
    rooms = {parts_of(path)[0] for path in house()}
    assert rooms <= set(ORDER), f"give these a place in ORDER: {', '.join(sorted(rooms - set(ORDER)))}"


def test_imports_go_one_way() -> None:
    assert offences(house()) == []


@pytest.mark.parametrize(
    ("path", "source", "allowed"),
    [
        ("model.py", "from whence.tokens import Row", True),
        ("model.py", "import whence.capture", False),
        ("model.py", "from whence import capture", False),
        ("model.py", "from whence import tokens", True),
        ("model.py", "from whence import Index", False),
        ("model.py", "import torch, whence.cli as c", False),
        ("model.py", "from .capture import capture", False),
        ("model.py", "from . import capture", False),
        ("model.py", "from .tokens import Row", True),
        ("model.py", "def f():\n    from whence.cli import app", False),
        ("model.py", "if TYPE_CHECKING:\n    from whence.cli import app", False),
        ("model.py", "from whence.utils import f", False),
        ("model.py", "from whencever.cli import app", True),
        ("methods/rept.py", "from whence.methods.method import Method", True),
        ("methods/rept.py", "from .method import Method", True),
        ("methods/rept.py", "from whence.methods.lesson import Lesson", False),
        ("methods/rept.py", "from whence.methods import Method", False),
        ("methods/rept.py", "from ..build import build_index", False),
        ("methods/__init__.py", "from whence.methods.lesson import Lesson", True),
        ("methods/__init__.py", "from whence.build import build_index", False),
        ("methods/method.py", "from whence.methods.rept import RepT", False),
        ("lab/judge.py", "from whence.lab import facts", True),
        ("lab/judge.py", "from whence.lab.poison import poison", False),
        ("lab/poison.py", "from whence.lab.hard import HARD", True),
        ("lab/hard.py", "from whence.lab.ordinary import clean", True),
        ("lab/hard.py", "from whence.lab.poison import poison", False),
        ("lab/ordinary.py", "from whence.lab.ordinary import clean", False),
        ("lab/hard.py", "from whence.lab.judge import judge", True),
        ("lab/judge.py", "from whence.lab.hard import HARD", False),
        ("lab/judge.py", "from whence.methods.method import Method", True),
        ("lab/judge.py", "from whence.bench.metrics import ap", False),
    ],
)
def test_what_the_rule_allows(path: str, source: str, allowed: bool) -> None:
    rest = "tokens capture cli index build methods/__init__ methods/method methods/lesson lab/facts bench/metrics"
    files = {f"{name}.py": "" for name in (rest + " lab/ordinary lab/judge").split()}
    files |= {f"lab/{name}.py": "from whence.lab import facts" for name in ("poison", "hard")}
    assert (offences(files | {path: source}) == []) == allowed


def test_only_the_command_line_imports_the_house_inside_functions() -> None:
    files = house()
    known = {tuple(parts_of(path)) for path in files}
    late = []
    for path, source in files.items():
        for node in ast.walk(ast.parse(source)):
            if not path.startswith("cli/") and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                inner = imports(path, ast.unparse(node), known)
                late += [f"{path}: {node.name} imports whence.{'.'.join(target)}" for _, target in inner]
    assert late == []


def test_no_room_is_too_long() -> None:
    lines = {path: source.count("\n") for path, source in house().items() if path not in DATA}
    assert {path: count for path, count in lines.items() if count > LONGEST} == {}


def test_no_room_is_a_box_of_odds() -> None:
    odds = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert [path for path in house() if odds & set(parts_of(path))] == []
