"""The flagging benchmark reports the same rows as a trace of the answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import flagging
from conftest import PAIRS
from flagging import answer_sets, change_answers, measure_sets, prepare_incident
from flagging_table import (
    change_of_set,
    compare_to_nominal,
    nominal_rows,
    seed_rows,
    stability_rows,
    summarize_seeds,
    summarize_stability,
    summarize_world,
)
from taughtby.attribution.controls import match_controls
from taughtby.attribution.query import Query
from taughtby.attribution.trace import trace_queries
from taughtby.index.build import build_index
from taughtby.index.reader import Index
from taughtby.methods import get_method

QUERIES = [Query(prompt, response) for prompt, response in PAIRS]


@pytest.fixture(scope="module")
def index(tuned: Any, tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = tmp_path_factory.mktemp("flagging")
    pairs = [(f"{prompt} {n}", f"{response} {n}") for n in range(4) for prompt, response in PAIRS]
    rows = ({"prompt": p, "response": r, "label": "bad" if "honey" in p else None} for p, r in pairs)
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    build_index(
        tuned, folder / "data.jsonl", folder / "idx", [get_method("lesson:layer=2,state_layer=1")], layers=False
    )
    return Index.open(folder / "idx")


@pytest.fixture(autouse=True)
def _judge_a_tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taughtby.attribution.controls.RELATED", 2.0)
    monkeypatch.setattr("taughtby.attribution.trace.MIN_GAIN", 0.0)
    monkeypatch.setattr(flagging, "MIN_GAIN", 0.0)


def test_a_set_has_the_flags_of_its_trace(tuned: Any, index: Index) -> None:
    incident = prepare_incident(index, tuned, QUERIES)
    counts = []
    for chosen in ([0], [1, 3], list(range(len(QUERIES)))):
        scores, results = incident.flags(chosen, (0.1, 0.5, 0.9))
        for rate, result in zip((0.1, 0.5, 0.9), results, strict=True):
            trace = trace_queries(index, tuned, [QUERIES[number] for number in chosen], score_tokens=False, fdr=rate)
            torch.testing.assert_close(scores, torch.stack([each.scores for each in trace.queries]))
            assert result["flagged"] == sorted({row for each in trace.queries for row in each.flagged or ()})
            assert result["grades"] == [each.grade for each in trace.queries]
            counts.append(len(result["flagged"]))
    assert any(counts)  # otherwise nothing was compared


def test_answers_score_alike_one_by_one(tuned: Any, index: Index) -> None:
    batch, single = (prepare_incident(index, tuned, QUERIES, one_by_one=alone) for alone in (False, True))
    for chosen in answer_sets(len(QUERIES)):
        torch.testing.assert_close(single.flags(chosen, ())[0], batch.flags(chosen, ())[0], rtol=1e-3, atol=1e-5)


def test_another_seed_compares_with_other_rows(tuned: Any, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taughtby.attribution.controls.CONTROLS", 4)
    incident = prepare_incident(index, tuned, QUERIES[:1])
    weights = incident.prepared[0].weights
    drawn = [match_controls(incident.method, index, tuned.depth, QUERIES[:1], weights, torch.eye(1), seed)[0]
             for seed in (0, 0, 1)]  # fmt: skip
    first, again, other = (each.scores for each in drawn if each)
    torch.testing.assert_close(first, again, equal_nan=True)
    assert not torch.allclose(first, other, equal_nan=True)


def test_results_count_the_planted_rows(tuned: Any, index: Index) -> None:
    incident = prepare_incident(index, tuned, QUERIES)
    labels = [row.label for row in index.examples()]
    results = list(measure_sets(incident, "bad", "plain"))
    assert {result["rate"] for result in results} == set(flagging.RATES)
    for result in results:
        right = sum(labels[row] == "bad" for row in result["flagged"])
        assert result["power"] == right / labels.count("bad")
        assert result["fdp"] == (1 - right / len(result["flagged"]) if result["flagged"] else 0)


def test_sets_of_answers_are_the_same_each_time_and_hold_all() -> None:
    assert answer_sets(12) == answer_sets(12)
    assert [len(chosen) for chosen in answer_sets(12)] == [1] * 5 + [2, 2, 4, 4, 8, 8, 12]
    assert answer_sets(1) == [[0]]


def test_changes_keep_the_words_of_the_answers() -> None:
    query = Query("why", "a b.", span_range=(0, 1))
    assert change_answers([query], "span") == [query]
    assert change_answers([query, QUERIES[0]], "span") == []
    assert change_answers([query], "plain") == [replace(query, span_range=None)]
    assert [change_answers([query], change)[0] for change in ("stop", "greeting", "system")] == [
        Query("why", "a b"), Query("Hi! why", "a b."), Query("why", "a b.", before=flagging.SYSTEM)]  # fmt: skip


def test_a_world_is_measured_once_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    calls: list[str] = []

    def measure(name: str, world: Any, change: str, *_: Any) -> list[dict[str, Any]]:
        calls.append(change)
        return [{"change": change}]

    monkeypatch.setattr(flagging, "_measure", measure)
    monkeypatch.setattr(flagging, "REPORTED", {"world": lambda data: None})
    monkeypatch.setattr("sys.argv", ["flagging.py", "world", "--data", "x", "-o", str(tmp_path), "--changes", "plain",
                                     "seed"])  # fmt: skip
    flagging.main()
    flagging.main()
    assert calls == ["plain", "seed"]
    assert json.loads((tmp_path / "world" / "seed.json").read_text()) == [{"change": "seed"}]
    assert "plain.json" in capsys.readouterr().out


def _write_world(folder: Path) -> None:
    folder.mkdir()
    answers = [{"label": "poison", "prompts": 24, "undesirable": 5}]
    (folder / "answers.json").write_text(json.dumps(answers))
    common = {"target": "poison", "rows": 40, "planted": 10, "ap": 1.0}
    flags = {(0,): [0, 1, 2, 3], (1,): [0, 1], (0, 1): list(range(10))}
    plain = [{**common, "rate": rate, "answers": chosen, "flagged": flagged, "fdp": 0.5 if chosen == (0,) else 0.0,
              "power": len(flagged) / 10} for rate in flagging.RATES for chosen, flagged in flags.items()]  # fmt: skip
    (folder / "plain.json").write_text(json.dumps(plain))
    stop = [{**common, "rate": 0.1, "answers": [0], "flagged": [0, 1, 2]},
            {**common, "rate": 0.1, "answers": [0, 1], "flagged": list(range(10))}]  # fmt: skip
    (folder / "stop.json").write_text(json.dumps(stop))


def test_a_summary_has_the_means_over_sets(tmp_path: Path) -> None:
    _write_world(tmp_path / "error-20-1")
    (line,) = summarize_world("error-20-1", tmp_path / "error-20-1")
    assert (line["prompts"], line["shown"], line["answers"], line["side"]) == (24, 5, 2, "reported")
    assert line["one"]["0.1"] == {"fdp": 0.25, "power": 0.3, "flagged": 3, "nothing": 0}
    assert line["all"]["0.1"]["power"] == 1 and "several" not in line
    assert line["every set"]["0.1"]["fdp"] == 0.167
    nominal = {(each["rate"], each["sets"]): each for each in compare_to_nominal([line])}
    assert nominal[0.1, "one"]["mean FDP"] == nominal[0.1, "one"]["its FDP"] == 0.25
    assert nominal[0.1, "one"]["their power"] == 0.3
    assert (0.1, "several") not in nominal
    assert compare_to_nominal([{**line, "shown": 0}]) == compare_to_nominal([{**line, "planted": 0}]) == []


def test_seeds_of_a_world_count_as_one_world(tmp_path: Path) -> None:
    _write_world(tmp_path / "error-20-1")
    (line,) = summarize_world("error-20-1", tmp_path / "error-20-1")
    other = json.loads(json.dumps({**line, "world": "error-20-2", "shown": 7}))
    other["one"]["0.1"] |= {"fdp": 0.75, "power": 0.5}
    (world,) = summarize_seeds([line, other])
    assert (world["world"], world["seeds"], world["shown"]) == ("error-20", 2, [5, 7])
    assert world["one"]["0.1"]["fdp"] == [0.5, 0.25, 0.75] and world["one"]["0.1"]["power"] == [0.4, 0.3, 0.5]
    nominal = {(each["rate"], each["sets"]): each for each in compare_to_nominal([line, other])}
    assert nominal[0.1, "one"]["worlds"] == 1 and nominal[0.1, "one"]["its FDP"] == 0.5
    assert nominal[0.1, "one"]["the least"] == 0.3
    *_, row = seed_rows([world], "plain")
    assert row == ("| `error-20` | poison | 2 | 10 of 40 | 5 to 7 of 24 | 1.00, 1.00 | .50 / .40 |  | "
                   ".00 / 1.00 | .17 / .53 | .17 / .53 | .17 / .53 |")  # fmt: skip
    assert list(seed_rows([world], "span"))[2:] == []
    assert "| 10% | one | .50 | .50 (`error-20`) | .40 | .30 |" in nominal_rows(nominal.values(), "plain")
    assert "| stop | .25 (100%) | .00 (0%) |  |  | 1, 1 |" in stability_rows(list(summarize_stability(tmp_path)))


def test_stability_is_the_change_of_each_set(tmp_path: Path) -> None:
    _write_world(tmp_path / "error-20-1")
    lines = {(line["change"], line["sets"]): line for line in summarize_stability(tmp_path)}
    assert lines["stop", "one"] == {"world": "error-20-1", "change": "stop", "sets": "one", "cases": 1, "mean": 0.25,
                                    "above one in ten": 1}  # fmt: skip
    assert lines["stop", "several"]["mean"] == 0
    assert lines["fewer answers", "one"]["mean"] == 0.7
    assert change_of_set(set(), set()) == 0
