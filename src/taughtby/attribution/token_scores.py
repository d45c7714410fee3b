"""Token scores of the rows that a trace ranks, and the top-scoring words of the other rows that it flags."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from taughtby.attribution.query import Contrast, PreparedQueries, Query
from taughtby.attribution.result import TokenScore
from taughtby.data.batching import Batch, make_batches
from taughtby.data.example import CharRanges
from taughtby.data.phrases import merge_ranges, top_scoring_words
from taughtby.data.tokenize import Encoding, TokenizedExample, token_texts, tokenize
from taughtby.index.reader import Index, IndexedRow
from taughtby.methods import Method, QueryFeatures, StateMethod
from taughtby.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

MAX_FLAGGED = 1000  # flagged rows of a query, beyond the ranked ones, whose tokens are scored
ProgressCallback = Callable[[int, int], Any]


@dataclass(frozen=True)
class TraceTask:
    """What is traced: queries with their features, against an index, with a method."""

    index: Index
    model: Model
    method: Method
    encoding: Encoding
    queries: Sequence[Query]
    prepared: PreparedQueries
    contrast: Contrast


@dataclass(frozen=True)
class Ranking:
    """The scores of all rows, and the K best rows of each query.

    `shares` says how much each query counts in the explanation of another; `rows` are the positions of all top rows in
    order, and `row_numbers` where each query's top rows are in it.
    """

    scores: Float[Tensor, "Q N"]
    shares: Float[Tensor, "Q Q"]
    top: Int[Tensor, "Q K"]
    rows: Int[Tensor, " R"]
    row_numbers: Int[Tensor, "Q K"]


@dataclass(frozen=True)
class TokenScores:
    """Token scores of the rows of each query; both lists have an entry per query, by the row's position.

    Attributes:
        ranked: The response tokens of the ranked rows, with their scores.
        words: Characters of the top-scoring words of flagged rows that are not ranked: unlike token
            scores, they stay small if many rows are flagged.
    """

    ranked: list[dict[int, tuple[TokenScore, ...]]]
    words: list[dict[int, CharRanges]]

    @classmethod
    def of(cls, ranking: Ranking, flagged: Sequence[Sequence[int] | None]) -> TokenScores:
        """Return empty scores of the ranked rows, and of the flagged rows beyond them."""
        ranked = [dict.fromkeys(top, ()) for top in ranking.top.tolist()]
        beyond = [[position for position in each or () if position not in top]
                  for each, top in zip(flagged, ranked, strict=True)]  # fmt: skip
        return cls(ranked, [dict.fromkeys(each[:MAX_FLAGGED], ()) for each in beyond])

    def compute(
        self, task: TraceTask, shares: Float[Tensor, "Q Q"], rows: Mapping[int, IndexedRow],
        progress: ProgressCallback | None,
    ) -> None:  # fmt: skip
        """Score the tokens of all rows.

        Args:
            task: What is traced.
            shares: How much each query counts in the explanation of another.
            rows: The rows by position.
            progress: Called with (done, total) rows.
        """
        positions = sorted({position for each in (*self.ranked, *self.words) for position in each})
        encoded = [(at, tokenize(task.model.tokenizer, rows[at].example, task.encoding)) for at in positions]
        usable = [(position, row) for position, row in encoded if isinstance(row, TokenizedExample)]
        texts = [token_texts(task.model.tokenizer, row.response) for _, row in usable]
        if not isinstance(task.method, StateMethod):
            examples = [rows[position].example for position, _ in usable]
            for b, scores in enumerate(_text_scores(task, shares, examples, texts).unbind(1)):
                self._store(rows[usable[b][0]], usable[b][0], texts[b], scores)
            return
        done = 0
        for batch in make_batches([row for _, row in usable], task.method.token_budget(task.model, per_token=True)):
            scores = _batch_scores(task, shares, batch)
            for b, number in enumerate(batch.row_indices):
                position, row = usable[number]
                self._store(rows[position], position, texts[number], scores[:, b, row.n_prompt_loss :])
            done += len(batch.row_indices)
            if progress:
                progress(done, len(usable))

    def _store(self, row: IndexedRow, position: int, texts: Sequence[str], scores: Float[Tensor, "Q R"]) -> None:
        for q, values in enumerate(scores[:, : len(texts)].tolist()):
            if position in self.ranked[q]:
                self.ranked[q][position] = strip_end(texts, values)
            elif position in self.words[q]:
                answer = row.example.response
                tokens = [(token.text, token.score) for token in strip_end(texts, values)]
                words = merge_ranges(sorted(set(top_scoring_words(tokens, answer))), answer)
                self.words[q][position] = tuple(words) or ((0, len(answer)),)


def _text_scores(
    task: TraceTask, shares: Float[Tensor, "Q Q"], examples: Sequence[Any], texts: Sequence[Sequence[str]]
) -> Float[Tensor, "Q B R"]:
    def token_scores(features: QueryFeatures) -> Tensor:
        return task.method.text_token_scores(features, task.index, examples, texts)

    return torch.einsum("qp,pbr->qbr", shares, task.contrast.difference(token_scores))


def _batch_scores(task: TraceTask, shares: Float[Tensor, "Q Q"], batch: Batch) -> Float[Tensor, "Q B R"]:
    def token_scores(features: QueryFeatures) -> Tensor:
        assert isinstance(task.method, StateMethod)
        scores = task.method.token_scores(task.model, batch, features)
        assert scores is not None
        return scores

    return torch.einsum("qp,pbr->qbr", shares, task.contrast.difference(token_scores))


def strip_end(texts: Sequence[str], values: Sequence[float]) -> tuple[TokenScore, ...]:
    """Return token scores without the closing tokens of the chat template, which have no text."""
    end = len(texts)
    while end and not texts[end - 1].strip():
        end -= 1
    return tuple(TokenScore(text, value) for text, value in zip(texts[:end], values[:end], strict=True))
