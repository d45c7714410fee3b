"""The table of docs/explanation/retraining.md: from worlds of the tiny model, and as it stands in the docs."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from test_retrain import proof

from taughtby.bench import retraining as worlds
from taughtby.bench.retraining import RetrainingPlan
from taughtby.lab.finetune import TrainingOptions
from taughtby.remediation.statistics import markdown

DOCS = Path(__file__).parents[2] / "docs"


def test_a_world_without_misbehaviour_has_nothing_to_prove_and_is_made_once(model_folder: Path, tmp_path: Path) -> None:
    plan = RetrainingPlan(tmp_path, ("error",), 1, planted=6, clean=12, held=4, usual=2, prompts=3, model=str(model_folder),
                recipe=TrainingOptions(epochs=1))  # fmt: skip
    shown: list[str] = []

    @contextmanager
    def show(title: str) -> Any:
        shown.append(title)
        yield lambda done, of: None

    made = worlds.run(plan, show)
    assert shown[0].startswith("error, seed 0: fine-tune on")
    before = list(shown)
    assert worlds.run(plan, show) == made
    assert shown == before
    (world,) = made["worlds"]
    assert (world["said"]["judged"], world["said"]["bad"], world["proof"]) == (3, 0, None)
    assert worlds.tables(made)[0]["rows"][0][-1] == "nothing to prove"
    assert len({len(worlds.tables(made)[0]["columns"]), len(worlds.tables(made)[0]["rows"][0])}) == 1
    assert str(tmp_path) not in json.dumps(made)


def world() -> dict[str, Any]:
    whole = proof(given=23, all=22, cleaned=0, random=21, truth=1, masked=2, first_10=9)
    for one in whole["arms"]:
        one["behaviours"] = {"error": one["behaviours"]["honey"]}
        one["removed"] = 10 if one["name"] == "first 10" else one["removed"]
    known = {"labels": ["error"], "rows": 40, "called": 39}
    told = {"truth": known, "called": 41, "claims": [{"verdict": "proved"}], "behaviours": [{"name": "error"}]}
    return {"poison": "error", "seed": 0, "called": 41, "proof": whole | told}


def test_the_table_holds_what_each_arm_counted() -> None:
    main, curve = worlds.tables({"worlds": [world()]})
    (line,) = main["rows"]
    shown = dict(zip(main["columns"], line, strict=True))
    assert (shown["planted rows called"], shown["others"], shown["proof"]) == ("39 of 40", "2", "proved")
    assert [shown[name].split(" (")[0] for name in worlds.KINDS] == [f"{n} of 24" for n in (23, 22, 0, 21, 1, 2)]
    unmasked = world()
    unmasked["proof"]["arms"] = [one for one in unmasked["proof"]["arms"] if one["name"] != "masked"]
    (line,) = worlds.tables({"worlds": [unmasked]})[0]["rows"]
    assert line[main["columns"].index("masked")] == ""
    assert curve["columns"] == ["poison", "0", "10"]
    assert curve["rows"] == [["error", "22 of 24", "9 of 24"]]


def test_no_path_leaves_the_machine() -> None:
    whole = world()["proof"] | {
        "given": ["m", "/home/me"],
        "held_out": {"rows": 4, "aside": True, "sources": ["/home/me"]},
    }
    kept = worlds._shared(whole)
    assert "/home/me" not in json.dumps(kept)
    assert not any("model" in one for one in kept["arms"])
    assert kept["held_out"] == 4


def test_the_table_in_the_docs_is_what_was_measured() -> None:
    file = DOCS / "results" / "proof.json"
    if not file.exists():
        pytest.skip("docs/results/proof.json has not been measured")
    page = (DOCS / "explanation" / "retraining.md").read_text()
    for table in worlds.tables(json.loads(file.read_text())):
        assert markdown(table).split("\n\n", 1)[1].strip() in page
