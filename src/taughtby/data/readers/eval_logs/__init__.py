"""Reads evaluation logs of several tools as queries: the answers that failed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from taughtby.data.conversation import Columns
from taughtby.data.example import Record, shorten
from taughtby.data.readers import read_records
from taughtby.data.readers.eval_logs import garak, inspect, lm_eval, openai, promptfoo, tables, traces
from taughtby.data.readers.eval_logs.answers import LeftOut, LogForm, LoggedAnswer
from taughtby.data.readers.stream import STDIN, Rows, file_type, text_chunks
from taughtby.errors import DataError

FORMS = (
    inspect.FORM, promptfoo.FORM, lm_eval.FORM, garak.FORM, openai.FORM, traces.LANGFUSE, traces.WEAVE,
)  # fmt: skip
MAX_DETECTED = 100  # first rows that are searched for a verdict or a response
MAX_OBJECT = 1 << 30  # characters of a log that is a single JSON object, which must fit into memory


@dataclass(frozen=True)
class EvalLog:
    """The answers of a log that are queries.

    Attributes:
        path: The log.
        form: The name of its format.
        records: The queries, each with its source.
        left_out: Number of answers that are not queries, by reason.
        failed_by: Number of failed answers, by score.
    """

    path: Path
    form: str
    records: list[tuple[str, Record]]
    left_out: Counter[str]
    failed_by: Counter[str]

    @property
    def summary(self) -> str:
        """How many answers were taken and left out, as a sentence."""
        total = len(self.records) + self.left_out.total()
        text = f"{self.path}: {self.form}, {len(self.records):,} of {total:,} answers taken"
        if self.failed_by:
            text += f" (failed by {', '.join(f'{name} {count:,}' for name, count in self.failed_by.most_common())})"
        if self.left_out:
            text += f"; left out: {', '.join(f'{count:,} {reason}' for reason, count in self.left_out.most_common())}"
        return text


def read_log_or_records(
    path: str | Path, *, failed_only: bool = True, note: Callable[[str], None] | None = None, columns: Columns = ()
) -> Rows:
    """Yield the queries of a log, after passing its summary to `note`, or the rows of any other file."""
    log = read_eval_log(path, failed_only=failed_only, columns=columns)
    if log is None:
        yield from read_records(str(path))
        return
    if note:
        note(log.summary)
    yield from log.records


def read_eval_log(path: str | Path, *, failed_only: bool = True, columns: Columns = ()) -> EvalLog | None:
    """Read the answers of a log as records with `messages`, and `tools` if there are any.

    The format is detected from the file's content. If no answer of a log has a score, all are taken. The records of a
    table are its rows, without their verdicts.

    Args:
        path: An evaluation log, or any other file.
        failed_only: Take only answers that failed by at least one score.
        columns: How the training rows name their columns, for a table that has the same.

    Returns:
        The log; None if the file is not in a known format.

    Raises:
        DataError: The log is damaged or too large, or none of its answers is taken.
    """
    path = Path(path)
    opened = _open(path, (*FORMS, tables.table_form(columns)))
    if opened is None:
        return None
    form, rows = opened
    answers, left_out = _collect(form, rows)
    scored = any(answer.scores for _, answer in answers)
    records: list[tuple[str, Record]] = []
    failed_by: Counter[str] = Counter()
    for source, answer in answers:
        if failed_only and scored and answer.outcome != "failed":
            left_out[answer.outcome] += 1
            continue
        failed_by.update(shorten(name, 40) for name in answer.failed_by)  # names come from the log and may be long
        record = {"messages": answer.messages} | ({"tools": list(answer.tools)} if answer.tools else {})
        records.append((source, answer.record or record))
    log = EvalLog(path, form.name, records, left_out, failed_by)
    if not records:
        do = "give a log with answers, or --all to include those that passed" if scored else "give a log with answers"
        raise DataError("no answers were taken from the log", got=log.summary, do=do)
    return log


def _open(path: Path, forms: Sequence[LogForm]) -> tuple[LogForm, Rows] | None:
    """Return the format of a log and its rows; None if the format is unknown or the file cannot be read."""
    if str(path) in STDIN or not path.is_file():
        return None  # the reader of other files reports the error
    if file_type(path) == ".eval":
        return inspect.FORM, inspect.read_archive(path)
    if file_type(path) == ".json" and (whole := _json_object(path)):
        for form in forms:
            if (unpacked := form.unpack(whole)) is not None:
                return form, _numbered(path, unpacked)
    form = _detect(path, forms)
    return (form, form.join(path, read_records(str(path)))) if form else None


def _detect(path: Path, forms: Sequence[LogForm]) -> LogForm | None:
    """Return the format that accepts the first row of a file, or else its first rows."""
    first: list[Record] = []
    with suppress(DataError):  # whatever reads the rows later reports the error
        first.extend(row for _, row in islice(read_records(str(path)), MAX_DETECTED))
    by_one = (form for form in forms if first and form.accepts(first[0]))
    return next(by_one, None) or next((form for form in forms if form.accepts_rows(first)), None)


def _json_object(path: Path) -> Record | None:
    """Read a JSON file that is a single object; None if it is a list or JSON Lines."""
    parts: list[str] = []
    for part in text_chunks(path):
        parts.append(part)
        if parts[0].lstrip()[:1] != "{":
            return None
        if sum(map(len, parts)) > MAX_OBJECT:
            do = "save the log as .eval or .jsonl, or split it"
            raise DataError(
                f"{path} is too large for a single JSON object", got=f"over {MAX_OBJECT >> 20:,} MiB", do=do
            )
    try:
        whole = json.loads("".join(parts))
    except (ValueError, RecursionError):
        return None
    return whole if isinstance(whole, dict) else None


def _numbered(path: Path, rows: list[Any]) -> Iterator[tuple[str, Record]]:
    return ((f"{path}:{number}", row if isinstance(row, dict) else {}) for number, row in enumerate(rows))


def _collect(form: LogForm, rows: Rows) -> tuple[list[tuple[str, LoggedAnswer]], Counter[str]]:
    """Return the answers of a log, with repeated entries merged, and the numbers of entries left out by reason."""
    answers: dict[str, tuple[str, LoggedAnswer]] = {}
    left_out: dict[str, str] = {}
    for source, row in rows:
        try:
            entries = list(form.answers(row))
        except RecursionError:
            raise DataError(f"{source}: the entry is nested too deeply", do="remove the entry from the log") from None
        for number, answer in enumerate(entries):
            key = answer.key or f"{source} {number}"
            if isinstance(answer, LeftOut):
                left_out[key] = answer.reason
                continue
            if key in answers:
                source, before = answers[key]
                # entries may disagree on a score: one failure is enough
                scores = {**answer.scores, **before.scores} | dict.fromkeys([*before.failed_by, *answer.failed_by], 0.0)
                answer = LoggedAnswer(before.messages, scores, before.tools, key)
            answers[key] = source, answer
    return list(answers.values()), Counter(left_out.values())
