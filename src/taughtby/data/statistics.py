"""Statistics of a training set in one pass: lengths, duplicates, skipped rows, and one row as tokens.

Memory: counters, and 16 bytes per row to find duplicates.
"""

from __future__ import annotations

import re
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np

from taughtby.data.example import Example, LossMark
from taughtby.data.pretokenized import decode_rows
from taughtby.data.quality import QualityChecks
from taughtby.data.tokenize import (
    NO_TEMPLATE,
    Encoding,
    SkippedRow,
    TokenizedExample,
    chunk_rows,
    token_texts,
    tokenize_untruncated,
    truncate,
)

MAX_KINDS = 1000  # of labels, and of reasons to skip; a column of free text has a label per row
MAX_SOURCES = 3  # sources listed for each reason to skip rows
QUANTILES = {"min": 0.0, "5%": 0.05, "25%": 0.25, "50%": 0.5, "75%": 0.75, "95%": 0.95, "max": 1.0}

Progress = Callable[[int, int | None], None]  # (rows done, total if known)


@dataclass(frozen=True)
class RowPreview:
    """One row as tokens, with their ids and loss mask; the tokens from `n_prompt` on are the answer.

    `full_length` is the number of tokens before truncation. A row that cannot be used has a `reason` and no tokens.
    `whole` is true for a row that the user chose, of which every token is printed.
    """

    source: str
    label: str | None
    token_texts: tuple[str, ...]
    loss_mask: tuple[bool, ...]
    n_prompt: int
    full_length: int
    reason: str | None = None
    token_ids: tuple[int, ...] = ()
    whole: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the row with all its tokens as a JSON object."""
        tokens = zip(self.token_ids, self.token_texts, self.loss_mask, strict=True)
        return {
            "source": self.source, "reason": self.reason, "n_prompt": self.n_prompt,
            "tokens": [{"id": token, "text": text, "loss": loss} for token, text, loss in tokens],
        }  # fmt: skip


@dataclass
class SkipCount:
    """Number and first sources of the rows skipped for one reason."""

    reason: str
    count: int = 0
    sources: list[str] = field(default_factory=list[str])


@dataclass
class DatasetStatistics:
    """Counts over a training set; lengths are those before truncation."""

    encoding: Encoding
    format_name: str = ""
    template: str = ""  # a description
    rows: int = 0
    usable: int = 0
    truncated: int = 0
    tokens: int = 0
    loss_tokens: int = 0
    lengths: dict[str, Counter[int]] = field(
        default_factory=lambda: {key: Counter() for key in ("prompt", "answer", "whole")}
    )
    labels: Counter[str] = field(default_factory=Counter[str])
    skipped: dict[str, SkipCount] = field(default_factory=dict[str, SkipCount])
    marks: Counter[LossMark] = field(default_factory=Counter[LossMark])  # number of records with each
    preview: RowPreview | None = None
    seconds: float = 0.0
    hashes: tuple[array[int], array[int]] = field(default_factory=lambda: (array("q"), array("q")), repr=False)

    def add(self, row: Example, whole: TokenizedExample | SkippedRow) -> TokenizedExample | SkippedRow:
        """Count one row, and return it truncated, as it would be indexed."""
        self.rows += 1
        for mark in row.marks:
            self.marks[mark if mark in self.marks or len(self.marks) < MAX_KINDS else LossMark("…", False)] += 1
        # a plain text has no prompt, which would be the same as that of all others
        prompt = row.prompt if row.question.strip() else row.messages
        for hashes, content in zip(self.hashes, (prompt, row.messages[-1:]), strict=True):
            hashes.append(hash(repr(content)))
        if row.label is not None:
            self.labels[row.label if row.label in self.labels or len(self.labels) < MAX_KINDS else "…"] += 1
        example = whole if isinstance(whole, SkippedRow) else truncate(whole, self.encoding)
        if isinstance(whole, TokenizedExample):
            sizes = whole.n_prompt, whole.n_response, len(whole.ids)
            for counts, size in zip(self.lengths.values(), sizes, strict=True):
                counts[size] += 1
        if isinstance(example, SkippedRow):
            self._skip(row.source, example.reason)
        elif isinstance(whole, TokenizedExample):
            self.usable += 1
            self.truncated += len(example.ids) < len(whole.ids)
            self.tokens += len(example.ids)
            self.loss_tokens += sum(example.loss_mask)
        return example

    def _skip(self, source: str, reason: str) -> None:
        kind = re.sub(r"\d+", "…", reason)  # merge reasons that differ in numbers only
        has_room = kind in self.skipped or len(self.skipped) < MAX_KINDS
        skip = self.skipped.setdefault(kind if has_room else "…", SkipCount(reason if has_room else "other reasons"))
        skip.count += 1
        if skip.count <= MAX_SOURCES:
            skip.sources.append(source)

    def unfollowed(self) -> dict[str, int]:
        """Return the loss marks that are not followed, and how many records have each.

        With the mask `all`, marks are ignored, except in pretokenized rows.
        """
        ignored = self.encoding.mask == "all" and self.format_name != "input_ids"
        return {mark.name: count for mark, count in self.marks.items() if ignored or not mark.followed}

    def quantiles(self) -> dict[str, dict[str, int]]:
        """Return the quantiles of the lengths of prompts, answers and whole rows."""
        return {name: _quantiles(counts) for name, counts in self.lengths.items() if counts}

    def duplicates(self) -> dict[str, int]:
        """Count repeated rows, prompts and answers.

        Returns:
            `rows` that repeat an earlier one, distinct rows whose prompt has other answers too (`prompts`) or whose
            answer has other prompts too (`answers`), and rows with the most frequent answer (`most`).
        """
        prompts, answers = (np.frombuffer(hashes, np.int64) for hashes in self.hashes)
        _, first = np.unique(prompts * 3 + answers, return_index=True)
        repeats = {"rows": self.rows - len(first)}
        for name, hashes in (("prompts", prompts), ("answers", answers)):
            values, counts = np.unique(hashes[first], return_counts=True)
            repeats[name] = int(np.isin(hashes, values[counts > 1]).sum())
        return repeats | {"most": int(np.unique(answers, return_counts=True)[1].max(initial=0))}

    def to_json(self) -> dict[str, Any]:
        """Return the statistics as a JSON document."""
        return {
            "version": 1, "form": self.format_name, "template": self.template, "rows": self.rows,
            "usable": self.usable, "cut": self.truncated, "tokens": self.tokens, "learned": self.loss_tokens,
            "marks": [
                {"mark": mark.name, "rows": count, "followed": mark.name not in self.unfollowed()}
                for mark, count in self.marks.most_common()
            ],
            "row": self.preview and self.preview.to_json(),
            "lengths": self.quantiles(), "duplicates": self.duplicates(), "labels": dict(self.labels.most_common()),
            "skipped": [
                {"reason": skip.reason, "rows": skip.count, "first": skip.sources} for skip in self.skipped.values()
            ],
        }  # fmt: skip


def collect_statistics(
    rows: Iterable[Example],
    tokenizer: Any,
    encoding: Encoding,
    *,
    preview_row: int | None = None,
    limit: int | None = None,
    format_name: str = "",
    progress: Progress | None = None,
    checks: QualityChecks | None = None,
) -> DatasetStatistics:
    """Collect statistics of all rows.

    Args:
        rows: The rows.
        tokenizer: A Transformers tokenizer.
        encoding: How rows are tokenized.
        preview_row: Number, from 1, of the row to preview; by default the first usable row.
        limit: Read at most this many rows.
        format_name: Name of the column layout, for the report.
        progress: Called with the rows done and `limit`.
        checks: Quality checks that run in the same pass.
    """
    statistics, start = DatasetStatistics(encoding, format_name, _template(tokenizer, encoding)), time.monotonic()
    for chunk in chunk_rows(islice(rows, limit)):
        window = decode_rows(tokenizer, chunk)
        for row, whole in zip(
            window, tokenize_untruncated(tokenizer, window, encoding.template, encoding.mask), strict=True
        ):
            example = statistics.add(row, whole)
            if checks:
                checks.add(row, whole, example)
            better = statistics.preview is None or (statistics.preview.reason and isinstance(example, TokenizedExample))
            if statistics.rows == preview_row if preview_row else better:
                statistics.preview = replace(_preview(tokenizer, row, whole, example), whole=bool(preview_row))
        if progress:
            progress(statistics.rows, limit)
    if preview_row and statistics.preview is None:
        statistics.preview = RowPreview(
            f"number {preview_row}", None, (), (), 0, 0, f"there are only {statistics.rows:,} rows"
        )
    statistics.seconds = time.monotonic() - start
    return statistics


def _template(tokenizer: Any, encoding: Encoding) -> str:
    if encoding.template == NO_TEMPLATE:
        return "none, texts unchanged"
    if encoding.template:
        return "as given"
    return "the tokenizer's own" if tokenizer.chat_template else "none, a line break after each text"


def _quantiles(counts: Counter[int]) -> dict[str, int]:
    sizes = sorted(counts)
    reached = np.cumsum([counts[size] for size in sizes])
    places = {name: int(np.searchsorted(reached, share * reached[-1])) for name, share in QUANTILES.items()}
    return {name: sizes[place] for name, place in places.items()}


def _preview(
    tokenizer: Any, row: Example, whole: TokenizedExample | SkippedRow, example: TokenizedExample | SkippedRow
) -> RowPreview:
    length = len(whole.ids) if isinstance(whole, TokenizedExample) else 0
    if isinstance(example, SkippedRow):
        return RowPreview(row.source, row.label, (), (), 0, length, example.reason)
    special = set(tokenizer.all_special_ids)
    pieces = zip(example.ids, token_texts(tokenizer, example.ids), strict=True)
    named = tuple(tokenizer.convert_ids_to_tokens(token) if token in special else text for token, text in pieces)
    mask = tuple(example.loss_mask)
    return RowPreview(row.source, row.label, named, mask, example.n_prompt, length, token_ids=tuple(example.ids))
