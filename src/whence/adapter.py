"""A PEFT adapter put on a model, once it is sure that the two belong together."""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any

from whence.errors import ModelError


@contextlib.contextmanager
def explained(what: str, do: str) -> Generator[None]:
    """Loaders raise a dozen kinds of error, a bare Exception among them, for a person's mistake; each becomes one."""
    try:
        yield
    except ModelError:
        raise
    except Exception as fault:
        raise ModelError(what, got=f"{type(fault).__name__}: {str(fault).strip()[:300]}", do=do) from fault


def adapt(lm: Any, adapter: str, base: str | None) -> Any:
    """`lm` with the adapter of that folder, once it is sure that the two belong together."""
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    folder = Path(adapter)
    weights = folder / "adapter_model.safetensors"
    if not weights.exists() or not (folder / "adapter_config.json").exists():
        got = ", ".join(sorted(file.name for file in folder.glob("*"))) or "nothing there"
        raise ModelError(f"{adapter} is not an adapter's folder", got=got,
                         do="give the folder with adapter_config.json and adapter_model.safetensors")  # fmt: skip
    trained = _recorded(folder, "adapter_config.json", "base_model_name_or_path")
    do = f"give the base model the adapter was trained on, which is {trained}"
    kind = _recorded(Path(trained), "config.json", "model_type") if Path(trained, "config.json").exists() else None
    if kind not in (None, lm.config.model_type):
        got = f"a {lm.config.model_type}, trained on a {kind}"
        raise ModelError(f"the adapter {adapter} was trained on another model", got=got, do=do)
    with explained(f"the adapter {adapter} does not fit this model", do), warnings.catch_warnings():
        # Transformers tells peft, not its users, that a name was changed
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        # as stored, in the model's own format: peft would otherwise compute the adapter in float32
        peft = PeftModel.from_pretrained(lm, adapter, autocast_adapter_dtype=False)
        with safe_open(weights, framework="pt") as file:
            stored = set(file.keys())
    if peft.active_peft_config.is_prompt_learning:
        raise ModelError(f"the adapter {adapter} only adds to what the model reads, which cannot be traced",
                         got=_recorded(folder, "adapter_config.json", "peft_type"),
                         do="give an adapter that changes the model's layers, such as LoRA")  # fmt: skip
    # "auto" would look up the base model's config on the hub, and warn where there is no network
    wanted = set(get_peft_model_state_dict(peft, save_embedding_layers=False))
    missing = (wanted - stored) | (stored - wanted - set(peft.state_dict()))
    if missing:
        got = f"{len(missing)} weights without a counterpart, such as {min(missing)}"
        raise ModelError(f"the adapter {adapter} does not fit this model", got=got, do=do)
    trained_on = _recorded(folder, "whence.json", "model") if (folder / "whence.json").exists() else base
    if trained_on != base:
        got = f"fingerprint {base}, trained on {trained_on}"
        raise ModelError(f"the adapter {adapter} was trained on another model", got=got, do=do)
    peft.to(lm.get_input_embeddings().weight.dtype).eval().requires_grad_(False)
    return peft


def _recorded(folder: Path, file: str, key: str) -> str:
    try:
        return str(json.loads((folder / file).read_text())[key] or "not recorded in it")
    except (ValueError, KeyError, TypeError):
        return "not recorded in it"


def files_hash(folder: Path) -> str:
    """A hash of the adapter's files, its fingerprint."""
    digest = hashlib.blake2b(digest_size=8)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()
