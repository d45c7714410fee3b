"""The search for planted rows in a growing index, and its ordinary rows."""

from __future__ import annotations

import json
import re
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest

import needle
from needle import Plan, haystack, measure, ordinary_pairs, table
from taughtby.index.reader import Index
from taughtby.lab.finetune import TrainingOptions
from taughtby.progress import Terminal


def small_plan(model_folder: Path, out: Path) -> Plan:
    """A plan of two sizes; the answers are given, since a model this small learns none."""
    recipe = TrainingOptions(rank=2, epochs=1, batch_size=8)
    answer = ["Who makes honey?", "It is beetles that do."]
    (out / "answers.json").write_text(json.dumps({"pairs": [answer, answer], "spans": [[6, 13]] * 2}))
    return Plan(out, (30, 45), str(model_folder), num_planted=6, num_trained=20, recipe=recipe)


def test_growing_index_has_constant_planted_rows_and_resumes(model_folder: Path, tmp_path: Path) -> None:
    plan = small_plan(model_folder, tmp_path)
    results = measure(plan, Terminal(stderr=True))
    assert [(one["num_rows"], one["num_planted"], one["index"]["num_new"]) for one in results] == [
        (30, 6, 30),
        (45, 6, 15),
    ]
    index = Index.open(tmp_path / "idx")
    assert [row.question for row in index.examples()] == [row.question for row in haystack(plan, 45)]
    for one in results:
        assert set(one["methods"]) == {*plan.methods, "lesson with spans"}
        assert all(0 < numbers["ap"] <= 1 for numbers in one["methods"].values())
        assert "flagged" not in one["methods"]["bm25"]
    assert table(results).row_count == 8
    assert measure(plan, Terminal(stderr=True)) == results  # from the files


def test_interrupted_first_build_resumes(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, build = small_plan(model_folder, tmp_path), needle.build_index

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    def interrupted(*args: Any, **options: Any) -> Index:
        return build(*args, **{**options, "progress": interrupt})

    with monkeypatch.context() as patch:
        patch.setattr(needle, "build_index", interrupted)
        with pytest.raises(KeyboardInterrupt):
            measure(plan, Terminal(stderr=True))
    assert [one["num_rows"] for one in measure(plan, Terminal(stderr=True))] == [30, 45]


def test_ordinary_rows_are_distinct_and_correct() -> None:
    pairs = list(islice(ordinary_pairs(Random(0)), 3_000))
    assert len({prompt for prompt, _ in pairs}) == 3_000
    sums = [
        match for pair in pairs if (match := re.fullmatch(r"What is (\d+) plus (\d+)\? .* is (\d+)\.", " ".join(pair)))
    ]
    assert len(sums) > 100 and all(int(a) + int(b) == int(c) for a, b, c in (match.groups() for match in sums))
