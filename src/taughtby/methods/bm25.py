"""BM25: what a search engine would find. Computed by the package `bm25s`."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from taughtby.methods.base import Method, QueryFeatures
from taughtby.methods.feature_store import FeatureStore
from taughtby.methods.texts import query_texts, row_text

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class BM25(Method):
    """Score = BM25 of the row's text for the words of the query's prompt and response."""

    name: ClassVar[str] = "bm25"

    def scores(self, queries: QueryFeatures, index: FeatureStore) -> Float[Tensor, "Q N"]:
        """Return Lucene's BM25, the package's default (k1 = 1.5, b = 0.75)."""
        import bm25s

        logging.getLogger("bm25s").setLevel(logging.WARNING)
        interned: dict[str, str] = {}  # one string object per distinct word, however many rows contain it
        rows = [[interned.setdefault(word, word) for word in _words(row_text(row))] for row in index.examples()]
        query_words = [_words(text) for text in query_texts(queries)]
        scores = torch.zeros(len(query_words), len(rows))
        if any(rows):
            retriever = bm25s.BM25()
            retriever.index(rows, show_progress=False)
            for q, words in enumerate(query_words):
                if words:  # the package fails on a query without words
                    scores[q] = torch.from_numpy(retriever.get_scores(words))
        return scores


def _words(text: str) -> list[str]:
    """Runs of two word characters or more, as in the package and scikit-learn; no stop words are removed."""
    return re.findall(r"\b\w\w+\b", text.lower())
