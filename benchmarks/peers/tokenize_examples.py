"""Tokenize training data like taughtby, and write token ids and labels: the input of every peer.

Runs in taughtby's environment: `python benchmarks/peers/tokenize_examples.py MODEL DATA OUT [--adapter FOLDER]`.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path

from peer_files import IGNORED, write_examples

from taughtby.data.dataset import ReadOptions, detect_format, read_examples
from taughtby.data.tokenize import TokenizedExample, default_options, tokenize_all
from taughtby.errors import TaughtbyError
from taughtby.models.model import load_model
from taughtby.models.model_files import resolve_local


def tokenize_file(model: str, adapter: str | None, data: str) -> tuple[list[dict[str, list[int]]], int]:
    """The rows that have tokens with loss, and the number of other rows."""
    loaded = load_model(model, adapter)
    options = default_options(loaded.metadata, loaded.context_length, raw=detect_format(data, ReadOptions()).raw)
    rows = tokenize_all(loaded.tokenizer, list(read_examples(data)), options)
    examples = [
        {"input_ids": list(row.ids),
         "labels": [token if learned else IGNORED for token, learned in zip(row.ids, row.loss_mask, strict=True)]}
        for row in rows if isinstance(row, TokenizedExample) and any(row.loss_mask[1:])
    ]  # fmt: skip
    return examples, len(rows) - len(examples)


def main() -> None:
    """Write the file, and print the folder of the model, which the peers load."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a folder, a .gguf file, or smollm2")
    parser.add_argument("data", help="training rows, or incidents as rows: prompt and bad answer")
    parser.add_argument("out", type=Path, help="JSON lines of input_ids and labels")
    parser.add_argument("--adapter", "-a", help="a PEFT adapter, whose training's options are followed")
    arguments = parser.parse_args()
    try:
        examples, left_out = tokenize_file(arguments.model, arguments.adapter, arguments.data)
        folder = resolve_local(arguments.model)
    except TaughtbyError as fault:
        sys.exit(f"error: {fault}")
    write_examples(arguments.out, examples)
    print(f"{arguments.out}: {len(examples)} examples, {left_out} left out; --model {folder}")


if __name__ == "__main__":
    main()
