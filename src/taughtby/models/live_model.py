"""Uses a model that a Trainer still holds, in place of the same model loaded from disk."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import torch

from taughtby.errors import ModelError
from taughtby.models.adapters import live_adapter_hash
from taughtby.models.decoder import find_decoder
from taughtby.models.fingerprint import model_hash, weights_hash
from taughtby.models.model import Model, load_model, probe


@contextlib.contextmanager
def borrow_model(lm: Any, tokenizer: Any, *, name: str, adapter: str | None = None) -> Generator[Model]:
    """Use a live Transformers or PEFT model, such as a Trainer's, frozen and in eval mode inside the context.

    On exit the modules' training modes and the weights' `requires_grad` are restored. `adapter` is the folder where a
    PEFT model's adapter is or will be saved.
    """
    peft = lm if hasattr(lm, "peft_config") and hasattr(lm, "get_base_model") else None
    inner = lm.get_base_model() if peft is not None else lm
    training = {module: module.training for module in lm.modules()}
    trainable = [weight for weight in lm.parameters() if weight.requires_grad]
    lm.eval().requires_grad_(False)
    try:
        decoder, blocks = find_decoder(inner, name)
        digest = weights_hash(inner, name, None if peft is None else peft.base_model.prefix)
        fingerprint: dict[str, str | None] = {"model": model_hash(digest, inner.config), "adapter": None, "base": None}
        if peft is not None:
            fingerprint["adapter"] = live_adapter_hash(peft)
        adapters = () if adapter is None else (adapter,)
        yield Model(inner, tokenizer, name, adapters, peft, decoder, blocks, fingerprint)
    finally:
        for module, was_training in training.items():
            module.training = was_training
        for weight in trainable:
            weight.requires_grad_(True)


def match_saved(live: Model, base: str | None = None) -> Model:
    """Return the model to index if traces will load `live` from disk: `live` itself, or the loaded model.

    Some adapters overwrite weights of the base (PiSSA, biases, resized embeddings). With such an adapter off, `live` is
    not its base, so the model is used as loaded.

    Args:
        live: a borrowed model, which was saved under its names.
        base: for a full fine-tune, the original model, if it is needed.

    Raises:
        ModelError: the model cannot be loaded, or differs from `live`.
    """
    saved = _load_again(live, base)
    model = replace(live, fingerprint={**live.fingerprint, "base": saved.fingerprint["base"]})
    if model.fingerprint == saved.fingerprint:
        model = replace(model, separate_base=saved.separate_base)
    else:
        _check_outputs(live, saved)
        model = saved
    for part in (model, model.separate_base):
        if part is not None and part.device != live.device:
            part.lm.to(live.device)
    return replace(model, tokenizer=saved.tokenizer)


def _load_again(live: Model, base: str | None) -> Model:
    """Load what was saved; on the CPU, since the Trainer occupies the accelerator, unless it is quantized."""
    bits = next((bits for bits in ("4bit", "8bit") if getattr(live.lm, f"is_loaded_in_{bits}", False)), None)
    dtype, device = str(live.dtype).removeprefix("torch."), str(live.device) if bits else "cpu"
    return load_model(live.name, live.adapters, base=base, dtype=dtype, device=device, quantize=bits)


def _check_outputs(live: Model, saved: Model) -> None:
    """Refuse a loaded model that is not the trained one, for example if its base was changed before training."""
    trained, loaded = (probe(model).float().cpu() for model in (live, saved))
    same = trained.shape == loaded.shape
    difference = float((trained - loaded).abs().max() / trained.abs().max()) if same else 1.0
    if difference > (1e-2 if live.dtype == torch.float32 else 5e-2):
        raise ModelError(
            f"the trained model is not what {' with '.join((live.name, *live.adapters))} loads",
            got=f"logits that differ by {difference:.0%}",
            do="save the base with save_pretrained, load it from that folder, and train again",
        )
