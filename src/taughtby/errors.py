"""Errors that the user can fix. Each says what is wrong, which value was given, and what to do.

    TaughtbyError
    ├── DataError       a training set or query file that cannot be read
    ├── ModelError      a model, adapter or tokenizer that cannot be used
    ├── OptionError     an option outside its range
    ├── StoreError      an index that is missing, unfinished, or built with other settings
    └── LabError        a training, generation, judge or experiment that cannot run

The command line prints them without a traceback and exits with code 1. Any other exception is a bug and keeps its
traceback.
"""

from __future__ import annotations

import errno
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any


class TaughtbyError(Exception):
    """An error that the user can fix.

    Attributes:
        what: What is wrong.
        got: The value that is wrong, or None.
        do: What to do about it.
    """

    def __init__(self, what: str, *, do: str, got: str | None = None) -> None:
        self.what, self.got, self.do = what, got, do
        value = "" if got is None else f"\n  got: {got}"
        super().__init__(f"{what}{value}\n  do:  {do}")

    def __reduce__(self) -> Any:  # pickle the parts, so that it can be passed between processes
        return partial(type(self), self.what, do=self.do, got=self.got), ()


class DataError(TaughtbyError):
    """A training set or query file that cannot be read."""


class ModelError(TaughtbyError):
    """A model, adapter or tokenizer that cannot be used."""


class OptionError(TaughtbyError):
    """An option outside its range."""


class StoreError(TaughtbyError):
    """An index that is missing, unfinished, or built with other settings."""


class LabError(TaughtbyError):
    """A training, generation, judge or experiment that cannot run."""


# Faults of the machine, which do not depend on the input

_MEMORY = ("there is not enough memory",
           "free some, use a device with more, or use a smaller dtype, batch or model")  # fmt: skip
_NUMBERS = {
    errno.ENOMEM: _MEMORY,
    errno.ENOSPC: ("the disk is full", "make room on the disk"),
    errno.EDQUOT: ("the disk's quota is used up", "make room on the disk"),
    errno.EACCES: ("permission is denied", "check who owns the file or folder, and its permissions"),
    errno.EPERM: ("permission is denied", "check who owns the file or folder, and its permissions"),
    errno.EROFS: ("the disk is read-only", "choose a folder that is writable"),
    errno.EIO: ("the disk reports an error", "check the system log"),
    errno.EMFILE: ("too many files are open", "raise the limit: ulimit -n 4096"),
    errno.ENFILE: ("too many files are open", "close other programs"),
}
_TEXTS = {
    "out of memory": _MEMORY,
    "allocate memory": _MEMORY,
    "no space left": _NUMBERS[errno.ENOSPC],
    "cuda error": ("the GPU reports an error", "check it with nvidia-smi, or give another --device"),
    "no cuda gpus are available": ("there is no GPU", "give --device cpu"),
    "not compiled with cuda": ("PyTorch was installed without CUDA", "install one with it, or give --device cpu"),
}


def machine_fault(error: BaseException) -> tuple[str, str] | None:
    """Return what the machine lacks (memory, disk space, a permission, a GPU, a package) and what to do about it.

    Return None for any other error, which the input may have caused. The causes of the error are examined too, because
    libraries wrap errors in their own.
    """
    if isinstance(error, ImportError):
        return "a package is missing", "install the one that is named"
    for cause in _causes(error):
        if isinstance(cause, MemoryError) or type(cause).__name__ == "OutOfMemoryError":
            return _MEMORY
        if isinstance(cause, OSError) and cause.errno in _NUMBERS:
            return _NUMBERS[cause.errno]
        if isinstance(cause, OSError | RuntimeError | AssertionError) or type(cause).__name__ == "SafetensorError":
            message = str(cause).lower()
            if advice := next((advice for text, advice in _TEXTS.items() if text in message), None):
                return advice
    return None


def out_of_memory(error: BaseException) -> bool:
    """Whether the CPU or an accelerator ran out of memory."""
    return machine_fault(error) == _MEMORY


@contextmanager
def explain_errors(what: str, do: str, error_type: type[TaughtbyError] | None = None) -> Generator[None]:
    """Convert any exception into a ModelError, or an `error_type`, that says `what` is wrong and what to `do`.

    Loaders and clients raise a dozen types of error, including bare Exceptions. Faults of the machine, such as a full
    disk, replace `do` with their own advice.
    """
    try:
        yield
    except TaughtbyError:
        raise
    except Exception as error:
        if fault := machine_fault(error):
            what, do = f"{what}: {fault[0]}", fault[1]
        got = f"{type(error).__name__}: {str(error).strip()[:300]}"
        raise (error_type or ModelError)(what, got=got, do=do) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, its causes and its contexts."""
    visited: list[BaseException] = []
    while error is not None and error not in visited:
        yield error
        visited.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
