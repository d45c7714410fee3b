"""Score rows and tokens with dattri-llm: EK-FAC, K-FAC, gradient cosine, TracIn at one checkpoint.

Runs in dattri-llm's own environment; see README.md.
"""

from __future__ import annotations

import tempfile
import time
from argparse import Namespace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from dattri_llm import (
    AttributionArguments,
    AttributionScore,
    AttributionTask,
    EKFACAttributor,
    HookManagerConfig,
    KFACAttributor,
    TracInAttributor,
)
from peer_files import IGNORED, align_tokens, folder_bytes, make_parser, read_examples, write_scores
from peft import PeftModel
from transformers import AutoModelForCausalLM

ATTRIBUTORS = {"ekfac": EKFACAttributor, "kfac": KFACAttributor, "cosine": TracInAttributor, "tracin": TracInAttributor}


def parse_options() -> Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__ or "", sorted(ATTRIBUTORS))
    parser.add_argument("--damping", type=float, default=0.1, help="kfac, ekfac: share of the mean eigenvalue")
    parser.add_argument("--batch-size", type=int, default=8, help="examples a pass")
    return parser.parse_args()


def load_model(model: Path, adapter: Path) -> PeftModel:
    """The fine-tuned model; only the adapter is trainable."""
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    return PeftModel.from_pretrained(base, adapter, is_trainable=True).eval()


def sum_losses(model: PeftModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The loss summed over tokens, so that an example's gradient does not depend on its batch."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    labels = batch["labels"][:, 1:].reshape(-1)
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels, ignore_index=IGNORED, reduction="sum")


def pad(examples: list[dict[str, list[int]]]) -> list[dict[str, torch.Tensor]]:
    """Pad examples to the same length."""
    length = max(len(example["input_ids"]) for example in examples)

    def fill(values: list[int], filler: int) -> torch.Tensor:
        return torch.tensor(values + [filler] * (length - len(values)))

    return [
        {"input_ids": fill(example["input_ids"], 0), "labels": fill(example["labels"], IGNORED),
         "attention_mask": fill([1] * len(example["input_ids"]), 0)}
        for example in examples
    ]  # fmt: skip


class StageClock:
    """Measures the time to fit the rows separately from the time to score."""

    def __init__(self, attributor: Any) -> None:
        self.fit_seconds, self.start = 0.0, time.perf_counter()
        self._prepare, attributor.prepare_scoring = attributor.prepare_scoring, self._timed

    def _timed(self, *sources: Any) -> None:
        begin = time.perf_counter()
        self._prepare(*sources)
        self.fit_seconds += time.perf_counter() - begin

    def read(self) -> dict[str, float]:
        """The seconds by step."""
        return {"index": self.fit_seconds, "query": time.perf_counter() - self.start - self.fit_seconds}


def attribute(options: Namespace, granularity: str, work: Path) -> tuple[AttributionScore, dict[str, float], dict]:
    """Run one method; return its scores, seconds and options."""
    model = load_model(options.model, options.adapter)
    arguments = AttributionArguments(output_dir=str(work), per_device_train_batch_size=options.batch_size,
                                     per_device_eval_batch_size=options.batch_size)  # fmt: skip
    attributor = ATTRIBUTORS[options.method](arguments, task=AttributionTask(sum_losses, model))
    settings: dict[str, Any] = {"attribution_granularity": granularity}
    if options.method in ("ekfac", "kfac"):
        settings |= {"damping": options.damping, "relative_damping": True}
    else:
        settings |= {"normalized_grad": options.method == "cosine"}
    rows, queries = pad(read_examples(options.rows)), pad(read_examples(options.queries))
    clock = StageClock(attributor)
    result = attributor.attribute(rows, queries, hook_config=HookManagerConfig(linear_io=["lora_"]), **settings)
    return result, clock.read(), {**settings, "batch_size": options.batch_size}


def main() -> None:
    """Score in a temporary folder, or in `--work`, which is kept."""
    options = parse_options()
    rows, num_queries = read_examples(options.rows), len(read_examples(options.queries))
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch)
        result, seconds, settings = attribute(options, "token" if options.tokens else "instance", work)
        stored = folder_bytes(work)
    scores, tokens = result.scores.double(), None  # in the order of the rows, since scoring does not shuffle
    assert scores.shape[1] == num_queries, scores.shape
    if options.tokens:
        grid = scores.reshape(len(rows), -1, num_queries)
        assert (result.row_token_ids or [])[: grid.shape[1]] == list(range(grid.shape[1]))
        tokens = [
            [
                align_tokens(positions.tolist(), len(row["input_ids"]))
                for row, positions in zip(rows, of_query, strict=True)
            ]
            for of_query in grid.permute(2, 0, 1)
        ]
        scores = grid.sum(1)
    write_scores(options.out, tool="dattri-llm", version=version("dattri-llm"), method=options.method,
                 options=settings, rows=scores.T.tolist(), tokens=tokens, seconds=seconds, stored=stored)  # fmt: skip


if __name__ == "__main__":
    main()
