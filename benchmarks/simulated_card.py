"""An accelerator that sleeps: work takes a fixed time a token, in a thread, while the host goes on.

What it shows is how much of the time the card would have work, without one: the host does all it does for a card of
that speed, by running a tiny model.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from taughtby.data.batching import Batch
from taughtby.methods import Features
from taughtby.methods.lesson import Lesson
from taughtby.models.model import Model

try:
    from taughtby.capture.transfer import pending_copies
except ImportError:  # an earlier version, which waits for each batch

    def pending_copies() -> None:
        """Return no copies to add to."""
        return


if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class Job(threading.Event):
    """A job's end, as `torch.cuda.Event` has it."""

    def synchronize(self) -> None:
        """Wait for the end."""
        self.wait()


class SimulatedCard:
    """Runs jobs one after another; `busy` seconds of those from the first job's start to the last one's end."""

    def __init__(self, seconds_per_token: float) -> None:
        self.seconds_per_token = seconds_per_token
        self.busy, self.start, self.end = 0.0, 0.0, 0.0
        self.jobs: queue.SimpleQueue[tuple[float, Job]] = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    @property
    def share(self) -> float:
        """The share of the time in which the card worked."""
        return self.busy / (self.end - self.start)

    def launch(self, tokens: int) -> Job:
        """Give it work; returns at once."""
        job = Job()
        self.jobs.put((tokens * self.seconds_per_token, job))
        return job

    def _work(self) -> None:
        while True:
            seconds, job = self.jobs.get()
            start = time.perf_counter()
            self.start = self.start or start
            time.sleep(seconds)
            self.end = time.perf_counter()
            self.busy += self.end - start
            job.set()


@dataclass(frozen=True)
class SimulatedLesson(Lesson):
    """`lesson` on a tiny model, of which each batch takes the simulated card's time too."""

    card: Any = field(default=None, compare=False)

    def features(self, model: Model, batch: Batch, weights: Float[Tensor, "B R"] | None = None) -> Features:
        """Return the features; they are there once the card is done."""
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
