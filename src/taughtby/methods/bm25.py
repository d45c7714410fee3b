"""BM25 over the words of prompt and answer: what a search engine would find. By the package `bm25s`."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from taughtby.methods.base import Method, QueryFeatures, row_text
from taughtby.methods.feature_store import FeatureStore

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class BM25(Method):
    """Score = BM25 of the row's text for the words of the query's prompt and answer."""

    name: ClassVar[str] = "bm25"

    def scores(self, asked: QueryFeatures, index: FeatureStore) -> Float[Tensor, "Q N"]:
        """Lucene's BM25, the package's default (k1 = 1.5, b = 0.75)."""
        import bm25s

        logging.getLogger("bm25s").setLevel(logging.WARNING)
        known: dict[str, str] = {}  # each word once, however many rows have it
        rows = [[known.setdefault(word, word) for word in _words(row_text(row))] for row in index.examples()]
        queries = [_words(f"{said} {answer}") for said, answer in zip(asked.prompts, asked.responses, strict=True)]
        scores = torch.zeros(len(queries), len(rows))
        if any(rows):
            searcher = bm25s.BM25()
            searcher.index(rows, show_progress=False)
            for q, words in enumerate(queries):
                if words:  # the package fails on a query without words
                    scores[q] = torch.from_numpy(searcher.get_scores(words))
        return scores


def _words(text: str) -> list[str]:
    """Runs of two letters or more, as the package and scikit-learn have them; no word is left out for being common."""
    return re.findall(r"\b\w\w+\b", text.lower())
