"""Tokenized examples as padded batches of a bounded number of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from taughtby.data.tokenize import TokenizedExample

if TYPE_CHECKING:
    from jaxtyping import Bool, Int, Shaped
    from torch import Tensor

BATCH_OVERHEAD = 1 / 32  # of its budget: what a batch costs beside its tokens (measured: 29 to 39 tokens of 1,024)


Side = Literal["left", "right"]


@dataclass(frozen=True)
class Batch:
    """B rows padded to T tokens; `last` is p, the place of each row's last prompt token, which predicts y_1.

    The `n` learned tokens are the answer and the `answer` tokens before it, none unless prompts were learned too.
    `rows` says which of the given rows these are, in order; `masked` where, among the tokens, no loss was taken.
    """

    ids: Int[Tensor, "B T"]
    attention_mask: Bool[Tensor, "B T"]
    last_prompt_position: Int[Tensor, " B"]
    n_loss: Int[Tensor, " B"]
    row_indices: tuple[int, ...]
    n_prompt_loss: Int[Tensor, " B"]
    masked: Bool[Tensor, "B T"]

    @property
    def loss_mask(self) -> Bool[Tensor, "B R"]:
        """Which of R = max(n) places each row learned: those it has, less the masked ones."""
        has = torch.arange(int(self.n_loss.max()), device=self.n_loss.device) < self.n_loss[:, None]
        return has & ~self.masked.gather(1, self.loss_positions + 1)

    @property
    def loss_positions(self) -> Int[Tensor, "B R"]:
        """The positions that predict the n learned tokens, p … p+n-1 for y_1 … y_n; beyond n, the last one again."""
        steps = torch.arange(int(self.n_loss.max()), device=self.n_loss.device)
        return (self.last_prompt_position - self.n_prompt_loss)[:, None] + torch.minimum(
            steps, self.n_loss[:, None] - 1
        )

    @property
    def targets(self) -> Int[Tensor, "B R"]:
        """The learned tokens, y_1 … y_n."""
        return self.ids.gather(1, self.loss_positions + 1)

    def at_last_prompt_token(self, values: Shaped[Tensor, "B R d"]) -> Shaped[Tensor, "B d"]:
        """Of values at the R places, those at p, which predicts the answer's first token."""
        return values[torch.arange(len(values), device=values.device), self.n_prompt_loss.to(values.device)]

    def map(self, change: Callable[[Tensor], Tensor], rows: tuple[int, ...] | None = None) -> Batch:
        """The batch with every tensor of it changed; `rows` says which rows are left, all where it is None."""
        parts = {name: change(part) for name, part in vars(self).items() if isinstance(part, torch.Tensor)}
        return replace(self, **parts, row_indices=self.row_indices if rows is None else rows)


def collate(rows: Sequence[TokenizedExample], order: Sequence[int], *, side: Side = "right") -> Batch:
    """Rows as one Batch. Padding is id 0 and masked, so which id it is never matters."""
    width = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask, masked = torch.zeros(2, len(rows), width, dtype=torch.bool)
    start = [width - len(row.ids) if side == "left" else 0 for row in rows]
    for place, (row, at) in enumerate(zip(rows, start, strict=True)):
        ids[place, at : at + len(row.ids)] = torch.tensor(row.ids)
        mask[place, at : at + len(row.ids)] = True
        masked[place, [at + token for token in row.masked]] = True
    last = torch.tensor([at + row.n_prompt - 1 for row, at in zip(rows, start, strict=True)])
    answer = torch.tensor([row.n_prompt_loss for row in rows])
    n = torch.tensor([row.n_response for row in rows]) + answer
    return Batch(ids, mask, last, n, tuple(order), answer, masked)


def make_batches(
    rows: Sequence[TokenizedExample], token_budget: int, *, side: Side = "right", prompts_only: bool = False
) -> Iterator[Batch]:
    """All rows, sorted by length, in batches of at most `budget` padded tokens (a longer row goes alone).

    They are cut where padding, and what a batch costs by itself, add up to least. `prompts`: the rows' prompts alone
    will be run, so that these are what is sorted and counted.
    """
    lengths = [row.n_prompt if prompts_only else len(row.ids) for row in rows]
    order = sorted(range(len(rows)), key=lengths.__getitem__)
    for start, stop in _cut([lengths[at] for at in order], token_budget):
        chosen = order[start:stop]
        yield collate([rows[i] for i in chosen], chosen, side=side)


def _cut(lengths: Sequence[int], budget: int) -> list[tuple[int, int]]:
    """From and to of each batch of these sorted lengths, the cheapest there are: shortest paths over the cuts."""
    least, origin = np.zeros(len(lengths) + 1), np.zeros(len(lengths) + 1, dtype=int)
    for stop, width in enumerate(lengths, 1):
        first = max(0, min(stop - 1, stop - budget // width))
        costs = least[first:stop] + width * np.arange(stop - first, 0, -1)
        best = int(costs.argmin())
        least[stop], origin[stop] = costs[best] + budget * BATCH_OVERHEAD, first + best
    cuts, stop = list[tuple[int, int]](), len(lengths)
    while stop:
        cuts.append((int(origin[stop]), stop))
        stop = int(origin[stop])
    return cuts[::-1]


def split_in_two(batch: Batch) -> Iterable[Batch]:
    """The batch in two, for when it did not fit into memory."""
    for part in torch.arange(len(batch.row_indices)).chunk(2):
        yield batch.map(lambda tensor, at=part: tensor[at.to(tensor.device)], tuple(batch.row_indices[i] for i in part))
