"""Tool calls and reasoning in other formats, converted to OpenAI's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import TEMPLATE
from taughtby.data.dataset import read_examples
from taughtby.data.example import Example
from taughtby.data.tokenize import Encoding, SkippedRow, TokenizedExample, tokenize
from taughtby.errors import DataError

USER = {"role": "user", "content": "so so"}
THINKING = TEMPLATE.replace("{{ m['content'] }}", "{{ m['thinking'] or '' }}{{ m['content'] }}")


def read(tmp_path: Path, answer: dict[str, Any], **more: Any) -> Example:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"messages": [USER, {"role": "assistant", **answer}], **more}) + "\n")
    return next(read_examples(path))


def test_legacy_openai_function_calls(tmp_path: Path) -> None:
    call = {"name": "look", "arguments": "{}"}
    row = read(tmp_path, {"content": None, "function_call": call}, functions=[{"name": "look", "parameters": {}}])
    assert row.messages[-1] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": call}],
    }
    assert row.tools == ({"type": "function", "function": {"name": "look", "parameters": {}}},)


def test_anthropic_tool_use_parts(tmp_path: Path) -> None:
    use = {"type": "tool_use", "id": "1", "name": "look", "input": {"at": "sea"}}
    row = read(tmp_path, {"content": [{"type": "text", "text": "a"}, use]})
    function = {"name": "look", "arguments": {"at": "sea"}}
    assert row.messages[-1]["tool_calls"] == [{"id": "1", "type": "function", "function": function}]
    assert row.messages[-1]["content"] == "a"


@pytest.mark.parametrize("thought", ["so", [{"type": "text", "text": "so"}]])
def test_reasoning_has_a_loss_if_the_template_writes_it(tokenizer: Any, thought: Any, tmp_path: Path) -> None:
    row = read(tmp_path, {"content": [{"type": "thinking", "thinking": thought}, {"type": "text", "text": "bees"}]})
    got = tokenize(tokenizer, row, Encoding(template=THINKING))
    assert isinstance(got, TokenizedExample)
    learned = [token for token, has in zip(got.ids, got.loss_mask, strict=True) if has]
    assert tokenizer.decode(learned) == "sobees<|end|>\n"
    skipped = tokenize(tokenizer, row, Encoding())
    assert skipped == SkippedRow("the chat template drops the answer's thinking")


def test_tool_result_parts_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "rain"}]}
    path.write_text(json.dumps({"messages": [result, {"role": "assistant", "content": "rain"}]}) + "\n")
    with pytest.raises(DataError, match="a message has a part of type tool_result\n  do:  make it a message"):
        list(read_examples(path))
