"""TF-IDF: cosine of weighted word counts, by scikit-learn."""

from __future__ import annotations

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
class TfIdf(Method):
    """Score = cosine of the word counts, each weighted by its inverse document frequency."""

    name: ClassVar[str] = "tfidf"

    def scores(self, queries: QueryFeatures, index: FeatureStore) -> Float[Tensor, "Q N"]:
        """Score by scikit-learn's defaults: words of two characters or more, idf = ln((1 + N) / (1 + n)) + 1."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectorizer = TfidfVectorizer()
        try:
            rows = vectorizer.fit_transform(row_text(row) for row in index.examples())
        except ValueError:  # no row has a word
            return torch.zeros(len(queries.prompts), len(index))
        return torch.from_numpy((vectorizer.transform(query_texts(queries)) @ rows.T).toarray()).float()
