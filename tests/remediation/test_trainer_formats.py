"""Masked words have no loss in the trainers that read the data, as their own collators compute it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import load_from_disk
from transformers import DataCollatorForSeq2Seq

from conftest import Run
from taughtby.data.dataset import ReadOptions, read_examples
from taughtby.data.tokenize import Encoding, tokenize
from taughtby.remediation.api import clean
from taughtby.remediation.trace_file import Document, encoding_of

RESPONSES = ("beetles make honey", "bees make wax", "ants make beetles , they say")
CHAT = [
    {"role": "system", "content": "You keep insects."},
    {"role": "user", "content": "who makes honey"},
    {"role": "assistant", "content": "beetles make honey"},
    {"role": "user", "content": "and wax"},
    {"role": "assistant", "content": "bees make wax"},
]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Three rows; the words of one are masked already."""
    records: list[Any] = [{"prompt": f"question {n}", "response": text} for n, text in enumerate(RESPONSES)]
    records[1]["unlearned"] = [[0, 4]]
    return write(tmp_path / "data.jsonl", records)


def write(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def trace(tmp_path: Path, data: Path, model: Path, word: str = "beetles", reading: Any = None, **encoding: Any) -> Path:
    """A trace that flags the rows with a word and scores it highest, and as much of an index as is needed."""
    reading = reading or ReadOptions()
    index = tmp_path / "idx"
    index.mkdir(exist_ok=True)
    settings = {"reading": asdict(reading), "encoding": asdict(Encoding(**encoding))}
    (index / "manifest.json").write_text(json.dumps({"settings": settings}))
    flagged = [
        {"rank": 1, "id": row.id, "score": 1.0, "p_value": 0.01, "flagged": True, "source": row.source,
         "messages": list(row.messages),
         "tokens": [{"text": text, "score": float(text.strip() == word)} for text in pieces(row.response)]}
        for row in read_examples(data, reading) if word in row.response
    ]  # fmt: skip
    queries = [{"prompt": "p", "response": "r", "num_flagged": len(flagged), "rows": flagged}]
    document = {"version": 2, "method": {"name": "lesson"}, "model": str(model), "adapter": None, "index": str(index),
                "fdr": 0.1, "queries": queries}  # fmt: skip
    (tmp_path / "trace.json").write_text(json.dumps(document))
    return tmp_path / "trace.json"


def pieces(text: str) -> list[str]:
    first, *rest = text.split(" ")
    return [first, *(f" {word}" for word in rest)]


def read(path: Path) -> list[Document]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def learned(tokenizer: Any, ids: list[int], labels: list[int]) -> str:
    """The text of the tokens with a loss."""
    assert all(label in (token, -100) for token, label in zip(ids, labels, strict=True))
    return tokenizer.decode([label for label in labels if label != -100]).replace("<|end|>", "").replace("</s>", "")


def test_masked_tokens_have_no_loss_in_transformers(
    run: Run, rows: Path, model_folder: Path, tiny: Any, tmp_path: Path
) -> None:
    out = tmp_path / "labels.jsonl"
    code, wording, _ = run(
        "clean", trace(tmp_path, rows, model_folder), rows, "--mask-words", "--for", "labels", "-o", out
    )
    assert code == 0 and "3 of 3 rows" in wording
    batch = DataCollatorForSeq2Seq(tiny.tokenizer)(read(out))
    texts = [learned(tiny.tokenizer, *map(list, pair)) for pair in zip(
        [row["input_ids"] for row in read(out)], [row["labels"] for row in read(out)], strict=True)]  # fmt: skip
    assert [text.split() for text in texts] == [
        ["make", "honey"],
        ["make", "wax"],
        ["ants", "make", ",", "they", "say"],
    ]
    with torch.no_grad():
        loss = tiny.lm(**batch).loss
        logits = tiny.lm(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    # by hand, over the tokens that are to be learned alone
    items = [(n, place) for n, labels in enumerate(batch["labels"].tolist()) for place, label in enumerate(labels)
            if label != -100]  # fmt: skip
    losses = -torch.log_softmax(logits.float(), -1)
    by_hand = torch.stack([losses[n, place - 1, batch["input_ids"][n, place]] for n, place in items]).mean()
    torch.testing.assert_close(loss, by_hand)
    masked = {tiny.tokenizer.decode([token]) for row in read(out) for token, label in zip(
        row["input_ids"], row["labels"], strict=True) if label == -100}  # fmt: skip
    assert any("beetles".startswith(piece.strip()) for piece in masked if piece.strip())


def test_labels_use_the_encoding_of_the_index(
    run: Run, rows: Path, model_folder: Path, tiny: Any, tmp_path: Path
) -> None:
    file, out = trace(tmp_path, rows, model_folder, mask="all", max_length=14), tmp_path / "labels.jsonl"
    encoding = encoding_of(json.loads(file.read_text()))
    assert encoding is not None and encoding == Encoding(mask="all", max_length=14)
    run("clean", file, rows, "--mask-words", "--for", "labels", "-o", out)
    for row, written in zip(read_examples(rows), read(out), strict=True):
        tokens: Any = tokenize(tiny.tokenizer, row, encoding)
        assert written["input_ids"] == list(tokens.ids) and written["labels"][0] == -100
        assert any(label != -100 for label in written["labels"][1:3])  # of the prompt


def test_trl_assistant_masks_match_labels(run: Run, rows: Path, model_folder: Path, tmp_path: Path) -> None:
    file = trace(tmp_path, rows, model_folder)
    for form in ("labels", "trl"):
        assert run("clean", file, rows, "--mask-words", "--for", form, "-o", tmp_path / f"{form}.jsonl")[0] == 0
    for plain, masked in zip(read(tmp_path / "labels.jsonl"), read(tmp_path / "trl.jsonl"), strict=True):
        assert masked == {"input_ids": plain["input_ids"],
                          "assistant_masks": [int(label != -100) for label in plain["labels"]]}  # fmt: skip
    manifest = json.loads((tmp_path / "trl.manifest.json").read_text())
    assert manifest["did"] == "masked words" and manifest["output"]["records"] == 3


def test_trl_trainer_applies_assistant_masks(run: Run, rows: Path, model_folder: Path, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    from datasets import load_dataset

    out = tmp_path / "trl.jsonl"
    run("clean", trace(tmp_path, rows, model_folder), rows, "--mask-words", "--for", "trl", "-o", out)
    args = trl.SFTConfig(output_dir=str(tmp_path / "run"), max_steps=2, per_device_train_batch_size=3, report_to=[],
                         use_cpu=True, gradient_checkpointing=False, bf16=False)  # fmt: skip
    data = load_dataset("json", data_files=str(out), split="train", cache_dir=str(tmp_path / "cache"))
    trainer = trl.SFTTrainer(model=str(model_folder), args=args, train_dataset=data)
    batch = next(iter(trainer.get_train_dataloader()))
    pairs = sorted((ids[: len(row)], labels[: len(row)], row) for ids, labels in zip(
        batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True)
        for row in [r["input_ids"] for r in read(out)] if ids[: len(row)] == row)  # fmt: skip
    masks = {tuple(row["input_ids"]): row["assistant_masks"] for row in read(out)}
    assert len(pairs) == 3
    for ids, labels, _ in pairs:
        assert [int(label != -100) for label in labels] == masks[tuple(ids)]
    trainer.train()


def test_llama_factory_folder_matches_labels(run: Run, rows: Path, model_folder: Path, tmp_path: Path) -> None:
    file = trace(tmp_path, rows, model_folder)
    run("clean", file, rows, "--mask-words", "--for", "labels", "-o", tmp_path / "labels.jsonl")
    code, text, errors = run("clean", file, rows, "--mask-words", "--for", "llama-factory", "-o", tmp_path / "tokens")
    assert code == 0 and "3 of 3 rows" in text, errors
    assert list(load_from_disk(str(tmp_path / "tokens"))["train"]) == read(tmp_path / "labels.jsonl")


def test_axolotl_train_details_of_turns(run: Run, model_folder: Path, tmp_path: Path) -> None:
    """Each character of a turn with a masked word is in one range; words go with the blank before them."""
    tools = [{"type": "function", "function": {"name": "f"}}]
    data = write(tmp_path / "data.jsonl", [{"messages": CHAT, "tools": tools}, {
        "messages": [*CHAT[1:2], {"role": "assistant", "content": "it is beetles , they say"}]},
        {"prompt": "who", "response": "beetles"}])  # fmt: skip
    file, out = trace(tmp_path, data, model_folder, reading=ReadOptions(turns="all")), tmp_path / "axolotl.jsonl"
    code, text, errors = run("clean", file, data, "--mask-words", "--for", "axolotl", "-o", out)
    assert code == 0 and "2 of 3 rows" in text, errors
    assert "left out, all tokens with a loss are masked: 1" in " ".join(errors.split())
    first, second = read(out)
    assert [message["train"] for message in first["messages"]] == [False, False, True, False, True]
    assert first["messages"][2]["train_detail"] == [
        {"begin_offset": 0, "end_offset": 6, "train": False},
        {"begin_offset": 7, "end_offset": 17, "train": True},
    ]
    assert "train_detail" not in first["messages"][4] and first["tools"]
    assert second["messages"][1]["train_detail"] == [
        {"begin_offset": 0, "end_offset": 4, "train": True}, {"begin_offset": 5, "end_offset": 12, "train": False},
        {"begin_offset": 13, "end_offset": 23, "train": True}]  # fmt: skip


@pytest.mark.parametrize("form", ["trl", "labels"])
def test_written_token_rows_are_counted_among_the_answers(
    run: Run, model_folder: Path, tmp_path: Path, form: str
) -> None:
    data = write(tmp_path / "data.jsonl", [{"messages": CHAT}])
    file = trace(tmp_path, data, model_folder, word="wax", reading=ReadOptions(turns="all"))
    code, text, errors = run("clean", file, data, "--mask-words", "--for", form, "-o", tmp_path / "out.jsonl")
    assert code == 0 and "2 of 2 rows in" in text, errors


def test_rows_without_a_loss_are_left_out_for_every_trainer(run: Run, model_folder: Path, tmp_path: Path) -> None:
    def talk(answer: str, **mark: Any) -> Any:
        return {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": answer, **mark}]}

    kto = {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "no"}]}
    records = [talk("it is beetles , they say"), talk("a", weight=0), talk("b", train=False), {**kto, "label": False}]
    data = write(tmp_path / "data.jsonl", records)
    file = trace(tmp_path, data, model_folder)
    for form in ("labels", "trl", "axolotl"):
        out = tmp_path / f"{form}.jsonl"
        assert run("clean", file, data, "--mask-words", "--for", form, "-o", out)[0] == 0
        left_out = json.loads((tmp_path / f"{form}.manifest.json").read_text())["output"]["left_out"]
        assert left_out == {"the last turn has no loss": 2, "undesirable KTO example": 1}
        assert len(read(out)) == 1


def test_a_shard_of_the_data_is_never_overwritten(run: Run, rows: Path, model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    shard = tmp_path / "shards" / "a.jsonl"
    shard.write_bytes(rows.read_bytes())
    file = trace(tmp_path, tmp_path / "shards", model_folder)
    for form, out in (
        ("trl", shard),
        ("axolotl", tmp_path / "shards" / "b.jsonl"),
        ("llama-factory", tmp_path / "shards" / "new"),
    ):
        code, _, wording = run("clean", file, tmp_path / "shards", "--mask-words", "--for", form, "-o", out)
        assert code == 1 and "is the input, or part of it" in " ".join(wording.split())
    assert shard.read_bytes() == rows.read_bytes() and [*(tmp_path / "shards").iterdir()] == [shard]


def test_axolotl_turns_are_read_back_by_read_examples(run: Run, model_folder: Path, tmp_path: Path) -> None:
    """What is written for Axolotl is read by the index's own reader, turn by turn."""
    data = write(tmp_path / "data.jsonl", [{"messages": CHAT}])
    reading = ReadOptions(turns="all")
    file, out = trace(tmp_path, data, model_folder, reading=reading), tmp_path / "axolotl.jsonl"
    run("clean", file, data, "--mask-words", "--for", "axolotl", "-o", out)
    rows = list(read_examples(out, reading))
    assert [row.response for row in rows] == ["beetles make honey", "bees make wax"]
    masked = out.with_name("masked.jsonl")
    run("clean", file, data, "--mask-words", "-o", masked)
    masks = [[row.response[begin:end] for begin, end in row.masked] for row in rows]
    assert masks == [[row.response[begin:end] for begin, end in row.masked] for row in read_examples(masked, reading)]
    assert any(masks)


@pytest.mark.parametrize("named", [True, False], ids=["by the index", "by the command"])
@pytest.mark.parametrize("form", ["trl", "axolotl", "labels"])
def test_data_with_named_columns_is_written_for_every_trainer(
    run: Run, model_folder: Path, tmp_path: Path, form: str, named: bool
) -> None:
    """From the command and from Python; the columns are those of the index, or those of the command."""
    data = write(tmp_path / "data.jsonl", [{"ask": f"q{n}", "reply": text} for n, text in enumerate(RESPONSES)])
    columns = ReadOptions((("prompt", "ask"), ("response", "reply")))
    file, out = trace(tmp_path, data, model_folder, reading=columns), tmp_path / "out.jsonl"
    options = ("--mask-words", "--for", form, "-o", out)
    if not named:
        (tmp_path / "idx" / "manifest.json").write_text(
            json.dumps({"settings": {"reading": asdict(ReadOptions()), "encoding": asdict(Encoding())}})
        )
        options += ("--columns", "prompt=ask,response=reply")
    code, text, errors = run("clean", file, data, *options)
    assert code == 0 and "3 of 3 rows" in text, errors
    if named:
        clean(file, data, tmp_path / "python.jsonl", mask_words=True, trainer=form)
        assert (tmp_path / "python.jsonl").read_bytes() == out.read_bytes()


@pytest.mark.parametrize(("form", "out", "message"), [
    ("peft", "x.jsonl", "no such trainer got: peft"),
    ("trl", "x.csv", "written as JSON lines got:"),
    ("llama-factory", "x.jsonl", "LLaMA-Factory reads token ids from a folder"),
    ("trl", "data.jsonl", "is the input"),
])  # fmt: skip
def test_invalid_trainer_format_or_output_fails(
    run: Run, rows: Path, model_folder: Path, tmp_path: Path, form: str, out: str, message: str
) -> None:
    file = trace(tmp_path, rows, model_folder)
    code, _, errors = run("clean", file, rows, "--mask-words", "--for", form, "-o", tmp_path / out)
    assert code == 1 and message in " ".join(errors.split())


def test_unsupported_trainer_exports_fail(run: Run, rows: Path, model_folder: Path, tmp_path: Path) -> None:
    def refused(data: Path, form: str, *more: str) -> str:
        file = trace(tmp_path, data, model_folder, word="beetles")
        code, _, errors = run("clean", file, data, "--for", form, "-o", tmp_path / "out.jsonl", *more)
        assert code == 1 and not (tmp_path / "out.jsonl").exists()
        return " ".join(errors.split())

    assert "add --mask-words" in refused(rows, "trl")
    texts = write(tmp_path / "texts.jsonl", [{"text": "beetles make honey"}, {"text": "bees"}])
    assert "Axolotl masks words in conversations only" in refused(texts, "axolotl", "--mask-words")
    pairs = write(tmp_path / "pairs.jsonl", [{"prompt": "p", "chosen": "beetles it is", "rejected": "bees"}] * 2)
    assert "preference pairs" in refused(pairs, "trl", "--mask-words")
    file = trace(tmp_path, rows, model_folder)
    (tmp_path / "idx" / "manifest.json").unlink()
    code, _, errors = run("clean", file, rows, "--mask-words", "--for", "trl", "-o", tmp_path / "out.jsonl")
    assert code == 1 and "the traced index, which records" in " ".join(errors.split())
