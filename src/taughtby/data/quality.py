"""Finds problems of a training set: rows without loss, truncated answers, template tokens, duplicates, contradictions.

One pass collects the rows with each problem; texts are compared with each other after it. Memory: an excerpt of each
row, and 8 bytes for each of its words; several times that while texts are compared.
"""

from __future__ import annotations

import re
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from taughtby.data.example import Example
from taughtby.data.near_duplicates import WordSets
from taughtby.data.template_marks import TemplateMarks
from taughtby.data.tokenize import Encoding, SkippedRow, TokenizedExample
from taughtby.text import collapse_whitespace

if TYPE_CHECKING:
    from numpy.typing import NDArray

KINDS = {
    "nothing-learned": "no token of the row has a loss",
    "truncated-answer": "the answer is truncated",
    "no-end-of-turn": "no end-of-turn token has a loss",
    "template-tokens": "a text contains tokens or role markers of a chat template",
    "duplicate-rows": "prompt and answer equal those of another row",
    "conflicting-answers": "the same or nearly the same prompt has different answers",
    "equal-answers": "different prompts have the same or nearly the same answer",
}
MIN_CLUSTER = 5  # minimum number of prompts with equal answers; fewer are common in any set
MAX_GROUPS, MAX_ROWS = 5, 3  # groups in a finding, rows shown of a group
NEAR_PROMPT, NEAR_ANSWER = 0.7, 0.8  # minimum similarity of near-duplicates
EXCERPT = 80  # characters


@dataclass(frozen=True)
class RowExcerpt:
    """A row as shown in a finding: source, id, and the beginnings of its last question and its answer."""

    source: str
    id: str
    prompt: str
    answer: str


@dataclass(frozen=True)
class FindingGroup:
    """Rows with the same problem: how many, the first of them, and what they have in common."""

    count: int
    rows: tuple[RowExcerpt, ...]
    detail: str = ""


@dataclass(frozen=True)
class Finding:
    """All rows with one kind of problem, in groups; only the largest groups are kept."""

    kind: str
    count: int
    num_groups: int
    groups: tuple[FindingGroup, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the finding as a JSON object."""
        return asdict(self) | {"meaning": KINDS[self.kind]}


class QualityChecks:
    """Collects the problems of rows, one row at a time.

    Args:
        tokenizer: The tokenizer that the rows were tokenized with.
        encoding: How they were tokenized.
    """

    def __init__(self, tokenizer: Any, encoding: Encoding) -> None:
        self._marks, self._encoding = TemplateMarks(tokenizer, encoding.template), encoding
        self._rows: list[RowExcerpt] = []
        self._faults: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        self._reasons: dict[str, str] = {}
        self._used = array("q")  # the numbers of the rows whose texts are compared
        self._questions, self._answers, self._contexts = WordSets(), WordSets(), array("q")
        self._unasked = array("b")  # whether a row has no question, such as plain text

    def add(self, row: Example, whole: TokenizedExample | SkippedRow, example: TokenizedExample | SkippedRow) -> None:
        """Add a row as read (`row`), tokenized (`whole`), and truncated to the maximum length (`example`)."""
        number = len(self._rows)
        self._rows.append(RowExcerpt(row.source, row.id, _excerpt(row.question), _excerpt(row.response)))
        if isinstance(example, SkippedRow) or isinstance(whole, SkippedRow):
            reason = example.reason if isinstance(example, SkippedRow) else ""
            first = self._reasons.setdefault(re.sub(r"\d+", "…", reason), reason)  # numbers differ by row
            self._faults["nothing-learned"][first].append(number)
            return
        if not any(example.loss_mask):
            self._faults["nothing-learned"]["all tokens are masked"].append(number)
        elif len(example.ids) < len(whole.ids) and self._encoding.truncate == "right":
            self._faults["truncated-answer"][f"longer than {self._encoding.max_length:,} tokens"].append(number)
        elif not self._marks.ends_turn(example):
            self._faults["no-end-of-turn"][""].append(number)
        for mark in self._marks.in_texts(row):
            self._faults["template-tokens"][mark].append(number)
        self._used.append(number)
        self._questions.add(row.question)
        self._answers.add(row.response)
        context = [message for message in row.prompt if message["content"] != row.question or not row.question]
        self._contexts.append(hash(repr((context, row.tools))))
        self._unasked.append(not row.question.strip())

    def findings(self) -> list[Finding]:
        """Return a finding for each kind of problem that occurs, in the order of `KINDS`."""
        groups = {
            kind: [self._group(rows, detail=detail) for detail, rows in faults.items()]
            for kind, faults in self._faults.items()
        } | dict(self._compare_texts())
        counts = {kind: sum(group.count for group in groups[kind]) for kind in groups}
        marked = {number for rows in self._faults["template-tokens"].values() for number in rows}
        counts["template-tokens"] = len(marked)  # a row may contain several markers
        return [
            Finding(kind, counts[kind], len(groups[kind]), _largest(groups[kind])) for kind in KINDS if groups.get(kind)
        ]

    def _compare_texts(self) -> Iterator[tuple[str, list[FindingGroup]]]:
        contexts, used = np.frombuffer(self._contexts, np.int64), np.frombuffer(self._used, np.int64)
        answers = self._answers.equal()
        prompts = _labels(self._questions.equal(), contexts)
        rows = np.arange(len(used))
        near_prompts = _labels(self._questions.near_equal(NEAR_PROMPT, weighted=True, contained=True), contexts)
        near_prompts = np.where(np.frombuffer(self._unasked, np.int8), -1 - rows, near_prompts)
        near_answers = self._answers.near_equal(NEAR_ANSWER)

        def groups(
            labels: NDArray[np.int64], values: NDArray[np.int64], at_least: int, detail: Callable[[int], str]
        ) -> list[FindingGroup]:
            """Group rows by label; keep groups with `at_least` different values, and show rows that differ in it."""
            return [
                self._group(used[rows].tolist(), used[rows[first]].tolist(), detail(len(first)))
                for rows in _split(labels)
                if len(first := np.sort(np.unique(values[rows], return_index=True)[1])) >= at_least
            ]

        yield "duplicate-rows", groups(_labels(prompts, answers), rows, 2, lambda _: "")
        yield "conflicting-answers", groups(near_prompts, answers, 2, lambda n: f"{n:,} different answers")
        yield "equal-answers", groups(near_answers, prompts, MIN_CLUSTER, lambda n: f"{n:,} different prompts")

    def _group(self, rows: Sequence[int], shown: Iterable[int] | None = None, detail: str = "") -> FindingGroup:
        first = list(rows if shown is None else shown)[:MAX_ROWS]
        return FindingGroup(len(rows), tuple(self._rows[number] for number in first), detail)


def _excerpt(text: str) -> str:
    text = collapse_whitespace(text[: 2 * EXCERPT]).strip()
    return text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "…"


def _largest(groups: Iterable[FindingGroup]) -> tuple[FindingGroup, ...]:
    return tuple(sorted(groups, key=lambda group: -group.count)[:MAX_GROUPS])


def _labels(*labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Combine labels: return a label for each row, which is equal for rows with the same labels."""
    return np.unique(np.stack(labels, 1), axis=0, return_inverse=True)[1].ravel()


def _split(labels: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield the positions of each label that several rows have, in the order of the rows."""
    order = np.argsort(labels, kind="stable")
    ends = np.flatnonzero(np.diff(labels[order])) + 1
    yield from (part for part in np.split(order, ends) if len(part) > 1)
