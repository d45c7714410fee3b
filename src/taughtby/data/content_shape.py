"""Detects whether a chat template expects the content of a message as a string or as a list of parts.

Templates of vision models loop over parts: given a string, they silently drop it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from taughtby.data.example import Message

_PROBE = "probestandshere"


def shape_contents(tokenizer: Any, template: str, messages: Sequence[Message]) -> list[Message]:
    """Return the messages, with content as a list of parts for roles whose strings the template drops."""
    special = tuple(sorted((name, str(token)) for name, token in tokenizer.special_tokens_map.items()))
    roles = {str(message["role"]) for message in messages}
    in_parts = {role for role in roles if _wants_parts(template, special, role)}
    return [
        {**message, "content": _parts(message["content"])} if message["role"] in in_parts else message
        for message in messages
    ]


def _parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


@lru_cache(maxsize=256)
def _wants_parts(template: str, special: tuple[tuple[str, str], ...], role: str) -> bool:
    """Whether the template drops a string of that role, but writes a text part."""
    if _writes(template, special, role, in_parts=False):
        return False
    return _writes(template, special, role, in_parts=True)


def _writes(template: str, special: tuple[tuple[str, str], ...], role: str, *, in_parts: bool) -> bool:
    """Whether the template writes a probe text of that role, with all messages in the same shape."""
    from transformers.utils.chat_template_utils import render_jinja_template

    before = {"system": (), "developer": (), "user": (), "assistant": ("user",)}.get(role, ("user", "assistant"))
    after = ("user",) if role in ("system", "developer") else ()
    turns: list[Message] = []
    for name in (*before, role, *after):
        text = _PROBE if name == role else "a"
        turns.append({"role": name, "content": _parts(text) if in_parts else text})
    names: Any = dict(special)
    try:
        rendered, _ = render_jinja_template(conversations=[turns], chat_template=template, **names)
    except Exception:  # templates are programs and may raise anything
        return False
    text = str(rendered[0])
    return _PROBE in text and f"'text': '{_PROBE}'" not in text and f'"text": "{_PROBE}"' not in text
