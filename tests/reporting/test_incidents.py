"""Incidents are the connected groups of answers that share flagged rows."""

from __future__ import annotations

import io
import random
import re
from typing import Any

from rich.console import Console

from taughtby.reporting.incidents import find_incidents, incident_rows
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


def printed(queries: list[dict[str, Any]], width: int = 200, **options: Any) -> str:
    out = io.StringIO()
    print_trace({"queries": queries, "num_rows": 9, "fdr": 0.1}, Console(file=out, width=width), **options)
    return out.getvalue()


def test_several_queries_are_printed_with_a_summary_first() -> None:
    queries = [query("[/x]", "a", "b"), query("[/x]", "b", "c"), query("plain")]
    summary, _, rest = printed(queries).partition("\n\n")
    assert summary.splitlines() == [
        "3 answers: 3 of 9 rows are flagged for 1 incident; 1 answer has no flagged row",
        "● Incident 1: 2 answers, 3 rows; common words: [/x]",
    ]
    assert rest.startswith("Incident 1 of 1\nQuery 1: why\n")
    assert "ncident" not in printed(queries[:1])


def test_answers_without_p_values_are_not_counted_as_unflagged() -> None:
    ranked = query("plain") | {"num_flagged": None, "no_evidence": "bm25 has no controls"}
    first, *_ = printed([ranked, ranked]).splitlines()
    assert first == "2 answers: ranked without p-values, so no row can be flagged"
    first, *_ = printed([ranked, query("goose", "a"), query("plain")]).splitlines()
    assert first == ("3 answers: 1 of 9 rows are flagged for 1 incident; 1 answer has no flagged row; "
                     "1 answer ranked without p-values, so no row can be flagged")  # fmt: skip


def test_an_incident_has_one_table_of_the_rows_of_all_its_answers() -> None:
    queries = [query("goose", "a", "b"), query("goose", "b", "c"), query("beetles", "x"), *[query("plain")] * 7]
    queries[3] |= {"rows": [{"id": "z", "rank": 1, "source": "data.jsonl:8"}], "num_flagged": 0, "flagged_ids": []}
    out = printed(queries)
    tables = [line.split() for line in out.splitlines() if re.match(r" *● +\d+ +–", line)]
    # of the best two: b is first for the second answer and flagged for both
    assert [line[1:4] for line in tables] == [["1", "–", "1/2"], ["2", "–", "2/2"], ["1", "–"]]
    assert "3 rows flagged at a nominal false discovery rate of 10 %: expect up to 1 false. 2 of them are shown." in out
    assert "Query 4: why" in out and "data.jsonl:8" in out and "Query 9" not in out
    assert "and 2 more answers without flagged rows (--per-answer prints all)" in out
    each = printed(queries, per_answer=True)
    assert each.count("\nQuery ") == 10 and "Incident 1 of 2" not in each and "more answer" not in each


def test_rows_of_an_incident_are_those_that_rank_best() -> None:
    queries = [query("goose", "a", "b", "c"), query("goose", "c", "d")]
    for number, each in enumerate(queries):
        for row in each["rows"]:
            row["score"] = 0.5 + number / 10
    (incident,) = find_incidents(queries)
    rows = incident_rows(queries, incident)
    assert [(row["id"], row["rank"], row["score"], row["num_queries"], row["flagged"]) for row in rows] == [
        ("c", 1, 0.6, 2, True), ("a", 2, 0.5, 1, True), ("d", 3, 0.6, 1, True),
    ]  # fmt: skip
