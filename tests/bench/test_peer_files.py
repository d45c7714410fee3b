"""The files that benchmarks/peers hands to other tools and reads back."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peers.peer_files import (
    align_tokens,
    copy_adapter,
    folder_bytes,
    make_parser,
    read_examples,
    write_examples,
    write_scores,
)

ROW = {"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}


def test_examples_are_read_in_order_without_extra_columns(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({**ROW, "id": "a"}) + "\n" + json.dumps({"input_ids": [1, 2], "labels": [1, 2]}) + "\n")
    assert read_examples(file) == [ROW, {"input_ids": [1, 2], "labels": [1, 2]}]
    assert read_examples(write_examples(tmp_path / "copy.jsonl", [ROW])) == [ROW]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"input_ids": [1, 2]}, "line 1: needs input_ids and labels"),
        ({"input_ids": [1, 2], "labels": [1]}, "of one length"),
        ({"input_ids": [1, 2], "labels": [1, -100]}, "no token has a loss"),
    ],
)
def test_invalid_examples_are_rejected(tmp_path, row, what):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row))
    with pytest.raises(ValueError, match=what):
        read_examples(file)


def test_empty_file_is_rejected(tmp_path):
    (tmp_path / "rows.jsonl").write_text("")
    with pytest.raises(ValueError, match="no lines"):
        read_examples(tmp_path / "rows.jsonl")


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=20), st.integers(0, 3))
def test_scores_align_with_the_tokens_they_predict(scores, padding):
    tokens = align_tokens([*scores, *[9.0] * padding], len(scores) + 1)
    assert tokens[0] == 0.0 and tokens[1:] == scores


def test_too_few_predictions_raise():
    with pytest.raises(ValueError, match="1 predictions for 3 tokens"):
        align_tokens([1.0], 3)


def test_adapter_copy_changes_base_path_but_not_the_original(tmp_path):
    adapter, model = tmp_path / "adapter", tmp_path / "model"
    (adapter / "checkpoint-3").mkdir(parents=True)
    (adapter / "adapter_config.json").write_text('{"r": 4, "base_model_name_or_path": "elsewhere"}')
    (adapter / "optimizer.pt").write_text("not wanted")
    copy = copy_adapter(adapter, model, tmp_path / "copy")
    assert json.loads((copy / "adapter_config.json").read_text()) == {"r": 4, "base_model_name_or_path": str(model)}
    assert [file.name for file in copy.iterdir()] == ["adapter_config.json"]
    assert "elsewhere" in (adapter / "adapter_config.json").read_text()


def scores(path, value=1.0):
    write_scores(
        path, tool="t", version="1", method="m", options={}, rows=[[value, 2.0]], tokens=None,
        seconds={"index": 1.234, "query": 2.0}, stored=7,
    )  # fmt: skip


def test_scores_are_written_with_time_and_bytes(tmp_path):
    scores(tmp_path / "new" / "out.json")
    result = json.loads((tmp_path / "new" / "out.json").read_text())
    assert result["seconds"].pop("processor") > 0
    assert result == {
        "tool": "t", "version": "1", "method": "m", "options": {}, "row_scores": [[1.0, 2.0]], "token_scores": None,
        "seconds": {"index": 1.23, "query": 2.0}, "bytes": 7,
    }  # fmt: skip


def test_nan_scores_are_rejected(tmp_path):
    with pytest.raises(ValueError, match="1 of 2 scores are not finite"):
        scores(tmp_path / "out.json", math.nan)
    assert not (tmp_path / "out.json").exists()


def test_folder_bytes_sum_all_files(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x").write_bytes(b"123")
    (tmp_path / "y").write_bytes(b"12")
    assert folder_bytes(tmp_path) == 5 and folder_bytes(tmp_path / "a") == 3


def test_unknown_peer_method_exits(capsys):
    with pytest.raises(SystemExit):
        make_parser("A peer.", ["one"]).parse_args(["--method", "two"])
    assert "invalid choice" in capsys.readouterr().err
