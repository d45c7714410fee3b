"""The result of tracing queries: ranked rows, token scores and flagged rows. It reads no file and runs no model."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taughtby.attribution.query import FIELDS, Query
from taughtby.attribution.significance import DEFAULT_FDR, Grade
from taughtby.data.example import CharRanges, Example
from taughtby.data.phrases import align_tokens
from taughtby.index.reader import Index, IndexedRow
from taughtby.methods import Method
from taughtby.reporting.files import save_json
from taughtby.reporting.html import render_page, save_page
from taughtby.reporting.notebook import render_cell, to_flagged_table, to_table

if TYPE_CHECKING:
    import pyarrow as pa
    from jaxtyping import Float
    from torch import Tensor

CURVE_STEPS = 50


@dataclass(frozen=True)
class TokenScore:
    """A token's text and its number: a score in a training row, a weight in a query."""

    text: str
    score: float


@dataclass(frozen=True)
class RankedRow:
    """One ranked training row.

    Attributes:
        rank: Rank for the query, from 1.
        score: How strongly the row matches the query.
        example: The row itself.
        position: Position of the row in the index, from 0.
        score_components: Terms that add up to the score, by feature name; empty if the method has none.
        tokens: The tokens of the row's response with their scores; empty if the method does not score tokens.
        p_value: Probability of such a score in a row unrelated to the query; None without controls.
        flagged: Whether the row is flagged at the trace's FDR; None without controls.
        stability: Share of bootstrap resamples of the queries in which the row is flagged again; None for a query
            that is explained alone.
    """

    rank: int
    score: float
    example: Example
    position: int
    score_components: dict[str, float]
    tokens: tuple[TokenScore, ...]
    p_value: float | None = None
    flagged: bool | None = None
    stability: float | None = None


@dataclass(frozen=True)
class QueryResult:
    """The result for one query.

    Attributes:
        query: The query.
        answer: Tokens of its response; the score is the token's weight relative to the highest one.
        rows: The top rows, best first.
        scores: The score of every row of the index, shape (N,).
        flagged: Positions of all flagged rows, best first, ranked or not; None if the method has no controls, or for
            the reason in `no_evidence`.
        increased_by_finetuning: False if fine-tuning did not make any of the weighted tokens more likely.
        no_evidence: Why rows cannot be flagged for this query although the method has controls.
        grade: "flagged" if rows are flagged; "likely" if none is, but the first rows stand apart at a nominal rate of
            50 %; "none" otherwise; None without controls.
        likely: Positions of the rows that stand apart, best first, if none is flagged.
        likely_ids: Their ids.
        flagged_words: Characters of the top-scoring words of flagged rows that are not among `rows`, by position.
    """

    query: Query
    answer: tuple[TokenScore, ...]
    rows: tuple[RankedRow, ...]
    scores: Float[Tensor, " N"] = field(repr=False, compare=False)
    flagged: tuple[int, ...] | None = None
    increased_by_finetuning: bool = True
    no_evidence: str | None = None
    grade: Grade | None = None
    likely: tuple[int, ...] = ()
    likely_ids: tuple[str, ...] = ()
    flagged_words: Mapping[int, CharRanges] = field(default_factory=dict[int, "CharRanges"])


@dataclass(frozen=True)
class FlaggedRow:
    """A row that is flagged for at least one query of a trace; `queries` are their numbers, from 1."""

    id: str
    source: str
    label: str | None
    example: Example = field(repr=False)
    queries: tuple[int, ...]
    position: int


@dataclass(frozen=True)
class TraceOrigin:
    """The traced index as the trace's document names it: where it and its model are, its size and its layers.

    `fingerprint` has hashes of what the index was built with: the weights of `model`, `adapter` and `base`, the chat
    `template` and the `data`; None where there is none.
    """

    index: str
    model: str
    adapter: str | list[str] | None
    num_rows: int
    layers: dict[str, Any] | None
    fingerprint: Mapping[str, str | None] = field(default_factory=dict[str, "str | None"])


@dataclass(frozen=True)
class Trace:
    """All queries traced against one index with one method.

    Attributes:
        method: The method, with every layer a number.
        index: The index, open for reading.
        queries: One result per query.
        flagged: The rows flagged for any query, each once, best first.
        fdr: The nominal false discovery rate at which rows are flagged.
        warnings: What to keep in mind when reading the ranking, in sentences.
        origin: Names of the index and its model.
        links: For a query's number, from 0, and a row's position, the links between tokens of the row and of the
            answer as (token of the row, token of the answer, score); empty unless they were requested.
    """

    method: Method
    index: Index = field(repr=False)
    queries: tuple[QueryResult, ...]
    origin: TraceOrigin
    flagged: tuple[FlaggedRow, ...] = ()
    fdr: float = DEFAULT_FDR
    warnings: tuple[str, ...] = ()
    links: Mapping[tuple[int, int], Sequence[tuple[int, int, float]]] = field(
        default_factory=dict[tuple[int, int], "Sequence[tuple[int, int, float]]"], repr=False
    )

    def __repr__(self) -> str:
        ranked = max((len(result.rows) for result in self.queries), default=0)
        return (f"Trace({len(self.queries)} queries × {ranked} rows by {self.method!r}, {len(self.flagged)} rows "
                f"flagged, index {self.origin.index!r})")  # fmt: skip

    def _repr_html_(self) -> str:
        return render_cell(self.to_json())

    def to_arrow(self) -> pa.Table:
        """Return a table with a line per query and ranked row, its score components and its top-scoring word."""
        return to_table(self.to_json())

    def to_pandas(self) -> Any:
        """Return the table of `to_arrow` as a data frame."""
        return self.to_arrow().to_pandas()

    def flagged_to_pandas(self) -> Any:
        """Return the rows flagged for any query as a data frame, best first, ranked or not.

        `queries` are the numbers of the queries that flag the row, from 1, and `num_queries` how many these are.
        """
        lines = [{"id": row.id, "source": row.source, "label": row.label, "num_queries": len(row.queries),
                  "queries": list(row.queries), "position": row.position, "messages": row.example.messages}
                 for row in self.flagged]  # fmt: skip
        return to_flagged_table(lines).to_pandas()

    def save(self, path: str | Path) -> None:
        """Write the trace as JSON, which `taughtby clean` and `taughtby serve` read.

        Raises:
            TaughtbyError: The file cannot be written.
        """
        save_json({**self.to_json(), "home": str(Path(path).parent.resolve())}, path)

    def to_html(self, path: str | Path | None = None) -> str:
        """Return the trace as one self-contained HTML page, and write it to `path` if one is given.

        Raises:
            TaughtbyError: The file cannot be written.
        """
        document = self.to_json()
        if path is not None:
            save_page(document, path)
        return render_page(document)

    def to_json(self) -> dict[str, Any]:
        """Return the trace as a JSON document, version 2."""
        ids = {row.position: row.id for row in self.flagged}
        name, options = self.method.name, self.method.spec()
        return {
            "version": 2,
            "taughtby": sys.modules["taughtby"].__version__,  # packages import only from earlier ones
            "method": {"name": name, "options": {key: value for key, value in options.items() if key != "name"}},
            "model": self.origin.model,
            "adapter": self.origin.adapter,
            "index": self.origin.index,
            "fingerprint": dict(self.origin.fingerprint),
            "num_rows": self.origin.num_rows,
            "fdr": self.fdr,
            "warnings": list(self.warnings),
            "layers": self.origin.layers,
            "queries": [
                _query_json(result, ids) | {"rows": self._rows_json(q)} for q, result in enumerate(self.queries)
            ],
        }

    def _rows_json(self, q: int) -> list[dict[str, Any]]:
        links = {position: list(links) for (query, position), links in self.links.items() if query == q}
        return [_row_json(row) | ({"links": links.get(row.position, [])} if self.links else {})
                for row in self.queries[q].rows]  # fmt: skip


def flagged_rows(results: Sequence[QueryResult], rows: Mapping[int, IndexedRow]) -> tuple[FlaggedRow, ...]:
    """Return the rows flagged for any query, each once, in the order of their best rank; `rows` by position."""
    ranks: dict[int, tuple[int, int]] = {}
    queries: dict[int, list[int]] = {}
    for number, result in enumerate(results, 1):
        for rank, position in enumerate(result.flagged or ()):
            ranks[position] = min((rank, number), ranks.get(position, (rank, number)))
            queries.setdefault(position, []).append(number)
    return tuple(
        FlaggedRow(row.id, row.source, row.label, row, tuple(queries[position]), position)
        for position, row in ((position, rows[position].example) for position in sorted(ranks, key=ranks.__getitem__))
    )


def _query_json(result: QueryResult, ids: dict[int, str]) -> dict[str, Any]:
    query, span = result.query, result.query.span_position()
    context = {"before": query.before, "after": query.after, "tools": query.tools}
    fields = {name: getattr(query, name) for name in FIELDS}
    return {
        "prompt": query.prompt,
        "response": query.response,
        **{name: list(values) for name, values in context.items() if values},
        **{name: dict(pairs) for name, pairs in fields.items() if pairs},
        "span": span and query.response[slice(*span)],
        "span_range": span,
        "desired": query.desired,
        "answer": [{"text": token.text, "weight": token.score} for token in result.answer],
        "answer_begin": align_tokens("".join(token.text for token in result.answer), query.response),
        "increased_by_finetuning": result.increased_by_finetuning,
        "num_flagged": None if result.flagged is None else len(result.flagged),
        "flagged_ids": None if result.flagged is None else [ids[position] for position in result.flagged],
        "flagged_words": {ids[position]: words for position, words in result.flagged_words.items() if words},
        "grade": result.grade,
        "likely_ids": list(result.likely_ids),
        "no_evidence": result.no_evidence,
        "score_curve": _score_curve(result.scores),
    }


def _score_curve(scores: Float[Tensor, " N"]) -> list[list[float]]:
    """Scores as [rank, score], at ranks from 1 to N that are about evenly spaced on a logarithmic scale."""
    ordered = scores.sort(descending=True).values.tolist()
    ranks = sorted({round(len(ordered) ** (step / CURVE_STEPS)) for step in range(CURVE_STEPS + 1)}) if ordered else []
    return [[rank, round(ordered[rank - 1], 4)] for rank in ranks if math.isfinite(ordered[rank - 1])]


def _row_json(row: RankedRow) -> dict[str, Any]:
    return {
        "rank": row.rank,
        "id": row.example.id,
        "score": row.score,
        "p_value": row.p_value,
        "flagged": row.flagged,
        "stability": row.stability,
        "source": row.example.source,
        "label": row.example.label,
        "messages": list(row.example.messages),
        "score_components": row.score_components,
        "tokens": [{"text": token.text, "score": token.score} for token in row.tokens],
    }
