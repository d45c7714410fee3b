"""The decoder of a causal language model and its blocks, whatever the architecture."""

from __future__ import annotations

from typing import Any

from torch import nn

from taughtby.errors import ModelError


def find_decoder(lm: Any, name: str) -> tuple[Any, nn.ModuleList]:
    """The decoder, and within it the list of as many blocks as the model has layers."""
    depth = getattr(lm.config.get_text_config(), "num_hidden_layers", None)

    def listed(module: Any) -> list[nn.ModuleList]:
        return [part for part in module.modules() if isinstance(part, nn.ModuleList) and len(part) == depth]

    decoder = lm.get_decoder()
    if decoder is lm:  # Llama 4 does not say which part it is
        decoder = next((part for part in lm.children() if listed(part)), lm)
    lists = listed(decoder)
    if decoder is lm or not lists or lm.config.is_encoder_decoder or lm.get_output_embeddings() is None:
        raise not_causal(name, type(lm).__name__)
    return decoder, lists[0]


def not_causal(name: str, got: str) -> ModelError:
    """The error for a model that is not a causal language model."""
    do = "give a decoder-only model, such as a Llama, Qwen, Gemma, Mistral or GPT"
    return ModelError(f"{name} is not a causal language model", got=got, do=do)
