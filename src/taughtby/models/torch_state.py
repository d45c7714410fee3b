"""The state of PyTorch in which a model is read, whatever the caller's: gradients are taken, in the weights' type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

F = TypeVar("F", bound=Callable[..., Any])


def with_plain_torch(function: F) -> F:
    """Run a function outside of the caller's `torch.inference_mode` and `torch.autocast`.

    In the first, no gradient can be taken; in the second, an index and its queries would be computed in other types.
    """
    contexts: tuple[Any, ...] = (
        torch.inference_mode(False), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False),
    )  # fmt: skip
    for context in contexts:
        function = cast(F, context(function))
    return function
