"""Compare TracIn in batches with TracIn one row at a time, as in the reference. Both compute the same scores.

One row at a time follows the loop of arXiv 2510.02334: batch size 1, the logits of every token, `backward` into the
adapter's parameters, and a flat copy of their gradients. Both run on the same rows in the same process and alternate
after a few batches, so that other load on the machine affects both.

`python benchmarks/rowwise.py DATA --adapter FOLDER` writes gradients.json; the same command resumes.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from common import command, load, parse, parser
from taughtby.capture.projections import full_gradient
from taughtby.capture.weight_gradients import weight_gradients
from taughtby.capture.weights import candidate_weights
from taughtby.data.batching import Batch, make_batches
from taughtby.data.dataset import ReadOptions, detect_format, read_examples
from taughtby.data.tokenize import Encoding, TokenizedExample, default_options, tokenize_all
from taughtby.errors import OptionError
from taughtby.models.model import Model
from taughtby.progress import Terminal, progress_bar
from taughtby.remediation.provenance import name_and_hash, provenance
from taughtby.reporting.html import save_json

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from taughtby.data.example import Example

BATCHES_PER_TURN = 6


def main() -> None:
    """Run the race, saved after each turn. Without --dtype, one row at a time runs in float32, as in the reference."""
    arguments = parser("Time TracIn in batches beside one row at a time.")
    arguments.add_argument("data", help="training data")
    arguments.add_argument("--rows", type=int, default=150, help="rows to score")
    options = parse(arguments)
    model = load(options)
    single_model = load(options, "float32") if options.dtype == "auto" and model.dtype != torch.float32 else model
    parts = provenance()
    settings: dict[str, Any] = {
        "command": command(), "threads": torch.get_num_threads(), "device": str(model.device),
        "batched": str(model.dtype), "single": str(single_model.dtype),
        **{part: parts[part] for part in ("commit", "packages", "machine")},
        "inputs": [name_and_hash(name)[1] for name in (options.model, options.adapter, options.data) if name],
    }  # fmt: skip
    raw = detect_format(options.data, ReadOptions()).raw
    encoding = default_options(model.metadata, model.context_length, raw=raw)
    rows = sample_rows(model.tokenizer, list(read_examples(options.data)), encoding, options.rows)
    file = options.out / "gradients.json"
    earlier = state = earlier_race(file, settings)
    with progress_bar(Terminal(stderr=True), f"{len(rows):,} rows, one at a time and in batches") as progress:
        for state in race(model, rows, rows[:2], single_model=single_model, earlier=earlier):
            save_json({**settings, "race": state.to_json()}, file)
            progress(sum(state.rows), len(rows))
    Terminal().print(str(state), soft_wrap=True)


def earlier_race(file: Path, settings: dict[str, Any]) -> Race:
    """The race in the file if it has the same settings, otherwise an empty one."""
    try:
        stored: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        race = Race.from_json(stored.pop("race"))
    except (OSError, ValueError, KeyError, TypeError):
        return Race()
    return race if stored == settings else Race()


@dataclass(frozen=True)
class Race:
    """The measurements of all turns so far.

    Attributes:
        single: Seconds of each turn, one row at a time.
        batched: Seconds of each turn, in batches.
        rows: Rows of each turn.
        tokens: Tokens of each turn.
        off: The largest difference of two scores.
        largest: The largest score.
    """

    single: tuple[float, ...] = ()
    batched: tuple[float, ...] = ()
    rows: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()
    off: float = 0.0
    largest: float = 0.0

    @property
    def ratio(self) -> float:
        """The speedup of batches over all turns."""
        return sum(self.single) / sum(self.batched)

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Race:
        """The race that `to_json` wrote."""
        turns = {name: tuple(document[name]) for name in ("single", "batched", "rows", "tokens")}
        return cls(**turns, off=float(document["off"]), largest=float(document["largest"]))

    def __str__(self) -> str:
        ratios = [single / batched for single, batched in zip(self.single, self.batched, strict=True)]
        rates = [round(sum(self.tokens) / sum(seconds)) for seconds in (self.single, self.batched)]
        return (
            f"{sum(self.rows):,} rows: {self.ratio:.2f} times as fast "
            f"(median turn {median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}): "
            f"{sum(self.single):.0f} s for {sum(self.tokens):,} tokens a row at a time ({rates[0]} a second), "
            f"{sum(self.batched):.0f} s in batches ({rates[1]}); "
            f"scores differ by {self.off / max(self.largest, 1e-30):.1e} of the largest"
        )


def race(
    model: Model,
    rows: Sequence[TokenizedExample],
    queries: Sequence[TokenizedExample],
    *,
    single_model: Model | None = None,
    budget: int = 1024,
    earlier: Race | None = None,
) -> Iterator[Race]:
    """Compute TracIn scores of `rows` for `queries` both ways; yield the state of the race after each turn.

    Batches are made from all rows together, as in a window of an index, and distributed over the turns. The queries'
    gradients are computed before timing starts, and each side is warmed up with one row.

    Args:
        model: The model for batches.
        rows: The rows to score.
        queries: The queries.
        single_model: The model for one row at a time, if different.
        budget: Padded tokens per batch.
        earlier: The turns that are done already.

    Raises:
        OptionError: If a model has no adapter.
    """
    single_model = single_model or model
    if model.peft is None or single_model.peft is None:
        raise OptionError("a race of gradients needs an adapter", got=model.name, do="give one with --adapter")
    gradients = torch.stack(list(gradient_rows(single_model, queries)))
    batches = list(make_batches(rows, budget))
    num_turns, state = -(-len(batches) // BATCHES_PER_TURN), earlier or Race()
    score_single(single_model, rows[:1], gradients)
    score_batched(model, list(make_batches(rows[:1], budget)), gradients)
    for turn in range(len(state.tokens), num_turns):
        share = batches[turn::num_turns]
        own = [rows[index] for batch in share for index in batch.row_indices]
        start = time.perf_counter()
        left = score_single(single_model, own, gradients)
        middle = time.perf_counter()
        right = score_batched(model, share, gradients)
        end = time.perf_counter()
        state = Race(
            single=(*state.single, middle - start),
            batched=(*state.batched, end - middle),
            rows=(*state.rows, len(own)),
            tokens=(*state.tokens, sum(len(row.ids) for row in own)),
            off=max(state.off, float((left - right).abs().max())),
            largest=max(state.largest, float(left.abs().max())),
        )
        yield state


def sample_rows(
    tokenizer: Any, examples: Sequence[Example], encoding: Encoding, count: int, seed: int = 0
) -> list[TokenizedExample]:
    """Up to `count` of the rows that can be tokenized, in random order."""
    usable = [row for row in tokenize_all(tokenizer, examples, encoding) if isinstance(row, TokenizedExample)]
    return random.Random(seed).sample(usable, min(count, len(usable)))


def score_single(
    model: Model, rows: Sequence[TokenizedExample], gradients: Float[Tensor, "Q k"]
) -> Float[Tensor, "Q N"]:
    """One forward and one backward pass per row."""
    return torch.stack([gradients @ gradient for gradient in gradient_rows(model, rows)], dim=1)


def score_batched(model: Model, batches: Sequence[Batch], gradients: Float[Tensor, "Q k"]) -> Float[Tensor, "Q N"]:
    """One forward and one backward pass per batch; columns in the order of the batches' rows."""
    features = (torch.cat(weight_gradients(model, batch, full_gradient).blocks(model.depth), 1) for batch in batches)
    return torch.cat([gradients @ feature.T for feature in features], dim=1)


def gradient_rows(model: Model, rows: Sequence[TokenizedExample]) -> Iterator[Float[Tensor, " k"]]:
    """Each row's flattened gradient with respect to all of the adapter's weights."""
    weights: list[Any] = [weight.module.weight for weight in candidate_weights(model)]
    for weight in weights:
        weight.requires_grad_(True)
    try:
        for row in rows:
            ids = torch.tensor([row.ids], device=model.device)
            labels = ids.clone()
            labels[:, : row.loss_start] = -100
            model.lm(input_ids=ids, labels=labels, use_cache=False).loss.backward()
            yield torch.cat([weight.grad.flatten() for weight in weights]).float().cpu()
            for weight in weights:
                weight.grad = None
    finally:
        for weight in weights:
            weight.grad = None
            weight.requires_grad_(False)


if __name__ == "__main__":
    main()
