"""A simulated accelerator that takes a fixed time per token, while the host continues.

It shows, without a GPU, what share of the time a GPU of that speed would work. The host does the same work as for a
real one, but with a tiny model.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from taughtby.capture.budget import MOST_PER_TOKEN
from taughtby.data.batching import Batch
from taughtby.index import build
from taughtby.methods import Features
from taughtby.methods.lesson import Lesson
from taughtby.models.model import Model

try:
    from taughtby.capture.transfer import pending_copies
except ImportError:  # an earlier version, which waits for each batch

    def pending_copies() -> None:
        """Return None: there are no deferred copies."""
        return


if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class Job:
    """The end of a job, with the interface of `torch.cuda.Event`."""

    end: float

    def synchronize(self) -> None:
        """Wait until the job is done."""
        time.sleep(max(0.0, self.end - time.perf_counter()))


@dataclass
class SimulatedCard:
    """Runs jobs in sequence, on a time line of its own.

    Attributes:
        seconds_per_token: The time of a job, for each token.
        busy: The total time of all jobs.
        start: The time at which the first job began.
        end: The time at which the last job ends.
    """

    seconds_per_token: float
    busy: float = 0.0
    start: float = 0.0
    end: float = 0.0

    @property
    def share(self) -> float:
        """The share of the time in which the card worked, from the first job to the end of the last."""
        return self.busy / (self.end - self.start)

    def launch(self, tokens: int) -> Job:
        """Queue a job that begins when the previous one has ended."""
        now, seconds = time.perf_counter(), tokens * self.seconds_per_token
        self.start = self.start or now
        self.end = max(now, self.end) + seconds
        self.busy += seconds
        return Job(self.end)


@contextlib.contextmanager
def accelerator_windows() -> Generator[None]:
    """Windows of rows as large as on an accelerator."""
    with patch.object(build, "WINDOW", build.WINDOW * build.ACCELERATOR_FACTOR):
        yield


@dataclass(frozen=True)
class SimulatedLesson(Lesson):
    """`lesson` on a tiny model, where each batch also takes the simulated card's time."""

    card: Any = field(default=None, compare=False)

    def token_budget(self, model: Model) -> int:
        """Return the most tokens that a batch has on an accelerator."""
        return MOST_PER_TOKEN

    def features(self, model: Model, batch: Batch, weights: Float[Tensor, "B R"] | None = None) -> Features:
        """Return the features, which are ready when the card is done."""
        result = super().features(model, batch, weights)
        job = self.card.launch(int(batch.attention_mask.sum()))
        copies = pending_copies()
        if copies is None:
            job.synchronize()
        else:
            copies.events.append(job)
        return result

    def spec(self) -> dict[str, Any]:
        """Return name and options without the card."""
        return {key: value for key, value in super().spec().items() if key != "card"}
