"""Tokenizers with tokens added in training, where the saved embedding lacks the new rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import taughtby
from taughtby.data.tokenize import Encoding
from taughtby.errors import DataError, ModelError
from taughtby.index.build import build_index
from taughtby.methods import get_method
from taughtby.models.model import Model, load_model

LACK = "token '</tool>' has id 385, but the embedding has 384 rows"


@pytest.fixture
def grown(model_folder: Path, adapter_folder: Path, tmp_path: Path) -> Model:
    from transformers import AutoTokenizer

    adapter = Path(shutil.copytree(adapter_folder, tmp_path / "adapter"))
    longer: Any = AutoTokenizer.from_pretrained(model_folder)
    longer.add_tokens(["<tool>", "</tool>"])
    longer.save_pretrained(adapter)
    return load_model(str(model_folder), str(adapter), dtype="float32", device="cpu")


def build(model: Model, rows: list[tuple[str, str]], to: Path) -> Any:
    (to / "rows.jsonl").write_text("".join(json.dumps({"prompt": p, "response": r}) + "\n" for p, r in rows))
    return build_index(model, str(to / "rows.jsonl"), str(to / "idx"), [get_method("repsim")], encoding=Encoding(128))


def test_tokens_without_embedding_skip_rows_and_reject_queries(grown: Model, tmp_path: Path) -> None:
    rows = [("who makes honey", "bees"), ("name a tree", "<tool>oak</tool>"), ("why", "<tool>x</tool> b c")]
    index = build(grown, rows, tmp_path)
    assert len(index) == 1
    reason = f"it has a token without an embedding: {LACK}"
    assert [skip["reason"] for skip in index.manifest["skipped"]] == [reason] * 2
    opened = taughtby.open_index(tmp_path / "idx")
    assert len(opened.trace("who makes honey", "bees").queries[0].rows) == 1
    with pytest.raises(ModelError, match=r"the tokenizer has tokens without a row in the embedding") as error:
        opened.trace("name a tree", "<tool>oak</tool>")
    assert LACK in str(error.value) and "modules_to_save" in str(error.value)


def test_only_rows_with_unreadable_tokens_raises(grown: Model, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no row of .* can be used") as error:
        build(grown, [("name a tree", "<tool>oak</tool>")], tmp_path)
    assert LACK in str(error.value)
