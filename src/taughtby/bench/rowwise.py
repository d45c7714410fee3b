"""TracIn a row at a time, as its users have run it so far, beside all rows of a batch at once: the same scores twice.

One at a time is written from arXiv 2510.02334's own loop: batch 1, the logits of every token, `backward` into the
adapter's parameters, and a flat copy of what they got. Both sides run on the same rows in the same process, in turns
of a few batches, so that whatever else the machine does falls on both.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from taughtby.capture.projections import full_gradient
from taughtby.capture.weight_gradients import weight_gradients
from taughtby.capture.weights import candidate_weights
from taughtby.data.tokenize import Batch, Encoding, TokenizedExample, make_batches, tokenize_all
from taughtby.errors import OptionError
from taughtby.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from taughtby.data.example import Example

TURN = 6  # batches


@dataclass(frozen=True)
class Race:
    """Seconds of each turn so far, one row at a time and batched; its rows and their tokens.

    `off` is the scores' largest difference, `largest` the largest score.
    """

    single: tuple[float, ...] = ()
    batched: tuple[float, ...] = ()
    rows: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()
    off: float = 0.0
    largest: float = 0.0

    @property
    def ratio(self) -> float:
        """How many times as fast batches are, over all turns."""
        return sum(self.single) / sum(self.batched)

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self)

    @classmethod
    def from_json(cls, known: dict[str, Any]) -> Race:
        """As `to_json` wrote it."""
        turns = {name: tuple(known[name]) for name in ("single", "batched", "rows", "tokens")}
        return cls(**turns, off=float(known["off"]), largest=float(known["largest"]))

    def __str__(self) -> str:
        each = [one / all_ for one, all_ in zip(self.single, self.batched, strict=True)]
        rates = [round(sum(self.tokens) / sum(side)) for side in (self.single, self.batched)]
        return (
            f"{sum(self.rows):,} rows: {self.ratio:.2f} times as fast "
            f"(median turn {median(each):.2f}, {min(each):.2f} to {max(each):.2f}): "
            f"{sum(self.single):.0f} s for {sum(self.tokens):,} tokens a row at a time ({rates[0]} a second), "
            f"{sum(self.batched):.0f} s in batches ({rates[1]}); "
            f"scores differ by {self.off / max(self.largest, 1e-30):.1e} of the largest"
        )


def race(
    model: Model,
    rows: Sequence[TokenizedExample],
    queries: Sequence[TokenizedExample],
    *,
    other: Model | None = None,
    budget: int = 1024,
    before: Race | None = None,
) -> Iterator[Race]:
    """TracIn scores of `rows` for `queries` both ways: the race as it stands after each turn.

    `other` is the model for one row at a time, if not the same. Batches are cut from all rows together, as an index
    cuts its windows, and dealt to the turns. Each side is ready with its queries' gradients before its time begins,
    and warm after a row of each. What `before` has of the same race is not run again.
    """
    other = other or model
    if model.peft is None or other.peft is None:
        raise OptionError("a race of gradients needs an adapter", got=model.name, do="give one with --adapter")
    asked = torch.stack(list(gradient_rows(other, queries)))
    cut = list(make_batches(rows, budget))
    turns = -(-len(cut) // TURN)
    so_far = before or Race()
    single(other, rows[:1], asked)
    batched(model, list(make_batches(rows[:1], budget)), asked)
    for turn in range(len(so_far.tokens), turns):
        share = cut[turn::turns]
        some = [rows[at] for batch in share for at in batch.row_indices]
        begun = time.perf_counter()
        one = single(other, some, asked)
        between = time.perf_counter()
        two = batched(model, share, asked)
        ended = time.perf_counter()
        so_far = Race(
            single=(*so_far.single, between - begun),
            batched=(*so_far.batched, ended - between),
            rows=(*so_far.rows, len(some)),
            tokens=(*so_far.tokens, sum(len(row.ids) for row in some)),
            off=max(so_far.off, float((one - two).abs().max())),
            largest=max(so_far.largest, float(one.abs().max())),
        )
        yield so_far


def drawn(
    tokenizer: Any, examples: Sequence[Example], encoding: Encoding, count: int, seed: int = 0
) -> list[TokenizedExample]:
    """Up to `count` of the rows that can be used, in a random order."""
    usable = [row for row in tokenize_all(tokenizer, examples, encoding) if isinstance(row, TokenizedExample)]
    return random.Random(seed).sample(usable, min(count, len(usable)))


def single(model: Model, rows: Sequence[TokenizedExample], asked: Float[Tensor, "Q k"]) -> Float[Tensor, "Q N"]:
    """One forward and one backward pass a row."""
    return torch.stack([asked @ flat for flat in gradient_rows(model, rows)], dim=1)


def batched(model: Model, share: Sequence[Batch], asked: Float[Tensor, "Q k"]) -> Float[Tensor, "Q N"]:
    """One forward and one backward pass a batch; the scores in the order of the batches' rows."""
    found = (torch.cat(weight_gradients(model, batch, full_gradient).blocks(model.depth), 1) for batch in share)
    return torch.cat([asked @ some.T for some in found], dim=1)


def gradient_rows(model: Model, rows: Sequence[TokenizedExample]) -> Iterator[Float[Tensor, " k"]]:
    """Each row's gradient of all the adapter's numbers."""
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
