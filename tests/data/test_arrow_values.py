"""Values of Arrow tables converted to JSON: JSON columns, maps, files, and nulls filled in for missing fields."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from taughtby.data.dataset import read_examples
from taughtby.data.readers import read_records
from taughtby.errors import DataError
from writers import turn

CALL = {"type": "function", "function": {"name": "look", "arguments": {"w": "wax", "deep": [{"n": None, "m": 1}]}}}
TALK = [turn("user", "a"), turn("assistant", "") | {"tool_calls": [CALL]}, turn("tool", "c"), turn("assistant", "d")]


def typed(values: list[str | None]) -> pa.Array[Any]:
    return pa.ExtensionArray.from_storage(pa.json_(pa.string()), pa.array(values, pa.string()))


def tables() -> dict[str, pa.Table]:
    """The same conversation: as one JSON value, as a list of them, and only described as such by `datasets`."""
    each = pa.ListArray.from_arrays([0, len(TALK)], typed([json.dumps(one) for one in TALK]))
    features = {"messages": {"feature": {"_type": "Json"}, "_type": "List"}}
    plain = pa.table({"messages": [[json.dumps(one) for one in TALK]]})
    return {
        "whole": pa.table({"messages": typed([json.dumps(TALK)])}), "each": pa.table({"messages": each}),
        "described": plain.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}),
        "undescribed": plain,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["whole", "each", "described", "undescribed"])
@pytest.mark.parametrize("file", ["a.parquet", "a.arrow", "a.feather"])
def test_json_columns_are_parsed(name: str, file: str, tmp_path: Path) -> None:
    path, result = tmp_path / file, tables()[name]
    if file == "a.parquet":
        pq.write_table(result, path)
    elif file == "a.feather":
        pyarrow.feather.write_feather(result, str(path))
    else:
        with pa.OSFile(str(path), "wb") as out, pa.ipc.new_file(out, result.schema) as writer:
            writer.write_table(result)
    (row,) = read_examples(path)
    arguments = row.messages[1]["tool_calls"][0]["function"]["arguments"]
    assert arguments["w"] == "wax" and arguments["deep"][0]["m"] == 1
    assert [one["content"] for one in row.messages] == ["a", "", "c", "d"]


def test_json_within_structs_is_parsed(tmp_path: Path) -> None:
    from datasets import Dataset, Features, Json, List, Value, disable_progress_bars

    disable_progress_bars()
    call = {"function": {"name": Value("string"), "arguments": Json()}}
    features = Features(
        {"messages": List({"role": Value("string"), "content": Value("string"), "tool_calls": List(call)})}
    )
    talk = [
        turn("user", "a"),
        turn("assistant", "b") | {"tool_calls": [{"function": {"name": "f", "arguments": {"w": [1]}}}]},
    ]
    data = Dataset.from_dict({"messages": [talk]}, features=features)
    data.save_to_disk(str(tmp_path / "saved"))
    data.to_parquet(str(tmp_path / "a.parquet"))
    for path in (tmp_path / "saved", tmp_path / "a.parquet"):
        assert [list(row.messages) for row in read_examples(path)] == [talk]


def test_json_text_in_a_string_column_stays_a_string(tmp_path: Path) -> None:
    text = '[{"role": "user", "content": "x"}]'
    pq.write_table(pa.table({"prompt": [text], "response": typed(['{"role": "assistant"}'])}), tmp_path / "a.parquet")
    (record,) = (record for _, record in read_records(str(tmp_path / "a.parquet")))
    assert record == {"prompt": text, "response": {"role": "assistant"}}


def test_maps_are_read_as_objects(tmp_path: Path) -> None:
    """Spark and Polars write messages as maps of texts."""
    talk = [[("role", "user"), ("content", "a")], [("role", "assistant"), ("content", "b")]]
    result = pa.table({"messages": pa.array([talk], pa.list_(pa.map_(pa.string(), pa.string())))})
    pq.write_table(result, tmp_path / "a.parquet")
    (row,) = read_examples(tmp_path / "a.parquet")
    assert row.messages == (turn("user", "a"), turn("assistant", "b"))


def test_invalid_json_column_value_is_reported_with_its_row(tmp_path: Path) -> None:
    result = pa.table({"messages": typed([json.dumps([turn("user", "a"), turn("assistant", "b")]), "{"])})
    pq.write_table(result, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet:1: .*\n.*a JSON column contains invalid JSON"):
        list(read_examples(tmp_path / "a.parquet"))


@pytest.mark.parametrize("where", ["saved", "a.parquet"])
def test_image_columns_are_rejected_without_decoding(where: str, tmp_path: Path) -> None:
    from datasets import Dataset, Features, Image, Value, disable_progress_bars

    disable_progress_bars()
    features = Features({"prompt": Value("string"), "response": Value("string"), "photo": Image()})
    data = Dataset.from_dict(
        {"prompt": ["a"], "response": ["b"], "photo": [{"bytes": b"png", "path": None}]}, features=features
    )
    if where == "saved":
        data.save_to_disk(str(tmp_path / where))
    else:
        data.to_parquet(str(tmp_path / where))
    with pytest.raises(DataError, match=r":0: the row has images, audio or video\n  got: column photo"):
        list(read_examples(tmp_path / where))
