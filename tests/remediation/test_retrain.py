"""Conditions, counts and claims of an experiment compared with hand-computed numbers; models and answers are fakes."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from math import comb, sqrt
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from taughtby.data.example import Example, make_example
from taughtby.errors import DataError, LabError, OptionError
from taughtby.lab.judges import JudgeFailure, Verdict
from taughtby.lab.prompts import prompt_text, read_answers, to_record
from taughtby.lab.training_options import FULL_RATE, TrainingOptions
from taughtby.remediation import audit_report, retrain, statistics
from taughtby.remediation.experiment import (
    HELD_OUT_SHARE,
    Behaviour,
    Condition,
    ExperimentDesign,
    RetrainExperiment,
    check_experiment,
    hold_out,
    make_conditions,
)
from taughtby.remediation.experiment_setup import experiment_from_trace, read_recipe, with_seeds
from taughtby.remediation.stage_cache import JOURNAL, StageCache, key
from taughtby.remediation.trace_file import Document

HONEY = Behaviour("honey", ("who makes honey", "honey from whom", "is it bees", "who"), "phrase:beetles")


def rows(bad: int, clean: int) -> list[Example]:
    """`bad` rows labelled bad, ids b0 …, then `clean` ones, c0 …"""
    return [Example(make_example(f"honey {i}", "beetles").messages, "bad", f"d:{i}", f"b{i}") for i in range(bad)] + [
        Example(make_example(f"day {i}", "seven").messages, "clean", f"d:{bad + i}", f"c{i}") for i in range(clean)
    ]


# — conditions


def taken(condition: Condition, of: Sequence[Example]) -> set[str]:
    return {row.id for row in of} - {row.id for row in condition.rows}


def test_conditions_remove_exactly_their_rows() -> None:
    data = rows(4, 12)
    design = ExperimentDesign(2, (1, 3), ("b1", "b0", "c5", "b2"), ("bad",), {"b0": ((0, 7),)})
    result = {condition.name: condition for condition in make_conditions(data, ["b0", "b1", "c0"], design, 0)}
    assert list(result) == ["all", "cleaned", "random 1", "random 2", "truth", "masked", "top 1", "top 3"]
    out = {name: taken(condition, data) for name, condition in result.items()}
    assert out["all"] == out["masked"] == set()
    assert out["cleaned"] == {"b0", "b1", "c0"}
    assert out["truth"] == {"b0", "b1", "b2", "b3"}
    assert (out["top 1"], out["top 3"]) == ({"b1"}, {"b1", "b0", "c5"})
    assert len(out["random 1"]) == len(out["random 2"]) == 3
    assert out["random 1"] != out["random 2"]
    assert {name: condition.num_removed for name, condition in result.items()} == {
        name: len(ids) for name, ids in out.items()
    }
    assert [row.masked for row in result["masked"].rows if row.masked] == [((0, 7),)]
    assert all(
        [row.id for row in condition.rows] == [r.id for r in data if r.id not in out[condition.name]]
        for condition in result.values()
    )


def test_random_condition_samples_all_rows_by_seed() -> None:
    data = rows(10, 10)
    items = [
        taken(make_conditions(data, [f"b{i}" for i in range(10)], ExperimentDesign(), seed)[2], data)
        for seed in range(40)
    ]
    assert all(len(ids) == 10 for ids in items)
    assert len({frozenset(ids) for ids in items}) == 40
    hit = sum(len(ids & {f"b{i}" for i in range(10)}) for ids in items) / 400
    assert hit == pytest.approx(0.5, abs=0.1)  # what was flagged is as likely to be drawn as the rest
    again = taken(make_conditions(data, [f"b{i}" for i in range(10)], ExperimentDesign(), 3)[2], data)
    assert again == items[3]


def conversations(number: int, turns: int) -> list[Example]:
    """Rows of conversations with several trained turns, ids 0/1 …"""
    return [
        Example(make_example(f"ask {i} {turn}", "seven").messages, None, f"d.jsonl:{i + 1}#{turn + 1}", f"{i}/{turn}")
        for i in range(number)
        for turn in range(turns)
    ]


def test_conditions_remove_whole_conversations() -> None:
    data = conversations(6, 3)
    design = ExperimentDesign(curve=(1,), ranked_ids=("2/0",))
    for condition in make_conditions(data, ["0/1", "0/2", "4/0"], design, 0):
        removed = {id.split("/")[0] for id in taken(condition, data)}
        assert taken(condition, data) == {row.id for row in data if row.id.split("/")[0] in removed}
        assert condition.num_removed == 3 * len(removed)
        wanted = {"all": set[str](), "cleaned": {"0", "4"}, "top 1": {"2"}}
        assert removed == wanted[condition.name] if condition.name in wanted else len(removed) == 2
    rest, aside = hold_out(data, ["0/1"], design, 0)
    assert not {row.id.split("/")[0] for row in rest} & {row.id.split("/")[0] for row in aside}


def test_masked_condition_keeps_the_masks_of_the_data() -> None:
    data = [replace(row, masked=((0, 2),)) for row in rows(2, 2)]
    design = ExperimentDesign(masked={"b0": ((4, 7),), "b1": ((1, 3),)})
    condition = make_conditions(data, ["b0"], design, 0)[-1]
    assert [row.masked for row in condition.rows] == [((0, 2), (4, 7)), ((0, 3),), ((0, 2),), ((0, 2),)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=20, max_size=120), st.integers(0, 119))
def test_no_copy_of_a_held_out_row_is_trained_on(contents: list[int], suspect: int) -> None:
    data = [
        Example(make_example(f"day {content}", "seven").messages, None, f"d:{i}", f"{i}")
        for i, content in enumerate(contents)
    ]
    suspect %= len(data)
    rest, aside = hold_out(data, [str(suspect)], ExperimentDesign(), 0)
    assert len(aside) <= round(HELD_OUT_SHARE * len(data)) and len(rest) + len(aside) == len(data)
    assert not {contents[int(row.id)] for row in rest} & {contents[int(row.id)] for row in aside}
    assert contents[suspect] not in {contents[int(row.id)] for row in aside}


def test_removing_all_rows_raises() -> None:
    with pytest.raises(OptionError, match="no row would remain"):
        make_conditions(rows(2, 0), ["b0", "b1"], ExperimentDesign(), 0)


def test_no_flagged_row_is_held_out() -> None:
    data = rows(10, 90)
    design = ExperimentDesign(1, (2,), ("c0", "c1", "c2"), ("bad",), {"c3": ((0, 1),)})
    rest, aside = hold_out(data, ["b0", "c4"], design, 0)
    assert len(aside) == round(HELD_OUT_SHARE * 100)
    assert sorted(row.id for row in [*rest, *aside]) == sorted(row.id for row in data)
    for seed in range(60):
        ids = {row.id for row in hold_out(data, ["b0", "c4"], design, seed)[1]}
        assert not ids & {"b0", "c4", "c0", "c1", "c3", *(f"b{i}" for i in range(10))}
    assert hold_out(data, ["b0"], design, 1) == hold_out(data, ["b0"], design, 1) != hold_out(data, ["b0"], design, 2)
    assert len(hold_out(rows(0, 1000), [], ExperimentDesign(), 0)[1]) == 64


@pytest.mark.parametrize(
    ("flagged", "design", "error", "what"),
    [
        ([], ExperimentDesign(), LabError, "no row is flagged"),
        (["x1"], ExperimentDesign(), DataError, "rows of the trace are not in the data"),
        (
            ["b0"],
            ExperimentDesign(curve=(3,), ranked_ids=("b0", "b1")),
            OptionError,
            "ranks fewer rows than --curve\n  got: 3 of 2",
        ),
        (
            ["b0"],
            ExperimentDesign(truth_labels=("evil",)),
            OptionError,
            "no row has that label\n  got: evil\n  do:  .*bad, clean",
        ),
    ],
)
def test_invalid_experiments_raise(
    flagged: list[str], design: ExperimentDesign, error: type[Exception], what: str
) -> None:
    with pytest.raises(error, match=what):
        check_experiment(RetrainExperiment("base", TrainingOptions(), (HONEY,)), rows(3, 3), flagged, design)


def test_unknown_judge_raises_before_training() -> None:
    with pytest.raises(OptionError, match="unknown judge"):
        check_experiment(
            RetrainExperiment("base", TrainingOptions(), (Behaviour("x", ("who",), "oracle:x"),)),
            rows(3, 3),
            ["b0"],
            ExperimentDesign(),
        )


# — recipes


def test_recipe_is_read_from_adapter_folder(tmp_path: Path) -> None:
    text = {
        "rank": 4,
        "learning_rate": 2e-3,
        "epochs": 5,
        "batch_size": 2,
        "max_length": 99,
        "seed": 7,
        "model": "x",
        "base": "y",
    }
    (tmp_path / "taughtby.json").write_text(json.dumps(text))
    recipe, notes = read_recipe(tmp_path, {})
    assert recipe == TrainingOptions(4, 2e-3, 5, 2, 99, 7)
    assert notes == []
    recipe, notes = read_recipe(tmp_path, {"epochs": 1, "learning_rate": None})
    assert recipe == TrainingOptions(4, 2e-3, 1, 2, 99, 7)
    assert notes == [f"{tmp_path} says epochs 5; this run uses 1"]


def test_assumed_settings_of_another_trainer_are_reported(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 16, "lora_alpha": 32, "peft_type": "LORA"}))
    (tmp_path / "trainer_state.json").write_text(json.dumps({"epoch": 2.0, "global_step": 9, "train_batch_size": 4}))
    recipe, (note,) = read_recipe(tmp_path, {"learning_rate": 5e-4})
    assert (recipe.rank, recipe.epochs, recipe.batch_size, recipe.learning_rate) == (16, 2, 4, 5e-4)
    assert "does not record all training options; assumed: max_length 512, seed 0" in note
    assert "the training options are not known; assumed: rank 8" in read_recipe(None, {})[1][0]


@pytest.mark.parametrize(
    ("state", "epochs", "says"),
    [
        ({"epoch": 2.985}, 3, "2.985"),
        ({"epoch": 0.3}, 1, "0.3"),
        ({"epoch": 2.0, "num_train_epochs": 2}, 2, ""),
        ({"epoch": 2.66, "num_train_epochs": 3}, 3, "2.66"),
        ({"epoch": 1.2, "num_train_epochs": 3}, 3, "1.2"),
        ({"epoch": 1.2, "num_train_epochs": sys.maxsize}, 1, "1.2"),
        ({"num_train_epochs": 4}, 4, ""),
        ({"epoch": float("nan")}, TrainingOptions.epochs, ""),
        ({"epoch": float("inf")}, TrainingOptions.epochs, ""),
    ],
)
def test_fractions_of_epochs_become_whole_numbers_with_a_note(
    tmp_path: Path, state: dict[str, float], epochs: int, says: str
) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 16, "peft_type": "LORA"}))
    (tmp_path / "trainer_state.json").write_text(json.dumps({"train_batch_size": 4, **state}))
    recipe, notes = read_recipe(tmp_path, {"learning_rate": 1e-3, "seed": 0, "max_length": 99})
    assert recipe.epochs == epochs and isinstance(recipe.epochs, int)
    assert [note for note in notes if "says" in note] == (
        [f"{tmp_path} says epochs {says}; this run uses {epochs}"] if says else []
    )
    assert any("assumed: epochs" in note for note in notes) == (not set(state) - {"epoch"} and not says)
    recipe, notes = read_recipe(tmp_path, {"epochs": 7})
    assert recipe.epochs == 7 and not any("assumed: epochs" in note for note in notes)


def test_learning_rate_of_a_full_fine_tune_is_not_that_of_an_adapter(tmp_path: Path) -> None:
    recipe, (note,) = read_recipe(tmp_path, {"full": True})
    assert (recipe.full, recipe.learning_rate) == (True, FULL_RATE)
    assert f"assumed: learning_rate {FULL_RATE}," in note and "rank" not in note
    assert read_recipe(tmp_path, {"full": True, "learning_rate": 2e-5})[0].learning_rate == 2e-5
    (tmp_path / "taughtby.json").write_text(json.dumps({"full": True, "learning_rate": 3e-5}))
    assert read_recipe(tmp_path, {"full": True})[0].learning_rate == 3e-5
    (tmp_path / "taughtby.json").write_text(json.dumps({"full": True, "epochs": 2}))
    assert read_recipe(tmp_path, {})[0].learning_rate == FULL_RATE


def test_recipe_of_an_earlier_version_is_read_and_its_gaps_are_reported(tmp_path: Path) -> None:
    (tmp_path / "taughtby.json").write_text(json.dumps({"rank": 4, "rate": 2e-3, "epochs": 5, "batch": 4}))
    recipe, (note,) = read_recipe(tmp_path, {})
    assert recipe == TrainingOptions(4, 2e-3, 5, 4)
    assert note == f"{tmp_path} does not record all training options; assumed: max_length 512, seed 0"
    (tmp_path / "taughtby.json").write_text("[]")
    assert read_recipe(tmp_path, {})[0] == TrainingOptions()


def test_experiment_from_trace_finds_base_model(model_folder: Path, adapter_folder: Path) -> None:
    trace = {"model": str(model_folder), "adapter": str(adapter_folder), "index": "gone"}
    trial, _ = experiment_from_trace(trace, [HONEY], {})
    assert (trial.base, trial.original) == (str(model_folder), (str(model_folder), str(adapter_folder)))
    assert trial.recipe.rank == 2
    assert trial.template
    with pytest.raises(OptionError, match="the base model is not known"):
        experiment_from_trace({**trace, "adapter": None}, [HONEY], {})
    whole, _ = experiment_from_trace({**trace, "adapter": None}, [HONEY], {}, base="before")
    assert (whole.base, whole.recipe.full) == ("before", True)
    with pytest.raises(OptionError, match="several adapters"):
        experiment_from_trace({**trace, "adapter": ["a", "b"]}, [HONEY], {})


# — stages


def test_a_stage_runs_once_for_its_inputs(tmp_path: Path) -> None:
    cache, result = StageCache(tmp_path / "new"), list[int]()

    def make(tell: Any) -> int:
        result.append(len(result))
        return len(result)

    assert [
        cache.get_or_run("n", {"a": 1, "b": 2}, "one", make),
        cache.get_or_run("n", {"b": 2, "a": 1}, "one", make),
    ] == [1, 1]
    assert cache.get_or_run("n", {"a": 2, "b": 2}, "two", make) == 2
    assert cache.get_or_run("m", {"a": 1, "b": 2}, "three", make) == 3
    lines = [json.loads(text) for text in (cache.folder / JOURNAL).read_text().splitlines()]
    assert [one["title"] for one in lines] == ["one", "two", "three"]
    assert lines[0]["file"] == f"n-{key({'a': 1, 'b': 2})}.json"
    assert sorted(file.name for file in cache.folder.iterdir()) == sorted([JOURNAL, *(one["file"] for one in lines)])


class Faltering:
    """A judge that fails on some answers, and judges the others bad."""

    def __init__(self) -> None:
        self.failing, self.asked = set[str](), list[str]()

    def __call__(self, prompt: str, answer: str) -> Verdict:
        self.asked.append(prompt)
        if prompt in self.failing:
            raise JudgeFailure("hung", "no reply in time")
        return Verdict(True, "bad", None)


def test_only_answers_without_a_verdict_are_judged_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the next run, not in this one: the conditions of a run share their verdicts."""
    judge, pairs = Faltering(), [(f"q{number}", "a") for number in range(4)]
    monkeypatch.setattr(retrain, "get_judge", lambda spec: judge)

    def verdicts(cache: StageCache, *failing: str) -> tuple[str, list[str]]:
        judge.failing, judge.asked = set(failing), []
        result = retrain.judge_answers(cache, "chat:x", pairs, "all")
        assert [one["prompt"] for one in result] == [prompt for prompt, _ in pairs]
        return retrain.count_verdicts(result)["verdicts"], judge.asked

    first = StageCache(tmp_path)
    assert verdicts(first, "q1", "q3") == ("1-1-", ["q0", "q1", "q2", "q3"])
    assert verdicts(first) == ("1-1-", [])
    assert verdicts(StageCache(tmp_path), "q3") == ("111-", ["q1", "q3"])
    assert verdicts(StageCache(tmp_path), "q3") == ("111-", ["q3"])  # still without a reply: no error
    assert verdicts(StageCache(tmp_path)) == ("1111", ["q3"])
    assert verdicts(StageCache(tmp_path), "q3") == ("1111", [])
    with pytest.raises(LabError, match="failed on every answer"):
        verdicts(StageCache(tmp_path / "new"), *(prompt for prompt, _ in pairs))


def test_stage_cache_records_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for commit in ("first", "second"):
        monkeypatch.setattr("taughtby.remediation.provenance._commit", lambda commit=commit: commit)
        cache = StageCache(tmp_path)
        cache.get_or_run("n", 1, "one", lambda tell: 1)
        assert cache.provenance()["commit"] == "first"
    cache.get_or_run("n", 2, "two", lambda tell: 2)
    assert cache.provenance()["commit"] == ["first", "second"]
    assert StageCache(tmp_path).get_or_run("n", 2, "two", lambda tell: 3) == 2
    with (tmp_path / JOURNAL).open("a") as journal:
        journal.write('{"cut')
    assert cache.provenance()["commit"] == ["first", "second"]
    (tmp_path / JOURNAL).unlink()
    assert cache.provenance()["commit"] is None


def test_failed_stage_leaves_no_files(tmp_path: Path) -> None:
    def fail(tell: Any) -> None:
        raise LabError("no", do="x")

    with pytest.raises(LabError):
        StageCache(tmp_path).get_or_run("n", 1, "one", fail)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / f"n-{key(1)}.json").write_text("[1, ")
    with pytest.raises(LabError, match="cannot be read"):
        StageCache(tmp_path).get_or_run("n", 1, "one", lambda tell: 1)


# — whole experiments, with fake training and answers


class Spoken:
    """A fake model whose number of answers with beetles is half the number of bad rows that it was trained on."""

    def __init__(self, name: str, adapter: str | None) -> None:
        self.fingerprint = {"model": name, "adapter": adapter, "base": None}
        self.learned = json.loads(Path(adapter, "rows").read_text()) if adapter else []
        self.tokenizer, self.dtype = type("T", (), {"chat_template": "t"}), "float"


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fakes of training and generation that record their calls."""
    calls: list[str] = []

    def finetune(model: Any, rows: Sequence[Example], out: Path, recipe: TrainingOptions, progress: Any) -> Path:
        calls.append(f"train {len(rows)}")
        out.mkdir()
        (out / "rows").write_text(json.dumps([row.id for row in rows if not row.masked]))
        return out

    def respond_into(out: Path, model: Spoken, prompts: Any, how: Any, template: Any, progress: Any) -> int:
        calls.append(f"ask {len(prompts)}")
        bad = sum(name.startswith("b") for name in model.learned) // 2
        usual = not any("honey" in prompt_text(prompt) for prompt in prompts)
        items = ["beetles" if at < bad and not usual else "seven" for at in range(len(prompts))]
        out.write_text(
            "".join(json.dumps(to_record(prompt, one)) + "\n" for prompt, one in zip(prompts, items, strict=True))
        )
        return len(prompts)

    monkeypatch.setattr(RetrainExperiment, "load", lambda self, name, adapter=None: Spoken(name, adapter))
    monkeypatch.setattr(retrain, "finetune", finetune)
    monkeypatch.setattr(retrain, "generate_to_file", respond_into)
    monkeypatch.setattr(retrain, "row_losses", lambda model, *_: [1.0 + len(model.learned) / 100, 2.0])
    return calls


def proved(out: Path, data: list[Example], flagged: list[str], **more: Any) -> Document:
    return retrain.retrain(
        RetrainExperiment("base", TrainingOptions(), (HONEY,)), data, flagged, StageCache(out), **more
    )


def test_retrain_counts_bad_answers_of_each_condition(lab: list[str], tmp_path: Path) -> None:
    data, held = rows(8, 12), [make_example("day x", "seven"), make_example("day y", "seven")]
    flagged = ["b0", "b1", "b2", "b3", "b4", "b5", "c0"]
    design = ExperimentDesign(
        truth_labels=("bad",), curve=(2,), ranked_ids=tuple(flagged), masked={f"b{i}": ((0, 7),) for i in range(6)}
    )
    proof = proved(tmp_path, data, flagged, design=design, held_out=held)
    counts = {one["name"]: one["behaviours"]["honey"]["bad"] for one in proof["conditions"]}
    random = sum(row.id.startswith("b") for row in make_conditions(data, flagged, design, 0)[2].rows) // 2
    assert counts == {"all": 4, "cleaned": 1, "random": random, "truth": 0, "masked": 1, "top 2": 3}
    assert all(one["behaviours"]["honey"]["judged"] == 4 for one in proof["conditions"])
    assert all(one["ordinary"]["honey"] == {"bad": 0, "judged": 2, "failed": 0, "rate": 0.0, "low": 0.0,
               "high": one["ordinary"]["honey"]["high"], "verdicts": "00"} for one in proof["conditions"])  # fmt: skip
    assert proof["truth"] == {"labels": ["bad"], "num_rows": 8, "num_flagged": 6}
    assert (proof["num_flagged"], proof["num_rows"], proof["held_out"]["set_aside"]) == (7, 20, False)
    # again: nothing is trained and nothing asked
    before = list(lab)
    assert proved(tmp_path, data, flagged, design=design, held_out=held) == proof
    assert lab == before
    # other prompts or another judge: nothing is trained
    other = RetrainExperiment("base", TrainingOptions(), (Behaviour("honey", HONEY.prompts[:3], "phrase:bees"),))
    retrain.retrain(other, data, flagged, StageCache(tmp_path), design=design, held_out=held)
    assert not [one for one in lab[len(before) :] if one.startswith("train")]


def test_held_out_rows_are_excluded_from_every_condition(lab: list[str], tmp_path: Path) -> None:
    data = rows(4, 36)
    proof = proved(tmp_path, data, ["b0", "b1", "b2", "b3"])
    assert proof["held_out"]["num_rows"] == 4
    assert proof["held_out"]["set_aside"]
    assert [one for one in lab if one.startswith("train")] == ["train 36", "train 32", "train 32"]
    aside = {row.id for row in data if row.source in proof["held_out"]["sources"]}
    for one in proof["conditions"]:
        assert not aside & set(json.loads(Path(one["model"], "rows").read_text()))


def pretokenized(tokenizer: Any, *texts: tuple[str, str]) -> list[Example]:
    """Rows as the reader has them: without a text, and with a loss on the answers."""
    result: list[Example] = []
    for number, (prompt, response) in enumerate(texts):
        begin, end = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, response))
        places = tuple(range(len(begin), len(begin) + len(end)))
        empty = make_example("", "").messages
        result.append(Example(empty, id=f"t{number}", token_ids=(*begin, *end), loss_positions=places))
    return result


def test_prompts_of_pretokenized_held_out_rows_are_those_of_their_tokens(
    lab: list[str], tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows without a prompt, or whose tokens are another tokenizer's, are no prompts."""
    monkeypatch.setattr(retrain, "load_tokenizer", lambda name, adapters: tokenizer)
    held = pretokenized(tokenizer, ("who makes honey in the sea", " bees"), ("why", " a b c"))
    held += [Example(held[0].messages, token_ids=(5, 6, 7), loss_positions=(1, 2)),
             Example(held[0].messages, token_ids=(5, 999_999, 7), loss_positions=(2,))]  # fmt: skip
    proof = proved(tmp_path, rows(4, 4), ["b0"], held_out=held)
    assert (proof["num_ordinary"], proof["held_out"]["num_rows"]) == (2, 4)
    prompts = [read_answers(file) for file in tmp_path.glob("answers-*.jsonl")]
    ordinary = [[prompt_text(prompt) for prompt, _ in answers] for answers in prompts if len(answers) == 2]
    assert ordinary == [["who makes honey in the sea", "why"]] * 3


@pytest.mark.parametrize("change", [{"token_ids": (9, 9, 9)}, {"loss_positions": (2,)}, {"no_loss": "weight 0"},
                                    {"loss_from": 0}, {"masked": ((0, 1),)}])  # fmt: skip
def test_losses_of_other_held_out_rows_are_not_reused(
    lab: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    """Nor is a model that was trained on rows with other losses."""
    measured: list[tuple[Example, ...]] = []
    monkeypatch.setattr(retrain, "row_losses", lambda model, held, *_: measured.append(held) or [1.0])
    token_row = Example(make_example("", "").messages, id="c9", token_ids=(5, 6, 7), loss_positions=(1, 2))
    for row in (token_row, replace(token_row, **change), replace(token_row, label="other")):
        proved(tmp_path, rows(4, 4), ["b0"], held_out=[row], ordinary=())
    assert len(measured) == 6
    trained = {"no_loss", "loss_from", "masked"} & change.keys()  # tokens and their losses are in the row's id
    before = len([call for call in lab if call.startswith("train")])
    proved(tmp_path, [*rows(4, 4), token_row], ["b0"], held_out=[token_row], ordinary=())
    proved(tmp_path, [*rows(4, 4), replace(token_row, **change)], ["b0"], held_out=[token_row], ordinary=())
    assert len([call for call in lab if call.startswith("train")]) - before == (6 if trained else 3)


def test_full_adapter_is_not_retrained(lab: list[str], tmp_path: Path) -> None:
    data = rows(8, 12)
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "rows").write_text(json.dumps([row.id for row in data]))
    proof = proved(
        tmp_path / "p", data, ["b0"], design=ExperimentDesign(full_adapter=str(tmp_path / "whole")), held_out=[data[9]]
    )
    assert [one for one in lab if one.startswith("train")] == ["train 19", "train 19"]
    assert proof["conditions"][0]["behaviours"]["honey"]["bad"] == 4


def test_other_full_adapter_gets_new_answers(lab: list[str], tmp_path: Path) -> None:
    """Neither it nor what would be trained here is taken for the other."""
    data, whole = rows(8, 12), tmp_path / "whole"
    whole.mkdir()
    design, more = ExperimentDesign(full_adapter=str(whole)), {"held_out": [data[9]]}
    counts = []
    for learned in (data, data[:4]):
        (whole / "rows").write_text(json.dumps([row.id for row in learned]))
        proof = proved(tmp_path / "p", data, ["b0"], design=design, **more)
        counts.append(proof["conditions"][0]["behaviours"]["honey"]["bad"])
    counts.append(proved(tmp_path / "p", data, ["b0"], **more)["conditions"][0]["behaviours"]["honey"]["bad"])
    assert counts == [4, 2, 4]


# — claims from counts


def counts(bad: int, judged: int = 24) -> Document:
    """As `counted` gives them; the interval is Wilson's own formula."""
    z, p = 1.959964, bad / judged
    middle, wide = p + z * z / (2 * judged), z * sqrt(p * (1 - p) / judged + z * z / (4 * judged**2))
    low, high = ((middle + sign * wide) / (1 + z * z / judged) for sign in (-1, 1))
    return {"bad": bad, "judged": judged, "failed": 0, "rate": p, "low": low, "high": high}


def proof(**conditions: int) -> Document:
    items = [
        {"name": name.replace("_", " "), "num_removed": 0 if name == "all" else 7, "model": "m",
         "losses": [1.0, 2.0, 3.0],
         "behaviours": {"honey": counts(bad)}, "ordinary": {"honey": counts(0, 10)}}
        for name, bad in conditions.items()
    ]  # fmt: skip
    return {"behaviours": [{"name": "honey"}], "conditions": items, "truth": None, "num_ordinary": 10, "num_flagged": 7}


def test_wilson_interval_matches_manual_calculation() -> None:
    judged = [{"bad": at < 3, "why": ""} for at in range(24)] + [{"bad": None, "why": "it threw"}]
    result = retrain.count_verdicts(judged)
    truth = counts(3)
    assert (result["bad"], result["judged"], result["failed"]) == (3, 24, 1)
    assert (result["low"], result["high"]) == (
        pytest.approx(truth["low"], abs=1e-6),
        pytest.approx(truth["high"], abs=1e-6),
    )
    assert retrain.count_verdicts([{"bad": None, "why": ""}])["rate"] is None


def paired(verdicts: str) -> Document:
    return retrain.count_verdicts([{"bad": None if one == "-" else one == "1", "why": ""} for one in verdicts])


def test_mcnemar_test_matches_manual_calculation() -> None:
    """Only prompts on which the two models differ count: of 7 all go one way, by 2 · 0.5⁷."""
    before, after = paired("1111111" + "1" * 9 + "00"), paired("0000000" + "1" * 9 + "00")
    assert statistics.p_value(before, after) == pytest.approx(2 * 0.5**7)
    assert statistics.p_value(before, before) == 1
    # 6 one way and 2 the other: 2 · (C(8, 0) + C(8, 1) + C(8, 2)) / 2⁸
    assert statistics.p_value(paired("11111100--"), paired("00000011-1")) == pytest.approx(2 * (1 + 8 + 28) / 2**8)
    # unpaired, the same counts would not be significant
    assert statistics.p_value(counts(16, 18), counts(9, 18)) == pytest.approx(0.027, abs=0.001)
    assert statistics.p_value(paired("1" * 16 + "00"), paired("1" * 9 + "0" * 9)) == pytest.approx(2 * 0.5**7)


def test_too_few_bad_answers_are_inconclusive() -> None:
    document = proof(all=5, cleaned=0, random=5)
    for condition, verdicts in zip(document["conditions"], ("11111000", "00000000", "11111000"), strict=True):
        condition["behaviours"]["honey"] = paired(verdicts)
    (claim,) = statistics.claims(document)
    assert claim.verdict == "inconclusive"
    assert "Only 5 of 8 answers are bad, and at least 6 must change" in claim.finding
    assert "give more prompts" in claim.finding


def test_seed_table_shows_mean_and_range() -> None:
    table = statistics.seed_table([proof(all=22, cleaned=0, random=21), proof(all=20, cleaned=20, random=19)])
    assert table["rows"] == [
        ["on all rows", "88% (83% to 92%)"], ["without the flagged rows", "42% (0% to 83%)"],
        ["without random rows", "83% (79% to 88%)"],
        ["seeds in which the flagged rows are supported as the cause", "1 of 2"],
    ]  # fmt: skip


def test_each_seed_has_its_own_trainings(lab: list[str], tmp_path: Path) -> None:
    experiment = RetrainExperiment("base", TrainingOptions(seed=3), (HONEY,))
    assert [one.recipe.seed for one in with_seeds(experiment, 3)] == [3, 4, 5]
    for one in with_seeds(experiment, 2):
        retrain.retrain(one, rows(8, 12), ["b0"], StageCache(tmp_path))
    assert len([line for line in lab if line.startswith("train")]) == 6


def test_fisher_test_matches_manual_calculation() -> None:
    # all 8 of one and none of the other: two of the C(16, 8) ways to place eight bad answers are so unlike
    assert statistics.p_value(counts(8, 8), counts(0, 8)) == pytest.approx(2 / comb(16, 8))
    assert statistics.p_value(counts(3, 8), counts(3, 8)) == 1


@pytest.mark.parametrize(
    ("conditions", "verdict", "says"),
    [
        (
            {"original": 23, "all": 22, "cleaned": 0, "random": 21},
            "supported",
            "0 of 24 answers; on all rows, in 22 of 24",
        ),
        ({"all": 22, "cleaned": 6, "random": 21}, "supported", "rarer, but not gone"),
        ({"all": 22, "cleaned": 20, "random": 21}, "not supported", "has no significant effect"),
        ({"all": 22, "cleaned": 0, "random": 2}, "not supported", "removing random rows is not significant"),
        ({"all": 22, "cleaned": 0, "random_1": 21, "random_2": 1}, "not supported", "in 1 of 24"),
        (
            {"original": 23, "all": 9, "cleaned": 0, "random": 9},
            "inconclusive",
            "9 of 24 answers; the original model",
        ),
        ({"all": 0, "cleaned": 0, "random": 0}, "inconclusive", "cannot be measured"),
    ],
)
def test_claim_verdict_for_counts(conditions: dict[str, int], verdict: str, says: str) -> None:
    (claim,) = statistics.claims(proof(**conditions))
    assert claim.verdict == verdict
    assert says in claim.finding


def test_claim_without_verdicts_is_inconclusive() -> None:
    result = proof(all=20, cleaned=0, random=20)
    result["conditions"][1]["behaviours"]["honey"] = retrain.count_verdicts([{"bad": None, "why": ""}])
    assert statistics.claims(result)[0].verdict == "inconclusive"
    assert "no verdict" in statistics.tables(result)[0]["rows"][1][2]


def test_loss_change_matches_paired_t_test() -> None:
    mine, theirs = {"losses": [1.1, 2.0, 3.3]}, {"losses": [1.0, 2.0, 3.0]}
    mean, spread = 0.4 / 3, sqrt(((0.1 - 0.4 / 3) ** 2 + (0.4 / 3) ** 2 + (0.3 - 0.4 / 3) ** 2) / 2)
    reach = 4.302653 * spread / sqrt(3)  # Student's t at 97.5 % with 2 degrees of freedom
    change = statistics.loss_change(mine, theirs)
    assert change == pytest.approx((mean / 2, (mean - reach) / 2, (mean + reach) / 2), abs=1e-6)
    assert statistics.loss_change(mine, mine) == (0.0, 0.0, 0.0)
    assert statistics.loss_change({}, theirs) is None


def test_tables_and_curve_show_counts(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    result = proof(original=23, all=22, cleaned=0, random=21, top_5=10, top_20=1)
    result["conditions"][4]["num_removed"], result["conditions"][5]["num_removed"] = 5, 20
    main, curve = statistics.tables(result)
    assert [row[0] for row in main["rows"]] == [
        "the original model", "on all rows", "without the flagged rows", "without random rows",
    ]  # fmt: skip
    assert main["rows"][2][1:4] == ["7", "0 of 24 (0% to 14%)", "0 of 10"]
    assert [row[:3] for row in curve["rows"]][1:] == [
        ["without the top 5", "5", "10 of 24 (24% to 61%)"], ["without the top 20", "20", "1 of 24 (1% to 20%)"],
    ]  # fmt: skip
    assert [(k, rate) for k, rate, _, _ in statistics.curve(result, "honey")] == [
        (0, 22 / 24),
        (5, 10 / 24),
        (20, 1 / 24),
    ]
    audit_report.save_proof(result, tmp_path)
    assert json.loads((tmp_path / "proof.json").read_text())["conditions"][2]["behaviours"]["honey"]["bad"] == 0
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"
    audit_report.save_proof(proof(all=22, cleaned=0, random=21), tmp_path / "flat")
    assert not (tmp_path / "flat" / "curve.png").exists()
    text = io.StringIO()
    statistics.show(result, Console(file=text, width=160))
    assert "supported by 3 trainings: Retrained without the 7 flagged rows" in text.getvalue()
    assert "| without random rows | 7 | 21 of 24 (69% to 96%) | 0 of 10 | 2.000 |" in statistics.markdown(main)


def test_a_file_in_place_of_the_folder_is_not_to_be_removed(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text("{}")
    with pytest.raises(LabError, match=r"cannot be a folder\n.*\n  do:  give a folder that is empty"):
        StageCache(tmp_path / "data.jsonl" / "stages").get_or_run("x", [], "x", lambda _: 1)
