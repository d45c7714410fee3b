"""Write training data with masked words in the formats that trainers read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa

from taughtby.data.chat_template import SkippedRow
from taughtby.data.dataset import ReadOptions, detect_format
from taughtby.data.example import CharRanges, Example, Message, Record
from taughtby.data.files import atomic_path
from taughtby.data.rewrite import check_apart
from taughtby.data.row_sources import record_source
from taughtby.data.tokenize import Encoding, TokenizedExample, chunk_rows, tokenize_all
from taughtby.errors import DataError, OptionError
from taughtby.models.loading import load_tokenizer
from taughtby.remediation.clean import CleaningPlan
from taughtby.remediation.trace_file import Document, encoding_of, read_options_of

IGNORED = -100  # label of a token without loss, in PyTorch's cross-entropy
_SCHEMA = pa.schema({"input_ids": pa.list_(pa.int32()), "attention_mask": pa.list_(pa.int8()),
                     "labels": pa.list_(pa.int64())})  # fmt: skip


def trainer_writer(
    name: str, trace: Document, data: str, out: Path, read_options: ReadOptions | None = None
) -> Callable[[CleaningPlan, Path], Document]:
    """Return the function with which `write_cleaned` writes a cleaning plan in a trainer's format.

    Args:
        name: `trl`, `axolotl`, `llama-factory`, or `labels` for rows of token ids and labels.
        trace: The trace's document; its model and index determine how rows are tokenized.
        data: The data that was traced.
        out: The file or folder to write.
        read_options: How `data` is read; by default as the traced index read it.

    Raises:
        OptionError: If the trainer is unknown or cannot express the masks, or `out` has the wrong type for it.
    """
    if name not in WRITERS:
        raise OptionError("no such trainer", got=name, do=f"choose one of: {', '.join(WRITERS)}")
    _check_out(name, data, out)
    encoding = encoding_of(trace)
    if name == "axolotl":
        if detect_format(data, read_options or read_options_of(trace)).raw:
            raise OptionError("Axolotl masks words in conversations only", got="plain texts",
                              do="write token ids with --for labels, which Axolotl reads as well")  # fmt: skip
        return lambda plan, draft: _write_turns(plan, draft, encoding or Encoding())
    if encoding is None:
        raise OptionError("the traced index, which records how rows are tokenized, was not found",
                          got=str(trace.get("index")), do="restore it, or trace again")  # fmt: skip
    adapters = trace.get("adapter") or ()
    tokenizer = load_tokenizer(str(trace["model"]), (adapters,) if isinstance(adapters, str) else tuple(adapters))
    tokens = Tokens(tokenizer, encoding)
    return lambda plan, draft: WRITERS[name](tokens, plan, draft)


def _check_out(name: str, data: str, out: Path) -> None:
    folder = name == "llama-factory"
    if folder and (out.is_file() or out.suffix or (out.is_dir() and any(out.iterdir()))):
        raise OptionError("LLaMA-Factory reads token ids from a folder", got=str(out), do="give a new folder")
    if not folder and out.suffix != ".jsonl":
        raise OptionError("the rows are written as JSON lines", got=str(out), do=f"name it {out.stem}.jsonl")
    check_apart(data, out)


@dataclass
class Tokens:
    """Tokenizes rows like the traced index."""

    tokenizer: Any
    encoding: Encoding

    def rows(self, plan: CleaningPlan, left_out: Counter[str]) -> Iterator[TokenizedExample]:
        """Yield each usable example of the data, tokenized; count the others in `left_out` by reason."""
        for chunk in chunk_rows(_refuse_preferences(plan.masked_examples())):
            for row in tokenize_all(self.tokenizer, chunk, self.encoding):
                if isinstance(row, SkippedRow):
                    left_out[row.reason.partition(":")[0]] += 1
                else:
                    yield row


def _refuse_preferences(rows: Iterable[Example]) -> Iterator[Example]:
    for row in rows:
        if row.rejected is not None:
            do = "remove the rows, without --mask-words"
            raise DataError(f"{row.source}: no trainer reads masks in preference pairs", do=do)
        yield row


def labelled(row: TokenizedExample) -> Record:
    """Token ids and labels, as Transformers' collators expect them."""
    labels = [token if learned else IGNORED for token, learned in zip(row.ids, row.loss_mask, strict=True)]
    return {"input_ids": list(row.ids), "attention_mask": [1] * len(row.ids), "labels": labels}


def trl_masked(row: TokenizedExample) -> Record:
    """Token ids and TRL's mask of tokens with loss, which applies regardless of its loss options."""
    return {"input_ids": list(row.ids), "assistant_masks": [int(learned) for learned in row.loss_mask]}


def _write_lines(rows: Iterable[Record], out: Path) -> int:
    count = 0
    with atomic_path(out, DataError) as draft, draft.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for count, row in enumerate(rows, 1):  # noqa: B007
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return count


def _write_tokens(
    record: Callable[[TokenizedExample], Record], description: str, tokens: Tokens, plan: CleaningPlan, out: Path
) -> Document:
    left_out: Counter[str] = Counter()
    count = _write_lines(map(record, tokens.rows(plan, left_out)), out)
    return {"records": count, "left_out": dict(left_out), "kept": description}


def _write_folder(tokens: Tokens, plan: CleaningPlan, out: Path) -> Document:
    """Write a DatasetDict with the split `train`, which LLaMA-Factory loads as its `tokenized_path`."""
    from datasets import Dataset, DatasetDict, disable_progress_bars

    left_out: Counter[str] = Counter()
    disable_progress_bars()
    batches = [pa.RecordBatch.from_pylist([labelled(row)], _SCHEMA) for row in tokens.rows(plan, left_out)]
    table: Any = pa.Table.from_batches(batches, _SCHEMA).combine_chunks()
    with atomic_path(out, DataError) as draft:
        DatasetDict({"train": Dataset(table)}).save_to_disk(str(draft))
    return {
        "records": len(table),
        "left_out": dict(left_out),
        "kept": "token ids and labels, as LLaMA-Factory saves them",
    }


def _write_turns(plan: CleaningPlan, out: Path, encoding: Encoding) -> Document:
    """Write conversations whose turns say whether they are trained on, and which of their characters are not."""
    left_out: Counter[str] = Counter()

    def rows() -> Iterator[Record]:
        examples = _refuse_preferences(plan.masked_examples())
        for _, group in groupby(examples, record_source):
            turns = list(group)
            last = turns[-1]
            trained = {len(row.messages) - 1: row for row in turns}
            mask = "response" if last.no_loss else encoding.mask  # nothing of a row without a loss is trained on
            messages = [
                _with_train_flags(message, trained.get(number), mask) for number, message in enumerate(last.messages)
            ]
            if not any(message["train"] for message in messages):
                left_out[last.no_loss.partition(":")[0] or "all tokens with a loss are masked"] += 1
                continue
            yield {"messages": messages} | ({"tools": list(last.tools)} if last.tools else {})

    count = _write_lines(rows(), out)
    return {
        "records": count,
        "left_out": dict(left_out),
        "kept": "conversations with train and train_detail, as Axolotl reads them",
    }


def _with_train_flags(message: Message, row: Example | None, mask: str) -> Record:
    """A message with Axolotl's flags; `row` is the example whose answer it is."""
    plain = {key: value for key, value in message.items() if key not in ("train", "weight", "train_detail")}
    if row is None or row.no_loss:
        return {**plain, "train": row is None and mask == "all"}
    learned = "".join(row.response[begin:end] for begin, end in _complement(row.masked, len(row.response)))
    if row.masked and learned.strip() and not message["content"]:
        do = "write token ids with --for labels, which Axolotl reads as well"
        raise DataError(f"{row.source}: Axolotl cannot mask words of a tool call", do=do)
    if not row.masked or not learned.strip():
        return {**plain, "train": not row.masked}
    return {**plain, "train": True, "train_detail": _details(message["content"], row.masked)}


def _details(text: str, masked: CharRanges) -> list[Record]:
    """Axolotl's ranges of a text, with inclusive ends: `train` is False for the masked ones and True for the rest.

    The space before a masked word is masked too, since most tokenizers put both in one token.
    """
    wide = tuple((len(text[:begin].rstrip()), end) for begin, end in masked)
    ranges = [*((*part, False) for part in wide), *((*part, True) for part in _complement(wide, len(text)))]
    return [{"begin_offset": begin, "end_offset": end - 1, "train": train} for begin, end, train in sorted(ranges)]


def _complement(ranges: CharRanges, length: int) -> list[tuple[int, int]]:
    """The ranges between and around the given ones."""
    ends = [0, *(end for _, end in ranges)]
    begins = [*(begin for begin, _ in ranges), length]
    return [(begin, end) for begin, end in zip(ends, begins, strict=True) if begin < end]


WRITERS: dict[str, Callable[[Tokens, CleaningPlan, Path], Document]] = {
    "trl": partial(_write_tokens, trl_masked, "token ids and assistant_masks, as TRL reads them"),
    "axolotl": lambda tokens, plan, out: _write_turns(plan, out, tokens.encoding),
    "llama-factory": _write_folder,
    "labels": partial(_write_tokens, labelled, "token ids and labels, with -100 for tokens without loss"),
}
