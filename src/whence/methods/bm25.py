"""BM25 over the words of prompt and answer: what a search engine would find. By the package `bm25s`."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from whence.index import Index
from whence.methods.method import Asked, Method

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class BM25(Method):
    """Score = BM25 of the row's text for the words of the query's prompt and answer."""

    name: ClassVar[str] = "bm25"

    def scores(self, asked: Asked, index: Index) -> Float[Tensor, "Q N"]:
        """Robertson's BM25 with the package's defaults (k1 = 1.5, b = 0.75)."""
        import bm25s

        logging.getLogger("bm25s").setLevel(logging.WARNING)
        rows = [" ".join(str(m["content"]) for m in row.messages if m["role"] != "system") for row in index.texts()]
        searcher = bm25s.BM25()
        searcher.index(bm25s.tokenize(rows, stopwords=None, show_progress=False), show_progress=False)
        texts = [f"{prompt} {answer}" for prompt, answer in zip(asked.prompts, asked.responses, strict=True)]
        words = bm25s.tokenize(texts, stopwords=None, return_ids=False, show_progress=False)
        return torch.stack([torch.from_numpy(searcher.get_scores(query)).float() for query in words])
