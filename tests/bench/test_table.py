"""Reports of a benchmark: terminal tables, conclusions in words, Markdown with every number, and plots."""

from __future__ import annotations

import contextlib
import ctypes
import io
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
import torch
from rich.console import Console

from taughtby.bench import table
from taughtby.bench.cost import measure_cost
from taughtby.bench.summary import stage_provenance, summarize
from taughtby.errors import OptionError
from taughtby.remediation.provenance import provenance
from taughtby.reporting import plots as pictures

LABELS = ["bad", "bad", "clean", "other", "clean"]
PERFECT, GOOD, POOR = [5, 4, 3, 2, 1], [5, 3, 4, 2, 1], [1, 2, 3, 4, 5]
AP = {"perfect": 1.0, "good": (1 + 2 / 3) / 2, "poor": (1 / 4 + 2 / 5) / 2}
SCORES = {"perfect": PERFECT, "good": GOOD, "poor": POOR}
MADE = provenance()


def result(method: str, which: str, how: str, *, seconds: float = 2.0, by: str | None = None, **more: Any) -> Any:
    words = method in (*table.TRIVIAL, "embedding")
    index = None if method in table.TRIVIAL else {
        "by": by or method, "seconds": seconds, "cpu": 1.5 * seconds, "tokens_per_second": 500.0,
        "bytes_per_row": 4096.0, "more": 12.0, "peak": 900.0, "skipped": 0, "provenance": MADE,
    }  # fmt: skip
    query = {"seconds": 0.25, "peak": 900.0, "more": 3.0}
    return {"method": method, "which": which, "reads": "words" if words else "model", "options": {"name": method},
            "index": index, "query": query, "scores": [SCORES[how]], "labels": LABELS, "hit": None,
            "dtype": "float32", "provenance": MADE, **more}  # fmt: skip


def world(suite: str, seed: int, results: list[Any], **more: Any) -> Any:
    reference = {
        "seconds_per_row": 3.0,
        "cpu_per_row": 4.0,
        "tokens_per_second": 20.0,
        "bytes_per_row": 4608,
        "more": 5.0,
        "rows": 2,
    }
    return {"suite": suite, "seed": seed, "rows": 5, "planted": 2, "adapter": None, "finetune_seconds": 9.0,
            "rate": 0.75, "base_rate": 0.0, "queries": [{"prompt": "p", "response": "r", "label": "bad"}],
            "results": results, "reference": None if seed else reference, "provenance": [MADE], **more}  # fmt: skip


def summary_of(*worlds: Any) -> Any:
    return summarize(worlds, {"seeds": 2, "model": "smollm2", "command": "taughtby bench"})


@pytest.fixture
def usual() -> Any:
    """Two seeds: lesson finds all, rept as good on one; bm25 and the untuned lesson do not."""
    return summary_of(
        world("error", 0, [
            result("lesson", "tuned", "perfect", hit=0.5), result("rept", "tuned", "good", seconds=4),
            result("bm25", "tuned", "poor"), result("lesson", "untuned", "good"), result("rept", "untuned", "poor"),
            result("bm25", "untuned", "poor"),
        ]),
        world("error", 1, [
            result("lesson", "tuned", "perfect", hit=1.0), result("rept", "tuned", "poor", seconds=8),
            result("bm25", "tuned", "poor"), result("lesson", "untuned", "good"), result("rept", "untuned", "poor"),
            result("bm25", "untuned", "poor"),
        ], rate=0.25),
    )  # fmt: skip


def printed(made: Any, width: int = 80) -> str:
    text = io.StringIO()
    table.show(made, Console(file=text, width=width))
    return text.getvalue()


def lines(made: Any, suite: int = 0) -> dict[tuple[str, str], Any]:
    return {(line["method"], line["which"]): line for line in made["suites"][suite]["results"]}


def test_metrics_are_means_over_seeds_with_spread(usual: Any) -> None:
    outcome = lines(usual)["rept", "tuned"]["metrics"]["ap"]
    assert outcome["each"] == pytest.approx((AP["good"], AP["poor"]))
    assert outcome["mean"] == pytest.approx((AP["good"] + AP["poor"]) / 2)
    assert (outcome["low"], outcome["high"]) == pytest.approx((AP["poor"], AP["good"]))
    assert lines(usual)["lesson", "tuned"]["metrics"]["hit@1"]["mean"] == 0.75
    assert "hit@1" not in lines(usual)["rept", "tuned"]["metrics"]
    assert lines(usual)["rept", "tuned"]["cost"]["index_seconds"] == 6  # the median


def test_verdict_when_only_one_method_finds_the_rows(usual: Any) -> None:
    assert table.sentences(usual) == {
        "error": "error: bad answers before fine-tuning 0%, after 50%. Best: lesson (AP 1.000, 1.000–1.000 over 2 "
        "seeds). Of the text-only methods, none does as well; the best is bm25 (0.325). On the base model, no "
        "method does as well; the best is lesson (0.833)."
    }


def test_verdict_when_baseline_or_base_model_does_as_well() -> None:
    worlds = [
        world("error", seed, [
            result("lesson", "tuned", ("good", "perfect")[seed]), result("bm25", "tuned", "good"),
            result("random", "tuned", "poor"), result("lesson", "untuned", "perfect"),
        ])
        for seed in (0, 1)
    ]  # fmt: skip
    text = table.sentences(summary_of(*worlds))["error"]
    assert "Of the text-only methods, bm25 (0.833) does as well within the spread." in text
    assert "On the base model, lesson (1.000) does as well within the spread." in text


def test_verdict_without_baseline_or_control() -> None:
    text = table.sentences(summary_of(world("error", 0, [result("lesson", "tuned", "perfect")])))["error"]
    assert text == "error: bad answers before fine-tuning 0%, after 75%. Best: lesson (AP 1.000)."
    only = table.sentences(summary_of(world("error", 0, [result("bm25", "tuned", "perfect")])))["error"]
    assert only == "error: bad answers before fine-tuning 0%, after 75%."


def test_verdict_when_the_base_model_answers_the_same() -> None:
    worlds = [world("harmful", 0, [result("lesson", "tuned", "perfect")], base_rate=1.0, rate=1.0)]
    text = table.sentences(summary_of(*worlds))["harmful"]
    assert text.startswith(
        "harmful: bad answers before fine-tuning 100%, after 100%. The base model gives such answers too"
    )


def test_text_methods_are_not_used_as_base_model_control(usual: Any) -> None:
    """BM25 on the base model is BM25: it cannot show what fine-tuning brought."""
    assert "bm25" not in table.sentences(usual)["error"].split("On the base")[1]
    text = printed(usual)
    (row,) = [line for line in text.splitlines() if line.strip().startswith("bm25") and "│" in line]
    assert row.rstrip().endswith("=")


def test_table_sorts_methods_by_average_precision(usual: Any) -> None:
    text = printed(usual)
    assert max(map(len, text.splitlines())) <= 80
    names = [line.split()[0] for line in text.splitlines() if "│" in line][1:]
    assert names == ["lesson", "rept", "bm25"] == table.ranked(usual)
    assert "1.000 ±0.000 │ 0.833" in text
    assert f"{(AP['good'] + AP['poor']) / 2:.3f} ±{(AP['good'] - AP['poor']) / 2**0.5:.3f} │ 0.325" in text


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_suite_tables_wrap_to_the_console_width(width: int) -> None:
    names = ("backdoor", "error", "persona", "howdy", "late", "harmful", "backdoor-public", "factual-Ag")
    results = [
        result(method, which, "good") for method in ("lesson", "rept:scale=centred") for which in ("tuned", "untuned")
    ]
    output = summary_of(*(world(name, seed, results) for name in names for seed in (0, 1)))
    text = printed(output, width)
    assert max(map(len, text.splitlines())) <= width
    flat = " ".join(text.split())
    assert all(f"{name}: bad answers" in flat for name in names)
    assert text.count("0.833 ±0.000 │ 0.833") == 2 * len(names)
    assert "rept:scale=centred" in text and "…" not in text


def test_costs_include_the_reference_loop(usual: Any) -> None:
    heads, rows = table.costs(usual)
    assert heads[0] == "method"
    assert {row[0]: row[1:] for row in rows} == {
        "lesson": ["2.0", "3.0", "500", "12.0", "4,096", "0.250"],
        "rept": ["6.0", "9.0", "500", "12.0", "4,096", "0.250"],
        "bm25": ["–", "–", "–", "–", "–", "0.250"],
        "RepT's own loop": ["15.0", "20.0", "20.0", "5.0", "4,608", "–"],  # 5 rows of 3 seconds, 4 of the cores
    }


def test_shared_index_cost_is_marked() -> None:
    results = [result("tracin", "tuned", "good"), result("datainf", "tuned", "poor", by="tracin")]
    output = summary_of(world("error", 0, results))
    assert lines(output)["datainf", "tuned"]["cost"]["shared_with"] == "tracin"
    assert {row[0]: row[1] for row in table.costs(output)[1]}["datainf"] == "2.0*"
    assert "the index is shared by methods" in " ".join(printed(output).split())


def test_markdown_has_all_metrics_and_provenance(usual: Any) -> None:
    text = table.markdown(usual)
    for head in ("AP", "P@10", "R@100", "auPRC@50", "AUROC", "MRR", "word hit@1"):
        assert f" {head} |" in text
    assert table.sentences(usual)["error"] in text
    assert "| lesson, base model | 0.833 ±0.000 |" in text
    assert "| bm25, base model |" not in text
    assert "- command: `taughtby bench`" in text and "- number format: float32" in text
    assert f"torch {torch.__version__}" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert sum(map(len, blocks)) == len(rows)
    for block in blocks:
        assert len({line.count("|") for line in block}) == 1, "a row with other columns"


def test_provenance_has_versions_machine_and_commit() -> None:
    outcome = stage_provenance([world("error", 0, [result("lesson", "tuned", "good")])])
    assert outcome["packages"]["torch"] == torch.__version__
    assert outcome["dtype"] == "float32" and outcome["machine"]["threads"] == torch.get_num_threads()
    here = Path(table.__file__).parent
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True)
    wanted = head.stdout.strip() if head.returncode == 0 else None
    assert (outcome["commit"] or "").rstrip("+") == (wanted or "")


def test_provenance_covers_every_stage() -> None:
    """Of two machines and two commits; of one stage it was not written down."""
    machine = {**MADE["machine"], "processor": "another", "cores": 7}
    old = {**MADE, "commit": "0ld", "at": "2020-01-02T03:04:05+00:00", "machine": machine}
    worlds = [world("error", 0, [result("lesson", "tuned", "good"), result("bm25", "tuned", "good", provenance=old)])]
    outcome = summary_of(*worlds)
    assert outcome["provenance"]["commit"] == [MADE["commit"], "0ld"]
    assert outcome["provenance"]["at"] == [old["at"], MADE["at"]]
    assert outcome["provenance"]["machine"]["processor"] == [MADE["machine"]["processor"], "another"]
    assert {line["method"]: line["commit"] for line in outcome["suites"][0]["results"]} == {
        "lesson": MADE["commit"], "bm25": "0ld"
    }  # fmt: skip
    text = table.markdown(outcome)
    assert f"- commit: {MADE['commit'] or 'unknown'} and 0ld" in text and "and 7 cores" in text
    del worlds[0]["results"][1]["provenance"]
    assert summary_of(*worlds)["provenance"]["commit"] == ([MADE["commit"], None] if MADE["commit"] else None)
    assert "unknown" in table.markdown(summary_of(*worlds))


def test_cost_accuracy_points(usual: Any) -> None:
    ap = pytest.approx((AP["good"] + AP["poor"]) / 2)
    loop = ("RepT's own loop", 15.0, ap)  # with the accuracy of `rept`, whose scores it computes
    assert table.points(usual) == [("lesson", 2.0, 1.0), ("rept", 6.0, ap), loop]
    without = summary_of(world("error", 0, [result("lesson", "tuned", "good")]))
    assert [name for name, *_ in table.points(without)] == ["lesson"]


def test_figures_are_not_blank(tmp_path: Path) -> None:
    falling = [1 - at / 60 for at in range(41)]
    curves = [(f"method {at}", [value**at for value in falling], at > 9) for at in range(14)]
    pictures.precision_recall("error", curves, tmp_path / "pr.png")
    pictures.cost_accuracy([(f"method {at}", 1.0 + at, 0.5) for at in range(14)], tmp_path / "cost.png")
    pictures.cost_accuracy([("one", 2.0, 1.0)], tmp_path / "one.svg")
    for name in ("pr.png", "cost.png"):
        picture = matplotlib.image.imread(tmp_path / name)[..., :3]
        assert picture.shape[0] > 400 and picture.shape[1] > 800
        assert picture.mean() > 0.9 and (picture.std(-1) > 0.1).sum() > 500  # light, and something in colour
    assert "one" in (tmp_path / "one.svg").read_text()
    with pytest.raises(OptionError, match="the figure cannot be written"):
        pictures.cost_accuracy([("one", 2.0, 1.0)], tmp_path / "no" / "cost.png")


def test_labels_are_spread_within_the_figure() -> None:
    places = pictures._spread([0.5, 0.5, 0.51, 0.99, 1.0, 1.0])
    order = sorted(places)
    assert all(above - below >= pictures.APART - 1e-9 for below, above in pairwise(order))
    assert order[0] >= 0 and order[-1] <= 1
    assert places[2] > places[0] and places[3] < places[4]
    assert pictures._spread([0.1, 0.9]) == [0.1, 0.9]


def test_memory_peak_is_measured_per_task() -> None:
    device, outcome = torch.device("cpu"), []
    with contextlib.suppress(OSError, AttributeError):  # of glibc: memory that earlier tests freed counts anew
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    for size in (300, 60, 100):  # MB; below 32 the C library may reuse what it holds
        with measure_cost(device) as took:
            torch.ones(size * 2**18).sum()
        outcome.append(took)
    assert all(took.seconds > 0 and took.cpu > 0 for took in outcome)
    if outcome[0].more is None:
        pytest.skip("this system does not tell a process's peak")
    assert [took.more for took in outcome] == pytest.approx([300, 60, 100], abs=15)


def test_cost_is_measured_when_the_work_fails() -> None:
    with pytest.raises(ValueError, match="no"), measure_cost(torch.device("cpu")) as took:
        raise ValueError("no")
    assert took.seconds > 0


def test_no_planted_rows_reward_flagging_none() -> None:
    quiet = result("lesson", "tuned", "perfect", flagged=[[]])
    quiet["labels"] = ["clean"] * 5
    output = summary_of(world("innocent", 0, [quiet], planted=0, base_rate=1.0))
    text = table.sentences(output)["innocent"]
    assert text.endswith("No rows are planted in this suite. Answers without flagged rows: lesson for 100%.")
    (line,) = output["suites"][0]["results"]
    assert {name: value["mean"] for name, value in line["metrics"].items()} == {"fdp": 0, "none": 1}
    assert "innocent" in table.markdown(output) and table.points(output) == []


def test_flagged_rows_are_compared_with_planted_rows() -> None:
    wrong = result("lesson", "tuned", "perfect", flagged=[[0, 2]])
    (line,) = summary_of(world("error", 0, [wrong]))["suites"][0]["results"]
    assert [line["metrics"][name]["mean"] for name in ("fdp", "power", "none")] == [0.5, 0.5, 0]
