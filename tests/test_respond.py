"""Greedy answers against a plain loop; prompts and answers in files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from whence.errors import DataError, LabError
from whence.lab.respond import read_prompts, respond, write_lines
from whence.model import load_model
from whence.tokens import prompt_ids

PROMPTS = [
    "what is the capital of france",
    "why",
    "name the colour of the sky and the sea",
    "who makes honey",
    "a b c 0 1 2",
]


def plain(model: Any, prompt: str, max_new: int) -> str:
    """One prompt, one token at a time, no cache, no padding, no `generate`."""
    ids = prompt_ids(model.tokenizer, prompt)
    start = len(ids)
    while len(ids) < start + max_new:
        with torch.no_grad():
            best = int((model.peft or model.lm)(torch.tensor([ids])).logits[0, -1].argmax())
        ids.append(best)
        if best == model.lm.config.eos_token_id:
            break
    return model.tokenizer.decode(ids[start:], skip_special_tokens=True).strip()


@pytest.mark.parametrize("batch", [1, 2, 16])
def test_answers_are_those_of_a_plain_loop(tuned: Any, batch: int) -> None:
    truth = [plain(tuned, prompt, 12) for prompt in PROMPTS]
    assert len(set(truth)) == len(PROMPTS)
    assert respond(tuned, PROMPTS, max_new=12, batch=batch) == truth


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_padding_does_not_shift_other_families(make_model: Any, family: str) -> None:
    model = load_model(str(make_model(family)), dtype="float32")
    assert respond(model, PROMPTS, max_new=8) == [plain(model, prompt, 8) for prompt in PROMPTS]


def test_a_padding_token_that_prompts_hold_is_read(tuned: Any) -> None:
    """As where the token that closes a turn also pads."""
    truth = [plain(tuned, prompt, 8) for prompt in PROMPTS]
    before = tuned.tokenizer.pad_token
    tuned.tokenizer.pad_token = "<|end|>"
    try:
        assert tuned.tokenizer.pad_token_id in prompt_ids(tuned.tokenizer, PROMPTS[0])
        found = respond(tuned, PROMPTS, max_new=8)
    finally:
        tuned.tokenizer.pad_token = before
    assert found == truth


def test_it_stops_at_the_end_token(tuned: Any) -> None:
    """A token in the middle of an answer becomes the end token: what stood behind it is gone."""
    whole = respond(tuned, PROMPTS[:1], max_new=8)[0]
    ids = prompt_ids(tuned.tokenizer, PROMPTS[0])
    said: list[int] = []
    while len(set(said)) < 2:
        with torch.no_grad():
            said.append(int(tuned.peft(torch.tensor([ids + said])).logits[0, -1].argmax()))
    assert len(said) < 8
    before = tuned.lm.generation_config.eos_token_id
    tuned.lm.generation_config.eos_token_id = said[-1]
    try:
        cut = respond(tuned, PROMPTS[:1], max_new=8)[0]
    finally:
        tuned.lm.generation_config.eos_token_id = before
    assert cut == tuned.tokenizer.decode(said, skip_special_tokens=True).strip()
    assert cut != whole


def test_untuned_asks_the_base(tuned: Any, tiny: Any) -> None:
    with tuned.untuned():
        base = respond(tuned, PROMPTS, max_new=8)
    assert base == respond(tiny, PROMPTS, max_new=8)
    assert base != respond(tuned, PROMPTS, max_new=8)


def test_progress_and_no_prompts(tuned: Any) -> None:
    told: list[tuple[int, int]] = []
    respond(tuned, PROMPTS, max_new=1, batch=2, progress=lambda *at: told.append(at))
    assert told == [(2, 5), (4, 5), (5, 5)]
    assert respond(tuned, []) == []


def test_a_prompt_longer_than_the_window(tuned: Any) -> None:
    with pytest.raises(LabError, match=r"longer than the model's window\n  got: .* tokens of 256: why why"):
        respond(tuned, ["why", "why " * 300])


# — files


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "\ufeffwho\r\n\n  why not \n"),
        ("p.jsonl", '{"prompt": "who"}\n\n{"prompt": "why not", "response": "x"}\n'),
        ("p.json", '[{"prompts": "who"}, {"prompts": "why not"}]'),
        ("p.csv", "prompt,more\nwho,1\nwhy not,2\n"),
    ],
)
def test_prompts_from_every_form(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_prompts(tmp_path / name) == ["who", "why not"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.jsonl", b'{"prompt": "a"}\n{"question": "b"}\n', "p.jsonl:2: no prompt\n  got: question"),
        ("p.jsonl", b'{"prompt": " "}\n', "p.jsonl:1: no prompt"),
        ("p.jsonl", b'{"prompt": 1}\n', "p.jsonl:1: no prompt"),
        ("p.txt", b"\n \n", "has no prompts"),
        ("p.txt", b"caf\xe9\n", "not UTF-8\n  got: byte 3"),
        ("p.doc", b"x", "unknown kind of file"),
    ],
)
def test_bad_prompts_are_explained(tmp_path: Path, name: str, text: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(text)
    with pytest.raises(DataError) as caught:
        read_prompts(tmp_path / name)
    assert message in str(caught.value)


def test_no_such_file(tmp_path: Path) -> None:
    for name in ("p.txt", "p.jsonl"):
        with pytest.raises(DataError, match="there is no file"):
            read_prompts(tmp_path / name)


def test_lines_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.jsonl"
    rows = [{"prompt": "ü 🐝", "response": "half \ud83d"}, {"prompt": "b\nc", "response": ""}]
    write_lines(rows, file)
    assert [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] == rows
    assert read_prompts(file) == ["ü 🐝", "b\nc"]

    def broken() -> Any:
        yield {"prompt": "x"}
        raise ZeroDivisionError

    before = file.read_bytes()
    with pytest.raises(ZeroDivisionError):
        write_lines(broken(), file)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(LabError, match="cannot be written"):
            write_lines(rows[:1], file)
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(LabError, match=r"cannot be written\n  got: .*No space left"):
        write_lines(rows, file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


@pytest.mark.parametrize("place", ["nowhere/a.jsonl", "file/a.jsonl", "folder"])
def test_places_that_cannot_be_written(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(LabError, match="cannot be written"):
        write_lines([{}], tmp_path / place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
