"""Results of the sanity checks of an index, and the file in which the index keeps them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from taughtby.index.reader import Index
from taughtby.methods import Method

FILE = "check.json"  # beside the manifest
EQUAL = "all scores of each query are equal, for example because all features are 0"
UNTRUSTED = {"random model", "length"}  # if one of these fails, no rank is evidence of what was learned


@dataclass(frozen=True)
class Check:
    """One sanity check of a ranking.

    Attributes:
        name: What is checked.
        value: What was measured.
        limit: The limit of the value.
        passed: Whether the value is within it; None if the check was skipped.
        finding: What the value means, or why the check was skipped.
        advice: What to do if it failed; empty if it did not.
    """

    name: str
    value: float | None
    limit: float | None
    passed: bool | None
    finding: str
    advice: str = ""


@dataclass(frozen=True)
class CheckReport:
    """The sanity checks of one index with one method.

    Attributes:
        method: The method.
        checks: The results.
        rows: Number of rows used as queries.
        seed: Seed by which they were sampled.
        count: Number of rows of the index.
    """

    method: Method
    checks: tuple[Check, ...]
    rows: int
    seed: int
    count: int

    @property
    def verdict(self) -> str:
        """One of "ok", "look at", "do not trust" and "not checked"."""
        failed = {check.name for check in self.checks if check.passed is False}
        if failed & UNTRUSTED:
            return "do not trust"
        return "look at" if failed else "ok" if any(check.passed for check in self.checks) else "not checked"

    @property
    def reason(self) -> str:
        """The reason for the verdict, with advice."""
        failed = [check for check in self.checks if check.passed is False]
        if failed:
            return "; ".join(f"{check.name}: {check.advice}" for check in failed)
        passed = sum(check.passed is True for check in self.checks)
        return f"{passed} of {len(self.checks)} checks passed, none failed" if passed else self.checks[0].finding

    def to_json(self) -> dict[str, Any]:
        """Return the document that the index folder keeps as check.json."""
        checks = [asdict(check) for check in self.checks]
        return {"version": 1, "method": repr(self.method), "rows": self.rows, "seed": self.seed, "count": self.count,
                "verdict": self.verdict, "reason": self.reason, "checks": checks}  # fmt: skip


def skipped_check(name: str, reason: str) -> Check:
    """Return a check that could not be run."""
    return Check(name, None, None, None, reason)


def index_warnings(index: Index, method: Method) -> list[str]:
    """Return the failures that the index's saved checks report for this method; empty if it was not checked."""
    try:
        report: dict[str, Any] = json.loads((index.path / FILE).read_text(encoding="utf-8"))
        if report["method"] != repr(method):
            return []
        failed = [f"{check['finding']}; {check['advice']}" for check in report["checks"] if check["passed"] is False]
        count = int(report.get("count", len(index)))
        if count != len(index):
            failed.append(f"the index was checked with {count:,} rows, and now has {len(index):,}: "
                          "run taughtby check again")  # fmt: skip
        return failed
    except (OSError, ValueError, KeyError, TypeError):
        return []  # a damaged report must not prevent a trace
