"""A frozen causal language model, with or without adapters: its blocks, its head, its fingerprint.

No code depends on a model's name. Whether the model is causal, and whether it equals its base with the adapter off,
is tested by running it.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from taughtby.errors import ModelError
from taughtby.models.adapters import AdapterSwitch, attach_adapters, resize_embeddings
from taughtby.models.decoder import check_causal, find_decoder, input_device, not_finite
from taughtby.models.fingerprint import model_hash, sampled_hash, weights_hash
from taughtby.models.head import head_logits
from taughtby.models.loading import LoadOptions, check_files, load_options, load_tokenizer, load_weights
from taughtby.models.model_files import adapter_folder, base_of_adapter, is_adapter, resolve_local
from taughtby.models.paths import absolute_name
from taughtby.models.training_metadata import TrainingMetadata, read_training_metadata

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class Model:
    """A frozen causal LM.

    Attributes:
        lm: The Transformers model itself.
        tokenizer: Its tokenizer.
        name: The folder or hub id it was loaded from.
        adapters: The names of its PEFT adapters, in the order in which they were attached.
        peft: PEFT's wrapper of `lm`, or None without adapters.
        decoder: The part of `lm` without the language-model head.
        blocks: The decoder's L blocks.
        fingerprint: Hashes of the weights of `model`, `adapter` and `base`; None where there is none.
        separate_base: The base model, if it is given for a full fine-tune or an adapter has overwritten it; else None.
        metadata: Training settings from the trainer's files.
        notes: Notes for the user about how it was loaded.
    """

    lm: Any
    tokenizer: Any
    name: str
    adapters: tuple[str, ...]
    peft: Any
    decoder: Any
    blocks: nn.ModuleList
    fingerprint: dict[str, str | None]
    separate_base: Model | None = None
    metadata: TrainingMetadata = field(default_factory=TrainingMetadata)
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        options = {"adapter": self.adapter, "base": self.base_name}
        named = "".join(f", {key}={value!r}" for key, value in options.items() if value)
        return f"Model({self.name!r}{named}, {self.depth} blocks, {self.dtype}, {self.device})"

    @property
    def adapter(self) -> str | list[str] | None:
        """The adapters as a manifest stores them: None, one name, or a list in order."""
        return list(self.adapters) if len(self.adapters) > 1 else next(iter(self.adapters), None)

    @property
    def base_name(self) -> str | None:
        """The name of the separate base model of a full fine-tune; None for others."""
        return self.separate_base.name if self.separate_base and self.fingerprint["base"] else None

    @property
    def has_base(self) -> bool:
        """Whether there is a base model to compare with."""
        return self.peft is not None or self.separate_base is not None

    @property
    def depth(self) -> int:
        """L, the number of blocks."""
        return len(self.blocks)

    @property
    def hidden_size(self) -> int:
        """d, the size of a hidden state."""
        return int(self.lm.get_input_embeddings().weight.shape[1])

    @property
    def device(self) -> torch.device:
        """The device of the inputs and of captured tensors."""
        return input_device(self.lm)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.lm.get_input_embeddings().weight.dtype

    @property
    def context_length(self) -> int:
        """The longest input, in tokens."""
        return int(getattr(self.lm.config.get_text_config(), "max_position_embeddings", None) or 1_000_000)

    def token_without_embedding(self, ids: Sequence[int]) -> str | None:
        """Describe the largest of the ids if the embedding has no row for it; None if it has rows for all.

        Training may add tokens, and the new rows of the embedding may be missing from the saved model.
        """
        largest, rows = max(ids, default=0), self.lm.get_input_embeddings().weight.shape[0]
        if largest < rows:
            return None
        return f"token {self.tokenizer.decode([largest])!r} has id {largest}, but the embedding has {rows} rows"

    @contextlib.contextmanager
    def base_model(self) -> Generator[Model]:
        """Yield the base model: the separate base, or else this model with its adapters off, if it has any."""
        if self.separate_base is not None:
            yield self.separate_base
        elif self.peft is None:
            yield self
        else:
            with self._adapter_switch.off():
                yield self._without_adapters

    @cached_property
    def _adapter_switch(self) -> AdapterSwitch:
        return AdapterSwitch(self.peft)

    @cached_property
    def _decoder_path(self) -> list[str]:
        return next(name for name, part in self.lm.named_modules() if part is self.decoder).split(".")

    @cached_property
    def _without_adapters(self) -> Model:
        return replace(self, adapters=(), peft=None, fingerprint={**self.fingerprint, "adapter": None})

    def head(self, states: Float[Tensor, "*N d"]) -> Float[Tensor, "*N V"]:
        """Compute the logits of states after the final norm, with the model's own code."""
        return head_logits(self.lm, self._decoder_path, states)


def load_model(
    name: str | Path,
    adapter: str | Path | Sequence[str | Path] | None = None,
    *,
    base: str | Path | None = None,
    dtype: str = "auto",
    device: str = "auto",
    quantize: str | None = None,
) -> Model:
    """Load a causal language model, with PEFT adapters on top if any are given.

    Args:
        name: A folder, a hub id, a `.gguf` file, `smollm2`, or an adapter's own folder, which names its base.
        adapter: One or several PEFT adapters.
        base: For a full fine-tune, the original model.
        dtype: `auto`, `bfloat16`, `float16` or `float32`. `auto` is bfloat16 if the hardware supports it (CUDA, CPUs
            with avx512_bf16 or AMX), else float32.
        device: `auto`, `cpu`, `cuda:1`, …; `map` spreads the weights over all devices.
        quantize: `4bit` or `8bit`, on a GPU.

    Raises:
        ModelError: the model, the adapter or the base cannot be used, or do not belong together.
        OptionError: the value of an option is invalid.

    Example:
        >>> model = load_model("smollm2", "taughtby-demo/adapter")  # doctest: +SKIP
    """
    options = load_options(dtype, device, quantize)
    # absolute paths, because indexes and traces store them
    name, base = absolute_name(str(name)), None if base is None else absolute_name(str(base))
    several = (adapter,) if isinstance(adapter, str | Path) else adapter or ()
    adapters = tuple(absolute_name(str(each)) for each in several)
    notes: tuple[str, ...] = ()
    if is_adapter(name):
        adapters = (name, *adapters)
        name, notes = base_of_adapter(adapter_folder(name))
        name = absolute_name(name)
    check_files(resolve_local(name))
    model = _load_plain(name, load_tokenizer(name, adapters), options)
    model = replace(model, notes=notes + model.notes)
    if adapters:
        model = _with_adapters(model, adapters, options)
    if base is not None:
        model = _with_base(model, base, options)
    return model


def _load_plain(name: str, tokenizer: Any, options: LoadOptions) -> Model:
    """Load a model without adapters."""
    lm, notes = load_weights(name, options)
    decoder, blocks = find_decoder(lm, name)
    model_digest = model_hash(weights_hash(lm, name), lm.config)
    fingerprint: dict[str, str | None] = {"model": model_digest, "adapter": None, "base": None}
    model = Model(lm, tokenizer, name, (), None, decoder, blocks, fingerprint, notes=notes)
    check_causal(lm, decoder, blocks, name)
    return replace(model, metadata=read_training_metadata(name, model.context_length)) if Path(name).is_dir() else model


def _with_adapters(model: Model, adapters: tuple[str, ...], options: LoadOptions) -> Model:
    """Attach adapters to `model`. If they change the base permanently (biases, PiSSA), it is loaded a second time."""
    folders = [adapter_folder(adapter) for adapter in adapters]
    vocabulary = model.lm.get_input_embeddings().weight.shape[0]
    sampled = sampled_hash(model.lm)
    earlier = (model_hash(sampled, model.lm.config), sampled)
    base_logits = probe(model)
    attached = attach_adapters(model.lm, folders, (str(model.fingerprint["model"]), *earlier))
    peft, notes = attached.peft, (*model.notes, *attached.notes)
    metadata = read_training_metadata(folders[-1], model.context_length)
    fingerprint = {**model.fingerprint, "adapter": attached.fingerprint}
    adapted = replace(model, adapters=adapters, peft=peft, fingerprint=fingerprint, metadata=metadata, notes=notes)
    # these parts may change only tokens that the probe does not contain
    per_token_parts = ("lora_embedding", "trainable_tokens", "modules_to_save", "experts")
    by_token = any(part in name for name, _ in peft.named_parameters() for part in per_token_parts)
    shared = min(vocabulary, model.lm.get_input_embeddings().weight.shape[0])  # an adapter may add or remove tokens
    logits, base_logits = probe(adapted)[..., :shared], base_logits[..., :shared]
    if not logits.isfinite().all():
        raise not_finite(f"{model.name} with {adapters[-1]}", model.dtype)
    if not by_token and torch.equal(logits, base_logits):
        got = f"equal logits in {str(model.dtype).removeprefix('torch.')} with and without it"
        raise ModelError(f"the adapter {adapters[-1]} does not change the outputs of {model.name}", got=got,
                         do="give an adapter of the text layers with lora_alpha > 0")  # fmt: skip
    with warnings.catch_warnings(action="ignore", category=UserWarning), adapted.base_model() as base:
        difference = float((probe(base)[..., :shared] - base_logits).abs().max() / base_logits.abs().max())
    if not attached.overwrites and difference < (1e-5 if model.dtype == torch.float32 else 1e-2):
        return adapted
    reloaded = _load_plain(model.name, model.tokenizer, options)
    if (rows := model.lm.get_input_embeddings().weight.shape[0]) != vocabulary:
        resize_embeddings(reloaded.lm, rows)
    note = "the adapter overwrites base weights, so the base is loaded a second time"
    return replace(adapted, separate_base=reloaded, notes=(*notes, note))


def _with_base(model: Model, base: str, options: LoadOptions) -> Model:
    """Add the base model of a full fine-tune to `model`, after checking that the two can be compared."""
    before = _load_plain(base, load_tokenizer(base), options)
    do = f"give as --base the model that {model.name} was fine-tuned from"
    for what, mine, theirs in (
        ("kind", model.lm.config.model_type, before.lm.config.model_type),
        ("depth", model.depth, before.depth),
        ("width", model.hidden_size, before.hidden_size),
    ):
        if mine != theirs:
            raise ModelError(f"{base} is not the base of {model.name}", got=f"{what} {theirs}, not {mine}", do=do)
    old, new = before.tokenizer.get_vocab(), model.tokenizer.get_vocab()
    changed = sorted(token for token, number in old.items() if new.get(token) != number)
    if changed:
        got = f"{len(changed)} of {len(old)} tokens that have a different id or none, such as {changed[0]!r}"
        raise ModelError(f"the tokenizers of {base} and {model.name} differ", got=got, do=do)
    rows, base_rows = (each.lm.get_input_embeddings().weight.shape[0] for each in (model, before))
    if rows != base_rows:
        resize_embeddings(before.lm, rows)
    added = f"{base} lacks {rows - base_rows} tokens; their embeddings are the mean of the existing ones"
    notes = (added,) if rows > base_rows else ()
    before = replace(before, tokenizer=model.tokenizer)
    fingerprint = {**model.fingerprint, "base": before.fingerprint["model"]}
    return replace(model, separate_base=before, fingerprint=fingerprint, notes=(*model.notes, *before.notes, *notes))


@torch.no_grad()
def probe(model: Model) -> Float[Tensor, "1 8 V"]:
    """Return the logits of a few tokens, by which models are compared."""
    return model.lm(input_ids=torch.arange(1, 9, device=model.device)[None], use_cache=False).logits
