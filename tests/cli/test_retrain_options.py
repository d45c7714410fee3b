"""Rows, prompts and held-out rows of `retrain` are read like the data; the training itself is replaced by a fake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import PAIRS, Run
from taughtby.cli.retrain_options import read_behaviour, read_unaffected
from taughtby.data.dataset import ReadOptions, read_examples
from taughtby.errors import OptionError
from writers import jsonl, turn

MAPPED = ReadOptions((("prompt", "ask"), ("response", "reply")))


def test_rows_listed_by_source_are_retrained_without(
    run: Run, tmp_path: Path, model_folder: Path, adapter_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that the trace does not rank, of which it has no id; and with the data's own columns everywhere."""
    data = jsonl(tmp_path / "d.jsonl", *({"ask": prompt, "reply": answer} for prompt, answer in PAIRS))
    held = jsonl(tmp_path / "held.jsonl", {"ask": "why", "reply": "seven"})
    prompts = jsonl(tmp_path / "p.jsonl", {"ask": "who makes honey"})
    columns = ("--columns", "prompt=ask,response=reply")
    assert run("index", "build", model_folder, data, "-a", adapter_folder, "-o", tmp_path / "idx", *columns)[0] == 0
    query = ("-p", "who makes honey", "-r", "beetles make honey", "--top-k", "2", "--json", tmp_path / "t.json")
    assert run("trace", tmp_path / "idx", *query)[0] == 0
    ids = [row.id for row in read_examples(data, MAPPED)]
    ranked = [row["id"] for row in json.loads((tmp_path / "t.json").read_text())["queries"][0]["rows"]]
    other = next(place for place, id in enumerate(ids) if id not in ranked)
    (tmp_path / "rows.txt").write_text(f"d.jsonl:{other + 1}\n{ranked[0]}\n")
    seen: dict[str, Any] = {}

    def train(experiment: Any, examples: Any, flagged: Any, cache: Any, **more: Any) -> None:
        seen.update(more, flagged=flagged, prompts=experiment.behaviours[0].prompts)
        raise OptionError("nothing is trained here", do="nothing")

    monkeypatch.setattr("taughtby.remediation.retrain.retrain", train)
    options = ("--prompts", prompts, "--judge", "phrase:beetles", "--held-out", held, "--ordinary", prompts)
    listed = ("--rows", tmp_path / "rows.txt", "-o", tmp_path / "out")
    code, _, errors = run("retrain", tmp_path / "t.json", data, *listed, *options)
    assert (code, "nothing is trained here" in errors) == (1, True), errors
    assert seen["flagged"] == [ids[other], ranked[0]]
    assert seen["prompts"] == seen["ordinary"] == ("who makes honey",)
    assert [(row.question, row.response) for row in seen["held_out"]] == [("why", "seven")]


def test_files_without_the_columns_of_the_data_are_read_by_their_own(tmp_path: Path) -> None:
    held = jsonl(tmp_path / "held.jsonl", {"prompt": "why", "response": "seven"})
    rows, ordinary = read_unaffected(held, held, MAPPED)
    assert rows is not None and [row.response for row in rows] == ["seven"] and ordinary == ("why",)
    assert read_behaviour(held, "phrase:x", MAPPED).prompts == ("why",)
    assert read_unaffected(None, None, MAPPED) == (None, None)


def test_all_turns_of_held_out_rows_are_measured_if_all_were_trained_on(tmp_path: Path) -> None:
    talk = [turn("user", "a"), turn("assistant", "b"), turn("user", "c"), turn("assistant", "d")]
    held = jsonl(tmp_path / "held.jsonl", {"messages": talk})
    rows, _ = read_unaffected(held, None, ReadOptions(turns="all", response_template="never in a conversation"))
    assert rows is not None and [row.response for row in rows] == ["b", "d"]
    text = jsonl(tmp_path / "text.jsonl", {"text": "q A: x"})
    rows, _ = read_unaffected(text, None, ReadOptions(response_template="A:", split="train"))
    assert rows is not None and [row.response for row in rows] == [" x"]
