"""Rows in the wording of the trainer's configuration; settings that are not followed are reported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taughtby.data.chat_template import RenderedText, SkippedRow, render, render_prompt
from taughtby.data.dataset import default_read_options, read_examples
from taughtby.data.example import Example
from taughtby.data.tokenize import Encoding, TokenizedExample, prompt_ids, tokenize
from taughtby.models.training_metadata import TrainingMetadata, read_training_metadata
from taughtby.models.wordings import AXOLOTL, Wording, axolotl_wording
from writers import jsonl, turn


def of_yaml(tmp_path: Path, text: str) -> TrainingMetadata:
    (tmp_path / "config.yaml").write_text(text)
    return read_training_metadata(tmp_path)


def axolotl(tmp_path: Path, *kinds: Any, more: str = "") -> TrainingMetadata:
    sets = "".join(f"  - path: rows.jsonl\n    type: {json.dumps(kind)}\n" for kind in kinds)
    return of_yaml(tmp_path, f"base_model: m\nsequence_len: 256\nchat_template: llama3\ndatasets:\n{sets}{more}")


def text_of(tokenizer: Any, metadata: TrainingMetadata, tmp_path: Path, record: dict[str, Any]) -> str:
    (row,) = read_examples(jsonl(tmp_path / "rows.jsonl", record), default_read_options(metadata))
    rendered = render(tokenizer, row, metadata.template)
    assert isinstance(rendered, RenderedText), rendered
    assert rendered.text[rendered.answer_start :] == f"{row.response}</s>" and rendered.untemplated
    prompt = render_prompt(tokenizer, row, metadata.template)
    assert isinstance(prompt, RenderedText) and prompt.text == rendered.text[: rendered.answer_start]
    return rendered.text


def test_alpaca_prompt_format(tokenizer: Any, tmp_path: Path) -> None:
    metadata = axolotl(tmp_path, "alpaca")
    task = "Below is an instruction that describes a task"
    assert text_of(tokenizer, metadata, tmp_path, {"instruction": "name a tree", "output": "oak"}) == (
        f"{task}. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nname a tree\n\n### Response:\noak</s>"
    )
    assert text_of(tokenizer, metadata, tmp_path, {"instruction": "name", "input": "a tree", "output": "oak"}) == (
        f"{task}, paired with an input that provides further context. Write a response that appropriately completes "
        "the request.\n\n### Instruction:\nname\n\n### Input:\na tree\n\n### Response:\noak</s>"
    )
    assert metadata.unfollowed == []


def test_custom_axolotl_format_and_columns_are_used(tokenizer: Any, tmp_path: Path) -> None:
    kind = {
        "field_instruction": "ask", "field_output": "reply", "format": 'Q {instruction} "{input}"\nA ',
        "no_input_format": "Frage: {instruction} {{so}} ", "system_prompt": "be kind", "system_format": "[{system}] ",
    }  # fmt: skip
    metadata = axolotl(tmp_path, kind)
    assert metadata.columns == "instruction=ask,output=reply"
    text = {"ask": "name a tree", "reply": "oak"}
    assert text_of(tokenizer, metadata, tmp_path, text) == "[be kind] Frage: name a tree {so} oak</s>"
    assert (
        text_of(tokenizer, metadata, tmp_path, {**text, "input": "x\n\ny"})
        == '[be kind] Q name a tree "x\n\ny"\nA oak</s>'
    )
    assert text_of(tokenizer, metadata, tmp_path, {**text, "system": "be brief"}).startswith("[be brief] Frage")


def test_prompt_and_answer_are_tokenized_separately(tokenizer: Any, tmp_path: Path) -> None:
    """As Axolotl does: the blank at the end of the format is no part of the answer's first token."""
    metadata = axolotl(tmp_path, {"format": "Q: {instruction} {input} A: ", "no_input_format": "Q: {instruction} A: "})
    path = jsonl(tmp_path / "rows.jsonl", {"instruction": "who", "output": "bees make", "unlearned": [[5, 9]]})
    (row,) = read_examples(path, default_read_options(metadata))
    tokens = tokenize(tokenizer, row, Encoding(64, template=metadata.template))
    assert isinstance(tokens, TokenizedExample)
    alone = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in ("Q: who A: ", "bees make</s>")]
    assert (list(tokens.ids), tokens.n_prompt) == ([*alone[0], *alone[1]], len(alone[0]))
    learned = [token for token, has_loss in zip(tokens.ids, tokens.loss_mask, strict=True) if has_loss]
    assert tokenizer.decode(learned) == "bees</s>"
    assert prompt_ids(tokenizer, replace(row, messages=(*row.prompt, row.messages[-1])), metadata.template) == alone[0]


def test_input_is_omitted_when_the_format_lacks_it(tokenizer: Any, tmp_path: Path) -> None:
    metadata = axolotl(tmp_path, {"format": "Q: {instruction} A: ", "no_input_format": "Q: {instruction} A: "})
    record = {"instruction": "name a tree", "input": "long", "output": "oak"}
    assert text_of(tokenizer, metadata, tmp_path, record) == "Q: name a tree A: oak</s>"


@pytest.mark.parametrize("name", AXOLOTL)
def test_prompt_formats_render_question_and_answer_once(name: str, tokenizer: Any) -> None:
    wording = AXOLOTL[name]
    for more in ({}, {"input": "an input"}):
        content = f"a question{wording.join}an input" if more else "a question"
        row = Example((turn("system", "a system"), turn("user", content) | more, turn("assistant", "an answer")))
        rendered = render(tokenizer, row, wording.template)
        assert isinstance(rendered, RenderedText)
        assert [rendered.text.count(word) for word in ("a question", "an answer", "an input,", "</s>")] == [1, 1, 0, 1]
        assert ("a system" in rendered.text) == wording.own_system and ("an input" in rendered.text) == bool(more)
    talk = Example((turn("user", "a"), turn("assistant", "b"), turn("user", "c"), turn("assistant", "d")))
    assert isinstance(render(tokenizer, talk, wording.template), SkippedRow)


_TEXTS = st.text(st.characters(codec="utf-8"), max_size=6) | st.sampled_from(["👤", "é→🤖\n", "\\u{}", "%}'\""])


@given(before=_TEXTS, after=_TEXTS, system=_TEXTS)
def test_texts_of_a_prompt_format_are_written_unchanged(tokenizer: Any, before: str, after: str, system: str) -> None:
    form = "{instruction}".join(text.replace("{", "{{").replace("}", "}}") for text in (f"a{before}", f"{after}z"))
    wording = axolotl_wording({"no_input_format": form, "system_prompt": system})
    assert wording is not None
    rendered = render(tokenizer, Example((turn("user", "who"), turn("assistant", "bees"))), wording.template)
    assert isinstance(rendered, RenderedText), rendered
    assert rendered.text == f"{system}a{before}who{after}zbees</s>"


@pytest.mark.parametrize(
    "kind", ["context_qa", "sharegpt", "reflection", {"format": "{input} {instruction}"}, {"format": "{other}"},
             {"format": "{instruction} {instruction}"}, {"field_input": "more"}, {"format": "{instruction"}, 3, None],
)  # fmt: skip
def test_unknown_prompt_format_is_none(kind: Any) -> None:
    assert axolotl_wording(kind) is None


def test_format_without_instruction_has_no_join() -> None:
    assert Wording("{instruction} {input}", "no field").join is None


def test_unsupported_settings_are_reported(tmp_path: Path) -> None:
    def told(metadata: TrainingMetadata) -> list[str]:
        return [str(entry) for entry in metadata.unfollowed]

    assert told(axolotl(tmp_path, "context_qa")) == [
        "wording context_qa: axolotl's own (config.yaml: datasets: type)",
        "template name llama3 (config.yaml: chat_template)",
    ]  # fmt: skip
    assert "wording alpaca, context_qa: axolotl's own" in told(axolotl(tmp_path, "alpaca", "context_qa"))[0]
    assert axolotl(tmp_path, "alpaca", "context_qa").template is None
    roles = axolotl(tmp_path, "chat_template", more="default_system_message: be kind\n")
    assert "default_system_message be kind (config.yaml: default_system_message)" in told(roles)
    factory = of_yaml(tmp_path, "model_name_or_path: m\ncutoff_len: 9\ntemplate: qwen\ndefault_system: be kind\n")
    assert told(factory) == [
        "template name qwen (config.yaml: template)",
        "default_system be kind (config.yaml: default_system)",
    ]
    trl = of_yaml(tmp_path, "max_length: 9\nchat_template_path: other\ndataset_text_field: body\n")
    assert told(trl) == ["chat_template_path other (config.yaml: chat_template_path)",
                         "dataset_text_field body (config.yaml: dataset_text_field)"]  # fmt: skip
    assert told(of_yaml(tmp_path, "max_length: 9\ndataset_text_field: text\n")) == []


def test_llama_factory_joins_input_with_newline(tmp_path: Path) -> None:
    metadata = of_yaml(tmp_path, "model_name_or_path: m\ncutoff_len: 9\ntemplate: qwen\n")
    path = jsonl(
        tmp_path / "a.jsonl",
        {"instruction": "do", "input": "this", "output": "so"},
        {"instruction": "do", "output": "so"},
    )
    assert [row.question for row in read_examples(path, default_read_options(metadata))] == ["do\nthis", "do"]
    assert [row.question for row in read_examples(path)] == ["do\n\nthis", "do"]
