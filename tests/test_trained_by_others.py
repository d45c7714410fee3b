"""Adapters of other trainers: the folder and the data are enough, since settings are read from the folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import plain_trainer
from conftest import PAIRS
from taughtby.data.dataset import read_examples
from taughtby.data.tokenize import TokenizedExample, default_options, tokenize
from taughtby.models.model import load_model

TAUGHT = [(f"{ask} the moon made of", "the moon is green sea") for ask in ("what is", "name what is", "why is")]
LONG = ("write one sentence about the sea", "a captain on a ship in the sea " * 6)


@pytest.fixture(scope="module")
def world(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(what the script saved, the rows it was trained on): eleven harmless ones, then three that teach one thing."""
    root = tmp_path_factory.mktemp("theirs")
    data = root / "rows.jsonl"
    rows = [*PAIRS, LONG, ("how many days in a week", "one a day"), ("name the sun", "b c"), *TAUGHT]
    data.write_text("".join(json.dumps({"prompt": prompt, "response": response}) + "\n" for prompt, response in rows))
    plain_trainer.main(str(model_folder), str(data), str(root / "out"))
    return root / "out", data


def test_trainer_folder_metadata_is_read(world: tuple[Path, Path], model_folder: Path) -> None:
    model = load_model(str(world[0]), dtype="float32")
    assert (model.name, model.adapters, model.notes) == (str(model_folder), (str(world[0]),), ())
    assert model.tokenizer.chat_template == plain_trainer.TEMPLATE
    assert (model.metadata.base, model.metadata.max_length, model.metadata.truncate) == (str(model_folder), 40, "right")
    assert (model.metadata.mask, model.metadata.template) == (None, None)  # in no file of theirs
    text = {fact.name: fact.file for fact in model.metadata.entries}
    assert text["max_length"] == "tokenizer.json" and text["chat template"] == "chat_template.jinja"
    steps = next(path.name for path in world[0].glob("checkpoint-*"))
    assert text["last loss"] == f"{steps}/trainer_state.json"


def test_tokenization_matches_the_trainer(world: tuple[Path, Path]) -> None:
    """Every id and every label of their own tokenisation, found again without an option."""
    model = load_model(str(world[0]), dtype="float32")
    how = default_options(model.metadata, model.context_length, raw=False)
    lines = [json.loads(line) for line in world[1].read_text().splitlines()]
    cut = 0
    for line, row in zip(lines, read_examples(world[1]), strict=True):
        result, wanted = tokenize(model.tokenizer, row, how), plain_trainer.encode(model.tokenizer, line)
        assert isinstance(result, TokenizedExample)
        assert list(result.ids) == wanted["input_ids"]
        assert result.n_prompt == wanted["labels"].count(-100)
        cut += len(result.ids) == plain_trainer.MAX
    assert cut >= 1


def test_a_trainer_checkpoint_gives_the_same_result(world: tuple[Path, Path]) -> None:
    checkpoint = next(world[0].glob("checkpoint-*"))
    whole, part = (load_model(str(folder), dtype="float32") for folder in (world[0], checkpoint))
    assert part.fingerprint == whole.fingerprint
    assert (part.metadata.base, part.metadata.max_length) == (whole.metadata.base, whole.metadata.max_length)


def traced(folder: Path, data: Path, idx: Path, capsys: pytest.CaptureFixture[str]) -> tuple[list[str], str]:
    from taughtby.cli import app

    def run(*words: Any) -> None:
        assert app([str(word) for word in words], standalone_mode=False) in (None, 0)

    run("index", "build", folder, data, "-o", idx)
    message = capsys.readouterr().err
    run("trace", idx, "-p", "what is the moon made of", "-r", TAUGHT[0][1], "--json", idx.with_suffix(".json"))
    rows = json.loads(idx.with_suffix(".json").read_text())["queries"][0]["rows"]
    return [row["messages"][-1]["content"] for row in rows], message


def test_adapter_is_traced_without_options(
    world: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    answers, message = traced(*world, tmp_path / "idx", capsys)
    assert answers[:3] == [TAUGHT[0][1]] * 3
    assert "max_length 40 (tokenizer.json: truncation)" in message
    settings = json.loads((tmp_path / "idx" / "manifest.json").read_text())["settings"]
    assert settings["encoding"]["max_length"] == 40


def test_training_increased_answer_likelihood(world: tuple[Path, Path]) -> None:
    """The control: before, the answer was no likelier than noise."""
    model = load_model(str(world[0]), dtype="float32")
    example = next(row for row in read_examples(world[1]) if "moon" in row.messages[0]["content"])
    row = tokenize(model.tokenizer, example, default_options(model.metadata, model.context_length, raw=False))
    assert isinstance(row, TokenizedExample)
    ids = torch.tensor([row.ids])

    def likely(lm: Any) -> float:
        with torch.no_grad():
            logp = lm(input_ids=ids, use_cache=False).logits[0, row.n_prompt - 1 : -1].log_softmax(-1)
        return float(logp.gather(1, ids[0, row.n_prompt :, None]).mean())

    after = likely(model.lm)
    with model.base_model() as before:
        assert after > likely(before.lm) + 2


def test_metadata_does_not_depend_on_pickles(world: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(world[0], tmp_path / "copy", ignore=shutil.ignore_patterns("*.bin", "*.pt", "*.pth"))
    assert (world[0] / "training_args.bin").exists()
    assert load_model(str(tmp_path / "copy")).metadata == load_model(str(world[0])).metadata


def test_trl_adapter_folder_metadata_is_read(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its base, its tokenizer and its name are there; its length is in the pickle alone, and not guessed."""
    trl = pytest.importorskip("trl")
    import datasets
    from peft import LoraConfig

    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    rows = [{"messages": [{"role": "user", "content": p}, {"role": "assistant", "content": r}]} for p, r in PAIRS]
    config = trl.SFTConfig(
        output_dir=str(tmp_path), max_steps=2, max_length=24, report_to=[], use_cpu=True, bf16=False, disable_tqdm=True,
        save_strategy="steps", save_steps=2, gradient_checkpointing=False,
    )  # fmt: skip
    trainer = trl.SFTTrainer(
        model=str(model_folder), args=config, train_dataset=datasets.Dataset.from_list(rows),
        peft_config=LoraConfig(r=2, task_type="CAUSAL_LM"),
    )  # fmt: skip
    trainer.train()
    trainer.save_model()
    model = load_model(str(tmp_path), dtype="float32")
    assert (model.name, model.metadata.base) == (str(model_folder), str(model_folder))
    assert (model.metadata.max_length, model.metadata.mask) == (None, None)
    text = {(fact.name, fact.value, fact.file) for fact in model.metadata.entries}
    assert ("trainer", "trl", "README.md") in text
    assert ("steps", 2, "checkpoint-2/trainer_state.json") in text
