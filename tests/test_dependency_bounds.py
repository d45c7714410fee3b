"""The lower bounds in pyproject.toml are tested versions: those pinned in constraints.txt."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
OLDER = {"torch": "2.11", "transformers": "5.17"}  # of a GPU host, where they were run


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.partition("[")[0]).lower()


def test_bounds_are_the_pinned_minor_versions() -> None:
    pins = {canonical(name): version for name, _, version in
            (line.partition("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line)}  # fmt: skip
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    bounds = dict(one.split(">=") for one in asked if not one.startswith(f"{project['name']}["))
    assert all("," not in bound and ";" not in bound for bound in bounds.values())
    for name, bound in bounds.items():
        pin = pins[canonical(name)].split(".")
        wanted = OLDER.get(name, ".".join(pin[: max(2, len(bound.split(".")))]))
        assert bound == wanted, f"{name}>={bound}, but constraints.txt pins {'.'.join(pin)}: write {name}>={wanted}"
        assert [int(part) for part in bound.split(".")] <= [int(part) for part in pin]
