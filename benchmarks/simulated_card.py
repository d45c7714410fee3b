"""A simulated accelerator: a thread that sleeps for a fixed time per token, while the host continues.

It shows, without a GPU, what share of the time a GPU of that speed would be busy. The host does the same work as for a
real one, but with a tiny model.
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
        """Return None: there are no deferred copies."""
        return


if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class Job(threading.Event):
    """The end of a job, with the interface of `torch.cuda.Event`."""

    def synchronize(self) -> None:
        """Wait until the job is done."""
        self.wait()


class SimulatedCard:
    """Runs jobs in sequence. `busy` is their total time; `start` and `end` are those of the first and the last job."""

    def __init__(self, seconds_per_token: float) -> None:
        self.seconds_per_token = seconds_per_token
        self.busy, self.start, self.end = 0.0, 0.0, 0.0
        self.jobs: queue.SimpleQueue[tuple[float, Job]] = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    @property
    def share(self) -> float:
        """The share of the time in which the card was busy."""
        return self.busy / (self.end - self.start)

    def launch(self, tokens: int) -> Job:
        """Queue a job, and return immediately."""
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
    """`lesson` on a tiny model, where each batch also takes the simulated card's time."""

    card: Any = field(default=None, compare=False)

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
