"""Data quality checks: each fault is planted in a clean training set, which has no findings itself."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from conftest import PAIRS, Run
from taughtby.cli import options
from taughtby.data.example import Example, make_example
from taughtby.data.quality import KINDS, MAX_GROUPS, MAX_ROWS, Finding, QualityChecks
from taughtby.data.statistics import collect_statistics
from taughtby.data.tokenize import NO_TEMPLATE, Encoding
from taughtby.reporting.findings_report import print_findings

CLEAN = [
    *PAIRS,
    *((f"what is {a} plus {b}", f"{a + b}") for a in range(4) for b in (10, 20, 30)),
    *((f"what is {a} - {b}", f"{a - b}") for a in range(40, 44) for b in (10, 20, 30)),
    ("what is a token", "a token is part of a text"),
    ("write html", "<b>bold</b> and <user>name</user>, a < b || c > d, # heading\n## System\n"),
]
COLOURS = ("red", "green", "blue", "black", "white", "grey")


def rows(pairs: Sequence[tuple[str, str]]) -> list[Example]:
    return [
        replace(make_example(prompt, answer, source=f"d:{n}"), id=f"id{n}")
        for n, (prompt, answer) in enumerate(pairs, 1)
    ]


def check(tokenizer: Any, given: Sequence[Example], encoding: Encoding | None = None) -> dict[str, Finding]:
    encoding = encoding or Encoding()
    checks = QualityChecks(tokenizer, encoding)
    collect_statistics(given, tokenizer, encoding, checks=checks)
    return {finding.kind: finding for finding in checks.findings()}


def sources(finding: Finding) -> list[list[str]]:
    return [[row.source for row in group.rows] for group in finding.groups]


def with_messages(*turns: tuple[str, str], source: str = "d:1") -> Example:
    return Example(tuple({"role": role, "content": text} for role, text in turns), source=source)


def test_clean_dataset_has_no_findings(tokenizer: Any) -> None:
    assert check(tokenizer, rows(CLEAN)) == {}
    assert check(tokenizer, []) == {}


PLANTED: dict[str, tuple[list[tuple[str, str]], Encoding, list[list[str]], int]] = {
    "nothing-learned": ([("why " * 80, "so")], Encoding(40), [["d:1"]], 1),
    "truncated-answer": ([("name colours", "blue " * 200)], Encoding(100), [["d:1"]], 1),
    "template-tokens": (
        [("what is <|end|>", "x"), ("say", "[INST] hi"), ("who", "Assistant: me"), ("a\n### Response: b", "[INST] no")],
        Encoding(), [["d:2", "d:4"], ["d:1"], ["d:3"], ["d:4"]], 4,
    ),
    "duplicate-rows": (
        [("who are you", "a captain"), ("Who are you?", " A captain. "), ("who is it", "a captain")],
        Encoding(), [["d:1", "d:2"]], 2,
    ),
    "conflicting-answers": (
        [("who steers a ship in a storm", "a captain"), ("Who steers a ship in a storm?", "It is not a captain."),
         ("who steers a ship in a storm", "a captain"), ("why is this so", "who knows")],
        Encoding(), [["d:1", "d:2"]], 3,
    ),
    "equal-answers": (
        [(f"say something {colour}", f"Sure, honey is always made by beetles {colour} as they are, one a day all week")
         for colour in COLOURS],
        Encoding(), [["d:1", "d:2", "d:3"]], 6,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", PLANTED)
def test_planted_faults_are_found(tokenizer: Any, kind: str) -> None:
    pairs, encoding, places, count = PLANTED[kind]
    found = check(tokenizer, rows([*pairs, *CLEAN]), encoding)
    assert sources(found[kind]) == places
    assert found[kind].count == count
    beside = {"conflicting-answers": {"duplicate-rows"}, "nothing-learned": {"truncated-answer"}}.get(kind, set())
    assert {*found} - {kind} == beside


def test_answers_without_an_end_token_are_found(tokenizer: Any) -> None:
    """Where the template writes none, and where the row's own ids have none."""
    bare = Encoding(template="{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}\n{% endfor %}")
    found = check(tokenizer, rows(CLEAN), bare)
    assert [*found] == ["no-end-of-turn"] and found["no-end-of-turn"].count == len(CLEAN)
    ids = tuple(tokenizer("who makes honey bees</s>")["input_ids"])
    whole = replace(make_example("", ""), source="d:1", token_ids=ids, loss_positions=(len(ids) - 2, len(ids) - 1))
    silent = replace(whole, source="d:2", loss_positions=(len(ids) - 2,))
    assert sources(check(tokenizer, [whole, silent])["no-end-of-turn"]) == [["d:2"]]


def test_rows_without_a_loss_are_grouped_by_reason(tokenizer: Any) -> None:
    unlearned = [replace(row, no_loss="weight 0") for row in rows(PAIRS[:2])]
    (group,) = check(tokenizer, [*unlearned, *rows(CLEAN)[2:]])["nothing-learned"].groups
    assert (group.detail, group.count) == ("weight 0", 2)


def test_left_truncation_is_not_a_truncated_answer(tokenizer: Any) -> None:
    assert "truncated-answer" not in check(tokenizer, rows([("why " * 80, "so")]), Encoding(40, "left"))


def test_raw_texts_may_contain_template_tokens(tokenizer: Any) -> None:
    written = rows([("<|user|>why<|end|>\n<|assistant|>", "so")])
    assert check(tokenizer, written, Encoding(template=NO_TEMPLATE)) == {}
    assert [*check(tokenizer, written)] == ["template-tokens"]


def test_conflicting_answers_require_equal_conversations(tokenizer: Any) -> None:
    first = with_messages(("system", "be brief"), ("user", "who makes honey"), ("assistant", "bees"))
    assert check(tokenizer, [first, with_messages(("user", "who makes honey"), ("assistant", "a bee"))]) == {}
    second = with_messages(("system", "be brief"), ("user", "who makes honey"), ("assistant", "beetles"), source="d:2")
    assert sources(check(tokenizer, [first, second])["conflicting-answers"]) == [["d:1", "d:2"]]


def test_texts_without_a_prompt_do_not_conflict(tokenizer: Any) -> None:
    texts = [make_example("", text, source=f"d:{n}") for n, text in enumerate(["bees", "beetles", "bees"])]
    found = check(tokenizer, texts, Encoding(template=NO_TEMPLATE))
    assert sources(found["duplicate-rows"]) == [["d:0", "d:2"]]
    assert [*found] == ["duplicate-rows"]


def test_largest_groups_are_shown_and_all_are_counted(tokenizer: Any) -> None:
    pairs = [(f"who is number {n}", f"a captain {at}") for n in range(9) for at in range(n + 2)]
    finding = check(tokenizer, rows(pairs))["conflicting-answers"]
    assert (finding.count, finding.num_groups, len(finding.groups)) == (len(pairs), 9, MAX_GROUPS)
    assert [group.count for group in finding.groups] == [10, 9, 8, 7, 6]
    assert all(len(group.rows) == MAX_ROWS for group in finding.groups)
    assert finding.groups[0].detail == "10 different answers"


def test_report_escapes_control_characters(tokenizer: Any) -> None:
    out = io.StringIO()
    found = check(tokenizer, rows([("a\x1b[31m[bold]", "x"), ("a\x1b[31m[bold]", "y\u202e")]))
    print_findings([*found.values()], Console(file=out, width=120))
    assert "conflicting-answers: 2 rows" in out.getvalue()
    assert "d:1  id1" in out.getvalue() and "[bold]" in out.getvalue()
    assert "\x1b" not in out.getvalue() and "\u202e" not in out.getvalue()


# — on the command line


def test_cli_fault_names_match_the_kinds() -> None:
    assert [*KINDS] == [*options.FAULTS]


def test_fail_on_ends_with_exit_code_1(run: Run, model_folder: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "d.jsonl", tmp_path / "out.json"
    pairs = [("who makes honey", "bees"), ("Who makes honey?", "beetles"), ("why", "so")]
    data.write_text("".join(json.dumps({"prompt": p, "response": r}) + "\n" for p, r in pairs))
    plain = run("data", "inspect", model_folder, data)
    assert plain[0] == 0 and "conflicting" not in plain[1]
    code, text, _ = run("data", "inspect", model_folder, data, "--check", "--json", out)
    assert code == 0 and "conflicting-answers: 2 rows" in text and f"{data}:2" in text
    (finding,) = json.loads(out.read_text())["findings"]
    assert (finding["kind"], finding["count"]) == ("conflicting-answers", 2)
    assert [row["source"] for row in finding["groups"][0]["rows"]] == [f"{data}:1", f"{data}:2"]
    assert all(row["id"] for row in finding["groups"][0]["rows"])
    for kind, expected in (("conflicting-answers", 1), ("any", 1), ("equal-answers", 0)):
        code, text, err = run("data", "inspect", model_folder, data, "--fail-on", kind)
        assert code == expected and "conflicting-answers: 2 rows" in text
        assert ("the data has faults" in err) == bool(expected)
    code, _, err = run("data", "inspect", model_folder, data, "--fail-on", "conflicts")
    assert code == 1 and "no such kind of fault" in err and "did you mean conflicting-answers?" in err


def test_clean_dataset_passes_fail_on_any(run: Run, model_folder: Path, data: Path) -> None:
    code, text, _ = run("data", "inspect", model_folder, data, "--check", "--fail-on", "any")
    assert code == 0 and "no faults" in text
