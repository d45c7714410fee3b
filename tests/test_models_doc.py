"""The table of docs/reference/models.md names tests that exist, and has a line for every tested family and kind."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from test_adapters import KINDS
from test_families import OTHERS

from conftest import FAMILIES

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "reference" / "models.md").read_text()
LINES = [line for line in PAGE.partition("## Tested models")[2].partition("\n## ")[0].splitlines() if line[:2] == "| "]


class Seen:
    """A plugin of pytest that notes what was collected."""

    def pytest_collection_finish(self, session: Any) -> None:
        self.ids = {item.nodeid.removeprefix("tests/") for item in session.items}


@pytest.fixture(scope="module")
def known() -> set[str]:
    """The id of every test in the files that the table names."""
    files = sorted(set(re.findall(r"`([\w/]+\.py)::", PAGE)))
    seen = Seen()
    options = ["--collect-only", "-qq", "-o", "addopts=", "-p", "no:cacheprovider", f"--rootdir={TESTS.parent}"]
    assert pytest.main([*options, *(str(TESTS / file) for file in files)], plugins=[seen]) == 0
    return seen.ids


def test_every_line_names_an_existing_test(known: set[str]) -> None:
    named = [re.findall(r"`([\w/]+\.py::[^`]+)`", line) for line in LINES]
    assert [name for names in named for name in names if name not in known] == []
    plain = [line for line, names in zip(LINES, named, strict=True) if not names]
    headings = [line for line in plain if re.fullmatch(r"\| \*\*[\w ]+\*\* \| \| \|", line)]
    assert len(headings) == 4
    rest = [line for line in plain if line not in headings]
    assert [line.split(" | ")[-1] for line in rest] == ["shown by |", "needs GPUs: not tested here |"]


@pytest.mark.parametrize(
    ("test", "kinds"),
    [
        ("capture/test_capture.py::test_capture_matches_separate_transformers_passes", FAMILIES),
        ("models/test_families.py::test_capture_matches_full_model_autograd", OTHERS),
        ("models/test_adapters.py::test_adapter_kind_matches_peft_and_restores_base_model", KINDS),
    ],
)
def test_every_tested_kind_has_a_line(test: str, kinds: Any) -> None:
    matches = re.findall(rf"`{re.escape(test)}\[([^`]+)\]`", "\n".join(LINES))
    assert sorted(matches) == sorted(kinds)
