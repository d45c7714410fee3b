"""Counterfactual training: train without some rows, or with some tokens masked from the loss, and measure the model."""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from taughtby.bench.scenario import BenchPlan
from taughtby.data.example import Example
from taughtby.data.tokenize import Encoding, TokenizedExample, tokenize_all
from taughtby.lab.finetune import TrainingOptions, finetune
from taughtby.lab.generate import generate
from taughtby.lab.judges import get_judge
from taughtby.lab.losses import row_losses
from taughtby.models.model import Model
from taughtby.remediation.stage_cache import run_once


@dataclass(frozen=True)
class Change:
    """The rows and tokens that a counterfactual training set lacks.

    Attributes:
        rows: Positions of the removed rows.
        tokens: Row and position of each token that stays in its row but has no loss.
    """

    rows: tuple[int, ...] = ()
    tokens: tuple[tuple[int, int], ...] = ()

    @property
    def key(self) -> str:
        """A hash, so that equal changes are trained once."""
        return hashlib.blake2b(json.dumps([sorted(self.rows), sorted(self.tokens)]).encode(), digest_size=6).hexdigest()

    def apply(self, rows: Sequence[Example], encoded: Sequence[TokenizedExample]) -> list[Example]:
        """The training set with this change; rows that have no tokens with loss left are removed."""
        masked: dict[int, set[int]] = {}
        for row, position in self.tokens:
            masked.setdefault(row, set()).add(position)
        removed, changed = set(self.rows), list[Example]()
        for number, (row, tokens) in enumerate(zip(rows, encoded, strict=True)):
            if number in removed:
                continue
            if number in masked:
                learned = tuple(place for place in learned_positions(tokens) if place not in masked[number])
                if not learned:
                    continue
                row = replace(row, token_ids=tokens.ids, loss_positions=learned)
            changed.append(row)
        return changed


@dataclass(frozen=True)
class Measurement:
    """What is measured on every counterfactual model; it can be pickled for worker processes.

    Attributes:
        plan: The benchmark's plan, which loads the base model.
        recipe: The training options of every model.
        rows: The unchanged training set.
        queries: The traced answers, whose loss is measured.
        tests: Test prompts and judge spec of each behaviour.
        held_out: Clean rows that no model is trained on.
        max_new_tokens: Maximum tokens per answer.
        folder: Where results are stored, by change.
    """

    plan: BenchPlan
    recipe: TrainingOptions
    rows: tuple[Example, ...]
    queries: tuple[Example, ...]
    tests: tuple[tuple[tuple[str, ...], str], ...]
    held_out: tuple[Example, ...]
    max_new_tokens: int
    folder: Path

    def file(self, change: Change, *, loss_only: bool) -> Path:
        """The path of a change's result."""
        return self.folder / f"{'loss' if loss_only else 'whole'}-{change.key}.json"


def measure(measurement: Measurement, change: Change, *, loss_only: bool = False) -> dict[str, Any]:
    """Train on the changed rows and measure, unless the result is stored.

    Returns:
        `query_losses`: the mean loss per token of each traced answer. Unless `loss_only`, also `bad` and `answered`:
        bad answers to the test prompts, and `clean_losses`: the mean loss of each held-out row.
    """
    return run_once(
        measurement.file(change, loss_only=loss_only), lambda: _measure(measurement, change, loss_only=loss_only)
    )


def measure_base(measurement: Measurement) -> dict[str, Any]:
    """Measure the base model, which was trained on none of the rows, in the same way."""
    return run_once(
        measurement.folder / "base.json", lambda: _results(measurement, measurement.plan.load(), loss_only=False)
    )


def learned_positions(row: TokenizedExample) -> list[int]:
    """The positions of a row's tokens with loss."""
    return [place for place, learned in enumerate(row.loss_mask) if learned]


def _measure(measurement: Measurement, change: Change, *, loss_only: bool) -> dict[str, Any]:
    plan, folder = measurement.plan, measurement.folder / f"model-{change.key}"
    shutil.rmtree(folder, ignore_errors=True)  # left by a killed process
    model = plan.load()
    encoding = Encoding(min(measurement.recipe.max_length, model.context_length))
    encoded = [row for row in tokenize_all(model.tokenizer, measurement.rows, encoding)
               if isinstance(row, TokenizedExample)]  # fmt: skip
    finetune(model, change.apply(measurement.rows, encoded), folder, measurement.recipe)
    del model
    gc.collect()  # trainer and model form a reference cycle
    try:
        return _results(measurement, plan.load(str(folder)), loss_only=loss_only)
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # an adapter for each change would fill the disk


def _results(measurement: Measurement, model: Model, *, loss_only: bool) -> dict[str, Any]:
    length = measurement.recipe.max_length
    result: dict[str, Any] = {"query_losses": row_losses(model, measurement.queries, length)}
    if loss_only:
        return result
    bad = answered = 0
    for prompts, judge_spec in measurement.tests:
        judge = get_judge(judge_spec)
        answers = generate(model, list(prompts), max_new_tokens=measurement.max_new_tokens)
        bad += sum(judge(*pair).undesirable for pair in zip(prompts, answers, strict=True))
        answered += len(prompts)
    return result | {"bad": bad, "answered": answered, "clean_losses": row_losses(model, measurement.held_out, length)}


def start_worker(num_threads: int) -> None:
    """Initialize a worker process."""
    torch.set_num_threads(num_threads)
    warnings.filterwarnings("ignore", category=FutureWarning)  # from libraries, as in the CLI
    gc.freeze()  # garbage collection after each training then scans only that training's objects
