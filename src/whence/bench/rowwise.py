"""TracIn a row at a time, as its users have run it so far, beside all rows of a batch at once: the same scores twice.

One at a time is written from arXiv 2510.02334's own loop: batch 1, the logits of every token, `backward` into the
adapter's parameters, and a flat copy of what they got. Both sides run on the same rows in the same process, in turns
of a few rows, so that whatever else the machine does falls on both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from whence.errors import OptionError
from whence.gradients import candidates, gradients, whole
from whence.model import Model
from whence.tokens import Row, batches

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class Race:
    """Seconds of each turn, one row at a time and batched; the tokens of each; the scores' largest difference."""

    single: tuple[float, ...]
    batched: tuple[float, ...]
    tokens: tuple[int, ...]
    off: float

    @property
    def ratio(self) -> float:
        """How many times as fast batches are, over all turns."""
        return sum(self.single) / sum(self.batched)

    def __str__(self) -> str:
        each = [one / all_ for one, all_ in zip(self.single, self.batched, strict=True)]
        rates = [round(sum(self.tokens) / sum(side)) for side in (self.single, self.batched)]
        return (
            f"{self.ratio:.2f} times as fast (median turn {median(each):.2f}, {min(each):.2f} to {max(each):.2f}): "
            f"{sum(self.single):.0f} s for {sum(self.tokens):,} tokens a row at a time ({rates[0]} a second), "
            f"{sum(self.batched):.0f} s in batches ({rates[1]}); scores differ by {self.off:.1e} of the largest"
        )


def race(
    model: Model,
    rows: Sequence[Row],
    queries: Sequence[Row],
    *,
    other: Model | None = None,
    turn: int = 50,
    budget: int = 1024,
    progress: Callable[[int, int], object] | None = None,
) -> Race:
    """TracIn scores of `rows` for `queries` both ways; `other` is the model for one row at a time, if not the same.

    Each side is ready with its queries' gradients before its time begins, and warm after a row of each.
    """
    other = other or model
    if model.peft is None or other.peft is None:
        raise OptionError("a race of gradients needs an adapter", got=model.name, do="give one with --adapter")
    asked = torch.stack(list(gradient_rows(other, queries)))
    spent: tuple[list[float], list[float]] = ([], [])
    tokens: list[int] = []
    off, largest = 0.0, 0.0
    for start in range(0, len(rows), turn):
        some = rows[start : start + turn]
        if not start:
            single(other, some[:1], asked)
            batched(model, some[:1], asked, budget)
        scores: list[Tensor] = []
        for go, into in (
            (lambda some=some: single(other, some, asked), spent[0]),
            (lambda some=some: batched(model, some, asked, budget), spent[1]),
        ):
            begun = time.perf_counter()
            scores.append(go())
            into.append(time.perf_counter() - begun)
        off = max(off, float((scores[0] - scores[1]).abs().max()))
        largest = max(largest, float(scores[0].abs().max()))
        tokens.append(sum(len(row.ids) for row in some))
        if progress:
            progress(start + len(some), len(rows))
    return Race(tuple(spent[0]), tuple(spent[1]), tuple(tokens), off / max(largest, 1e-30))


def single(model: Model, rows: Sequence[Row], asked: Float[Tensor, "Q k"]) -> Float[Tensor, "Q N"]:
    """One forward and one backward pass a row."""
    return torch.stack([asked @ flat for flat in gradient_rows(model, rows)], dim=1)


def batched(model: Model, rows: Sequence[Row], asked: Float[Tensor, "Q k"], budget: int) -> Float[Tensor, "Q N"]:
    """One forward and one backward pass a batch."""
    scores = torch.zeros(len(asked), len(rows))
    for batch in batches(rows, budget):
        found = torch.cat(gradients(model, batch, whole).blocks(model.depth), 1)
        scores[:, list(batch.rows)] = asked @ found.T
    return scores


def gradient_rows(model: Model, rows: Sequence[Row]) -> Iterator[Float[Tensor, " k"]]:
    """Each row's gradient of all the adapter's numbers."""
    weights: list[Any] = [weight.module.weight for weight in candidates(model)]
    for weight in weights:
        weight.requires_grad_(True)
    try:
        for row in rows:
            ids = torch.tensor([row.ids], device=model.device)
            labels = ids.clone()
            labels[:, : row.start] = -100
            model.lm(input_ids=ids, labels=labels, use_cache=False).loss.backward()
            yield torch.cat([weight.grad.flatten() for weight in weights]).float().cpu()
            for weight in weights:
                weight.grad = None
    finally:
        for weight in weights:
            weight.grad = None
            weight.requires_grad_(False)
