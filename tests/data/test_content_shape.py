"""Templates that expect lists of parts get them, by role; others get strings."""

from __future__ import annotations

from typing import Any

import pytest

from conftest import TEMPLATE
from taughtby.data.chat_template import RenderedText, render, render_prompt
from taughtby.data.example import Example, make_example
from writers import turn

PARTS = (
    "{% for m in messages %}<|{{ m['role'] }}|>{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}"
    "{% endif %}{% endfor %}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
FIRST = (
    "{% for m in messages %}<|{{ m['role'] }}|>{% if m['role'] == 'system' %}{{ m['content'] }}{% else %}"
    "{{ m['content'][0]['text'] }}{% endif %}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
BOTH = PARTS.replace("{% for p in", "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for p in").replace(
    "{% endif %}{% endfor %}<|end|>", "{% endif %}{% endfor %}{% endif %}<|end|>"
)
STRICT = "{% if messages[0]['content'] is string %}{{ raise_exception('parts') }}{% endif %}" + PARTS
ROW = Example((turn("system", "be kind"), turn("user", "why"), turn("assistant", "so")))


@pytest.mark.parametrize("template", [PARTS, FIRST, BOTH, STRICT, TEMPLATE])
def test_templates_for_parts_and_strings_write_every_text(tokenizer: Any, template: str) -> None:
    text = "<|system|>be kind<|end|>\n<|user|>why<|end|>\n<|assistant|>so<|end|>\n"
    start = text.index("so")
    assert render(tokenizer, ROW, template) == RenderedText(text, start, start)
    prompt = render_prompt(tokenizer, ROW, template)
    assert isinstance(prompt, RenderedText) and prompt.text == text[:start]


def test_chat_template_kwargs_reach_the_template(tokenizer: Any) -> None:
    template = "{{ effort if effort is defined else 'little' }}" + TEMPLATE
    for kwargs, word in (((), "little"), ((("effort", "much"),), "much")):
        got = render(tokenizer, Example(ROW.messages, template_kwargs=kwargs), template)
        assert isinstance(got, RenderedText) and got.text.startswith(f"{word}<|system|>")


@pytest.mark.parametrize("content", ["", "look here"])
def test_tool_calls_before_or_after_the_text_are_in_the_answer(tokenizer: Any, content: str) -> None:
    calls = "{% for c in (m.tool_calls or []) %}call:{{ c.function.name }}{% endfor %}"
    call = {"type": "function", "function": {"name": "look", "arguments": {"w": "wax"}}}
    row = Example((turn("user", "why"), turn("assistant", content) | {"tool_calls": [call]}))
    text = "{{ m['content'] }}"
    for written, answer in ((calls + text, f"call:look{content}"), (text + calls, f"{content}call:look")):
        template = (
            "{% for m in messages %}<|{{ m['role'] }}|>"
            + written
            + ("<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}")
        )
        got = render(tokenizer, row, template)
        assert isinstance(got, RenderedText) and got.text[got.answer_start :] == f"{answer}<|end|>\n"


def test_template_without_content_skips_the_row(tokenizer: Any) -> None:
    got = render(tokenizer, make_example("why", "so"), "{% for m in messages %}<|{{ m.role }}|>{% endfor %}")
    assert "drops the answer" in getattr(got, "reason", "")
