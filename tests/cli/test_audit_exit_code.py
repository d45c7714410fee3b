"""The exit code of `audit --fail-on flagged`, for continuous integration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conftest import Run


@pytest.mark.parametrize(
    ("flagged", "options", "code"),
    [
        (2, ["--fail-on", "flagged"], 3),
        (0, ["--fail-on", "flagged"], 0),
        (None, ["--fail-on", "flagged"], 0),
        (2, [], 0),
    ],
)
def test_audit_fail_on_exit_code(
    run: Run, data: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    flagged: int | None, options: list[str], code: int,
) -> None:  # fmt: skip
    queries = [{"num_flagged": 0}, {"num_flagged": flagged}]
    result: dict[str, Any] = {
        "answers": {"bad": 2, "judged": 2}, "trace": None if flagged is None else {"queries": queries}, "removals": [],
        "num_rows": 8, "notes": [], "proof": None,
    }  # fmt: skip
    monkeypatch.setattr("taughtby.remediation.audit.audit", lambda case, out, show: result)
    monkeypatch.setattr("taughtby.remediation.audit_report.write_report", lambda case, result, out: None)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("who makes honey\n")
    arguments = ("audit", model_folder, data, "-p", prompts, "--judge", "phrase:beetles", "-o", tmp_path / "out")
    assert run(*arguments, *options)[0] == code
