"""Finds the decoder of a causal language model and its blocks, for any architecture."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from taughtby.errors import ModelError


def find_decoder(lm: Any, name: str) -> tuple[Any, nn.ModuleList]:
    """Return the decoder and its blocks, the ModuleList with as many modules as the model has layers.

    Raises:
        ModelError: the model has no such decoder.
    """
    depth = getattr(lm.config.get_text_config(), "num_hidden_layers", None)

    def block_lists(module: Any) -> list[nn.ModuleList]:
        return [part for part in module.modules() if isinstance(part, nn.ModuleList) and len(part) == depth]

    decoder = lm.get_decoder()
    if decoder is lm:  # Llama 4 returns the whole model
        decoder = next((part for part in lm.children() if block_lists(part)), lm)
    lists = block_lists(decoder)
    if decoder is lm or not lists or lm.config.is_encoder_decoder or lm.get_output_embeddings() is None:
        raise not_causal(name, type(lm).__name__)
    return decoder, lists[0]


def input_device(lm: Any) -> torch.device:
    """Return the device of a model's inputs."""
    embedding = lm.get_input_embeddings()
    if embedding.weight.is_meta:  # offloaded by accelerate, which fetches the weights for each pass
        return torch.device(embedding._hf_hook.execution_device)
    return embedding.weight.device


def not_causal(name: str, got: str) -> ModelError:
    """Return the error for a model that is not a causal language model."""
    do = "give a decoder-only model, such as a Llama, Qwen, Gemma, Mistral or GPT"
    return ModelError(f"{name} is not a causal language model", got=got, do=do)


def not_finite(name: str, dtype: torch.dtype) -> ModelError:
    """Return the error for a model whose weights are finite, but whose outputs are not."""
    do = "load it with --dtype bfloat16 or float32; if that does not help, its training diverged"
    return ModelError(f"the outputs of {name} are not finite", got=f"in {str(dtype).removeprefix('torch.')}", do=do)


@torch.no_grad()
def check_causal(lm: Any, decoder: Any, blocks: nn.ModuleList, name: str) -> None:
    """Run a forward pass to check that no token changes an earlier state, and that blocks have one state per token.

    Raises:
        ModelError: later tokens change earlier states (BERT loads as a causal LM), or blocks exchange several states
            per token (Gemma 3n has four).
    """
    shapes: list[int] = []
    hook = blocks[-1].register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append((args or (kwargs["hidden_states"],))[0].ndim), with_kwargs=True
    )
    ids = torch.tensor([[1, 2, 3, *[4] * 8], [1, 2, 3, *[5] * 8]], device=input_device(lm))
    states = decoder(input_ids=ids, use_cache=False).last_hidden_state[:, :3].float()
    hook.remove()
    if shapes != [3]:
        what, do = "has several states per token and cannot be traced", "give a model with one state per token"
        raise ModelError(f"{name} {what}", got=type(lm).__name__, do=do)
    if not states.isfinite().all():
        raise not_finite(name, lm.get_input_embeddings().weight.dtype)
    # states of a small untrained encoder change by only 1e-2; rounding and other choices of experts change less
    near = 1e-4 if lm.get_input_embeddings().weight.dtype == torch.float32 else 5e-3
    if not torch.allclose(states[0], states[1], rtol=near, atol=near * float(states.abs().max())):
        raise not_causal(name, f"{type(lm).__name__}, whose tokens attend to later tokens")
