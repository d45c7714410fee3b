"""Batches of tokenized examples, padded, with a bounded number of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from taughtby.data.tokenize import TokenizedExample

if TYPE_CHECKING:
    from jaxtyping import Bool, Int, Shaped
    from torch import Tensor

BATCH_OVERHEAD = 1 / 32  # fixed cost of a batch as a share of its budget (measured: 29 to 39 of 1,024 tokens)


Side = Literal["left", "right"]


@dataclass(frozen=True)
class Batch:
    """B rows padded to T tokens.

    Attributes:
        ids: Token ids.
        attention_mask: False for padding.
        last_prompt_position: p, the position of each row's last prompt token, which predicts y_1.
        n_loss: n, the number of loss positions: the response, and the `n_prompt_loss` tokens before it.
        row_indices: The positions of these rows in the sequence that was passed in.
        n_prompt_loss: q, the number of prompt tokens with a loss; 0 unless prompts are trained on.
        masked: Tokens without a loss.
    """

    ids: Int[Tensor, "B T"]
    attention_mask: Bool[Tensor, "B T"]
    last_prompt_position: Int[Tensor, " B"]
    n_loss: Int[Tensor, " B"]
    row_indices: tuple[int, ...]
    n_prompt_loss: Int[Tensor, " B"]
    masked: Bool[Tensor, "B T"]

    @cached_property
    def loss_mask(self) -> Bool[Tensor, "B R"]:
        """Whether each of the R = max(n) loss positions exists in its row and is not masked."""
        has = torch.arange(int(self.n_loss.max()), device=self.n_loss.device) < self.n_loss[:, None]
        return has & ~self.masked.gather(1, self.loss_positions + 1)

    @cached_property
    def loss_positions(self) -> Int[Tensor, "B R"]:
        """The n positions p-q … p-q+n-1, which predict the tokens with a loss; beyond n, the last one is repeated."""
        steps = torch.arange(int(self.n_loss.max()), device=self.n_loss.device)
        return (self.last_prompt_position - self.n_prompt_loss)[:, None] + torch.minimum(
            steps, self.n_loss[:, None] - 1
        )

    @cached_property
    def targets(self) -> Int[Tensor, "B R"]:
        """The tokens that the loss positions predict; without prompt loss, y_1 … y_n."""
        return self.ids.gather(1, self.loss_positions + 1)

    def at_last_prompt_token(self, values: Shaped[Tensor, "B R d"]) -> Shaped[Tensor, "B d"]:
        """Select the values at p, which predicts the first response token, from values at the R loss positions."""
        first = self.n_prompt_loss.to(values.device, non_blocking=True)
        return values[torch.arange(len(values), device=values.device), first]

    def map(self, change: Callable[[Tensor], Tensor], rows: tuple[int, ...] | None = None) -> Batch:
        """Return the batch with `change` applied to every tensor; `rows` are the remaining indices, by default all."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        parts = {name: change(part) for name, part in own.items() if isinstance(part, torch.Tensor)}
        return replace(self, **parts, row_indices=self.row_indices if rows is None else rows)


def collate(rows: Sequence[TokenizedExample], order: Sequence[int], *, side: Side = "right") -> Batch:
    """Pad rows into one Batch. Padding has id 0 and is masked."""
    lengths = np.array([len(row.ids) for row in rows])
    width = int(lengths.max())
    offsets = width - lengths if side == "left" else np.zeros_like(lengths)
    columns = np.arange(width)
    mask = (columns >= offsets[:, None]) & (columns < (offsets + lengths)[:, None])
    ids, masked = np.zeros(mask.shape, np.int64), np.zeros(mask.shape, np.bool_)
    ids[mask] = np.fromiter(chain.from_iterable(row.ids for row in rows), np.int64, int(lengths.sum()))
    for place, row in enumerate(rows):
        if row.masked:
            masked[place, offsets[place] + np.array(row.masked)] = True
    prompts, answers, ahead = np.array([(row.n_prompt, row.n_response, row.n_prompt_loss) for row in rows]).T
    last, n, ahead = (torch.from_numpy(part) for part in (offsets + prompts - 1, answers + ahead, ahead.copy()))
    ids, mask, masked = (torch.from_numpy(part) for part in (ids, mask, masked))
    return Batch(ids, mask, last, n, tuple(order), ahead, masked)


def make_batches(
    rows: Sequence[TokenizedExample], token_budget: int, *, side: Side = "right", prompts_only: bool = False
) -> Iterator[Batch]:
    """Yield all rows, sorted by length, in batches of at most `token_budget` padded tokens or of one longer row.

    The batch boundaries minimize the padding plus a fixed cost per batch. With `prompts_only`, the lengths are those
    of the prompts.
    """
    lengths = [row.n_prompt if prompts_only else len(row.ids) for row in rows]
    order = sorted(range(len(rows)), key=lengths.__getitem__)
    for start, stop in _batch_ranges([lengths[position] for position in order], token_budget):
        chosen = order[start:stop]
        yield collate([rows[i] for i in chosen], chosen, side=side)


def _batch_ranges(lengths: Sequence[int], budget: int) -> list[tuple[int, int]]:
    """Find the cheapest partition of sorted lengths by dynamic programming; return start and stop of each batch."""
    least, origin = np.zeros(len(lengths) + 1), np.zeros(len(lengths) + 1, dtype=int)
    for stop, width in enumerate(lengths, 1):
        first = max(0, min(stop - 1, stop - budget // width))
        costs = least[first:stop] + width * np.arange(stop - first, 0, -1)
        best = int(costs.argmin())
        least[stop], origin[stop] = costs[best] + budget * BATCH_OVERHEAD, first + best
    ranges, stop = list[tuple[int, int]](), len(lengths)
    while stop:
        ranges.append((int(origin[stop]), stop))
        stop = int(origin[stop])
    return ranges[::-1]


def split_in_two(batch: Batch) -> Iterable[Batch]:
    """Yield the two halves of a batch that did not fit into memory."""
    for part in torch.arange(len(batch.row_indices)).chunk(2):
        yield batch.map(lambda tensor, at=part: tensor[at.to(tensor.device)], tuple(batch.row_indices[i] for i in part))
