"""The decoder's inputs for the columns that a capture needs; the rows' common prefix becomes a cache."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from taughtby.capture.transfer import to_device
from taughtby.data.batching import Batch
from taughtby.errors import ModelError
from taughtby.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Bool, Int
    from torch import Tensor

MIN_SAVED_TOKENS = 64  # a common prefix that saves fewer tokens is not worth a separate pass
KEYS_AND_VALUES = (DynamicLayer, DynamicSlidingWindowLayer)
BY_LENGTH = ("longrope", "dynamic")  # RoPE types that change for inputs longer than the original context


@dataclass(frozen=True)
class DecoderInputs:
    """Keyword arguments of the decoder, and where in its output the captured positions are.

    Attributes:
        kwargs: the decoder's keyword arguments.
        positions: columns of the decoder's output to capture.
        start: first column of the batch that the decoder reads; those before it are in the cache.
        shape: rows and columns that the decoder reads.
    """

    kwargs: dict[str, Any]
    positions: Int[Tensor, "B R"]
    start: int
    shape: tuple[int, int]

    def response_columns(self, batch: Batch) -> Bool[Tensor, "B T"]:
        """Columns from a row's first loss position to its last, including masked ones, which later tokens attend to."""
        columns = torch.arange(self.shape[1]) + self.start
        first = (batch.last_prompt_position - batch.n_prompt_loss)[:, None]
        return (columns >= first) & (columns < first + batch.n_loss[:, None])


def full_inputs(model: Model, batch: Batch) -> DecoderInputs:
    """Return inputs that contain all columns."""
    rows, columns = batch.ids.shape
    kwargs = _decoder_kwargs(model, batch, columns)
    return DecoderInputs(kwargs, to_device(batch.loss_positions, model.device), 0, (rows, columns))


def needed_inputs(model: Model, batch: Batch, positions: Int[Tensor, "B R"]) -> DecoderInputs:
    """Return inputs up to the last of `positions`; a common prefix is run once, as a cache for all rows."""
    stop = int(positions.max()) + 1
    kwargs, start, rows = _decoder_kwargs(model, batch, stop), 0, len(batch.row_indices)
    if "attention_mask" not in kwargs:
        ids = kwargs["input_ids"]
        start = _common_prefix_length(batch.ids[:, : int(positions.min())])
        shared = start > 0 and _shares_prefixes(model, stop)
        cache = _prefix_cache(model, ids[:1, :start], rows) if shared else None
        start = 0 if cache is None else start
        kwargs = {"input_ids": ids[:, start:], "use_cache": start > 0}
        kwargs |= {} if cache is None else {_cache_name(model): cache}
    return DecoderInputs(kwargs, to_device(positions - start, model.device), start, (rows, stop - start))


def _decoder_kwargs(model: Model, batch: Batch, stop: int) -> dict[str, Any]:
    # on a GPU, an index beyond the embedding is an error after which the process cannot use the GPU
    if missing := model.token_without_embedding([int(batch.ids.max())]):
        raise ModelError(f"the tokenizer has tokens without a row in the embedding of {model.name}", got=missing,
                         do="save the embedding with the adapter (modules_to_save), or the whole model")  # fmt: skip
    device = model.device
    ids, mask = to_device(batch.ids[:, :stop], device), batch.attention_mask[:, :stop]
    if bool(mask[:, 0].all()):
        # right padding needs no mask: a causal model never attends to what follows
        return {"input_ids": ids, "use_cache": False}
    positions = to_device((mask.long().cumsum(1) - 1).clamp(min=0), device)
    return {
        "input_ids": ids,
        "attention_mask": to_device(mask.long(), device),
        "position_ids": positions,
        "use_cache": False,
    }


def _common_prefix_length(ids: Int[Tensor, "B T"]) -> int:
    """Length of the rows' common prefix; 0 if a separate pass for it would save too little."""
    length = int((ids == ids[:1]).all(0).long().cumprod(0).sum())
    return length if length * (len(ids) - 1) >= MIN_SAVED_TOKENS else 0


def _shares_prefixes(model: Model, length: int) -> bool:
    """Whether rows of this length may continue a cached prefix.

    False if a layer caches a state instead of keys and values (linear attention, state space models, convolutions),
    since most of them reset it if more than one token follows. Also false if RoPE depends on the length of the input,
    which is shorter in the prefix's own pass.
    """
    config = model.lm.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [part.get("rope_type") for part in (rope, *rope.values()) if isinstance(part, dict)]
    original_length = rope.get("original_max_position_embeddings") or model.context_length
    if set(kinds) & set(BY_LENGTH) and length > original_length:
        return False
    return caches_keys_and_values(model)


def caches_keys_and_values(model: Model) -> bool:
    """Whether the model's cache holds keys and values only, from which rows can be selected."""
    return _holds_keys_and_values(DynamicCache(config=model.lm.config.get_text_config()))


def _holds_keys_and_values(cache: object) -> TypeGuard[DynamicCache]:
    return type(cache) is DynamicCache and all(type(layer) in KEYS_AND_VALUES for layer in cache.layers)


def _cache_name(model: Model) -> str:
    """What the decoder calls a cache; Transformers renamed it in 5.24."""
    return "cache" if "cache" in _parameters(type(model.decoder)) else "past_key_values"


@cache
def _parameters(decoder: type) -> frozenset[str]:
    return frozenset(inspect.signature(decoder.forward).parameters)


@torch.no_grad()
def _prefix_cache(model: Model, ids: Int[Tensor, "1 T"], rows: int) -> Any:
    """Compute the keys and values of a prefix for `rows` rows; None for a model with another type of cache."""
    cache = getattr(model.decoder(input_ids=ids, use_cache=True), _cache_name(model), None)
    if not _holds_keys_and_values(cache):
        return None
    cache.batch_repeat_interleave(rows)
    return cache
