"""Makes functions independent of the caller's PyTorch modes, such as inference mode and autocast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

F = TypeVar("F", bound=Callable[..., Any])


def with_plain_torch(function: F) -> F:
    """Run a function outside of the caller's `torch.inference_mode` and `torch.autocast`.

    Inference mode forbids gradients, and autocast would compute an index and its queries in different dtypes.
    """
    contexts: tuple[Any, ...] = (
        torch.inference_mode(False), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False),
    )  # fmt: skip
    for context in contexts:
        function = cast(F, context(function))
    return function
