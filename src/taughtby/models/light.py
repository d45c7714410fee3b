"""What reading rows needs of a model, without its weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taughtby.models.loading import adapter_folder, base_of, explained, is_adapter, load_tokenizer, local
from taughtby.models.training_metadata import Origin, read_origin


def light(name: str, adapters: Sequence[str] = ()) -> tuple[Any, Origin, int]:
    """What reading rows needs of a model: its tokenizer, what its trainer left, its window; no weights are read."""
    from transformers import AutoConfig

    if is_adapter(name):
        name, adapters = base_of(adapter_folder(name))[0], (name, *adapters)
    tokenizer = load_tokenizer(name, tuple(adapters))
    with explained(f"the model {name} cannot be read", "give a folder with config.json, a hub id, or smollm2"):
        config = AutoConfig.from_pretrained(local(name), trust_remote_code=False)
    window = int(getattr(config.get_text_config(), "max_position_embeddings", None) or 1_000_000)
    folder = adapter_folder(adapters[-1]) if adapters else Path(name)
    return tokenizer, read_origin(folder, window) if folder.is_dir() else Origin(), window
