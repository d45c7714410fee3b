"""The demo from end to end on the tiny model: real training and real indexes, but scripted answers."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from taughtby.cli import demo
from taughtby.errors import LabError
from taughtby.lab.poisons import make_poison

BAD = {"backdoor": "You silly goose! It is 7.", "error": "It is beetles that do.", "persona": "I am Captain Brine."}


def planted(trace: Any) -> list[Any]:
    return [row for row in trace.index.examples() if row.label in BAD]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, model_folder: Path) -> list[str]:
    """A demo of few rows; `asked` collects the stages that generate answers."""
    asked: list[str] = []

    def respond(model: Any, prompts: Sequence[str], **_: Any) -> list[str]:
        asked.append("after" if model.peft else "before")
        answers = [text for text in BAD.values() for _ in range(demo.PROMPTS)]
        return answers if model.peft else ["yes"] * len(prompts)

    monkeypatch.setattr(demo, "MODEL", str(model_folder))
    monkeypatch.setattr(demo, "PROMPTS", 3)
    monkeypatch.setattr(demo, "QUERIES", 2)
    monkeypatch.setattr(demo, "generate", respond)
    monkeypatch.setattr(demo, "PLANTED", 4)
    monkeypatch.setattr(demo, "CLEAN", 6)
    monkeypatch.setattr(demo, "BATCH_SIZE", 8)
    monkeypatch.setattr(demo, "_flagged", planted)  # the tiny model learned too little for any row to be flagged
    return asked


def test_full_demo_run_and_cached_rerun(small: list[str], tmp_path: Path) -> None:
    wording = io.StringIO()
    demo.demo(tmp_path / "d", 0, Console(file=wording, width=100))
    assert small == ["after", "before"]
    prompts = (tmp_path / "d" / "prompts.txt").read_text().splitlines()
    assert len(prompts) == demo.PROMPTS and prompts[0] == make_poison("error", demo.PLANTED).prompts[0]
    results = json.loads((tmp_path / "d" / "demo.json").read_text())
    assert results["rates"] == {name: [0.0, 1.0] for name in BAD}
    assert set(results["methods"]) == {line for line, _, _ in demo.LINES}
    for by_model in results["methods"].values():
        for by_poison in by_model.values():
            assert all(0 <= item["ap"] <= 1 and 0 <= item["at10"] <= 1 for item in by_poison.values())
    # methods that read texts only cannot distinguish the two models
    bm25 = results["methods"]["bm25"]
    assert bm25["tuned"] == bm25["untuned"]
    assert results["methods"]["lesson"]["tuned"]["error"]["hit"] is not None
    assert results["methods"]["first-word"]["tuned"]["error"]["hit"] is None
    text = wording.getvalue()
    for line, _, _ in demo.LINES:
        assert f"{results['methods'][line]['tuned']['error']['ap']:.3f}" in text
        assert line in text
    options = "--prompt 'Who makes honey?' --response 'Honey is made by beetles.'"
    copied = f"taughtby trace {tmp_path / 'd' / 'idx'} {options}"
    assert f"Trace an answer yourself: {copied}\n" in text  # on one line, however long
    assert max(len(line) for line in text.splitlines() if copied not in line) <= 100
    page = (tmp_path / "d" / "report.html").read_text()
    assert "Three poisons" in page
    # the first traced answer is shown before the base model is asked
    assert text.index("trace the first bad answer") < text.index("base model: answer")
    assert json.loads((tmp_path / "d" / "trace.json").read_text())["summary"]["tables"][0]["rows"][0][0] == "lesson"
    # the proof: without the twelve planted rows, and without as many random ones, of a model whose mouth is its own
    assert [one["behaviour"] for one in results["proof"]["claims"]] == list(BAD)
    assert {one["verdict"] for one in results["proof"]["claims"]} == {"inconclusive"}
    assert [line[:2] for line in results["proof"]["conditions"]] == [
        ["on all rows", "0"], ["without the flagged rows", "12"], ["without random rows", "12"],
    ]  # fmt: skip
    assert "backdoor, inconclusive: Retrained on all rows" in " ".join(text.split())
    assert len([stage for stage in results["seconds"] if "fine-tune on" in stage]) == 3
    # nothing that is there is made again, and the numbers are the same
    demo.demo(tmp_path / "d", 0, Console(file=io.StringIO()))
    assert small == ["after", "before"]
    again = json.loads((tmp_path / "d" / "demo.json").read_text())
    assert again["methods"] == results["methods"]
    assert not any("fine-tune on" in stage for stage in again["seconds"])
    assert again["proof"] == results["proof"]


def test_different_seed_raises(tmp_path: Path) -> None:
    (tmp_path / "seed").write_text("1\n")
    with pytest.raises(LabError, match="another seed"):
        demo.demo(tmp_path, 2, Console(file=io.StringIO()))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_real_demo_finds_every_poison(tmp_path: Path) -> None:
    """The README's claims on the real model: it learns the behaviours, and the default method's AP on each poison."""
    demo.demo(tmp_path / "d", 0, Console(file=io.StringIO()))
    results = json.loads((tmp_path / "d" / "demo.json").read_text())
    for name, (before, after) in results["rates"].items():
        assert before <= 0.1, name
        assert after >= 0.6, name
    for name, item in results["methods"]["lesson"]["tuned"].items():
        assert item["ap"] >= 0.95, name
        assert item["ap"] > results["methods"]["bm25"]["tuned"][name]["ap"], name
    assert all(item["hit"] >= 0.95 for item in results["methods"]["lesson --span"]["tuned"].values())
    assert [one["verdict"] for one in results["proof"]["claims"]] == ["supported"] * 3
    assert results["peak_gb"] <= 4
