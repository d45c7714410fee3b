"""An Example as the text a trainer made of it, and where in that text the answer begins. Knows no ids."""

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

MARK = "answerstandshere"  # put for an answer, to see what the template writes around any; no template changes letters
THOUGHTS = ("reasoning_content", "reasoning", "thinking")  # what a row itself has before its answer's text
NO_TEMPLATE = "none"  # the name of no template at all


@dataclass(frozen=True)
class SkippedRow:
    """Why an Example cannot be used."""

    reason: str


@dataclass(frozen=True)
class RenderedText:
    """A row as text: from `answer` on it is the answer and what the template puts after it, from `learned` on the loss.

    The two differ where the template puts words of its own between the prompt and any answer, as Qwen 3 does with an
    empty thought. `untemplated`: no template wrote it, so that a BOS is the tokenizer's to add. `masked`: no loss
    there. `loss_end`: no token that begins there or behind has a loss. `apart`: prompt and answer are tokenized each
    alone, as Axolotl does.
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
    """The text of a row by Jinja source, by the tokenizer's own template (None), or as it stands ("none").

    A tokenizer without a template gets the texts with a line break between.
    """
    if not row.prompt:
        return SkippedRow("nothing stands before the answer")
    write = _render_with_template if _by_template(tokenizer, template) else _render_plain
    return _as_wording(render_safely(write, tokenizer, row, template), tokenizer, template)


def render_prompt(tokenizer: Any, row: Example, template: str | None = None) -> RenderedText | SkippedRow:
    """The text of a row's prompt alone, ready for an answer; `row`'s own is not read."""
    write = _prompt_with_template if _by_template(tokenizer, template) else _plain_prompt
    return _as_wording(render_safely(write, tokenizer, row, template), tokenizer, template)


def _as_wording(rendered: RenderedText | SkippedRow, tokenizer: Any, template: str | None) -> RenderedText | SkippedRow:
    """The text of a trainer's own wording as a plain one, whose BOS is the tokenizer's to add, in two parts."""
    if isinstance(rendered, SkippedRow) or not str(template or tokenizer.chat_template).startswith(WORDING):
        return rendered
    return replace(rendered, untemplated=True, apart=True)


def read_template(path: str | Path) -> str:
    """The Jinja source in a file, once it is sure that it is one."""
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        source = Path(path).read_text(encoding="utf-8-sig")
        render_jinja_template(conversations=[], chat_template=source)  # no conversation: it is compiled, not run
    except OSError as fault:
        raise ModelError(f"the template {path} cannot be read", got=fault.strerror or str(fault),
                         do="give a file with a Jinja chat template, or none") from None  # fmt: skip
    except UnicodeDecodeError as fault:
        raise ModelError(f"{path}: not UTF-8", got=f"byte {fault.start}", do="save the template as UTF-8") from None
    except TemplateSyntaxError as fault:
        raise ModelError(f"{path}:{fault.lineno}: not a Jinja template", got=str(fault.message),
                         do="fix that line; a model's own template shows how one looks") from None  # fmt: skip
    return source


def _by_template(tokenizer: Any, template: str | None) -> bool:
    return template != NO_TEMPLATE and bool(template or tokenizer.chat_template)


def render_safely(write: _Write, tokenizer: Any, row: Example, template: str | None) -> RenderedText | SkippedRow:
    """What `write` renders, or why it cannot: whatever a template raises is a reason to skip the row."""
    try:
        rendered = write(tokenizer, row, template)
        if isinstance(rendered, RenderedText):
            rendered.text.encode()
    except UnicodeEncodeError:
        return SkippedRow("the text holds half a character (a lone surrogate)")
    except MemoryError:
        raise
    except Exception as fault:  # a template is a program: beside its own refusals it fails as any program does
        return SkippedRow(f"the chat template refuses the row: {fault}")
    return rendered


def _prompt_with_template(tokenizer: Any, row: Example, template: str | None) -> RenderedText:
    text = apply_template(tokenizer, row, row.prompt, template, asking=True)
    return RenderedText(text, len(text), len(text))


def _plain_prompt(tokenizer: Any, row: Example, template: str | None) -> RenderedText | SkippedRow:
    rendered = _render_plain(
        tokenizer, replace(row, messages=(*row.prompt, {"role": "assistant", "content": MARK})), template
    )
    return (
        rendered if isinstance(rendered, SkippedRow) else replace(rendered, text=rendered.text[: rendered.answer_start])
    )


def _render_with_template(tokenizer: Any, row: Example, template: str | None) -> RenderedText | SkippedRow:
    """By the template: the answer begins where the prompt ends, once what the template puts before any is passed."""
    answer = row.messages[-1]
    prompt = apply_template(tokenizer, row, row.prompt, template, asking=True)
    whole = apply_template(tokenizer, row, row.messages, template)
    follows = whole.startswith(prompt)
    if str(answer.get("thinking") or "").strip() not in whole.removeprefix(prompt):
        return SkippedRow("the chat template does not write the answer's thought")
    text, calls = str(answer.get("content") or "").strip(), _tool_names(answer)
    remainder = whole[len(prompt) :].lstrip()
    if follows and text and not calls and remainder.startswith(text) and text not in remainder[1:]:
        return RenderedText(whole, len(prompt), len(prompt))  # nothing stands between; found without a third rendering
    # without its calls, which a template may write before the text: the answer begins with whichever is first
    bare = {key: value for key, value in answer.items() if key != "tool_calls"}
    with_mark = apply_template(tokenizer, row, (*row.prompt, {**bare, "content": MARK}), template)
    head, wrote, _ = with_mark.rpartition(MARK)
    if text and not wrote and not calls:
        return SkippedRow("the chat template does not write the answer")
    if wrote and whole.startswith(head) and not any(answer.get(key) for key in THOUGHTS):
        rendered = _after_head(whole, prompt, head)
    else:
        end = len(prompt) if follows else _common_length(tokenizer, row, template, prompt, whole)
        rendered = RenderedText(whole, end, end)
    if not rendered.answer_start:
        return SkippedRow("the chat template changes the prompt once the answer follows")
    if any(name not in whole[rendered.answer_start :] for name in calls):
        return SkippedRow("the chat template does not write the answer's tool calls")
    return rendered


def _after_head(whole: str, prompt: str, head: str) -> RenderedText:
    """The answer begins behind `head`, which the template writes before any; the loss begins behind the prompt.

    A blank alone is no head: it is part of the answer's first token, as in Llama 2's `[/INST] so`.
    """
    if not whole.startswith(prompt):
        return RenderedText(whole, len(head), len(head))
    return RenderedText(whole, len(head) if head[len(prompt) :].strip() else len(prompt), len(prompt))


def _common_length(tokenizer: Any, row: Example, template: str | None, prompt: str, whole: str) -> int:
    """How far both go together, if they part within what asks for the answer: DeepSeek R1 begins a thought there."""
    shared = next((i for i, (left, right) in enumerate(zip(prompt, whole, strict=False)) if left != right), len(whole))
    before = apply_template(tokenizer, row, row.prompt, template)
    return shared if whole.startswith(before) and shared >= len(before) else 0


def apply_template(
    tokenizer: Any, row: Example, messages: Sequence[Message], template: str | None, *, asking: bool = False
) -> str:
    """In Transformers' sandbox, where a template sees data alone."""
    tools = list(row.tools) or None
    source = tokenizer.get_chat_template(template, tools=tools)
    return tokenizer.apply_chat_template(
        shape_contents(tokenizer, source, messages), tools=tools, chat_template=source, tokenize=False,
        add_generation_prompt=asking, **dict(row.template_kwargs),
    )  # fmt: skip


def _render_plain(tokenizer: Any, row: Example, template: str | None) -> RenderedText | SkippedRow:
    """Without a template: the texts, a line break after each of the prompt's unless they are to stand as they are."""
    *before, answer = (str(message.get("content") or "") for message in row.messages)
    if not answer:
        return SkippedRow("the answer has no text, and there is no chat template to write anything else")
    prompt = "".join(before if template == NO_TEMPLATE else (f"{text}\n" for text in before))
    close = tokenizer.eos_token or ""
    return RenderedText(prompt + answer.removesuffix(close) + close, len(prompt), len(prompt), untemplated=True)


def _tool_names(answer: Message) -> list[str]:
    """The names of the tools that an answer calls."""
    calls: Any = answer.get("tool_calls")
    functions = (
        [call.get("function", call) for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    )
    return [str(call["name"]) for call in functions if isinstance(call, dict) and call.get("name")]
