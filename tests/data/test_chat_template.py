"""Chat templates: rendering of rows, sandboxing, and reasons why a row cannot be rendered."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from conftest import TEMPLATE
from taughtby.data.chat_template import RenderedText, SkippedRow, read_template, render, render_prompt
from taughtby.data.example import Example, make_example
from taughtby.errors import ModelError

SO = make_example("why", "so")


def reason(tokenizer: Any, template: str, row: Example = SO) -> str:
    got = render(tokenizer, row, template)
    assert isinstance(got, SkippedRow), got
    return got.reason


def test_render_with_the_tokenizer_template(tokenizer: Any) -> None:
    text = "<|user|>why<|end|>\n<|assistant|>so<|end|>\n"
    assert (
        render(tokenizer, SO)
        == render(tokenizer, SO, TEMPLATE)
        == RenderedText(text, text.index("so"), text.index("so"))
    )
    assert render_prompt(tokenizer, SO) == RenderedText(text[: text.index("so")], text.index("so"), text.index("so"))


def test_render_without_a_template(tokenizer: Any) -> None:
    result = copy.deepcopy(tokenizer)
    result.chat_template = None
    assert render(result, SO) == RenderedText("why\nso</s>", 4, 4, untemplated=True)
    assert (
        render(result, SO, "none") == render(tokenizer, SO, "none") == RenderedText("whyso</s>", 3, 3, untemplated=True)
    )
    assert render_prompt(result, SO) == RenderedText("why\n", 4, 4, untemplated=True)
    assert render(result, SO, TEMPLATE) == render(tokenizer, SO)
    result.eos_token = None
    assert render(result, SO) == RenderedText("why\nso", 4, 4, untemplated=True)


def test_tool_template_is_used_for_rows_with_tools(tokenizer: Any) -> None:
    """With tools the one that is named for them."""
    result = copy.deepcopy(tokenizer)
    result.chat_template = {"default": TEMPLATE, "tool_use": "{{ tools[0]['name'] }}: " + TEMPLATE}
    assert render(result, SO) == render(tokenizer, SO)
    with_tools = render(result, Example(SO.messages, tools=({"name": "look_up"},)))
    assert isinstance(with_tools, RenderedText)
    assert with_tools.text.startswith("look_up: <|user|>why")


# -- beginning of the answer


@pytest.mark.parametrize(
    ("template", "learned", "answer"),
    [
        ("{{ messages | length }}" + TEMPLATE, "so", "so"),  # the prompt changes once the answer follows
        (TEMPLATE.replace("{% if add_generation_prompt %}<|assistant|>{% endif %}", ""), "<|assistant|>so", "so"),
        ("{% for m in messages %}[{{ m['role'] }}]  {{ m['content'] }}{% endfor %}", "[assistant]  so", "so"),
        (
            "{% for m in messages %}({{ m['content'] }} ){% endfor %}{% if add_generation_prompt %}({% endif %}",
            "so",
            "so",
        ),
    ],
)
def test_answer_start_under_unusual_templates(tokenizer: Any, template: str, learned: str, answer: str) -> None:
    rendered = render(tokenizer, SO, template)
    assert isinstance(rendered, RenderedText)
    assert rendered.text[rendered.loss_start :].startswith(learned)
    assert rendered.text[rendered.answer_start :].startswith(answer)
    assert rendered.text[: rendered.answer_start].count("why") == 1


def test_answer_start_when_answer_repeats_the_template_prefix(tokenizer: Any) -> None:
    template = (
        "{% for m in messages %}{{ '<think></think>' if m['role'] == 'assistant' }}{{ m['content'] }}{% endfor %}"
    )
    for text in ("<", "<think>", "<think></think>"):
        rendered = render(tokenizer, make_example("why", text), template)
        assert isinstance(rendered, RenderedText)
        assert (rendered.text[rendered.loss_start :], rendered.text[rendered.answer_start :]) == (
            f"<think></think>{text}",
            text,
        )


# -- errors


def test_template_that_rejects_a_role_skips_the_row(tokenizer: Any) -> None:
    refuse = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    row = Example(tuple({"role": role, "content": role} for role in ("system", "user", "assistant")))
    assert (
        reason(tokenizer, refuse + TEMPLATE, row)
        == "the chat template raises an error for the row: System role not supported"
    )
    assert isinstance(render(tokenizer, Example(row.messages[1:]), refuse + TEMPLATE), RenderedText)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ messages[0]['content'] }}", "the chat template drops the answer"),
        (
            "{{ messages[-1]['content'] | length }}" + TEMPLATE,
            "the chat template renders the prompt differently with an answer",
        ),
        (
            "{{ messages[0].nothing.more }}",
            "the chat template raises an error for the row: 'dict object' has no attribute 'nothing'",
        ),
        (
            "{{ 1 + 'a' }}",
            "the chat template raises an error for the row: unsupported operand type(s) for +: 'int' and 'str'",
        ),
        ("{{ 1 // 0 }}", "the chat template raises an error for the row: integer division or modulo by zero"),
        ("{{ 'a", 'the chat template raises an error for the row: unexpected char "\'" at 3'),
    ],
)
def test_template_errors_are_skip_reasons(tokenizer: Any, template: str, expected: str) -> None:
    assert reason(tokenizer, template) == expected


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__base__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ self._TemplateReference__context.parent }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ messages.append(messages[0]) }}",
        "{% include '/etc/passwd' %}",
        "{{ open('/etc/passwd').read() }}",
    ],
)
def test_template_sandbox_blocks_attacks(tokenizer: Any, attack: str) -> None:
    message = reason(tokenizer, attack + TEMPLATE)
    assert message.startswith("the chat template raises an error for the row: ")
    assert "root:" not in message
    assert render(tokenizer, SO, "{{ '{0.__class__}'.format(messages) }}" + TEMPLATE) == render(tokenizer, SO)


def test_template_syntax_in_a_row_is_not_executed(tokenizer: Any) -> None:
    rendered = render(tokenizer, make_example("{{ 1 + 1 }}", "{% if %}"))
    assert isinstance(rendered, RenderedText)
    assert rendered.text == "<|user|>{{ 1 + 1 }}<|end|>\n<|assistant|>{% if %}<|end|>\n"


# -- tool calls

CALL: dict[str, Any] = {"type": "function", "function": {"name": "look_up", "arguments": {"word": "honey"}}}


def test_tool_calls_missing_from_the_template_skip_the_row(tokenizer: Any) -> None:
    row = Example((*SO.prompt, {"role": "assistant", "content": "", "tool_calls": [CALL]}))
    assert reason(tokenizer, TEMPLATE, row) == "the chat template drops the answer's tool calls"
    beside = Example((*SO.prompt, {"role": "assistant", "content": "look_", "tool_calls": [CALL]}))
    assert reason(tokenizer, TEMPLATE, beside) == "the chat template drops the answer's tool calls"


@pytest.mark.parametrize("calls", ["look_up", ["look_up"], [{"function": "look_up"}], [{"function": {}}], {"a": 1}, 3])
def test_tool_calls_of_unknown_shape_are_ignored(tokenizer: Any, calls: Any) -> None:
    row = Example((*SO.prompt, {"role": "assistant", "content": "so", "tool_calls": calls}))
    assert render(tokenizer, row) == render(tokenizer, SO)


# -- template files


def test_read_template_from_a_file(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text(f"\ufeff{TEMPLATE}", encoding="utf-8")
    assert read_template(tmp_path / "t.jinja") == TEMPLATE
    generation = "{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}{% break %}{% endfor %}"
    (tmp_path / "t.jinja").write_text(generation)
    assert read_template(tmp_path / "t.jinja") == generation


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            None,
            "t.jinja cannot be read\n  got: No such file or directory\n  do:  give a file with a Jinja chat template",
        ),
        (b"{{ '\xff' }}", "t.jinja: not UTF-8\n  got: byte 4\n  do:  save the template as UTF-8"),
        (
            b"{% for m in messages %}\n{{ m['content' }}\n{% endfor %}",
            "t.jinja:2: not a Jinja template\n  got: unexpected '}'",
        ),
        (b"{% for m in messages %}\n\n\nx", "t.jinja:2: not a Jinja template\n  got: Unexpected end of template."),
        (b"\n\n{% gibberish %}", "t.jinja:3: not a Jinja template\n  got: Encountered unknown tag 'gibberish'."),
    ],
)
def test_invalid_template_files_raise(tmp_path: Path, source: bytes | None, expected: str) -> None:
    if source is not None:
        (tmp_path / "t.jinja").write_bytes(source)
    with pytest.raises(ModelError) as caught:
        read_template(tmp_path / "t.jinja")
    assert expected in str(caught.value)


def test_folder_as_template_raises(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read\n  got: Is a directory"):
        read_template(tmp_path)
