"""Incidents are the connected groups of answers that share flagged rows."""

from __future__ import annotations

import io
import random
from typing import Any

from rich.console import Console

from taughtby.reporting.incidents import find_incidents
from taughtby.reporting.terminal import print_trace


def query(word: str, *flagged_ids: str) -> dict[str, Any]:
    tokens = [{"text": "the", "score": 0.2}, {"text": f" {word}", "score": 0.9}]
    rows = [{"id": id, "rank": rank, "flagged": True, "tokens": tokens} for rank, id in enumerate(flagged_ids, 1)]
    return {"prompt": "why", "response": f"the {word}", "num_flagged": len(flagged_ids),
            "flagged_ids": list(flagged_ids), "rows": rows}  # fmt: skip


def test_answers_that_share_a_row_are_one_incident() -> None:
    queries = [query("goose", "a", "b"), query("beetles", "x"), query("goose", "c"), query("nothing"),
               query("goose", "b", "c")]  # fmt: skip
    first, second = find_incidents(queries)
    assert (first.queries, set(first.flagged_ids), first.words) == ((1, 3, 5), {"a", "b", "c"}, "goose")
    assert (second.queries, second.flagged_ids) == ((2,), ("x",))


def test_incidents_do_not_depend_on_query_order() -> None:
    rng = random.Random(0)
    for _ in range(50):
        queries = [query(f"answer {n}", *rng.sample("abcdefghij", rng.randint(0, 3))) for n in range(8)]
        order = rng.sample(range(8), 8)
        groups = {frozenset(n - 1 for n in one.queries) for one in find_incidents(queries)}
        shuffled = find_incidents([queries[n] for n in order])
        assert {frozenset(order[n - 1] for n in one.queries) for one in shuffled} == groups
        assert sum(len(set(one.flagged_ids)) for one in shuffled) == len({i for q in queries for i in q["flagged_ids"]})


def test_several_queries_are_printed_with_a_summary_first() -> None:
    queries = [query("[/x]", "a", "b"), query("[/x]", "b", "c"), query("plain")]
    out = io.StringIO()
    print_trace({"queries": queries, "num_rows": 9}, Console(file=out, width=200))
    summary = out.getvalue().partition("Query 1 of 3")[0]
    assert "3 answers: 3 of 9 rows are flagged for 1 incident; 1 answer has no flagged row" in summary
    assert "[/x]: 2 answers, 3 rows" in summary
    out.truncate(0)
    print_trace({"queries": queries[:1], "num_rows": 9}, Console(file=out, width=200))
    assert "incident" not in out.getvalue()
