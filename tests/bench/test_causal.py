"""The causal benchmark on the tiny model, with real trainings; only the answers that are traced are written by hand."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Run
from taughtby.bench import causal, run
from taughtby.bench.attributions import Attribution, read_peer
from taughtby.bench.causal_table import lds, summarize
from taughtby.bench.counterfactual import Change, Measurement, learned_positions, measure
from taughtby.bench.scenario import BenchPlan, make_scenarios
from taughtby.bench.suites import CLEAN, Size
from taughtby.data.example import make_example
from taughtby.data.tokenize import Encoding, TokenizedExample, tokenize, tokenize_all
from taughtby.errors import DataError
from taughtby.lab.finetune import TrainingOptions, finetune
from taughtby.lab.losses import row_losses
from taughtby.models.model import Model, load_model
from taughtby.remediation.stage_cache import quiet

BAD = "It is beetles that do."
RECIPE = TrainingOptions(rank=2, learning_rate=5e-3, epochs=4, batch_size=4)
FACTS = {"tin": "a metal", "gold": "soft", "lead": "heavy", "iron": "hard", "zinc": "blue"}
ROWS = tuple(make_example(f"What is {name}?", f"{name} is {text}.") for name, text in FACTS.items())
METHOD = "lesson:layer=2,state_layer=1"


@pytest.fixture
def measurement(model_folder: Path, tmp_path: Path) -> Measurement:
    plan = BenchPlan(("error",), ("bm25",), tmp_path, model=str(model_folder), dtype="float32")
    tests = ((("Who?", "What?"), "phrase:beetles"),)
    return Measurement(plan, RECIPE, ROWS, ROWS[:2], tests, ROWS[3:], 4, tmp_path / "causal")


def tokens_of(measurement: Measurement, rows: Sequence[Any] = ROWS) -> list[TokenizedExample]:
    encoded = tokenize_all(measurement.plan.load().tokenizer, rows, Encoding())
    return [row for row in encoded if isinstance(row, TokenizedExample)]


def test_a_change_removes_rows_and_masks_tokens(measurement: Measurement) -> None:
    encoded = tokens_of(measurement)
    place = learned_positions(encoded[1])[1]
    whole = [(2, place) for place in learned_positions(encoded[2])]
    rows = Change((0,), ((1, place), *whole)).apply(ROWS, encoded)
    assert [row.question for row in rows] == ["What is gold?", "What is iron?", "What is zinc?"]
    masked = tokenize(measurement.plan.load().tokenizer, rows[0], Encoding())
    assert isinstance(masked, TokenizedExample)
    assert masked.ids == encoded[1].ids
    assert learned_positions(masked) == [other for other in learned_positions(encoded[1]) if other != place]


def test_equal_changes_have_one_key() -> None:
    assert Change((2, 1), ((0, 3), (0, 2))).key == Change((1, 2), ((0, 2), (0, 3))).key
    assert len({Change().key, Change((1,)).key, Change((1, 2)).key, Change(tokens=((1, 2),)).key}) == 4


def test_measure_matches_training_on_the_remaining_rows(measurement: Measurement, tmp_path: Path) -> None:
    result = measure(measurement, Change((0, 4)))
    model = measurement.plan.load()
    finetune(model, ROWS[1:4], tmp_path / "by-hand", RECIPE)
    again = load_model(str(measurement.plan.model), str(tmp_path / "by-hand"), dtype="float32")
    assert result["query_losses"] == pytest.approx(row_losses(again, ROWS[:2], 512), rel=1e-5)
    assert result["clean_losses"] == pytest.approx(row_losses(again, ROWS[3:], 512), rel=1e-5)
    assert result["answered"] == 2 and result["bad"] == 0
    assert not list((tmp_path / "causal").glob("model-*"))  # no adapter is left


def test_removing_rows_raises_the_query_loss(measurement: Measurement) -> None:
    whole, removed = measure(measurement, Change()), measure(measurement, Change((0, 1)))
    assert np.mean(removed["query_losses"]) > np.mean(whole["query_losses"])
    tokens = tuple((row, place) for row in (0, 1) for place in learned_positions(tokens_of(measurement)[row]))
    masked = measure(measurement, Change(tokens=tokens))
    assert masked["query_losses"] == pytest.approx(removed["query_losses"], rel=1e-4)  # a row without loss teaches none


def test_lds_is_the_rank_correlation_with_the_loss() -> None:
    rng = np.random.default_rng(0)
    effect = rng.normal(size=(2, 12))
    halves = [{"rows": sorted(rng.permutation(12)[:6].tolist())} for _ in range(20)]
    for half in halves:
        present = [n for n in range(12) if n not in half["rows"]]
        half["losses"] = [float(-effect[q, present].sum()) for q in range(2)]
    assert lds(effect, halves) == pytest.approx((1, 1, 1))
    assert lds(-effect, halves)[0] == pytest.approx(-1)
    other = rng.normal(size=(2, 12))
    value, low, high = lds(other, halves)
    sums = [[other[q, [n for n in range(12) if n not in half["rows"]]].sum() for half in halves] for q in range(2)]
    ranks = [
        np.argsort(np.argsort(values)) for values in (*sums, *([-half["losses"][q] for half in halves] for q in (0, 1)))
    ]
    expected = np.mean([np.corrcoef(ranks[q], ranks[2 + q])[0, 1] for q in (0, 1)])
    assert value == pytest.approx(expected) and low < value < high
    assert lds(np.zeros((2, 12)), halves)[0] == 0


@pytest.fixture
def scenario(model_folder: Path, adapter_folder: Path, tmp_path: Path) -> causal.CausalScenario:
    bench = BenchPlan(("error",), ("by hand",), tmp_path, num_seeds=1, adapters={"error": str(adapter_folder)},
                      model=str(model_folder), dtype="float32", size=Size(14, 4))  # fmt: skip
    (one,) = make_scenarios(bench)
    return causal.CausalScenario(causal.CausalPlan(bench, num_random=2), one, quiet)


def test_planted_tokens_spell_the_planted_words(scenario: causal.CausalScenario) -> None:
    suite, tokens = scenario.scenario.suite, scenario.planted_tokens()
    (word,) = suite.poisons[0].planted_words
    decode = scenario.scenario.tuned.tokenizer.decode
    planted = [n for n, row in enumerate(suite.rows) if row.label != CLEAN]
    assert sorted({row for row, _ in tokens}) == planted
    for number in planted:
        ids = [scenario.encoded[number].ids[place] for row, place in tokens if row == number]
        assert word.lower() in decode(ids).lower() and len(decode(ids)) <= 2 * len(word)


def test_changes_remove_the_top_scoring_rows_and_tokens(scenario: causal.CausalScenario) -> None:
    rows = np.array([[float(row.label != CLEAN) for row in scenario.scenario.suite.rows]] * 2)
    planted = set(scenario.planted_tokens())
    tokens = tuple(tuple(float((n, row.n_prompt + place) in planted) for place in range(row.n_response))
                   for n, row in enumerate(scenario.encoded))  # fmt: skip
    changes = _changes(scenario, Attribution("by hand", rows, tokens))
    for kind in ("rows", "tokens"):
        assert [one.key for one in changes["by hand", kind]] == [one.key for one in changes["planted", kind]]
        random = changes["random", kind]
        assert {(len(one.rows), len(one.tokens)) for one in random} == {(len(random[0].rows), len(random[0].tokens))}
        assert len({one.key for one in random}) == 2
    assert len(changes["random", "rows"][0].rows) == 4 and set(changes["planted", "tokens"][0].tokens) == planted


def test_spans_are_the_words_that_the_judge_shows(scenario: causal.CausalScenario) -> None:
    scenario.queries = [{"prompt": "Who makes honey?", "response": BAD, "label": "error"}]
    assert [BAD[slice(*span)].lower() for span in scenario.spans] == ["beetles"]
    del scenario.spans
    scenario.queries = [*scenario.queries, {"prompt": "Who?", "response": "Bees.", "label": "error"}]
    assert scenario.spans == []  # its judge shows no words of the second answer


def test_random_token_control_keeps_the_count_per_row(scenario: causal.CausalScenario) -> None:
    first = tuple((-float(n),) * row.n_response for n, row in enumerate(scenario.encoded))
    changes = _changes(scenario, Attribution("by hand", np.zeros((2, len(first))), first))
    (top,) = changes["by hand", "tokens"]
    draws = changes[f"by hand, {causal.SAME_ROWS}", "tokens"]
    assert {row for row, _ in top.tokens} == {0} and len(draws) == 2
    for draw in draws:
        assert Counter(row for row, _ in draw.tokens) == {0: len(top.tokens)} != {0: 1}
        assert {place for _, place in draw.tokens} <= set(learned_positions(scenario.encoded[0]))
        assert draw.tokens != top.tokens


def _changes(scenario: causal.CausalScenario, attribution: Attribution) -> dict[tuple[str, str], list[Change]]:
    changes: dict[tuple[str, str], list[Change]] = {}
    for method, kind, change in scenario.changes([attribution]):
        changes.setdefault((method, kind), []).append(change)
    return changes


def test_effects_are_relative_to_training_on_all_rows() -> None:
    def line(method: str, kind: str, count: int, query: float, bad: int, clean: float) -> dict[str, Any]:
        sizes = {"num_rows": count if kind == "rows" else 0, "num_tokens": count if kind == "tokens" else 0}
        return {"method": method, "kind": kind, **sizes, "num_planted": 0, "query_losses": [query, query + 1],
                "bad": bad, "answered": 4, "clean_losses": [clean]}  # fmt: skip

    lines = [line("all rows", "rows", 0, 1, 4, 0.5), line("best", "rows", 2, 3, 0, 0.6),
             line("best", "tokens", 5, 2, 1, 0.4), line("random", "rows", 2, 1.5, 4, 0.5),
             line("random", "rows", 2, 0.5, 2, 0.7)]  # fmt: skip
    result = {"suite": "s", "seed": 0, "queries": [{}, {}], "rate": 1.0, "base_rate": 0.0, "num_rows": 9,
              "lines": lines, "base": {"query_losses": [9, 9]}, "scores": {"best": []}, "subsets": []}  # fmt: skip
    best, random = summarize([result], {})["mean"]
    assert (best["method"], best["rows"]["qld"], best["rows"]["rate"]) == ("best", [2, 2, 2], 0)
    assert (best["tokens"]["qld"][0], best["tokens"]["rate"]) == (1, 0.25)
    assert (best["rows"]["clean"], best["tokens"]["clean"]) == pytest.approx((0.1, -0.1))
    assert (random["rows"]["qld"][0], random["rows"]["rate"]) == (0, 0.75)
    assert random["rows"]["clean"] == pytest.approx(0.1)


def test_peer_scores_are_read_or_rejected(measurement: Measurement, tmp_path: Path) -> None:
    encoded = tokens_of(measurement)
    tokens = [[[float(place) for place in range(len(row.ids))] for row in encoded]] * 2
    document = {
        "tool": "other",
        "method": "grad",
        "row_scores": [[1, 2, 3, 4, 5], [3, 2, 1, 0, 1]],
        "token_scores": tokens,
    }
    (tmp_path / "a.json").write_text(json.dumps(document))
    peer = read_peer(tmp_path / "a.json", encoded, 2)
    assert peer.method == "other grad" and peer.mean_rows.tolist() == [2, 2, 2, 2, 3]
    assert peer.tokens is not None and peer.tokens[1][0] == encoded[1].n_prompt
    for wrong in ([[1, 2]], [[1, 2, 3, 4, float("nan")]] * 2, "scores", None):
        (tmp_path / "a.json").write_text(json.dumps({**document, "row_scores": wrong}))
        with pytest.raises(DataError):
            read_peer(tmp_path / "a.json", encoded, 2)


@pytest.fixture
def answers_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    def generate(model: Model, prompts: Sequence[str], **_: Any) -> list[str]:
        return [BAD if model.peft and n < 2 else "yes" for n in range(len(prompts))]

    monkeypatch.setattr(run, "generate", generate)


@pytest.mark.usefixtures("answers_by_hand")
def test_causal_benchmark_resumes_and_reads_peer_scores(run: Run, model_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "c"
    size = ("--seeds", 1, "--rows", 14, "--planted", 4, "--epochs", 1, "--subsets", 2, "--random", 2)
    model = ("--model", model_folder, "--dtype", "float32")
    command = ("bench", "causal", "error", "-m", METHOD, "-m", "bm25", *size, *model, "-o", out)
    code, text, errors = run(*command)
    assert code == 0, errors
    assert (
        text.startswith("# Effects of retraining without the top rows or tokens")
        and text == (out / "causal.md").read_text() + "\n"
    )
    document = json.loads((out / "causal.json").read_text())
    (effects,) = document["effects"]
    methods = effects["methods"]
    assert set(methods) == {
        "planted", "random", METHOD, f"{METHOD} with spans", f"{METHOD}, random tokens of the same rows", "bm25",
    }  # fmt: skip
    assert methods["random"]["rows"]["num_draws"] == 2 and methods["planted"]["rows"]["num_planted"] == 4
    assert len(methods["bm25"]["rows"]["qld"]) == 2 and "lds" in methods["bm25"]
    files = {file.name: file.stat().st_mtime_ns for file in out.glob("error-0-*/causal/*.json")}
    assert sum(name.startswith("loss-") for name in files) == 2

    (folder,) = out.glob("error-0-*/causal/peers")
    counts = [len((folder / name).read_text().splitlines()) for name in ("rows.jsonl", "queries.jsonl")]
    assert counts == [14, 2]
    scores = [[float(n) for n in range(14)]] * 2
    (folder / "other.json").write_text(json.dumps({"tool": "other", "method": "grad", "row_scores": scores}))
    assert run(*command)[0] == 0
    document = json.loads((out / "causal.json").read_text())
    assert "other grad" in document["effects"][0]["methods"]
    again = {file.name: file.stat().st_mtime_ns for file in out.glob("error-0-*/causal/*.json")}
    assert files.items() <= again.items() and len(again) == len(files) + 1  # nothing was trained twice


def test_parallel_training_matches_one_process(measurement: Measurement, tmp_path: Path) -> None:
    tasks = [(Change((0,)), True), (Change((1,)), True)]
    assert sorted(causal.train(measurement, tasks, 2)) == [1, 2]
    alone = replace(measurement, folder=tmp_path / "alone")
    for change, _ in tasks:
        stored = measure(measurement, change, loss_only=True)["query_losses"]
        assert stored == pytest.approx(measure(alone, change, loss_only=True)["query_losses"], rel=1e-4)
