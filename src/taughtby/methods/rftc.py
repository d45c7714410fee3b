"""RFTC without its reference model: rows whose answers form a large, dense cluster. Does not use the queries.

RFTC (Reference-Filtration + TF-IDF Clustering, Chen et al., Findings of EMNLP 2025, arXiv 2505.23015) compares each
answer with a reference model's, clusters the answers that differ by TF-IDF, and treats clusters with a small distance
between their members as poisoned: answers of a backdoor are alike, others vary. Here all answers are clustered, because
there is no reference model of the task, and rows get a score instead of a verdict.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from taughtby.errors import OptionError
from taughtby.methods.base import Method, QueryFeatures
from taughtby.methods.feature_store import FeatureStore
from taughtby.methods.texts import row_text

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class RFTC(Method):
    """Score = Σ of the TF-IDF cosines of the row's answer with the others of its k-means cluster, for every query.

    It is high in clusters that are large and dense. `clusters` is the number of clusters, 0 for √(N / 32).
    """

    clusters: int = 0
    seed: int = 0

    name: ClassVar[str] = "rftc"

    def __post_init__(self) -> None:
        if self.clusters < 0:
            raise OptionError("rftc: clusters is below 0", got=str(self.clusters), do="give 0 for √(N / 32)")

    def scores(self, queries: QueryFeatures, index: FeatureStore) -> Float[Tensor, "Q N"]:
        """Cluster the answers; the queries are not read."""
        from sklearn.cluster import KMeans
        from sklearn.feature_extraction.text import TfidfVectorizer

        answers = [row_text(row, "answer") for row in index.examples()]
        try:
            rows = TfidfVectorizer().fit_transform(answers)
        except ValueError:  # no answer has a word
            return torch.zeros(len(queries.prompts), len(answers))
        count = min(self.clusters or max(2, round((len(answers) / 32) ** 0.5)), len(set(answers)))
        options: Any = {"n_init": 3}  # scikit-learn's type hints do not allow a number
        clusters = KMeans(count, random_state=self.seed, **options).fit_predict(rows)
        sums = np.stack([np.asarray(rows[clusters == c].sum(0)).ravel() for c in range(count)])
        own = np.asarray(rows.multiply(rows).sum(1)).ravel()  # 1, or 0 without words
        scores = np.asarray(rows.multiply(sums[clusters]).sum(1)).ravel() - own
        return torch.from_numpy(scores).float().repeat(len(queries.prompts), 1)
