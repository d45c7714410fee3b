"""Results of the sanity checks of an index, and the file in which the index keeps them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from taughtby.index.reader import Index
from taughtby.methods import Method

FILE = "check.json"  # beside the manifest


@dataclass(frozen=True)
class Check:
    """One sanity check: a value, its limit and what the value means; `passed` is None if the check was skipped."""

    name: str
    value: float | None
    limit: float | None
    passed: bool | None
    says: str


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

    def to_json(self) -> dict[str, Any]:
        """Return the document that the index folder keeps as check.json."""
        checks = [asdict(check) for check in self.checks]
        return {"version": 1, "method": repr(self.method), "rows": self.rows, "seed": self.seed, "count": self.count,
                "checks": checks}  # fmt: skip


def skipped_check(name: str, reason: str) -> Check:
    """Return a check that could not be made."""
    return Check(name, None, None, None, reason)


def index_warnings(index: Index, method: Method) -> list[str]:
    """Return what the checks kept beside the index say against this method; empty if there are none for it."""
    try:
        report: dict[str, Any] = json.loads((index.path / FILE).read_text(encoding="utf-8"))
        if report["method"] != repr(method):
            return []
        failed = [str(check["says"]) for check in report["checks"] if check["passed"] is False]
        count = int(report.get("count", len(index)))
        if count != len(index):
            failed.append(f"the index was checked when it had {count:,} rows, and has {len(index):,}: "
                          "run taughtby check")  # fmt: skip
        return failed
    except (OSError, ValueError, KeyError, TypeError):
        return []  # no trace fails because of a broken note
