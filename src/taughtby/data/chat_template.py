"""Renders an Example as text, as a trainer did, and finds where the answer begins. Does not tokenize."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import TemplateSyntaxError

from taughtby.data.content_shape import shape_contents
from taughtby.data.example import CharRanges, Example, Message
from taughtby.errors import ModelError
from taughtby.models.wordings import WORDING

MARK = "answerstandshere"  # stands in for an answer, to find what the template writes around it
THOUGHTS = ("reasoning_content", "reasoning", "thinking")  # fields of a message with the thinking before its text
NO_TEMPLATE = "none"  # the option that turns chat templates off


@dataclass(frozen=True)
class SkippedRow:
    """Why an Example cannot be used."""

    reason: str


@dataclass(frozen=True)
class RenderedText:
    """A row as text.

    Attributes:
        text: The prompt, the answer, and what the template writes around them.
        answer_start: Where the answer begins.
        loss_start: Where the loss begins: before the answer if earlier messages have a loss, or if the template writes
            text between prompt and answer, such as Qwen 3's empty thinking block.
        untemplated: Plain text, or a trainer's own prompt format, to which the tokenizer adds the BOS token.
        masked: Ranges of characters without a loss.
        loss_end: Tokens that begin here or later have no loss.
        apart: Prompt and answer are tokenized separately, as in Axolotl.
    """

    text: str
    answer_start: int
    loss_start: int
    untemplated: bool = False
    masked: CharRanges = ()
    loss_end: int | None = None
    apart: bool = False


_Write = Callable[[Any, Example, str | None], RenderedText | SkippedRow]


def render(tokenizer: Any, row: Example, template: str | None = None) -> RenderedText | SkippedRow:
    """Render a row with Jinja source, with the tokenizer's own template (None), or without a template ("none").

    If the tokenizer has no template either, a line break follows each text of the prompt.
    """
    if not row.prompt:
        return SkippedRow("the row has no prompt")
    write = _render_with_template if _by_template(tokenizer, template) else _render_plain
    return _as_wording(render_safely(write, tokenizer, row, template), tokenizer, template)


def render_prompt(tokenizer: Any, row: Example, template: str | None = None) -> RenderedText | SkippedRow:
    """Render a row's prompt, ready for generation; the row's answer is ignored."""
    write = _prompt_with_template if _by_template(tokenizer, template) else _plain_prompt
    return _as_wording(render_safely(write, tokenizer, row, template), tokenizer, template)


def _as_wording(rendered: RenderedText | SkippedRow, tokenizer: Any, template: str | None) -> RenderedText | SkippedRow:
    """Mark text in a trainer's own prompt format: the tokenizer adds the BOS, and the answer is tokenized apart."""
    if isinstance(rendered, SkippedRow) or not str(template or tokenizer.chat_template).startswith(WORDING):
        return rendered
    return replace(rendered, untemplated=True, apart=True)


def read_template(path: str | Path) -> str:
    """Read a Jinja template from a file and check that it compiles."""
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        source = Path(path).read_text(encoding="utf-8-sig")
        render_jinja_template(conversations=[], chat_template=source)  # compiles the template without running it
    except OSError as fault:
        raise ModelError(f"the template {path} cannot be read", got=fault.strerror or str(fault),
                         do="give a file with a Jinja chat template, or `none`") from None  # fmt: skip
    except UnicodeDecodeError as fault:
        raise ModelError(f"{path}: not UTF-8", got=f"byte {fault.start}", do="save the template as UTF-8") from None
    except TemplateSyntaxError as fault:
        raise ModelError(f"{path}:{fault.lineno}: not a Jinja template", got=str(fault.message),
                         do="fix that line; see the model's own template for an example") from None  # fmt: skip
    return source


def _by_template(tokenizer: Any, template: str | None) -> bool:
    return template != NO_TEMPLATE and bool(template or tokenizer.chat_template)


def render_safely(write: _Write, tokenizer: Any, row: Example, template: str | None) -> RenderedText | SkippedRow:
    """Return what `write` renders; if the template raises an exception, return it as the reason to skip the row."""
    try:
        rendered = write(tokenizer, row, template)
        if isinstance(rendered, RenderedText):
            rendered.text.encode()
    except UnicodeEncodeError:
        return SkippedRow("the text contains a lone surrogate")
    except MemoryError:
        raise
    except Exception as fault:  # templates are programs and may raise anything
        return SkippedRow(f"the chat template raises an error for the row: {fault}")
    return rendered


def _prompt_with_template(tokenizer: Any, row: Example, template: str | None) -> RenderedText:
    text = apply_template(tokenizer, row, row.prompt, template, for_generation=True)
    return RenderedText(text, len(text), len(text))


def _plain_prompt(tokenizer: Any, row: Example, template: str | None) -> RenderedText | SkippedRow:
    rendered = _render_plain(
        tokenizer, replace(row, messages=(*row.prompt, {"role": "assistant", "content": MARK})), template
    )
    return (
        rendered if isinstance(rendered, SkippedRow) else replace(rendered, text=rendered.text[: rendered.answer_start])
    )


def _render_with_template(tokenizer: Any, row: Example, template: str | None) -> RenderedText | SkippedRow:
    """Render with a template; the answer begins after the prompt and after the text that precedes every answer."""
    answer = row.messages[-1]
    prompt = apply_template(tokenizer, row, row.prompt, template, for_generation=True)
    whole = apply_template(tokenizer, row, row.messages, template)
    follows = whole.startswith(prompt)
    if str(answer.get("thinking") or "").strip() not in whole.removeprefix(prompt):
        return SkippedRow("the chat template drops the answer's thinking")
    text, calls = str(answer.get("content") or "").strip(), _tool_names(answer)
    remainder = whole[len(prompt) :].lstrip()
    if follows and text and not calls and remainder.startswith(text) and text not in remainder[1:]:
        return RenderedText(whole, len(prompt), len(prompt))  # nothing in between: no third rendering is needed
    # leave out the tool calls: a template may write them before the text, and the answer begins with the first of both
    bare = {key: value for key, value in answer.items() if key != "tool_calls"}
    with_mark = apply_template(tokenizer, row, (*row.prompt, {**bare, "content": MARK}), template)
    head, wrote, _ = with_mark.rpartition(MARK)
    if text and not wrote and not calls:
        return SkippedRow("the chat template drops the answer")
    if wrote and whole.startswith(head) and not any(answer.get(key) for key in THOUGHTS):
        rendered = _after_head(whole, prompt, head)
    else:
        end = len(prompt) if follows else _common_length(tokenizer, row, template, prompt, whole)
        rendered = RenderedText(whole, end, end)
    if not rendered.answer_start:
        return SkippedRow("the chat template renders the prompt differently with an answer")
    if any(name not in whole[rendered.answer_start :] for name in calls):
        return SkippedRow("the chat template drops the answer's tool calls")
    return rendered


def _after_head(whole: str, prompt: str, head: str) -> RenderedText:
    """Start the answer after `head`, the text before every answer, and the loss after the prompt.

    White space alone does not count: it is part of the answer's first token, as in Llama 2's `[/INST] so`.
    """
    if not whole.startswith(prompt):
        return RenderedText(whole, len(head), len(head))
    return RenderedText(whole, len(head) if head[len(prompt) :].strip() else len(prompt), len(prompt))


def _common_length(tokenizer: Any, row: Example, template: str | None, prompt: str, whole: str) -> int:
    """Length of the common prefix; 0 unless the texts first differ in the generation prompt, as with DeepSeek R1."""
    shared = next((i for i, (left, right) in enumerate(zip(prompt, whole, strict=False)) if left != right), len(whole))
    before = apply_template(tokenizer, row, row.prompt, template)
    return shared if whole.startswith(before) and shared >= len(before) else 0


def apply_template(
    tokenizer: Any, row: Example, messages: Sequence[Message], template: str | None, *, for_generation: bool = False
) -> str:
    """Apply a chat template in Transformers' sandboxed Jinja environment."""
    tools = list(row.tools) or None
    source = tokenizer.get_chat_template(template, tools=tools)
    return tokenizer.apply_chat_template(
        shape_contents(tokenizer, source, messages), tools=tools, chat_template=source, tokenize=False,
        add_generation_prompt=for_generation, **dict(row.template_kwargs),
    )  # fmt: skip


def _render_plain(tokenizer: Any, row: Example, template: str | None) -> RenderedText | SkippedRow:
    """Render without a template: the texts unchanged for "none", else with a line break after each of the prompt's."""
    *before, answer = (str(message.get("content") or "") for message in row.messages)
    if not answer:
        return SkippedRow("the answer has no text, and there is no chat template")
    prompt = "".join(before if template == NO_TEMPLATE else (f"{text}\n" for text in before))
    close = tokenizer.eos_token or ""
    return RenderedText(prompt + answer.removesuffix(close) + close, len(prompt), len(prompt), untemplated=True)


def _tool_names(answer: Message) -> list[str]:
    """Return the names of the tools that an answer calls."""
    calls: Any = answer.get("tool_calls")
    functions = (
        [call.get("function", call) for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    )
    return [str(call["name"]) for call in functions if isinstance(call, dict) and call.get("name")]
