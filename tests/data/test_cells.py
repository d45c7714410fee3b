"""Text cells of tables: parsed as messages if that is certain, refused if it is ambiguous, else kept as text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from taughtby.data.dataset import read_examples
from taughtby.errors import DataError
from writers import delimited, turn

ASK, ANSWER, NO = turn("user", "a"), turn("assistant", "b"), turn("assistant", "c")


def written(tmp_path: Path, record: dict[str, Any]) -> Path:
    path = tmp_path / "a.csv"
    path.write_text(delimited([record]))
    return path


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [ASK, ANSWER]}, {"prompt": [ASK], "completion": [ANSWER]}, {"prompt": [ASK], "response": [ANSWER]},
        {"prompt": [ASK], "chosen": [ANSWER], "rejected": [NO]},
        {"prompt": "a", "chosen": [ASK, ANSWER], "rejected": [ASK, NO]},
        {"conversations": [ASK], "chosen": ANSWER, "rejected": NO},
    ],
)  # fmt: skip
def test_csv_cells_that_are_all_messages_are_a_conversation(tmp_path: Path, record: dict[str, Any]) -> None:
    (row,) = read_examples(written(tmp_path, record))
    assert row.messages == (ASK, ANSWER)


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "make a chat", "response": [ASK, ANSWER]},  # an answer that is JSON, or a conversation
        {"prompt": "make a turn", "response": ANSWER},
        {"question": [ASK], "answer": "b"},
        {"prompt": [ASK, ANSWER], "response": [ANSWER]},  # a conversation does not ask with an answer
        {"prompt": [ASK], "completion": [ASK, ANSWER]},
        {"prompt": [{"name": "Ann", "role": "lead"}], "completion": [ANSWER]},
        {"prompt": str([ASK]), "completion": str([ANSWER])},  # as pandas writes lists
        {"instruction": json.dumps([ASK]), "input": "x", "output": "b"},
    ],
)
def test_ambiguous_csv_cells_are_rejected(tmp_path: Path, record: dict[str, Any]) -> None:
    path = written(tmp_path, record)
    with pytest.raises(DataError) as caught:
        list(read_examples(path))
    assert str(caught.value).startswith(f"{path}:2: the cell of the ")
    assert "may be text or a list of messages" in str(caught.value)
    assert "save the rows as JSON Lines or Parquet" in str(caught.value)


@pytest.mark.parametrize("text", ['{"a": 1}', "[1, 2]", '{"role": "x"', "the role: of {a}", '["role"]'])
def test_other_json_in_a_csv_cell_is_text(tmp_path: Path, text: str) -> None:
    (row,) = read_examples(written(tmp_path, {"prompt": text, "response": text}))
    assert (row.question, row.response) == (text, text)
    (row,) = read_examples(written(tmp_path, {"text": json.dumps([ASK])}))  # this column never holds messages
    assert row.response == json.dumps([ASK])
