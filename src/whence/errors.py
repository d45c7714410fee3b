"""Mistakes a person can mend, each with one shape: what is wrong, what was found, what to do.

    WhenceError
    ├── DataError       a training set or query file that cannot be read
    ├── ModelError      a model, adapter or tokenizer that cannot be used
    ├── OptionError     a setting outside its range
    ├── StoreError      an index that is missing, unfinished, or made otherwise
    └── LabError        a poison, fine-tuning, generation or judge that cannot go on

The command line prints them without a traceback and leaves with exit code 1. Anything else that is raised is
a fault of ours and keeps its traceback.
"""

from __future__ import annotations

import errno
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any


class WhenceError(Exception):
    """Says `what` is wrong, what was `got`, and what to `do` about it."""

    def __init__(self, what: str, *, do: str, got: str | None = None) -> None:
        self.what, self.got, self.do = what, got, do
        found = "" if got is None else f"\n  got: {got}"
        super().__init__(f"{what}{found}\n  do:  {do}")

    def __reduce__(self) -> Any:  # by its parts, to be the same where another process raised it
        return partial(type(self), self.what, do=self.do, got=self.got), ()


class DataError(WhenceError):
    """A training set or query file that cannot be read."""


class ModelError(WhenceError):
    """A model, adapter or tokenizer that cannot be used."""


class OptionError(WhenceError):
    """A setting outside its range."""


class StoreError(WhenceError):
    """An index that is missing, unfinished, or made with other settings."""


class LabError(WhenceError):
    """A poison, fine-tuning, generation or judge that cannot go on."""


# — faults of the machine, which no other input would avoid

_MEMORY = ("there is not enough memory",
           "free some, use a device with more, or ask for less: a smaller number format, batch or model")  # fmt: skip
_NUMBERS = {
    errno.ENOMEM: _MEMORY,
    errno.ENOSPC: ("the disk is full", "make room on it"),
    errno.EDQUOT: ("the disk's quota is used up", "make room on it"),
    errno.EACCES: ("permission is denied", "see who owns the file or folder, and that you may use it"),
    errno.EPERM: ("permission is denied", "see who owns the file or folder, and that you may use it"),
    errno.EROFS: ("the disk is read-only", "choose a folder that can be written to"),
    errno.EIO: ("the disk fails", "see what the system's log says of it"),
    errno.EMFILE: ("too many files are open", "raise the limit: ulimit -n 4096"),
    errno.ENFILE: ("too many files are open", "close other programs"),
}
_TEXTS = {
    "out of memory": _MEMORY,
    "allocate memory": _MEMORY,
    "no space left": _NUMBERS[errno.ENOSPC],
    "cuda error": ("the GPU fails", "see that nvidia-smi finds it idle and sound, or give another --device"),
    "no cuda gpus are available": ("there is no GPU", "give --device cpu"),
    "not compiled with cuda": ("PyTorch was installed without CUDA", "install one with it, or give --device cpu"),
}


def machine_fault(fault: BaseException) -> tuple[str, str] | None:
    """What the machine lacks (memory, room on the disk, a permission, a GPU, a package), and what to do about it.

    None for any other fault: then it may be the input's, and the caller says what of it. The faults that led to this
    one are looked at too, since libraries raise their own on top of them.
    """
    if isinstance(fault, ImportError):
        return "a package is missing", "install the one that is named"
    for one in _led_to(fault):
        if isinstance(one, MemoryError) or type(one).__name__ == "OutOfMemoryError":
            return _MEMORY
        if isinstance(one, OSError) and one.errno in _NUMBERS:
            return _NUMBERS[one.errno]
        if isinstance(one, OSError | RuntimeError | AssertionError) or type(one).__name__ == "SafetensorError":
            said = str(one).lower()
            if found := next((told for text, told in _TEXTS.items() if text in said), None):
                return found
    return None


def out_of_memory(fault: BaseException) -> bool:
    """Whether memory did not suffice, a processor's or an accelerator's."""
    return machine_fault(fault) == _MEMORY


@contextmanager
def explained(what: str, do: str) -> Generator[None]:
    """Loaders raise a dozen kinds of error, a bare Exception among them, for a person's mistake; each becomes one.

    What the machine lacks is no mistake in the input, and is told as what it is.
    """
    try:
        yield
    except WhenceError:
        raise
    except Exception as fault:
        if lack := machine_fault(fault):
            what, do = f"{what}: {lack[0]}", lack[1]
        raise ModelError(what, got=f"{type(fault).__name__}: {str(fault).strip()[:300]}", do=do) from fault


def _led_to(fault: BaseException | None) -> Iterator[BaseException]:
    """The fault, and what it was raised from or amid."""
    seen: list[BaseException] = []
    while fault is not None and fault not in seen:
        yield fault
        seen.append(fault)
        fault = fault.__cause__ or (None if fault.__suppress_context__ else fault.__context__)
