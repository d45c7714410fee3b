"""BM25: keyword search, by the package `bm25s`."""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from taughtby.data.example import Example
from taughtby.data.phrases import tokens_in_ranges
from taughtby.methods.base import Method, QueryFeatures
from taughtby.methods.feature_store import FeatureStore
from taughtby.methods.texts import query_texts, row_text

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

K1, B = 1.5, 0.75  # the package's defaults


@dataclass(frozen=True)
class BM25(Method):
    """Score = BM25 of the row's text for the words of the query's prompt and response."""

    name: ClassVar[str] = "bm25"
    scores_tokens: ClassVar[bool] = True

    def scores(self, queries: QueryFeatures, index: FeatureStore) -> Float[Tensor, "Q N"]:
        """Return Lucene's BM25, the package's default."""
        import bm25s

        logging.getLogger("bm25s").setLevel(logging.WARNING)
        interned: dict[str, str] = {}  # one string object per distinct word, however many rows contain it
        rows = [[interned.setdefault(word, word) for word in _words(row_text(row))] for row in index.examples()]
        query_words = [_words(text) for text in query_texts(queries)]
        scores = torch.zeros(len(query_words), len(rows))
        if any(rows):
            retriever = bm25s.BM25(k1=K1, b=B)
            retriever.index(rows, show_progress=False)
            for q, words in enumerate(query_words):
                if words:  # the package fails on a query without words
                    scores[q] = torch.from_numpy(retriever.get_scores(words))
        return scores

    def text_token_scores(
        self, queries: QueryFeatures, index: FeatureStore, rows: Sequence[Example], tokens: Sequence[Sequence[str]]
    ) -> Float[Tensor, "Q B R"]:
        """Return the contribution of the token's word to the row's score, which is the sum over all its words."""
        query_words = [Counter(_words(text)) for text in query_texts(queries)]
        idf, mean_length = _statistics(index, {word for words in query_words for word in words})
        scores = torch.zeros(len(query_words), len(rows), max(map(len, tokens), default=0))
        for b, (row, pieces) in enumerate(zip(rows, tokens, strict=True)):
            counts, text = Counter(_words(row_text(row))), "".join(pieces)
            norm = K1 * (1 - B + B * counts.total() / mean_length) if counts else 0.0
            for word in idf.keys() & counts:
                gain = idf[word] * counts[word] / (counts[word] + norm)
                ranges = [match.span() for match in re.finditer(rf"\b{word}\b", text, re.IGNORECASE)]
                counts_in_queries = torch.tensor([words[word] for words in query_words])
                scores[:, b, tokens_in_ranges(pieces, ranges)] = gain * counts_in_queries[:, None].float()
        return scores


def _statistics(index: FeatureStore, words: set[str]) -> tuple[dict[str, float], float]:
    """Return the inverse document frequency of the words that occur in rows, and the mean number of words per row."""
    frequency, length = Counter[str](), 0
    for row in index.examples():
        row_words = _words(row_text(row))
        frequency.update(words.intersection(row_words))
        length += len(row_words)
    count = len(index)
    return {word: math.log(1 + (count - n + 0.5) / (n + 0.5)) for word, n in frequency.items()}, length / max(count, 1)


def _words(text: str) -> list[str]:
    """Split text into runs of two word characters or more, as `bm25s` and scikit-learn do; stop words are kept."""
    return re.findall(r"\b\w\w+\b", text.lower())
