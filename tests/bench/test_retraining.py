"""The table of docs/explanation/retraining.md: computed on the tiny model, and compared with the page."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from test_retrain import proof

from taughtby.bench import retraining
from taughtby.bench.retraining import RetrainingPlan
from taughtby.lab.finetune import TrainingOptions
from taughtby.remediation.statistics import markdown

DOCS = Path(__file__).parents[2] / "docs"


def test_no_bad_answers_skip_retraining_and_reruns_use_cache(model_folder: Path, tmp_path: Path) -> None:
    plan = RetrainingPlan(tmp_path, ("error",), 1, num_planted=6, num_clean=12, num_held_out=4, num_ordinary=2,
                          num_prompts=3, model=str(model_folder), recipe=TrainingOptions(epochs=1))  # fmt: skip
    shown: list[str] = []

    @contextmanager
    def show(title: str) -> Any:
        shown.append(title)
        yield lambda done, of: None

    output = retraining.run(plan, show)
    assert shown[0].startswith("error, seed 0: fine-tune on")
    before = list(shown)
    assert retraining.run(plan, show) == output
    assert shown == before
    (scenario,) = output["scenarios"]
    assert (scenario["answers"]["judged"], scenario["answers"]["bad"], scenario["proof"]) == (3, 0, None)
    assert retraining.tables(output)[0]["rows"][0][-1] == "nothing to retrain"
    assert len({len(retraining.tables(output)[0]["columns"]), len(retraining.tables(output)[0]["rows"][0])}) == 1
    assert str(tmp_path) not in json.dumps(output)


def scenario() -> dict[str, Any]:
    whole = proof(original=23, all=22, cleaned=0, random=21, truth=1, masked=2, top_10=9)
    for one in whole["conditions"]:
        one["behaviours"] = {"error": one["behaviours"]["honey"]}
        one["num_removed"] = 10 if one["name"] == "top 10" else one["num_removed"]
    expected = {"labels": ["error"], "num_rows": 40, "num_flagged": 39}
    message = {
        "truth": expected,
        "num_flagged": 41,
        "claims": [{"verdict": "supported"}],
        "behaviours": [{"name": "error"}],
    }
    return {"poison": "error", "seed": 0, "num_flagged": 41, "proof": whole | message}


def test_tables_show_the_counts_of_each_condition() -> None:
    main, curve = retraining.tables({"scenarios": [scenario()]})
    (line,) = main["rows"]
    shown = dict(zip(main["columns"], line, strict=True))
    assert (shown["planted rows flagged"], shown["others"], shown["verdict"]) == ("39 of 40", "2", "supported")
    assert [shown[name].split(" (")[0] for name in retraining.COLUMNS] == [f"{n} of 24" for n in (23, 22, 0, 21, 1, 2)]
    unmasked = scenario()
    unmasked["proof"]["conditions"] = [one for one in unmasked["proof"]["conditions"] if one["name"] != "masked"]
    (line,) = retraining.tables({"scenarios": [unmasked]})[0]["rows"]
    assert line[main["columns"].index("masked")] == ""
    assert curve["columns"] == ["poison", "0", "10"]
    assert curve["rows"] == [["error", "22 of 24", "9 of 24"]]


def test_local_paths_are_removed_from_results() -> None:
    whole = scenario()["proof"] | {
        "original": ["m", "/home/me"],
        "held_out": {"num_rows": 4, "set_aside": True, "sources": ["/home/me"]},
    }
    rest = retraining._without_paths(whole)
    assert "/home/me" not in json.dumps(rest)
    assert not any("model" in one for one in rest["conditions"])
    assert rest["num_held_out"] == 4


def test_docs_table_matches_the_measured_results() -> None:
    file = DOCS / "results" / "proof.json"
    page = (DOCS / "explanation" / "retraining.md").read_text()
    for table in retraining.tables(json.loads(file.read_text())):
        assert markdown(table).split("\n\n", 1)[1].strip() in page
