"""Tables of prompts, answers and verdicts, such as those of Weights & Biases: `.table.json`, CSV or Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from taughtby.data.example import Record
from taughtby.data.readers.eval_logs.answers import LeftOut, LogForm, LoggedAnswer, as_turns, logged_answer, read_scores

PROMPTS = ("messages", "prompt", "question", "input", "instruction", "query")
ANSWERS = ("response", "output", "completion", "answer", "prediction", "generation", "model_output")
VERDICTS = ("correct", "is_correct", "passed", "pass", "success", "exact_match", "acc")


def _accepts(row: Record) -> bool:
    """Whether a row has a question, an answer and a verdict; a table without verdicts is not a log."""
    return bool(read_scores(_verdicts(row))) and _first(row, PROMPTS) is not None and _first(row, ANSWERS) is not None


def _unpack(whole: Record) -> list[Any] | None:
    """Return the rows of a `.table.json`, which stores column names and lists of cells."""
    columns, cells = whole.get("columns"), whole.get("data")
    if not isinstance(columns, list) or not isinstance(cells, list):
        return None
    return [dict(zip(map(str, columns), row, strict=False)) for row in cells if isinstance(row, list)]


def _answers(row: Record) -> Iterator[LoggedAnswer | LeftOut]:
    turns, answer = as_turns(_first(row, PROMPTS)), _first(row, ANSWERS)
    if not turns or not isinstance(answer, str):
        yield LeftOut("without an answer" if turns else "without a question")
        return
    yield logged_answer([*turns, {"role": "assistant", "content": answer}], scores=_verdicts(row))


def _first(row: Record, names: tuple[str, ...]) -> Any:
    columns = {str(name).lower(): value for name, value in row.items()}
    return next((columns[name] for name in names if columns.get(name) not in (None, "")), None)


def _verdicts(row: Record) -> Record:
    """Return the verdicts of a row. A single letter is not a verdict: it may be the correct choice."""
    verdicts = {name: value for name, value in row.items() if str(name).lower() in VERDICTS}
    return {name: value for name, value in verdicts.items() if not str(value).strip().isalpha() or len(str(value)) > 1}


FORM = LogForm("table of verdicts", _accepts, _answers, _unpack)
