"""Queries: a prompt and the response to explain, which of its tokens count, and their features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from taughtby.attribution.query_record import read_query
from taughtby.data.batching import Batch, make_batches
from taughtby.data.conversation import Columns
from taughtby.data.example import Example, Message, Record
from taughtby.data.phrases import Range, enclosing_word, find_span, response_tokens, strip_range
from taughtby.data.readers.eval_logs import read_log_or_records
from taughtby.data.tokenize import (
    Encoding,
    SkippedRow,
    TokenizedExample,
    token_texts,
    tokenize_untruncated,
    truncate,
)
from taughtby.errors import DataError, OptionError
from taughtby.methods import Features, Method, QueryFeatures, StateMethod
from taughtby.methods.base import normalize, stack_features
from taughtby.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

UNKNOWN_GAIN = 1e6  # without a base model
FIELDS = ("prompt_fields", "response_fields", "template_kwargs")  # pairs in a Query, objects in a trace's JSON


@dataclass(frozen=True)
class Query:
    """A prompt and the response to explain.

    Attributes:
        prompt: The user's message.
        response: The response of the fine-tuned model.
        span: Words of the response to explain. A span matches whole words, and the first of several occurrences,
            where those in the same case come before others.
        desired: The response that the model should have given.
        before: Turns before the prompt, such as a system prompt.
        after: Turns between the prompt and the response, such as tool calls and their results.
        tools: Tool definitions for the chat template.
        span_range: Characters [begin, end) of the response to explain, in code points.
        prompt_fields: Other fields of the prompt's message.
        response_fields: Other fields of the response's message, such as reasoning and tool calls.
        template_kwargs: Arguments of the chat template besides messages and tools.
        source: The row that the query was read from, for errors.
    """

    prompt: str
    response: str
    span: str | None = None
    desired: str | None = None
    before: tuple[Message, ...] = ()
    after: tuple[Message, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    span_range: Range | None = None
    prompt_fields: tuple[tuple[str, Any], ...] = ()
    response_fields: tuple[tuple[str, Any], ...] = ()
    template_kwargs: tuple[tuple[str, Any], ...] = ()
    source: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        texts = {"prompt": self.prompt, "response": self.response, "span": self.span, "desired answer": self.desired}
        for name, text in texts.items():
            if text is None and name in ("span", "desired answer"):
                continue
            if not isinstance(text, str):
                raise OptionError(f"the {name} of a query is not text", got=repr(text)[:80], do="give a string")
            if name in ("response", "desired answer") and not text.strip():
                raise OptionError(f"the {name} of a query is empty", do="give the words of an answer")
        if self.span_range is not None and [type(place) for place in self.span_range] != [int, int]:
            do = "give (begin, end), in characters of the answer"
            raise OptionError("the span_range is not two integers", got=repr(self.span_range)[:80], do=do)

    @property
    def has_span(self) -> bool:
        """Whether the query selects words of the response."""
        return self.span is not None or self.span_range is not None

    def span_position(self) -> Range | None:
        """Return the selected characters of the response, without blanks at their ends; None without a span.

        Raises:
            OptionError: The span is not in the response.
        """
        if self.span_range is not None:
            return _valid_range(self.response, self.span_range, self.span)
        if self.span is None:
            return None
        occurrences = find_span(self.response, self.span)
        if not occurrences:
            raise _span_error(self.span, self.response)
        return occurrences[0]

    def desired_query(self) -> Query:
        """Return the query with the desired response in place of the response, without reasoning and span."""
        return replace(self, response=str(self.desired), desired=None, span=None, span_range=None, response_fields=())

    @property
    def example(self) -> Example:
        """The query as a training row."""
        prompt = {"role": "user", "content": self.prompt, **dict(self.prompt_fields)}
        response = {"role": "assistant", "content": self.response, **dict(self.response_fields)}
        messages = (*self.before, prompt, *self.after, response)
        return Example(messages, tools=self.tools, template_kwargs=self.template_kwargs)


@dataclass(frozen=True)
class PreparedQueries:
    """Queries with their features.

    Attributes:
        rows: Token ids of each query.
        whole: Number of tokens of each response before truncation.
        weights: Weight of each response token, per query.
        features: What the method compares with rows.
        gains: The largest gain in log-probability of a weighted token, in nats; or `UNKNOWN_GAIN`.
    """

    rows: tuple[TokenizedExample, ...]
    whole: tuple[int, ...]
    weights: tuple[Float[Tensor, " n"], ...]
    features: QueryFeatures
    gains: tuple[float, ...]


@dataclass(frozen=True)
class Contrast:
    """Features of queries, and of the desired responses of the queries at `positions`."""

    features: QueryFeatures
    desired: QueryFeatures | None
    positions: list[int]

    def difference(self, function: Callable[[QueryFeatures], Tensor]) -> Tensor:
        """Return `function` of each query, shape (Q, …), minus `function` of its desired response, if it has one."""
        values = function(self.features)
        if self.desired is not None:
            values[self.positions] -= function(self.desired)
        return values


def read_queries(
    path: str | Path, columns: Columns = (), join: str | None = None, *, failed_only: bool = True,
    note: Callable[[str], None] | None = None,
) -> list[Query]:  # fmt: skip
    """Read queries from a file of any layout that training rows have, or from the log of an evaluation.

    Each record may have `span` or `span_range`, and `desired`.

    Args:
        path: The file.
        columns: How the training rows name their columns.
        join: The training rows' separator between an instruction and its input.
        failed_only: Of a log with scores, take only the answers that failed.
        note: Called with a note on which answers of a log are read and which are left out.

    Raises:
        DataError: A record is no query, or its span is not in its response.
    """
    rows = read_log_or_records(path, failed_only=failed_only, note=note, columns=columns)
    queries = [query_from_record(record, source, columns, join) for source, record in rows]
    if not queries:
        raise DataError(f"{path} has no queries", do="give at least one prompt and response")
    return queries


def query_from_record(record: Record, source: str, columns: Columns = (), join: str | None = None) -> Query:
    """Read a query from a record in any layout of training rows; `source` identifies it in errors."""
    query = Query(**read_query(record, source, columns, join), source=source)
    try:
        query.span_position()  # before a model is loaded
    except OptionError as fault:
        raise DataError(f"{source}: {fault.what}", got=fault.got, do=fault.do) from None
    return query


def _valid_range(response: str, span_range: Range, span: str | None) -> Range:
    """Return the range; refuse one without words, or that differs from the span if the query has both."""
    begin, end = span_range
    if not 0 <= begin < end <= len(response) or not response[begin:end].strip():
        raise OptionError("the span_range contains no words of the answer",
                          got=f"[{begin}, {end}] of {len(response)} characters",
                          do="give [begin, end), in characters of the answer from 0")  # fmt: skip
    if span is not None and span.split() != response[begin:end].split():
        raise OptionError("span and span_range select different words",
                          got=f"{span!r} and {response[begin:end]!r}", do="give only one of them")  # fmt: skip
    return strip_range(response, begin, end)


def _span_error(span: str, response: str) -> OptionError:
    """Why a span is not among the words of a response."""
    if (inside := enclosing_word(response, span)) is None:
        return OptionError("the span does not occur in the answer", got=f"{span!r} in {response[:80]!r}",
                           do="copy the words from the answer exactly")  # fmt: skip
    word, (begin, end) = inside
    return OptionError("the span is only part of a word of the answer", got=f"{span!r} within {word!r}",
                       do=f"give whole words, or the characters as span_range: [{begin}, {end}]")  # fmt: skip


def prepare_queries(model: Model, method: Method, queries: Sequence[Query], encoding: Encoding) -> PreparedQueries:
    """Run the model on the queries, in batches, and return their features.

    Raises:
        OptionError: A query does not fit the model's context, or its span is cut off.
    """
    encoded = [_encode(model, query, encoding, whole=not method.reads_model) for query in queries]
    rows, whole = [row for row, _ in encoded], tuple(count for _, count in encoded)
    text_features = method.text_features([query.example for query in queries])
    features: list[Features] = [{name: values[q] for name, values in text_features.items()} for q in range(len(rows))]
    token_weights: list[Tensor] = [torch.empty(0) for _ in rows]
    gains = [UNKNOWN_GAIN for _ in rows]
    gradients: list[Tensor | None] = [None for _ in rows]
    for batch in make_batches(rows, method.token_budget(model, per_token=True)):
        gain = method.logprob_gain(model, batch) if isinstance(method, StateMethod) else None
        weights = _token_weights(model, gain, batch, rows, queries)
        batch_features = method.features(model, batch, weights)
        batch_gradients = method.token_gradients(model, batch) if isinstance(method, StateMethod) else None
        for b, q in enumerate(batch.row_indices):
            features[q] |= {name: values[b] for name, values in batch_features.items()}
            token_weights[q] = weights[b, : rows[q].n_response]
            gains[q] = UNKNOWN_GAIN if gain is None else float(gain[b][weights[b] > 0].max())
            if batch_gradients is not None:
                shares = weights[b] / weights[b].sum()
                gradients[q] = (normalize(batch_gradients[b]).cpu() * shares[:, None]).sum(0)
    stacked = stack_features(features, method.feature_names(model.depth))
    means = [gradient for gradient in gradients if gradient is not None]
    query_features = QueryFeatures(tuple(query.prompt for query in queries),
                                   tuple(query.response for query in queries),
                                   stacked, torch.stack(means) if means else None)  # fmt: skip
    if isinstance(method, StateMethod):
        query_features, token_weights = method.reweight_queries(query_features, token_weights)
    return PreparedQueries(tuple(rows), whole, tuple(token_weights), query_features, tuple(gains))


def contrast_desired(
    model: Model, method: Method, queries: Sequence[Query], features: QueryFeatures, encoding: Encoding
) -> Contrast:
    """Return the features of queries together with those of their desired responses."""
    positions = [q for q, query in enumerate(queries) if query.desired]
    desired = [queries[q].desired_query() for q in positions]
    prepared = prepare_queries(model, method, desired, encoding).features if desired else None
    return Contrast(features, prepared, positions)


def _encode(model: Model, query: Query, encoding: Encoding, *, whole: bool) -> tuple[TokenizedExample, int]:
    """Return the query's tokens, truncated unless `whole`, and the untruncated number of response tokens."""
    limits = replace(encoding, max_length=min(model.context_length, encoding.max_length))
    (uncut,) = tokenize_untruncated(model.tokenizer, [query.example], encoding.template, encoding.mask)
    row = uncut if whole or isinstance(uncut, SkippedRow) else truncate(uncut, limits)
    if isinstance(uncut, SkippedRow) or isinstance(row, SkippedRow):
        reason = row.reason if isinstance(row, SkippedRow) else ""
        do = "correct its text, or remove the query"
        if reason.startswith("the chat template"):
            do = "index with a --template that writes it, or remove it from the query"
        elif reason.startswith(("too long", "no room")):
            longer = ", or index with a greater --max-length" * (encoding.max_length < model.context_length)
            do = f"shorten the prompt{longer}"
        raise OptionError(
            f"{query.source or 'this query'} cannot be traced", got=f"{reason}; prompt: {query.prompt[:60]}", do=do
        )
    # only the response is explained, whatever the loss mask of rows was
    return replace(row, n_prompt_loss=0), uncut.n_response


def _token_weights(
    model: Model,
    gain: Float[Tensor, "B R"] | None,
    batch: Batch,
    rows: Sequence[TokenizedExample],
    queries: Sequence[Query],
) -> Float[Tensor, "B R"]:
    """1 on the tokens of a span; without a span, each token's gain in log-probability; without a gain, 1."""
    weights = batch.loss_mask.float()
    if gain is not None:
        weights = torch.where(gain.sum(1, keepdim=True) < 1e-3, weights, gain)
    for b, q in enumerate(batch.row_indices):
        query = queries[q]
        if (span := query.span_position()) is None:
            continue
        texts = token_texts(model.tokenizer, rows[q].response)
        tokens = response_tokens(texts, query.response, span)
        if not tokens:
            at = f"{query.source}: " if query.source else ""
            raise OptionError(f"{at}the span was cut off: it is beyond the last token that is read",
                              got=f"{query.response[slice(*span)]!r}, in a row cut at {len(rows[q].ids)} tokens",
                              do="index with a greater --max-length, or shorten the prompt")  # fmt: skip
        weights[b] = 0
        weights[b, tokens] = 1
    return weights
