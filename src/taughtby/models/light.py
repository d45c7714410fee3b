"""What reading rows needs of a model, without its weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taughtby.models.loading import (
    adapter_folder,
    base_of_adapter,
    explain_errors,
    is_adapter,
    load_tokenizer,
    resolve_local,
)
from taughtby.models.training_metadata import TrainingMetadata, read_training_metadata


def load_without_weights(name: str, adapters: Sequence[str] = ()) -> tuple[Any, TrainingMetadata, int]:
    """What reading rows needs of a model: its tokenizer, what its trainer left, its window; no weights are read."""
    from transformers import AutoConfig

    if is_adapter(name):
        name, adapters = base_of_adapter(adapter_folder(name))[0], (name, *adapters)
    tokenizer = load_tokenizer(name, tuple(adapters))
    with explain_errors(f"the model {name} cannot be read", "give a folder with config.json, a hub id, or smollm2"):
        config = AutoConfig.from_pretrained(resolve_local(name), trust_remote_code=False)
    window = int(getattr(config.get_text_config(), "max_position_embeddings", None) or 1_000_000)
    folder = adapter_folder(adapters[-1]) if adapters else Path(name)
    return tokenizer, read_training_metadata(folder, window) if folder.is_dir() else TrainingMetadata(), window
