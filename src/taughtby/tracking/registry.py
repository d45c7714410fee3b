"""Look up trackers by name, and keep their runs open while work is in progress."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, TypeVar

from taughtby.errors import OptionError, TaughtbyError
from taughtby.text import shorten
from taughtby.tracking import mlflow, tensorboard, wandb
from taughtby.tracking.run_record import Log, RunRecord

Result = TypeVar("Result")


class Tracker(Protocol):
    """Opens a run: a context manager that yields a log function, and marks the run as failed on an error."""

    def __call__(self, name: str, folder: Path) -> AbstractContextManager[Log]:
        """Open a run of that name; the tracker may write into the folder."""
        ...


TRACKERS: dict[str, Tracker] = {
    "wandb": wandb.open_run,
    "mlflow": mlflow.open_run,
    "tensorboard": tensorboard.open_run,
}


@contextmanager
def open_runs(names: Sequence[str], run: str, folder: Path) -> Generator[Log]:
    """Open a run in each tracker. Call it before long work, so that errors are raised early.

    Args:
        names: Names of trackers.
        run: The name of new runs.
        folder: A folder that trackers may write to.

    Yields:
        A function that logs a record to all trackers.

    Raises:
        OptionError: A tracker is unknown, or its package is not installed.
        TaughtbyError: A tracker cannot be reached or rejects what is logged.
    """
    for name in names:
        check_tracker(name)
    stack, logs = ExitStack(), dict[str, Log]()

    def log(record: RunRecord) -> None:
        for name, to in logs.items():
            _explain(name, lambda to=to: to(record))

    try:
        for name in dict.fromkeys(names):
            folder.mkdir(parents=True, exist_ok=True)
            logs[name] = _explain(name, lambda name=name: stack.enter_context(TRACKERS[name](run, folder)))
        yield log
    except BaseException as error:
        with suppress(Exception):  # of a tracker that cannot end its run: the error of the work is shown
            stack.__exit__(type(error), error, error.__traceback__)
        raise
    _explain(" or ".join(logs), stack.close)


def check_tracker(name: str) -> None:
    """Raise an OptionError if a tracker is unknown or its package is not installed."""
    if name not in TRACKERS:
        raise OptionError("no such tracker", got=name, do=f"choose one of: {', '.join(TRACKERS)}")
    if find_spec(name) is None:
        do = f"pip install 'taughtby[{name}]'"
        raise OptionError(f"{name} is not installed", got=f"--report-to {name}", do=do)


def _explain(name: str, call: Callable[[], Result]) -> Result:
    """Convert any error of a tracker, of which there are many types, into one that names the tracker."""
    try:
        return call()
    except TaughtbyError:
        raise
    except Exception as error:
        do = "check its settings and connection, and run the same command again: finished work is kept"
        raise TaughtbyError(
            f"logging to {name} failed", got=shorten(f"{type(error).__name__}: {error}", 300), do=do
        ) from error
