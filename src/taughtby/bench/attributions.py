"""Attributions of a scenario's bad answers: a score for every row and, if the method has them, for every token.

Other tools are compared through files: `export_inputs` writes the token ids of rows and queries, and `read_peer` reads
a tool's scores (`benchmarks/peers`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taughtby.attribution.query import Query
from taughtby.attribution.trace import trace_queries
from taughtby.bench.run import MethodRun
from taughtby.data.example import make_example
from taughtby.data.phrases import Range
from taughtby.data.pretokenized import IGNORED
from taughtby.data.tokenize import TokenizedExample, tokenize_all
from taughtby.errors import DataError
from taughtby.lab.answers import write_jsonl
from taughtby.models.model import Model


@dataclass(frozen=True)
class Attribution:
    """The scores of one method in one scenario.

    Attributes:
        method: The method's spec, or a tool and its method.
        rows: The score of each of the N rows for each of the Q queries; higher is more responsible.
        tokens: The score of each response token of each row, averaged over the queries; None without token scores.
    """

    method: str
    rows: NDArray[np.float64]  # (Q, N)
    tokens: tuple[tuple[float, ...], ...] | None = None

    @property
    def mean_rows(self) -> NDArray[np.float64]:
        """The mean score of each row over the queries."""
        return self.rows.mean(0)


def score_scenario(run: MethodRun, model: Model, spans: Sequence[Range] | None = None) -> dict[str, Any]:
    """Index the scenario with a method and trace its queries; return the scores of all rows and tokens, as JSON.

    Args:
        run: The method and the queries.
        model: The fine-tuned model.
        spans: The characters of each response to explain; None for whole responses.
    """
    queries = [Query(query["prompt"], query["response"], span_range=span)
               for query, span in zip(run.queries, spans or [None] * len(run.queries), strict=True)]  # fmt: skip
    index, cost = run.build_index(model)
    trace = trace_queries(index, model, queries, method=run.method, top_k=len(index))
    tokens: dict[int, list[NDArray[np.float64]]] = {}
    for result in trace.queries:
        for row in result.rows:
            if row.tokens:
                tokens.setdefault(row.position, []).append(np.array([token.score for token in row.tokens]))
    means = [np.mean(tokens[place], axis=0).tolist() if place in tokens else [] for place in range(len(index))]
    rows = [[float(score) for score in result.scores] for result in trace.queries]
    return {"rows": rows, "tokens": means if tokens else None, "index": cost}


def attribution(method: str, scores: dict[str, Any]) -> Attribution:
    """The attribution from the result of `score_scenario` or another tool's file."""
    tokens = scores["tokens"]
    return Attribution(method, np.array(scores["rows"], float), tokens and tuple(map(tuple, tokens)))


def export_inputs(
    folder: Path, model: Model, rows: Sequence[TokenizedExample], queries: Sequence[dict[str, Any]], encoding: Any
) -> None:
    """Write `rows.jsonl` and `queries.jsonl`: token ids, and labels that are -100 for tokens without loss."""
    answers = [make_example(query["prompt"], query["response"]) for query in queries]
    folder.mkdir(parents=True, exist_ok=True)
    encoded = [row for row in tokenize_all(model.tokenizer, answers, encoding) if isinstance(row, TokenizedExample)]
    for name, examples in (("rows", rows), ("queries", encoded)):
        records = [
            {"input_ids": list(row.ids),
             "labels": [token if learned else IGNORED for token, learned in zip(row.ids, row.loss_mask, strict=True)]}
            for row in examples
        ]  # fmt: skip
        write_jsonl(records, folder / f"{name}.jsonl")


def read_peer(file: Path, rows: Sequence[TokenizedExample], num_queries: int) -> Attribution:
    """Read another tool's scores: `row_scores` by query, and `token_scores` by query, row and input token.

    Raises:
        DataError: The file cannot be read, or has scores of other rows or queries.
    """
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        name = " ".join(str(document[key]) for key in ("tool", "method"))
        scores = np.array(document["row_scores"], float)
        each = document.get("token_scores")
        tokens = each and [np.mean([query[n] for query in each], axis=0)[row.n_prompt :].tolist()
                           for n, row in enumerate(rows)]  # fmt: skip
    except (OSError, ValueError, LookupError, TypeError) as fault:
        raise DataError(f"{file} cannot be read", got=repr(fault)[:200], do="write it with benchmarks/peers") from None
    if scores.shape != (num_queries, len(rows)) or not np.isfinite(scores).all():
        what = f"{file} has scores of other rows or queries, or scores that are not finite"
        got = f"scores of shape {scores.shape} for {num_queries} queries and {len(rows)} rows"
        raise DataError(what, got=got, do="score this scenario's rows.jsonl and queries.jsonl")
    return attribution(name, {"rows": scores, "tokens": tokens})
