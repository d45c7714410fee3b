"""How `finetune` trains."""

from __future__ import annotations

import math
from dataclasses import dataclass

from taughtby.errors import OptionError

FULL_RATE = 5e-5  # the learning rate for all weights: a LoRA's would destroy them


@dataclass(frozen=True)
class TrainingOptions:
    """How to train: AdamW with a cosine schedule; by default LoRA on every linear layer with alpha = 4 · rank.

    Attributes:
        rank: Rank of the LoRA adapter.
        learning_rate: At the peak of the schedule.
        epochs: Passes over the rows.
        batch_size: Rows of a step.
        max_length: Tokens of a row; longer rows are truncated at their end.
        seed: For the adapter's initial weights and the order of rows.
        full: Train all weights in float32 instead; `FULL_RATE` is a suitable learning rate.
        num_blocks: Adapt only the last blocks, which is faster: the backward pass stops there. None adapts all.
    """

    rank: int = 8
    learning_rate: float = 1e-3
    epochs: int = 3
    batch_size: int = 8
    max_length: int = 512
    seed: int = 0
    full: bool = False
    num_blocks: int | None = None

    def __post_init__(self) -> None:
        for name in ("rank", "epochs", "batch_size", "max_length"):
            if getattr(self, name) < 1:
                got = f"{name} {getattr(self, name)}"
                raise OptionError("an option of the training is below 1", got=got, do="give 1 or more")
        if not 0 < self.learning_rate < math.inf:
            got = str(self.learning_rate)
            raise OptionError("the learning rate is not above 0", got=got, do="give one such as 1e-3")
