"""Finds duplicate and near-duplicate texts in linear time: MinHash over words and pairs of words.

Two texts are near-duplicates if the Jaccard similarity of their sets of words and pairs of neighbouring words reaches a
threshold. With weights, each feature counts by its inverse document frequency, so that a template that all texts share
does not make them similar. The minimum of -ln(u) / w is attained at the same feature in two sets with a probability
equal to their weighted Jaccard similarity, so texts with equal minima in a band are likely pairs.
"""

from __future__ import annotations

import re
import zlib
from array import array
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BANDS, BAND_SIZE = 16, 4  # a pair with a similarity of .7 is found with probability .99
# a word, a character of scripts without spaces, or a symbol, since 3 + 4 is not 3 - 4; no sentence punctuation
_WORD = re.compile(r"""[\u3040-\u30ff\u3400-\u9fff]|\w+|[^\w\s.,;:!?"'“”‘’…。，、！？]""")


class WordSets:
    """Hashes of the words and word pairs of texts, about 8 bytes per word."""

    def __init__(self) -> None:
        self._hashes, self._ends, self._texts = array("I"), array("q"), array("I")

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, text: str) -> None:
        """Add a text, ignoring case, white space and sentence punctuation, unless it has nothing else."""
        words = _WORD.findall(text.lower()) or [text.strip()]
        # words have even hashes, pairs odd ones
        hashes = [zlib.crc32(word.encode("utf-8", "surrogatepass")) & ~1 for word in words]
        pairs = (zlib.crc32(second.to_bytes(4), first) | 1 for first, second in pairwise(hashes))
        self._hashes.extend({*hashes, *pairs})
        self._ends.append(len(self._hashes))
        self._texts.append(zlib.crc32(" ".join(words).encode("utf-8", "surrogatepass")))

    def equal(self) -> NDArray[np.int64]:
        """Return a label for each text, which is equal for texts with the same words in the same order."""
        pairs = np.stack([np.frombuffer(self._texts, np.uint32), np.diff(self._ends, prepend=0)], 1)
        return np.unique(pairs, axis=0, return_inverse=True)[1].ravel()

    def near_equal(self, threshold: float, *, weighted: bool = False, contained: bool = False) -> NDArray[np.int64]:
        """Return a label for each text, which is equal for near-duplicates and for texts linked by them.

        Args:
            threshold: The minimum similarity of near-duplicates, at least 0.7.
            weighted: Whether features count by their inverse document frequency.
            contained: Whether one of the two texts must have all words of the other.
        """
        from scipy.sparse import coo_array, csr_array
        from scipy.sparse.csgraph import connected_components

        count = len(self)
        if not count:
            return np.zeros(0, np.int64)
        starts = np.concatenate([[0], np.asarray(self._ends)])
        hashes, features, frequency = np.unique(
            np.frombuffer(self._hashes, np.uint32), return_inverse=True, return_counts=True
        )
        weights = np.log((count + 1) / frequency) if weighted else np.ones(len(frequency))
        sets: Any = csr_array((np.ones(len(features)), features, starts), (count, len(frequency)))
        edges = np.concatenate([_with_first(self.equal()), *self._candidates(features, starts[:-1], weights)])
        left, right = np.unique(edges, axis=0).T
        both, sums, words = sets[left].multiply(sets[right]), sets @ weights, 1.0 - hashes % 2
        alike = both @ weights >= threshold * (sums[left] + sums[right] - both @ weights)
        if contained:
            num_words = sets @ words
            alike &= both @ words == np.minimum(num_words[left], num_words[right])
        graph = coo_array((np.ones(alike.sum()), (left[alike], right[alike])), (count, count))
        return connected_components(graph, directed=False)[1].astype(np.int64)

    def _candidates(
        self, features: NDArray[Any], starts: NDArray[Any], weights: NDArray[Any]
    ) -> Iterator[NDArray[np.int64]]:
        """Yield pairs of texts with equal minima in a band: each text with the first such text only."""
        random = np.random.default_rng(0)
        for _ in range(BANDS):
            key = np.zeros(len(starts), np.uint64)
            for _ in range(BAND_SIZE):
                draws = random.standard_exponential(len(weights)) / weights
                minima = np.minimum.reduceat(draws[features], starts)
                key = key * np.uint64(0x9E3779B97F4A7C15) + minima.view(np.uint64)
            yield _with_first(key)


def _with_first(labels: NDArray[Any]) -> NDArray[np.int64]:
    """Pair each position with the first position of its label, except the first positions themselves."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    pairs = np.stack([first[inverse], np.arange(len(labels))], 1)
    return pairs[pairs[:, 0] != pairs[:, 1]]
