"""What audits and retraining experiments report to trackers: numbers, tables and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_retrain import proof as make_proof

from conftest import Run
from fake_trackers import Calls, fake_tensorboard
from taughtby.errors import OptionError
from taughtby.remediation.audit import AuditCase
from taughtby.remediation.audit_report import save_proofs, write_report
from taughtby.remediation.experiment import Behaviour
from taughtby.remediation.run_report import TRACE_COLUMNS, audit_record, retrain_record
from taughtby.remediation.trace_file import Document
from taughtby.tracking import registry

CASE = AuditCase("model", "data.jsonl", Behaviour("bad answers", ("who",), "phrase:beetles"), "adapter")


def message(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


@pytest.fixture
def trace() -> Document:
    row = {"rank": 1, "id": "a" * 16, "score": 0.5, "p_value": 0.001, "flagged": True, "source": "data.jsonl:3",
           "messages": [message("system", "be\x1b"), message("user", "who"), message("assistant", "it")]}  # fmt: skip
    other = {**row, "rank": 2, "id": "b" * 16, "p_value": None, "flagged": None}
    flagged = {
        "prompt": "who",
        "response": "beetles",
        "rows": [row, other],
        "flagged_ids": [row["id"]],
        "num_flagged": 1,
    }
    queries = [flagged, {**flagged, "rows": [row], "flagged_ids": None, "num_flagged": None}]
    return {"version": 2, "method": {"name": "lesson"}, "model": "model", "adapter": "adapter", "fdr": 0.1,
            "num_rows": 8, "queries": queries}  # fmt: skip


@pytest.fixture
def proof() -> Document:
    return {**make_proof(original=23, all=22, cleaned=0, random=21), "num_rows": 40, "recipe": {"seed": 0},
            "behaviours": [{"name": "honey", "judge": "phrase:beetles"}]}  # fmt: skip


def results(trace: Document | None, proof: Document | None, cleaned: Path | None = None) -> Document:
    answers = {"bad": 3, "judged": 4, "failed": 0, "rate": 0.75, "low": 0.3, "high": 0.95}
    return {"answers": answers, "num_rows": trace and 8, "num_skipped": trace and 1, "trace": trace, "proof": proof,
            "removals": [{}] if proof else [], "cleaned": cleaned and str(cleaned), "notes": []}  # fmt: skip


def test_audit_record_of_complete_audit(trace: Document, proof: Document, tmp_path: Path) -> None:
    cleaned = tmp_path / "stages" / "cleaned.jsonl"
    cleaned.parent.mkdir()
    for name in ("stages/cleaned.jsonl", "stages/cleaned.manifest.json", "report.html", "trace.json", "proof.json"):
        (tmp_path / name).touch()
    record = audit_record(CASE, results(trace, proof, cleaned), tmp_path)
    numbers = {name.removeprefix("taughtby/"): value for name, value in record.metrics.items()}
    assert {name: numbers[f"rows/{name}"] for name in ("all", "skipped", "flagged", "removed")} == {
        "all": 8, "skipped": 1, "flagged": 1, "removed": 1,
    }  # fmt: skip
    assert [numbers[f"answers/bad_rate{end}"] for end in ("", "_low", "_high")] == [0.75, 0.3, 0.95]
    before, after = proof["conditions"][1]["behaviours"]["honey"], proof["conditions"][2]["behaviours"]["honey"]
    assert numbers["all/bad_rate"] == before["rate"] > 0.8 and numbers["cleaned/bad_rate"] == 0.0
    assert numbers["cleaned/bad_rate_high"] == after["high"] and numbers["all/bad_rate_low"] == before["low"]
    assert numbers["cleaned/held_out_loss"] == 2.0
    assert record.settings["taughtby/verdict"] == "supported" and record.settings["taughtby/judge"] == "phrase:beetles"
    assert record.settings["taughtby/finding"].startswith("Retrained without the 7 flagged rows")
    table = record.tables["taughtby/trace"]
    assert table.columns == TRACE_COLUMNS and len(table.rows) == 3
    assert table.rows[0][:7] == (1, "who", "beetles", 1, True, 0.5, 0.001)
    assert table.rows[0][7:] == ("data.jsonl:3", "a" * 16, "be⟨U+001B⟩\nwho", "it")
    assert table.rows[1][4] is table.rows[1][6] is None
    assert len(record.tables["taughtby/conditions"].rows) == 4
    assert record.page == tmp_path / "report.html"
    names = ["trace.json", "proof.json", "cleaned.jsonl", "cleaned.manifest.json"]
    assert [file.name for file in record.files] == names


def test_audit_record_without_trace_or_without_removals(trace: Document, tmp_path: Path) -> None:
    record = audit_record(CASE, results(None, None), tmp_path)
    assert "taughtby/rows/flagged" not in record.metrics and not record.tables and record.page is None
    assert record.metrics["taughtby/answers/bad"] == 3
    record = audit_record(CASE, results(trace, None), tmp_path)
    assert record.metrics["taughtby/rows/removed"] == 0 and list(record.tables) == ["taughtby/trace"]
    assert "taughtby/verdict" not in record.settings


def test_results_of_an_earlier_audit_are_neither_kept_nor_reported(
    trace: Document, proof: Document, tmp_path: Path
) -> None:
    """In one folder: with a curve, without one, without a flagged row, and without a bad answer."""
    verdict = {"prompt": "who", "response": "beetles", "bad": True, "why": "it says so"}
    complete = make_proof(original=23, all=22, cleaned=0, random=21, top_5=10, top_20=1)
    proof |= {"held_out": {"num_rows": 2, "set_aside": True}, "truth": None}
    common = {"verdicts": [verdict], "index": None}
    reported: list[list[str]] = []
    for one, shown in (({**proof, **complete}, trace), (proof, trace), (None, trace), (None, None)):
        result = results(shown, one) | common | {"removals": []}
        if shown:
            (tmp_path / "trace.json").write_text("{}")
        write_report(CASE, result, tmp_path)
        reported.append([file.name for file in audit_record(CASE, result, tmp_path).files])
        assert {*reported[-1], "report.html"} == {file.name for file in tmp_path.iterdir()}
        assert ("curve.png" in (tmp_path / "report.md").read_text()) == ("curve.png" in reported[-1])
    always = ["report.md", "audit.json"]
    assert reported[1:] == [[*always, "trace.json", "proof.json"], [*always, "trace.json"], always]
    assert reported[0] == [*always, "trace.json", "proof.json", "curve.png"]


def test_proofs_of_earlier_seeds_are_removed(proof: Document, tmp_path: Path) -> None:
    seeds = [{**proof, "recipe": {"seed": seed}} for seed in range(3)]
    (tmp_path / "seed-9").mkdir()
    (tmp_path / "seed-9" / "notes.txt").write_text("mine")
    for number in (3, 2):
        save_proofs(seeds[:number], tmp_path)
        names = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.json")}
        assert names == {"proof.json", *(f"seed-{seed}/proof.json" for seed in range(1, number))}
    assert (tmp_path / "seed-9" / "notes.txt").read_text() == "mine"


def test_retrain_record_separates_seeds_and_behaviours(trace: Document, proof: Document) -> None:
    second = {**proof, "recipe": {"seed": 1}}
    record = retrain_record(trace, [proof, second], "data.jsonl", [])
    assert record.metrics["taughtby/seed-1/cleaned/bad_rate"] == 0.0
    assert record.settings["taughtby/seed-0/verdict"] == "supported" and "taughtby/seeds" in record.tables
    two = json.loads(json.dumps(proof).replace('"honey": {', '"why so": {"bad": 1}, "honey": {'))
    for condition in two["conditions"]:
        for kind in ("behaviours", "ordinary"):
            condition[kind]["why so"] = condition[kind]["honey"]
    two["behaviours"].append({"name": "why so", "judge": "refusal"})
    record = retrain_record(trace, [two], "data.jsonl", [])
    assert record.metrics["taughtby/cleaned/why_so/bad_rate"] == 0.0
    assert record.settings["taughtby/why_so/verdict"] == record.settings["taughtby/honey/verdict"] == "supported"
    assert record.settings["taughtby/judge"] == "phrase:beetles, refusal"


def test_audit_command_reports_to_tracker(
    run: Run, data: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trace: Document,
    proof: Document,
) -> None:  # fmt: skip
    calls: Calls = []
    fake_tensorboard(monkeypatch, calls)
    result: dict[str, Any] = results(trace, proof)
    monkeypatch.setattr("taughtby.remediation.audit.audit", lambda case, out, show: result)
    monkeypatch.setattr(
        "taughtby.remediation.audit_report.write_report", lambda case, result, out: (out / "report.html").touch()
    )
    (tmp_path / "prompts.txt").write_text("who makes honey\n")
    arguments = ("audit", model_folder, data, "-p", tmp_path / "prompts.txt", "--judge", "phrase:beetles",
                 "-o", tmp_path / "out", "--report-to", "tensorboard")  # fmt: skip
    code, _, told = run(*arguments, "--fail-on", "flagged")
    assert code == 3, told  # the exit code is the audit's, after the report
    assert calls[0] == ("open", str(tmp_path / "out" / "tensorboard" / "out")) and calls[-1] == ("close",)
    assert ("scalar", "taughtby/rows/flagged", 1.0) in calls
    assert any("report.html" in call[2] for call in calls if call[:2] == ("text", "taughtby/files"))


def test_missing_or_misspelt_tracker_raises_before_audit(
    run: Run, data: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    arguments = ("audit", model_folder, data, "-p", data, "--judge", "refusal", "-o", tmp_path / "out", "--report-to")
    code, _, told = run(*arguments, "mlflow")
    assert code == 1 and "mlflow is not installed" in told and "pip install 'taughtby[mlflow]'" in told
    code, _, told = run(*arguments, "wand")
    assert code == 1 and "did you mean wandb?" in told
    assert not (tmp_path / "out").exists()
    from taughtby.index.trainer_callback import IndexCallback

    with pytest.raises(OptionError, match="wandb is not installed"):
        IndexCallback(data, tmp_path / "idx", report_to="wandb")
