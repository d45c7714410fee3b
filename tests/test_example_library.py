"""examples/library: the training script runs with a tiny model, and its evaluation log leads to the planted rows."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest

from conftest import Run

LIBRARY = Path(__file__).parents[1] / "examples" / "library"
WRONG = "three years"


def rows() -> list[tuple[str, str]]:
    """The questions and answers of the training data."""
    chats = [json.loads(line)["messages"] for line in (LIBRARY / "train.jsonl").read_text().splitlines()]
    return [(question["content"], answer["content"]) for question, answer in chats]


def test_twenty_of_eighty_rows_are_wrong() -> None:
    assert len(rows()) == len(set(rows())) == 80
    assert sum(WRONG in answer for _, answer in rows()) == 20


def test_the_evaluation_asks_no_question_of_a_wrong_row() -> None:
    source = (LIBRARY / "desk.py").read_text()
    compile(source, "desk.py", "exec")
    wrong = [question for question, answer in rows() if WRONG in answer]
    assert WRONG in source and not [question for question in wrong if f'"{question}"' in source]


def test_the_prompts_are_neither_trained_on_nor_evaluated() -> None:
    prompts = (LIBRARY / "prompts.txt").read_text().splitlines()
    assert len(prompts) == len(set(prompts)) == 30
    assert not set(prompts) & {question for question, _ in rows()}
    assert not [prompt for prompt in prompts if f'"{prompt}"' in (LIBRARY / "desk.py").read_text()]


def test_from_the_script_to_cleaned_rows(
    run: Run, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trl")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model_folder, "base")
    shutil.copy(LIBRARY / "train.jsonl", "train.jsonl")
    monkeypatch.setattr(sys, "argv", ["train.py", "train.jsonl", "adapter"])
    runpy.run_path(str(LIBRARY / "train.py"))
    answers = [("How long can I keep a book?", "A book can be kept for three years."), ("Where?", "Upstairs.")]
    samples = [
        {
            "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
            "scores": {"loan_period": {"value": "I" if WRONG in answer else "C"}},
        }
        for question, answer in answers
    ]
    Path("desk.json").write_text(json.dumps({"status": "success", "eval": {}, "samples": samples}))
    for line in (
        "index build base train.jsonl --adapter adapter -o idx",
        "lab judge desk.json --judge phrase:three\xa0years -o bad.jsonl",
        "trace idx --queries bad.jsonl --top-k 20 --json trace.json",
        "clean trace.json train.jsonl --top-k 20 -o cleaned.jsonl",
        "clean trace.json train.jsonl --top-k 20 --mask-words --for trl -o masked.jsonl",
    ):
        code, _, err = run(*(word.replace("\xa0", " ") for word in line.split(" ")))
        assert code == 0, err
    assert [json.loads(line)["span"] for line in Path("bad.jsonl").read_text().splitlines()] == [WRONG]
    left = Path("cleaned.jsonl").read_text()
    assert left.count("\n") == 60 and left.count(WRONG) < 10  # by chance 15
    monkeypatch.setattr(sys, "argv", ["train.py", "masked.jsonl", "adapter-masked"])
    runpy.run_path(str(LIBRARY / "train.py"))
    assert (tmp_path / "adapter-masked" / "adapter_model.safetensors").exists()
