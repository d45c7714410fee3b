"""From Examples to token ids: where the prompt ends, which tokens are the answer, and batches of a bounded size.

Knows a tokenizer, no model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jinja2 import TemplateError

from whence.example import Example, Message

if TYPE_CHECKING:
    from jaxtyping import Bool, Int
    from torch import Tensor

Side = Literal["left", "right"]


@dataclass(frozen=True)
class Row:
    """One Example as ids: `ids[:n_prompt]` is the prompt, the rest the answer with the template's closing tokens."""

    ids: tuple[int, ...]
    n_prompt: int

    @property
    def n_response(self) -> int:
        """How many tokens the model had to learn."""
        return len(self.ids) - self.n_prompt

    @property
    def response(self) -> tuple[int, ...]:
        """The ids of the answer."""
        return self.ids[self.n_prompt :]


@dataclass(frozen=True)
class Skip:
    """Why an Example cannot be used."""

    reason: str


@dataclass(frozen=True)
class Batch:
    """B rows padded to T tokens; `last` is p, the place of each row's last prompt token, which predicts y_1.

    `rows` says which of the given rows these are, in order.
    """

    ids: Int[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]
    last: Int[Tensor, " B"]
    n: Int[Tensor, " B"]
    rows: tuple[int, ...]

    @property
    def valid(self) -> Bool[Tensor, "B R"]:
        """Which of R = max(n) response places each row has."""
        return torch.arange(int(self.n.max()), device=self.n.device) < self.n[:, None]

    @property
    def places(self) -> Int[Tensor, "B R"]:
        """The positions p … p+n-1 that predict y_1 … y_n; beyond a row's own n, its last one again."""
        steps = torch.arange(int(self.n.max()), device=self.n.device)
        return self.last[:, None] + torch.minimum(steps, self.n[:, None] - 1)

    @property
    def targets(self) -> Int[Tensor, "B R"]:
        """The response tokens y_1 … y_n."""
        return self.ids.gather(1, self.places + 1)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return Batch(self.ids.to(device), self.mask.to(device), self.last.to(device), self.n.to(device), self.rows)

    def prompts(self) -> Batch:
        """The prompts alone, right-padded, for what only the last prompt token's state is asked."""
        parts = [row[mask][: int(m)] for row, mask, m in zip(self.ids, self.mask, self._prompt_lengths(), strict=True)]
        return pad([Row(tuple(part.tolist()), len(part)) for part in parts], self.rows).to(self.ids.device)

    def _prompt_lengths(self) -> Int[Tensor, " B"]:
        start = self.mask.int().argmax(1)
        return self.last - start + 1


def encode(tokenizer: Any, row: Example, max_length: int) -> Row | Skip:
    """The ids of an Example by the tokenizer's chat template, cut on the right at `max_length` tokens.

    A tokenizer without a template gets the plain texts with a line break between. Truncation takes the end of the
    answer; a row with no answer token left is a Skip.
    """
    if not row.prompt:
        return Skip("nothing stands before the answer")
    try:
        prompt, whole = rendered(tokenizer, row.messages)
        whole.encode()
    except TemplateError as fault:  # such as Gemma's for a system message
        return Skip(f"the chat template refuses the row: {fault}")
    except UnicodeEncodeError:
        return Skip("the text holds half a character (a lone surrogate)")
    if not whole.startswith(prompt):
        return Skip("the chat template changes the prompt once the answer follows")
    head, ids = _ids(tokenizer, prompt), _ids(tokenizer, whole)
    if ids[: len(head)] != head:
        return Skip("the prompt's tokens are not a prefix of the whole row's tokens")
    if len(head) >= max_length:
        return Skip(f"no room for the answer: the prompt has {len(head)} tokens, the limit is {max_length}")
    if len(head) == len(ids):
        return Skip("the answer has no tokens")
    return Row(tuple(ids[:max_length]), len(head))


def rendered(tokenizer: Any, messages: Sequence[Message]) -> tuple[str, str]:
    """The text of the prompt, up to where the answer begins, and of the whole conversation."""
    *before, answer = messages
    if tokenizer.chat_template:
        prompt = tokenizer.apply_chat_template(list(before), tokenize=False, add_generation_prompt=True)
        return prompt, tokenizer.apply_chat_template(list(messages), tokenize=False)
    bos = tokenizer.bos_token if _adds_bos(tokenizer) else ""
    prompt = (bos or "") + "".join(f"{message['content']}\n" for message in before)
    return prompt, prompt + str(answer["content"]) + (tokenizer.eos_token or "")


def prompt_ids(tokenizer: Any, prompt: str) -> list[int]:
    """The ids of a single user turn, ready for an answer."""
    asked = [{"role": "user", "content": prompt}, {"role": "assistant", "content": ""}]
    return _ids(tokenizer, rendered(tokenizer, asked)[0])


def _ids(tokenizer: Any, text: str) -> list[int]:
    # the template (or `rendered`) has written the special tokens already: adding them again would double the BOS
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _adds_bos(tokenizer: Any) -> bool:
    return tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]


def pad(rows: Sequence[Row], order: Sequence[int], *, side: Side = "right") -> Batch:
    """Rows as one Batch. Padding is id 0 and masked, so which id it is never matters."""
    width = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    start = [width - len(row.ids) if side == "left" else 0 for row in rows]
    for place, (row, at) in enumerate(zip(rows, start, strict=True)):
        ids[place, at : at + len(row.ids)] = torch.tensor(row.ids)
        mask[place, at : at + len(row.ids)] = True
    last = torch.tensor([at + row.n_prompt - 1 for row, at in zip(rows, start, strict=True)])
    n = torch.tensor([row.n_response for row in rows])
    return Batch(ids, mask, last, n, tuple(order))


def batches(rows: Sequence[Row], budget: int, *, side: Side = "right") -> Iterator[Batch]:
    """All rows, sorted by length, in batches of at most `budget` padded tokens (a longer row goes alone)."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and len(rows[order[stop]].ids) * (stop + 1 - start) <= budget:
            stop += 1
        chosen = order[start:stop]
        yield pad([rows[i] for i in chosen], chosen, side=side)
        start = stop


def halves(batch: Batch) -> Iterable[Batch]:
    """The batch in two, for when it did not fit into memory."""
    for part in torch.arange(len(batch.rows)).chunk(2):
        at = part.to(batch.ids.device)
        chosen = tuple(batch.rows[i] for i in part.tolist())
        yield Batch(batch.ids[at], batch.mask[at], batch.last[at], batch.n[at], chosen)


def texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text each token adds to those before it; joined they are the decoded whole. Special tokens add "".

    A token that holds only part of a character adds nothing; the one that completes it adds it all.
    """
    special = set(tokenizer.all_special_ids)
    pieces: list[str] = []
    pending: list[int] = []
    context: list[int] = []
    for token in ids:
        if token in special:
            pieces.append("")
            continue
        pending.append(token)
        # decoded behind its neighbour, because some tokenizers drop the space of a text's first token
        known = tokenizer.decode(context)
        grown = tokenizer.decode(context + pending)
        if grown.endswith("�"):
            pieces.append("")
            continue
        pieces.append(grown[len(known) :])
        context, pending = pending, []
    if pending:  # cut within a character, or the text itself ends with U+FFFD
        pieces[-1] += tokenizer.decode(context + pending)[len(tokenizer.decode(context)) :]
    return pieces


def span_places(pieces: Sequence[str], span: str) -> list[int]:
    """Which tokens hold any character of the first place where `span` occurs; empty if it does not."""
    # not by lower(), which makes two characters of some (İ) and so moves every place behind them
    found = re.search(re.escape(span.strip()), "".join(pieces), re.IGNORECASE)
    if not found or not span.strip():
        return []
    (begin, end), at = found.span(), 0
    places: list[int] = []
    for place, piece in enumerate(pieces):
        # a token's leading blank is not a reason to count it in
        inner = at + len(piece) - len(piece.lstrip())
        if inner < end and at + len(piece) > begin:
            places.append(place)
        at += len(piece)
    return places
