"""What is asked: a prompt and the answer to explain, which of its words count, and how a method sees it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from taughtby.data.example import Example, Message, Record, nested, read_tools, shorten, validate_messages
from taughtby.data.phrases import Range, find_span, strip_range, tokens_of, within
from taughtby.data.readers import read_records
from taughtby.data.tokenize import Batch, Encoding, SkippedRow, TokenizedExample, make_batches, token_texts, tokenize
from taughtby.errors import DataError, OptionError
from taughtby.methods import Features, Method, QueryFeatures
from taughtby.methods.base import normalize, stack_features
from taughtby.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

BUDGET = 1024
LEAST = 1.0  # nats that a word became likelier by, for fine-tuning to have taught it


@dataclass(frozen=True)
class Query:
    """A prompt and the answer to explain; `desired` is what should have been said.

    `span` points at words of the answer, `span_range` at its characters [begin, end), counted in code points. A span
    means whole words, and of several occurrences the first, those in its very case before others.

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
    span_range: Range | None = None

    @property
    def has_span(self) -> bool:
        """Whether words of the answer are pointed at."""
        return self.span is not None or self.span_range is not None

    def span_position(self) -> Range | None:
        """The characters of the answer that are pointed at, without blanks at their ends; None where none are."""
        if self.span_range is not None:
            return _checked(self.response, self.span_range, self.span)
        if self.span is None:
            return None
        found = find_span(self.response, self.span)
        if not found:
            raise _absent(self.span, self.response)
        return found[0]

    def desired_query(self) -> Query:
        """The same with the desired answer in the answer's place, where no word is pointed at."""
        return replace(self, response=str(self.desired), desired=None, span=None, span_range=None)

    @property
    def example(self) -> Example:
        """The same as a training row."""
        asked, said = ({"role": "user", "content": self.prompt}, {"role": "assistant", "content": self.response})
        return Example((*self.before, asked, *self.after, said), tools=self.tools)


@dataclass(frozen=True)
class PreparedQueries:
    """Queries made ready: their ids, how much each answer token counts, and what the method compares."""

    rows: tuple[TokenizedExample, ...]
    weights: tuple[Float[Tensor, " n"], ...]
    features: QueryFeatures
    increased_by_finetuning: tuple[
        bool, ...
    ]  # whether fine-tuning made any of the words that count likelier, as far as is known


@dataclass(frozen=True)
class Contrast:
    """Queries, and the desired answers of those at `places`: what speaks for these counts against a row."""

    asked: QueryFeatures
    desired: QueryFeatures | None
    places: list[int]

    def less(self, of: Callable[[QueryFeatures], Tensor]) -> Tensor:
        """What `of` gives for each query (Q, …), less what it gives for the query's desired answer, if any."""
        found = of(self.asked)
        if self.desired is not None:
            found[self.places] -= of(self.desired)
        return found


def read_queries(path: str | Path) -> list[Query]:
    """Queries from a file of `prompt` and `response`, or of `messages`.

    Each may have `span` or `span_range`, and `desired`.
    """
    queries = [_placed(_query(record, source), source) for source, record in read_records(str(path))]
    if not queries:
        raise DataError(f"{path} has no queries", do="give at least one prompt and response")
    return queries


def query_from_record(record: Record, source: str) -> Query:
    """The query of a dict with `prompt` and `response`, or `messages`; `source` names it in an error."""
    return _placed(_query(record, source), source)


def _placed(query: Query, source: str) -> Query:
    """The query, once it is sure that what it points at is there: before a model is loaded for it."""
    try:
        query.span_position()
    except OptionError as fault:
        raise DataError(f"{source}: {fault.what}", got=fault.got, do=fault.do) from None
    return query


def _query(record: Record, source: str) -> Query:
    with nested(source):
        return _read(record, source)


def _read(record: Record, source: str) -> Query:
    span, desired = (str(record[key]) if record.get(key) else None for key in ("span", "desired"))
    place = _range(record.get("span_range"), source)
    tools = read_tools(record, source)
    if record.get("messages"):
        *turns, answer = validate_messages(record["messages"], source)
        at = max((place for place, turn in enumerate(turns) if turn["role"] == "user"), default=None)
        if at is None:
            raise DataError(f"{source}: a query without a question", got=", ".join(turn["role"] for turn in turns),
                            do="put a user message before the answer")  # fmt: skip
        if not answer["content"]:
            raise DataError(f"{source}: the answer of a query has no text", got="tool calls alone", do="give it a text")
        before, after = tuple(turns[:at]), tuple(turns[at + 1 :])
        return Query(turns[at]["content"], answer["content"], span, desired, before, after, tools, place)
    for key in ("prompt", "response"):
        if not isinstance(record.get(key), str) or not record[key].strip():
            raise DataError(
                f"{source}: a query has no {key}",
                got=", ".join(map(str, record)) or "no columns",
                do='write {"prompt": "…", "response": "…"}, and "span" or "desired" if you like',
            )
    return Query(record["prompt"], record["response"], span, desired, tools=tools, span_range=place)


def _range(value: Any, source: str) -> Range | None:
    """The characters that a record points at; a cell of a table has them as JSON."""
    given = value
    if isinstance(given, str):
        with suppress(ValueError):
            given = json.loads(given or "null")
    if given is None:
        return None
    if not isinstance(given, list) or [type(part) for part in given] != [int, int]:  # a bool is no place
        raise DataError(f"{source}: the span_range is not two whole numbers", got=shorten(value),
                        do='write "span_range": [begin, end], in characters of the answer from 0')  # fmt: skip
    return given[0], given[1]


def _checked(response: str, place: Range, span: str | None) -> Range:
    """A range that holds words of the answer, and the same as the span where both are given."""
    begin, end = place
    if not 0 <= begin < end <= len(response) or not response[begin:end].strip():
        raise OptionError("the span_range holds no words of the answer",
                          got=f"[{begin}, {end}] of {len(response)} characters",
                          do="give [begin, end), in characters of the answer from 0")  # fmt: skip
    if span is not None and span.split() != response[begin:end].split():
        raise OptionError("span and span_range point at different words",
                          got=f"{span!r} and {response[begin:end]!r}", do="leave one of them out")  # fmt: skip
    return strip_range(response, begin, end)


def _absent(span: str, response: str) -> OptionError:
    """Why a span is not among the words of an answer."""
    if (found := within(response, span)) is None:
        return OptionError("the span does not occur in the answer", got=f"{span!r} in {response[:80]!r}",
                           do="copy the words out of the answer as they stand there")  # fmt: skip
    word, (begin, end) = found
    return OptionError("the span is only part of a word of the answer", got=f"{span!r} within {word!r}",
                       do=f"give whole words, or the characters as span_range: [{begin}, {end}]")  # fmt: skip


def ambiguity_notes(queries: Sequence[Query]) -> list[str]:
    """A note on the spans that occur more than once in their answers: which occurrence is used."""
    counts = {number: len(find_span(query.response, query.span))
              for number, query in enumerate(queries, 1) if query.span and query.span_range is None}  # fmt: skip
    many = [number for number, count in counts.items() if count > 1]
    if not many:
        return []
    told = ", ".join(f"{queries[number - 1].span!r} {counts[number]} times in answer {number}" for number in many[:3])
    more = f" and so on, in {len(many)} answers" if len(many) > 3 else ""
    return [f"The span occurs more than once, {told}{more}: the first occurrence is used. Give the characters "
            "as span_range to use another."]  # fmt: skip


def prepare_queries(model: Model, how: Method, queries: Sequence[Query], encoding: Encoding) -> PreparedQueries:
    """Run the model over the queries, in batches."""
    rows = [_encoded(model, query, encoding) for query in queries]
    told = how.text_features([query.example for query in queries])
    blocks: list[Features] = [{name: block[q] for name, block in told.items()} for q in range(len(rows))]
    counts: list[Tensor] = [torch.empty(0) for _ in rows]
    taught = [True for _ in rows]
    toward: list[Tensor | None] = [None for _ in rows]
    for batch in make_batches(rows, BUDGET):
        news = how.logprob_gain(model, batch)
        weights = _weights(model, news, batch, rows, queries)
        made, grads = how.features(model, batch, weights), how.token_gradients(model, batch)
        for place, q in enumerate(batch.row_indices):
            blocks[q] |= {name: block[place] for name, block in made.items()}
            counts[q] = weights[place, : rows[q].n_response]
            taught[q] = news is None or bool(((weights[place] > 0) & (news[place] > LEAST)).any())
            if grads is not None:
                shares = weights[place] / weights[place].sum()
                toward[q] = (normalize(grads[place]).cpu() * shares[:, None]).sum(0)
    joined = stack_features(blocks, how.feature_names(model.depth))
    directions = [direction for direction in toward if direction is not None]
    asked = QueryFeatures(tuple(query.prompt for query in queries), tuple(query.response for query in queries), joined,
                  torch.stack(directions) if directions else None)  # fmt: skip
    asked, shares = how.reweight_queries(asked, counts)
    return PreparedQueries(tuple(rows), tuple(shares), asked, tuple(taught))


def contrast_desired(
    model: Model, how: Method, queries: Sequence[Query], asked: QueryFeatures, encoding: Encoding
) -> Contrast:
    """The queries with their desired answers, which are run as queries of their own."""
    places = [q for q, query in enumerate(queries) if query.desired]
    instead = [queries[q].desired_query() for q in places]
    return Contrast(asked, prepare_queries(model, how, instead, encoding).features if instead else None, places)


def _encoded(model: Model, query: Query, encoding: Encoding) -> TokenizedExample:
    fitting = replace(encoding, max_length=min(model.context_length, encoding.max_length))
    row = tokenize(model.tokenizer, query.example, fitting)
    if isinstance(row, SkippedRow):
        raise OptionError(
            "this query cannot be traced",
            got=f"{row.reason}; prompt: {query.prompt[:60]}",
            do="shorten the prompt, or index with a greater --max-length",
        )
    return replace(row, n_prompt_loss=0)  # whatever was learned: it is the answer that is asked about


def _weights(
    model: Model,
    news: Float[Tensor, "B R"] | None,
    batch: Batch,
    rows: Sequence[TokenizedExample],
    queries: Sequence[Query],
) -> Float[Tensor, "B R"]:
    """1 on the words pointed at; where nobody pointed, how much likelier each became; else all alike."""
    weights = batch.loss_mask.float()
    if news is not None:
        weights = torch.where(news.sum(1, keepdim=True) < 1e-3, weights, news)
    for place, q in enumerate(batch.row_indices):
        query = queries[q]
        if (span := query.span_position()) is None:
            continue
        pieces = token_texts(model.tokenizer, rows[q].response)
        places = tokens_of(pieces, query.response, span)
        if not places:
            raise _missed(query.response[slice(*span)], len(rows[q].ids))
        weights[place] = 0
        weights[place, places] = 1
    return weights


def _missed(span: str, length: int) -> OptionError:
    return OptionError("the span was cut off: it stands beyond the last token that is read",
                       got=f"{span!r}, in a row cut at {length} tokens",
                       do="index with a greater --max-length, or shorten the prompt")  # fmt: skip
