"""Markers of chat templates: which of them a text contains, and whether one ends an answer."""

from __future__ import annotations

import re
from typing import Any

from taughtby.data.chat_template import NO_TEMPLATE
from taughtby.data.example import Example
from taughtby.data.tokenize import TokenizedExample

END_TOKENS = 3  # how many of a row's last tokens may be the end of turn: templates write a line break after it
_OTHERS = re.compile(
    r"<\|\w+\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>"
    r"|^#{2,}[ \t]*(?:instruction|input|response|human|user|assistant)[ \t]*:",
    re.IGNORECASE | re.MULTILINE,
)
_ROLE = re.compile(r"\s*((?:assistant|user|human|system)[ \t]*:)", re.IGNORECASE)


class TemplateMarks:
    """The special tokens of a tokenizer and the role markers of common templates.

    Args:
        tokenizer: A Transformers tokenizer.
        template: The template of the encoding; with "none", texts may contain any markers.
    """

    def __init__(self, tokenizer: Any, template: str | None) -> None:
        added = getattr(tokenizer, "added_tokens_decoder", {})
        special = {token: str(text) for token, text in added.items() if getattr(text, "special", False)}
        special |= dict(zip(tokenizer.all_special_ids, map(str, tokenizer.all_special_tokens), strict=True))
        self._ids, self._untemplated = frozenset(special), template == NO_TEMPLATE
        texts = sorted({text for text in special.values() if text.strip()}, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, texts)) or r"(?!)")

    def ends_turn(self, row: TokenizedExample) -> bool:
        """Whether a special token at the end of the row has a loss."""
        mask = row.loss_mask
        last = range(max(row.n_prompt, len(row.ids) - END_TOKENS), len(row.ids))
        return any(mask[position] and row.ids[position] in self._ids for position in last)

    def in_texts(self, row: Example) -> list[str]:
        """Return the markers in a row's messages, and a role such as `assistant:` at the start of its answer."""
        if self._untemplated or row.token_ids:
            return []
        texts = [str(message["content"]) for message in row.messages]
        marks = [
            match[0].strip() for text in texts for kind in (self._special, _OTHERS) for match in kind.finditer(text)
        ]
        if role := _ROLE.match(texts[-1]):
            marks.append(role[1])
        return list(dict.fromkeys(marks))
