"""TF-IDF over the words of prompt and answer: rare words in common. By scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from taughtby.methods.base import Method, QueryFeatures, row_text
from taughtby.methods.feature_store import FeatureStore

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class TfIdf(Method):
    """Score = cosine of the words' counts, each weighed by how few rows have the word."""

    name: ClassVar[str] = "tfidf"

    def scores(self, asked: QueryFeatures, index: FeatureStore) -> Float[Tensor, "Q N"]:
        """The package's defaults: runs of two letters or more, the rows' own frequencies, ln((1 + N) / (1 + n)) + 1."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        queries = [f"{said} {answer}" for said, answer in zip(asked.prompts, asked.responses, strict=True)]
        weigher = TfidfVectorizer()
        try:
            rows = weigher.fit_transform(row_text(row) for row in index.examples())
        except ValueError:  # no row has a word
            return torch.zeros(len(queries), len(index))
        found = weigher.transform(queries) @ rows.T
        return torch.from_numpy(found.toarray()).float()
