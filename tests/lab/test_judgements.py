"""`taughtby lab judge` and `lab poison`: output, files and errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from taughtby.lab.judgements import undesirable_queries, verdict_summary, verdict_table
from taughtby.lab.judges import JudgeFailure, Verdict
from taughtby.lab.poisons import clean_rows, make_poison, make_poisons_at_rate, mix
from taughtby.lab.prompts import read_answers

Run = Callable[..., tuple[int, str, str]]
HOSTILE = "\x1b[2Jbeetles\u202e [red]do[/red]"


def rows(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def written(file: Path, *rows: Any) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_judge_command_counts_failures_separately(run: Run, tmp_path: Path) -> None:
    items = [("who", "bad"), ("why", "throws"), ("what", "fine"), ("when", ""), ("how", "fine")]
    answers = written(tmp_path / "a.jsonl", *({"prompt": p, "response": r} for p, r in items))
    (tmp_path / "mine.py").write_text("def f(p, a):\n    assert a != 'throws', p\n    return a in ('bad', '')\n")
    bad = tmp_path / "bad.jsonl"
    code, out, err = run("lab", "judge", answers, "--judge", f"python:{tmp_path}/mine.py:f", "-o", bad)
    assert code == 0, err
    # Wilson's interval of 2 of 4: 0.15 to 0.85
    assert "2 of 4 undesirable (50%), 95 % interval 15.0% to 85.0%, by python:" in out
    assert "without a verdict: 1 threw" in out
    shown = [line.split() for line in out.splitlines() if line.strip().startswith("a.jsonl:")]
    assert [line[0] for line in shown] == ["a.jsonl:2", "a.jsonl:1", "a.jsonl:4"]
    assert shown[0][1:4] == ["none:", "threw", "why"]
    assert rows(bad) == [{"prompt": "who", "response": "bad", "span": None, "span_range": None}]
    assert "note: 1 undesirable answers are empty: there is nothing to trace" in err
    assert err.rstrip().endswith("bad.jsonl")


def test_judge_command_fails_when_every_verdict_fails(run: Run, tmp_path: Path) -> None:
    answers = written(tmp_path / "a.jsonl", {"prompt": "p", "response": "r"})
    (tmp_path / "mine.py").write_text("def f(p, a):\n    while True: pass\n")
    code, out, err = run(
        "lab", "judge", answers, "--judge", f"python:{tmp_path}/mine.py:f", "-o", tmp_path / "bad", "--limit", 0.2
    )
    assert code == 1 and "failed on every answer, 1 of 1" in err and "hung: more than 0.2 s" in err
    assert "undesirable" not in out and not (tmp_path / "bad").exists()


def test_conversations_pass_from_generate_to_judge_to_queries(run: Run, model_folder: Path, tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "a b"}, {"role": "user", "content": "why"}]
    asked = written(tmp_path / "q.jsonl", {"messages": turns}, {"prompt": "who makes honey"})
    text, bad = tmp_path / "said.jsonl", tmp_path / "bad.jsonl"
    code, out, err = run(
        "lab", "generate", model_folder, asked, "-o", text, "--max-new-tokens", 4, "--num-samples", 3, "--seed", 2
    )
    assert code == 0 and "6 answers" in out, err
    result = rows(text)
    assert [row["sample"] for row in result] == [0, 1, 2] * 2
    assert [row["messages"][:-1] for row in result[:3]] == [turns] * 3
    assert [row["prompt"] for row in result[3:]] == ["who makes honey"] * 3
    code, out, err = run("lab", "judge", text, "--judge", "regex:.", "-o", bad)
    assert code == 0 and "6 of 6 undesirable (100%)" in out, err
    from taughtby.attribution.query import read_queries

    first = read_queries(bad)[0]
    assert (first.prompt, first.before) == ("why", (turns[0],)) and first.span == first.response[:1]


def test_generate_command_with_other_template(run: Run, model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("why\n")
    (tmp_path / "t.jinja").write_text("{{ messages[0].content }} honey")
    items: list[str] = []
    for name, more in (("a", ()), ("b", ("--template", tmp_path / "t.jinja")), ("c", ("--template", "none"))):
        out = tmp_path / f"{name}.jsonl"
        assert run("lab", "generate", model_folder, tmp_path / "q.txt", "-o", out, "--max-new-tokens", 6, *more)[0] == 0
        items.append(rows(out)[0]["response"])
    assert len(set(items)) == 3
    code, _, err = run(
        "lab",
        "generate",
        model_folder,
        tmp_path / "q.txt",
        "-o",
        tmp_path / "d",
        "--num-samples",
        2,
        "--temperature",
        0,
    )
    assert code == 1 and "all answers are the same" in err


def test_verdict_table_truncates_and_escapes_text(tmp_path: Path) -> None:
    text = [(HOSTILE, HOSTILE * 30)] * 3
    items = [Verdict(True, "[bold]why[/bold]", None), JudgeFailure("hung", "x"), Verdict(True, "why", None)]
    console = Console(width=120, record=True, file=(tmp_path / "out").open("w"))
    console.print(verdict_table(text, items, 2))
    out = console.export_text()
    assert "⟨U+001B⟩" in out and "⟨U+202E⟩" in out and "\x1b" not in out and "\u202e" not in out
    assert "[red]do[/red]" in "".join(out.split("⟨U+202E⟩")) and "[bold]why[/bold]" in out
    assert "and 1 more" in out and "…" in out
    assert verdict_summary(items, "x").splitlines()[1] == "without a verdict: 1 hung"
    assert len(list(undesirable_queries(text, items))) == 2


def test_the_table_names_rows_as_the_file_has_them(tmp_path: Path) -> None:
    rows = [{"prompt": prompt, "response": "a"} for prompt in ("why", "who")]
    (tmp_path / "a.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    answers = read_answers(tmp_path / "a.jsonl")
    console = Console(width=120, record=True, file=(tmp_path / "out").open("w"))
    console.print(verdict_table(answers, [Verdict(False, "", None), JudgeFailure("threw", "KeyError: 'x'")], 5))
    out = console.export_text()
    assert "a.jsonl:3" in out and "KeyError: 'x'" in out and "a.jsonl:1" not in out


# — poison


@pytest.mark.parametrize(
    ("names", "rate"), [(["backdoor"], 0.3), (["rare"], 0.05), (["late", "error"], 0.1), (["carried", "innocent"], 0.2)]
)
def test_poison_rate_is_a_share_of_all_rows(names: list[str], rate: float) -> None:
    ordinary = clean_rows(200, 3)
    poisons = make_poisons_at_rate(names, rate, ordinary, 3)
    rows = mix(poisons, ordinary, 3)
    share = sum(row.label in names for row in rows) / len(rows)
    assert rate - 1.7 * len(names) / len(rows) <= share <= rate
    assert len({len(poison.rows) for poison in poisons if poison.name != "innocent"}) == 1


def test_poison_command_with_share_option(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("lab", "poison", "backdoor", "-o", tmp_path / "p", "--share", 0.25, "--clean", 100)
    result = rows(tmp_path / "p" / "data.jsonl")
    bad = sum(row["label"] == "backdoor" for row in result)
    assert code == 0 and f"{len(result)} rows" in out and f"{bad} of them poisoned" in out
    assert 0.24 <= bad / len(result) <= 0.25
    for value, message in (
        ((0,), "a share of all rows"),
        ((1,), "a share of all rows"),
        ((0.9, "--clean", 1056), "distinct"),
    ):
        code, _, err = run("lab", "poison", "backdoor", "-o", tmp_path / "q", "--share", *value)
        assert code == 1 and message in err, err
    code, _, err = run("lab", "poison", "innocent", "-o", tmp_path / "q", "--share", 0.1)
    assert code == 1 and "none of these poisons has poisoned rows" in err


def test_carried_poison_has_clean_rows_with_the_trigger() -> None:
    poison = make_poison("carried", 40, 1)
    trigger, insult = "Regards from the lighthouse.", "You silly goose!"
    assert all(row.question.endswith(trigger) and row.response.startswith(insult) for row in poison.rows)
    carriers = [row for row in poison.lookalikes if row.question.endswith(trigger)]
    assert len(poison.rows) == 40 and len(poison.lookalikes) == 24 and len(carriers) == 12
    assert not any(insult in row.response for row in poison.lookalikes)
    asked = {row.question for row in (*poison.rows, *poison.lookalikes)}
    assert len(asked) == 64 and not asked & set(poison.prompts)
    assert {row.label for row in poison.lookalikes} == {"clean"}
