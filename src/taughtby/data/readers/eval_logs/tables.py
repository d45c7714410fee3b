"""Tables of prompts, answers and verdicts, such as those of Weights & Biases: `.table.json`, CSV or Parquet.

A row without its verdicts is a query as in any other file: its layout, system prompt, tools and span are read later.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from taughtby.data.content import is_filled, reject_media
from taughtby.data.conversation import ANSWER_NAME, Columns
from taughtby.data.example import Record
from taughtby.data.formats import FORMATS
from taughtby.data.readers.eval_logs.answers import LeftOut, LogForm, LoggedAnswer, as_turns, logged_answer, read_scores
from taughtby.errors import DataError

PROMPTS = ("messages", "prompt", "question", "instruction", "query", "input")
ANSWERS = ("response", "output", "completion", "answer", "prediction", "generation", "model_output")
VERDICTS = ("correct", "is_correct", "passed", "pass", "success", "exact_match", "acc")
# prefixes of columns with a right answer; `answer` is one too if another column has an answer
_REFERENCE = re.compile(r"(gold|golden|reference|ref|expected|target|correct|true|ideal|ground_truth|best)_")


def table_form(columns: Columns = ()) -> LogForm:
    """Return the format; `columns` are pairs of taughtby's name and the table's name of a column."""
    accepts_rows = partial(_accepts_rows, columns)
    return LogForm(
        "table of verdicts", partial(_accepts, columns), partial(_answers, columns), _unpack, accepts_rows=accepts_rows
    )


def _accepts(columns: Columns, row: Record) -> bool:
    """Whether a row has a question, an answer and a verdict; a table without verdicts is not a log."""
    record, prompt, answer = _query(columns, row)
    return bool(read_scores(_verdicts(row)) and prompt in record and answer)


def _accepts_rows(columns: Columns, rows: list[Record]) -> bool:
    """Whether a row is accepted, and at least half of those in which a verdict's cell is filled.

    The first cells may be empty. Few texts in a column of right answers read as verdicts, such as numbers.
    """
    filled = [row for row in rows if is_filled(list(_verdicts(row).values()))]
    return 2 * sum(_accepts(columns, row) for row in filled) >= max(1, len(filled))


def _unpack(whole: Record) -> list[Any] | None:
    """Return the rows of a `.table.json`, which stores column names and lists of cells."""
    columns, cells = whole.get("columns"), whole.get("data")
    if not isinstance(columns, list) or not isinstance(cells, list):
        return None
    return [dict(zip(map(str, columns), row, strict=False)) for row in cells if isinstance(row, list)]


def _answers(columns: Columns, row: Record) -> Iterator[LoggedAnswer | LeftOut]:
    record, prompt, answer = _query(columns, row)
    turns, answer_turns = as_turns(record.get(prompt) or None), record.get(answer)
    if isinstance(answer_turns, str):
        answer_turns = [{"role": "assistant", "content": answer_turns}]
    logged = logged_answer([*turns, *(as_turns(answer_turns) or ())], scores=_verdicts(row)) if turns else None
    try:
        reject_media(record, "")
    except DataError:
        logged = LeftOut("with more than text")
    if isinstance(logged, LoggedAnswer):
        # keep a list of messages, which a cell may hold as JSON; a text stays unchanged
        question = turns if turns and turns[0].get("content") is not record[prompt] else record[prompt]
        logged = replace(logged, record={**record, prompt: question})
    yield logged or LeftOut("without a question")


def _query(columns: Columns, row: Record) -> tuple[Record, str, str]:
    """Return a row without its verdicts, and the columns of the question and of the model's answer.

    The answer is put where a layout reads it, and reference answers are left out.
    """
    verdicts = _verdicts(row)
    record = {name: value for name, value in row.items() if name not in verdicts}
    named = {what: column for what, column in columns if all(column in record for _, column in columns)}
    if not named:
        record = {name.lower() if name.lower() in {*PROMPTS, *ANSWERS}.difference(row) else name: value
                  for name, value in record.items()}  # fmt: skip
    asks = next((what for what in PROMPTS if what in named), "") or _first(record, PROMPTS)
    mapped = next((named[what] for what in ANSWERS if what in named), None)
    names = [name for name in record if ANSWER_NAME.search(name.lower())]
    answers = [name for name in names if not _REFERENCE.match(name.lower()) and name.lower() != "answer"]
    prompt = named.get(asks, asks)
    if mapped and (mapped in answers or not answers):  # beside a model's answer, the training rows' is the reference
        return record, prompt, mapped
    answers = answers or [name for name in names if name.lower() == "answer"]
    filled = [name for name in answers if is_filled(record[name])]
    others = {*names} - {*filled} - ({*named.values()} - {mapped})
    record = {name: value for name, value in record.items() if name not in others}
    if len(filled) != 1 or prompt not in record:  # an empty text is counted, several answers are refused later
        return record, prompt, next(iter(filled or answers), "")
    return _in_layout(record, (prompt, asks), filled[0], mapped)


def _in_layout(record: Record, ask: tuple[str, str], answer: str, mapped: str | None) -> tuple[Record, str, str]:
    """Rename the columns of the question and the answer to those of a layout, or the answer to the `mapped` column.

    `ask` is the column of the question, and taughtby's name of it.
    """
    reads = (form.all_columns for form in FORMATS if form.columns == (ask[1], answer))
    if not mapped and any("input" in names or "input" not in record for names in reads):
        return record, ask[0], answer
    target = mapped or ("output" if ask[1] in ("instruction", "input") else "response")
    prompt = "prompt" if ask[0] == "messages" and not mapped else ask[0]
    others = {name: value for name, value in record.items() if name not in {*ask, answer, prompt, target}}
    return {prompt: record[ask[0]], target: record[answer], **others}, prompt, target


def _first(record: Record, names: tuple[str, ...]) -> str:
    return next((name for name in names if is_filled(record.get(name))), "")


def _verdicts(row: Record) -> Record:
    """Return the verdicts of a row. A single letter is not a verdict: it may be the correct choice."""
    verdicts = {name: value for name, value in row.items() if str(name).lower() in VERDICTS}
    return {name: value for name, value in verdicts.items() if not str(value).strip().isalpha() or len(str(value)) > 1}
