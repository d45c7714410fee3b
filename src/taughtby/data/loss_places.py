"""Finds where in the text of a row the trainer computed the loss."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, cast

from taughtby.data.chat_template import (
    MARK,
    NO_TEMPLATE,
    THOUGHTS,
    RenderedText,
    SkippedRow,
    apply_template,
    render,
    render_safely,
)
from taughtby.data.content_shape import shape_contents
from taughtby.data.example import Example

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")  # a template's tag around what the assistant wrote


def render_with_loss(
    tokenizer: Any, row: Example, template: str | None = None, mask: str = "response"
) -> RenderedText | SkippedRow:
    """Render a row, with the loss where the trainer computed it.

    With the mask `response`, `{% generation %}` tags of the template determine the loss. With `content`, only the
    answer's text and the EOS token have a loss.
    """
    rendered = render_safely(_render, tokenizer, row, template)
    if isinstance(rendered, RenderedText) and not rendered.untemplated and row.loss_from is None:
        if mask == "response":
            rendered = render_safely(partial(_generated, rendered=rendered), tokenizer, row, template)
        elif mask == "content":
            rendered = render_safely(partial(_content_alone, rendered=rendered), tokenizer, row, template)
    if isinstance(rendered, SkippedRow) or not row.masked:
        return rendered
    return render_safely(partial(_locate_masks, rendered=rendered), tokenizer, row, template)


def _render(tokenizer: Any, row: Example, template: str | None) -> RenderedText | SkippedRow:
    rendered = render(tokenizer, row, template)
    if isinstance(rendered, SkippedRow):
        return rendered
    if row.after and not rendered.untemplated:
        rendered = _within_conversation(tokenizer, row, rendered, template)
    if isinstance(rendered, SkippedRow):
        return rendered
    if row.loss_from is not None:
        return _with_earlier_loss(tokenizer, row, rendered, template)
    return rendered


def _within_conversation(
    tokenizer: Any, row: Example, alone: RenderedText, template: str | None
) -> RenderedText | SkippedRow:
    """Render a turn as it appears in the whole conversation, where the template may drop its thinking.

    The turn is located by rendering the conversation again with `MARK` in its place.
    """
    whole = apply_template(tokenizer, row, (*row.messages, *row.after), template)
    if whole.startswith(alone.text):
        return alone
    other = {key: value for key, value in row.messages[-1].items() if key not in ("tool_calls", *THOUGHTS)}
    turn = (*row.prompt, {**other, "content": MARK})
    head, _, rest = apply_template(tokenizer, row, (*turn, *row.after), template).partition(MARK)
    if not rest or not whole.endswith(rest):
        return SkippedRow("the chat template renders this turn differently in the whole conversation")
    opening = _opening(tokenizer, row, template)
    begin = head.rfind(opening) + len(opening) if opening in head else len(head)
    if shared_length(head, whole) < begin:
        return SkippedRow("the chat template starts this turn differently in the whole conversation")
    closing = apply_template(tokenizer, row, turn, template).rpartition(MARK)[2]
    if not rest.startswith(closing):  # templates write more after the last turn: keep only complete markers
        shared = closing[: shared_length(rest, closing)]
        closing = shared[: max(shared.rfind(sign) for sign in ">]\n ") + 1]
    end = len(whole) - len(rest) + len(closing)
    return RenderedText(whole[:end], len(head) if whole.startswith(head) else begin, begin)


def _opening(tokenizer: Any, row: Example, template: str | None) -> str:
    """Return the generation prompt, or `MARK`, which is in no text, if it cannot be separated from the prompt."""
    prompt = apply_template(tokenizer, row, row.prompt, template, for_generation=True)
    before = apply_template(tokenizer, row, row.prompt, template)
    return prompt[len(before) :] if prompt.startswith(before) else MARK


def shared_length(left: str, right: str) -> int:
    """Return the length of the common prefix of two texts."""
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def _with_earlier_loss(
    tokenizer: Any, row: Example, rendered: RenderedText, template: str | None
) -> RenderedText | SkippedRow:
    """Extend the loss to all messages from `loss_from` on, as TRL does for a completion."""
    before, place = row.messages[: row.loss_from], row.loss_from or 0
    if place == len(row.messages) - 1:
        return rendered
    if rendered.untemplated:
        texts = [str(message.get("content") or "") for message in before]
        length = sum(map(len, texts)) + (0 if template == NO_TEMPLATE else len(texts))
    elif before and before[-1]["role"] == "assistant":
        earlier = replace(row, messages=before, after=(*row.messages[place:], *row.after), loss_from=None, masked=())
        text = _render(tokenizer, earlier, template)
        if isinstance(text, SkippedRow):
            return text
        length = len(text.text)
    else:
        prompt = apply_template(tokenizer, row, before, template, for_generation=True) if before else ""
        length = shared_length(prompt, rendered.text)
    return replace(rendered, loss_start=min(length, rendered.loss_start))


@lru_cache(maxsize=64)
def _has_generation(template: str) -> bool:
    return bool(GENERATION.search(template))


def _generated(tokenizer: Any, row: Example, template: str | None, rendered: RenderedText) -> RenderedText:
    """Restrict the loss to the template's `{% generation %}` blocks, if it has any: TRL's `assistant_only_loss`."""
    source = tokenizer.get_chat_template(template, tools=list(row.tools) or None)
    if not _has_generation(source):
        return rendered
    from transformers.utils.chat_template_utils import render_jinja_template

    turns = shape_contents(tokenizer, source, (*row.messages, *row.after))
    # as in apply_chat_template, which does not return character positions
    turns = [{key: value for key, value in turn.items() if value is not None} for turn in turns]
    texts, places = cast(Any, render_jinja_template)(
        conversations=[turns], tools=list(row.tools) or None, chat_template=source, return_assistant_tokens_mask=True,
        **(tokenizer.special_tokens_map | dict(row.template_kwargs)),
    )  # fmt: skip
    inner = [
        (begin, end)
        for begin, end in places[0]
        if end > rendered.loss_start and begin < len(rendered.text) and begin < end
    ]
    if not inner or not texts[0].startswith(rendered.text):
        return rendered
    begin, end = inner[0][0], inner[-1][1]
    return replace(rendered, answer_start=begin, loss_start=begin, loss_end=end)


def _content_alone(tokenizer: Any, row: Example, template: str | None, rendered: RenderedText) -> RenderedText:
    """Restrict the loss to the answer's text and the EOS token after it, as Axolotl does for chat templates.

    Everything else that the template writes has no loss: a line break after the EOS, Gemma's `<end_of_turn>`, an empty
    thinking block. Answers with tool calls are returned unchanged.
    """
    if row.messages[-1].get("tool_calls") or (begin := _find_answer(tokenizer, row, template, rendered)) is None:
        return rendered
    text, close, whole = rendered.text, tokenizer.eos_token, row.response.lstrip()
    end = begin + len(whole if text.startswith(whole, begin) else whole.rstrip())
    if close and text[end:].lstrip().startswith(close):
        end = text.index(close, end) + len(close)
    return replace(rendered, loss_start=rendered.answer_start, loss_end=end)


def _find_answer(tokenizer: Any, row: Example, template: str | None, rendered: RenderedText) -> int | None:
    """Return where the answer's first word begins in the text; None if the template changes the answer.

    Thinking and tool calls may quote the answer, and a template's markers may contain it. So it is located by rendering
    the row again with `MARK` in its place.
    """
    answer, words = row.messages[-1], re.escape(row.response.strip())
    places = [found.start() for found in re.finditer(f"(?={words})", rendered.text)] if words else []
    places = [place for place in places if place >= rendered.answer_start]
    alone = len(places) == 1 and not any(answer.get(key) for key in (*THOUGHTS, "tool_calls"))
    if alone or not places or rendered.untemplated or not answer["content"]:
        return next(iter(places), None)
    marked = (*row.prompt, {**answer, "content": MARK}, *row.after)
    head, found, _ = apply_template(tokenizer, row, marked, template).partition(MARK)
    if not found or not rendered.text.startswith(head):
        return None
    return next(
        (place for place in places if place >= len(head) and not rendered.text[len(head) : place].strip()), None
    )


def _locate_masks(
    tokenizer: Any, row: Example, template: str | None, rendered: RenderedText
) -> RenderedText | SkippedRow:
    """Add the positions of the masked characters to the text; skip the row if they cannot be determined."""
    if row.masked == ((0, len(row.response)),):
        return SkippedRow("the whole answer is masked")
    if not tokenizer.is_fast:
        return SkippedRow("this tokenizer has no character offsets, so words cannot be masked")
    if (first := _find_answer(tokenizer, row, template, rendered)) is None:
        return SkippedRow("the chat template changes the answer, so its masked words cannot be found")
    start = first - (len(row.response) - len(row.response.lstrip()))
    return replace(rendered, masked=tuple((start + begin, start + end) for begin, end in row.masked))
