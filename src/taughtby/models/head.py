"""Runs the head of any causal language model on given states, with the model's own code."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def head_logits(lm: Any, decoder_path: list[str], states: Float[Tensor, "*N d"]) -> Float[Tensor, "*N V"]:
    """Compute the logits of states after the final norm.

    The causal LM's forward runs on a shallow copy, with the same weights, whose decoder returns `states`. This includes
    the logit scales (Granite, Cohere) and soft caps (Gemma 2) of any architecture, and does not modify `lm`.

    Args:
        lm: the causal LM.
        decoder_path: names of the modules from `lm` down to the decoder.
        states: (…, d), on any device.
    """
    flat = states.reshape(1, -1, states.shape[-1])
    clone = _with_decoder_output(lm, decoder_path, _DecoderOutput(flat))
    ids = torch.zeros(1, 1, dtype=torch.long, device=states.device)
    return clone(input_ids=ids, use_cache=False).logits.to(states.device).view(*states.shape[:-1], -1)


def _with_decoder_output(module: Any, path: list[str], output: _DecoderOutput) -> Any:
    """Return a shallow copy of `module` in which the submodule at `path` returns `output`."""
    clone = copy.copy(module)
    vars(clone).pop("forward", None)  # accelerate sets one that is bound to the original
    if not path:
        clone.forward = lambda *_, **__: output
        return clone
    clone._modules = {**module._modules, path[0]: _with_decoder_output(getattr(module, path[0]), path[1:], output)}
    return clone


class _DecoderOutput:
    """A decoder's output with the last states only: every other field is None."""

    def __init__(self, states: Tensor) -> None:
        self.last_hidden_state = states

    def __getattr__(self, _: str) -> None:
        return None

    def __getitem__(self, index: Any) -> Any:
        return (self.last_hidden_state,)[index]
