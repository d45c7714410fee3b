"""What is asked: a prompt and the answer to explain, which of its words count, and how a method sees it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from whence.errors import DataError, OptionError
from whence.example import Example, Message, Record, checked, nested, tools_of
from whence.methods import Asked, Blocks, Method
from whence.methods.method import gathered, unit
from whence.model import Model
from whence.records import records
from whence.tokens import Batch, Encoding, Row, Skip, batches, encode, texts

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

BUDGET = 1024
LEAST = 1.0  # nats that a word became likelier by, for fine-tuning to have taught it


@dataclass(frozen=True)
class Query:
    """A prompt and the answer to explain; `span` points at words of it, `desired` is what should have been said.

    `before` are the turns before the prompt, a system prompt among them; `after` those between it and the answer,
    such as the call of a tool and what it gave back. `tools` are what the chat template is to define.
    """

    prompt: str
    response: str
    span: str | None = None
    desired: str | None = None
    before: tuple[Message, ...] = ()
    after: tuple[Message, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()

    @property
    def row(self) -> Example:
        """The same as a training row."""
        asked, said = ({"role": "user", "content": self.prompt}, {"role": "assistant", "content": self.response})
        return Example((*self.before, asked, *self.after, said), tools=self.tools)


@dataclass(frozen=True)
class Asking:
    """Queries made ready: their ids, how much each answer token counts, and what the method compares."""

    rows: tuple[Row, ...]
    weights: tuple[Float[Tensor, " n"], ...]
    asked: Asked
    taught: tuple[bool, ...]  # whether fine-tuning made any of the words that count likelier, as far as is known


def read_queries(path: str | Path) -> list[Query]:
    """Queries from a file of `prompt` and `response`, or of `messages`, with `span` and `desired` where given."""
    queries = [_query(record, source) for source, record in records(str(path))]
    if not queries:
        raise DataError(f"{path} has no queries", do="give at least one prompt and response")
    return queries


def _query(record: Record, source: str) -> Query:
    with nested(source):
        return _read(record, source)


def _read(record: Record, source: str) -> Query:
    span, desired = (str(record[key]) if record.get(key) else None for key in ("span", "desired"))
    tools = tools_of(record, source)
    if record.get("messages"):
        *turns, answer = checked(record["messages"], source)
        at = max((place for place, turn in enumerate(turns) if turn["role"] == "user"), default=None)
        if at is None:
            raise DataError(f"{source}: a query without a question", got=", ".join(turn["role"] for turn in turns),
                            do="put a user message before the answer")  # fmt: skip
        if not answer["content"]:
            raise DataError(f"{source}: the answer of a query has no text", got="tool calls alone", do="give it a text")
        before, after = tuple(turns[:at]), tuple(turns[at + 1 :])
        return Query(turns[at]["content"], answer["content"], span, desired, before, after, tools)
    for key in ("prompt", "response"):
        if not isinstance(record.get(key), str) or not record[key].strip():
            raise DataError(
                f"{source}: a query has no {key}",
                got=", ".join(map(str, record)) or "no columns",
                do='write {"prompt": "…", "response": "…"}, and "span" or "desired" if you like',
            )
    return Query(record["prompt"], record["response"], span, desired, tools=tools)


def ask(model: Model, how: Method, queries: Sequence[Query], encoding: Encoding) -> Asking:
    """Run the model over the queries, in batches."""
    rows = [_encoded(model, query, encoding) for query in queries]
    told = how.read([query.row for query in queries])
    blocks: list[Blocks] = [{name: block[q] for name, block in told.items()} for q in range(len(rows))]
    counts: list[Tensor] = [torch.empty(0) for _ in rows]
    taught = [True for _ in rows]
    toward: list[Tensor | None] = [None for _ in rows]
    for batch in batches(rows, BUDGET):
        news = how.news(model, batch)
        weights = _weights(model, news, batch, rows, queries)
        made, grads = how.blocks(model, batch, weights), how.gradients(model, batch)
        for place, q in enumerate(batch.rows):
            blocks[q] |= {name: block[place] for name, block in made.items()}
            counts[q] = weights[place, : rows[q].n_response]
            taught[q] = news is None or bool(((weights[place] > 0) & (news[place] > LEAST)).any())
            if grads is not None:
                shares = weights[place] / weights[place].sum()
                toward[q] = (unit(grads[place]).cpu() * shares[:, None]).sum(0)
    joined = gathered(blocks, how.names(model.depth))
    directions = [direction for direction in toward if direction is not None]
    asked = Asked(tuple(query.prompt for query in queries), tuple(query.response for query in queries), joined,
                  torch.stack(directions) if directions else None)  # fmt: skip
    asked, shares = how.prepared(asked, counts)
    return Asking(tuple(rows), tuple(shares), asked, tuple(taught))


def _encoded(model: Model, query: Query, encoding: Encoding) -> Row:
    fitting = replace(encoding, max_length=min(model.window, encoding.max_length))
    row = encode(model.tokenizer, query.row, fitting)
    if isinstance(row, Skip):
        raise OptionError(
            "this query cannot be traced",
            got=f"{row.reason}; prompt: {query.prompt[:60]}",
            do="shorten the prompt, or index with a greater --max-length",
        )
    return replace(row, ahead=0)  # whatever was learned: it is the answer that is asked about


def _weights(
    model: Model, news: Float[Tensor, "B R"] | None, batch: Batch, rows: Sequence[Row], queries: Sequence[Query]
) -> Float[Tensor, "B R"]:
    """1 on the words pointed at; where nobody pointed, how much likelier each became; else all alike."""
    weights = batch.valid.float()
    if news is not None:
        weights = torch.where(news.sum(1, keepdim=True) < 1e-3, weights, news)
    for place, q in enumerate(batch.rows):
        span = queries[q].span
        if span is None:
            continue
        places = span_places(texts(model.tokenizer, rows[q].response), span)
        if not places:
            raise _missed(span, queries[q].response, len(rows[q].ids))
        weights[place] = 0
        weights[place, places] = 1
    return weights


def _missed(span: str, response: str, length: int) -> OptionError:
    """Why a span is not among an answer's tokens."""
    if span_places([response], span):
        return OptionError("the span was cut off: it stands beyond the last token that is read",
                           got=f"{span!r}, in a row cut at {length} tokens",
                           do="index with a greater --max-length, or shorten the prompt")  # fmt: skip
    return OptionError("the span does not occur in the answer", got=f"{span!r} in {response[:80]!r}",
                       do="copy the words out of the answer as they stand there")  # fmt: skip


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
