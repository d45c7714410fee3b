"""Token ids of Examples: where the prompt ends, which tokens are the response, and which have a loss."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal, get_args

from taughtby.data.chat_template import NO_TEMPLATE, RenderedText, SkippedRow, read_template, render_prompt
from taughtby.data.example import Example, make_example, prompt_source
from taughtby.data.loss_places import render_with_loss
from taughtby.data.pretokenized import skip_reason
from taughtby.errors import DataError, OptionError
from taughtby.models.training_metadata import MetadataEntry, TrainingMetadata

CHUNK_ROWS, CHUNK_CHARS = 512, 500_000  # per call of the tokenizer, whichever is reached first
Truncate = Literal["right", "left", "skip"]
Mask = Literal["response", "content", "all"]


@dataclass(frozen=True)
class Encoding:
    """Options for tokenizing Examples; they should match those of the training.

    Attributes:
        max_length: Maximum number of tokens per row, prompt and response together.
        truncate: `right` cuts the end of the response, `left` the beginning of the prompt, `skip` skips longer rows.
        mask: `response` for a loss on responses, `content` on their text and the EOS only, `all` on prompts too.
        template: Jinja source; "none" for the texts unchanged; None for the tokenizer's own template.
    """

    max_length: int = 1024
    truncate: Truncate = "right"
    mask: Mask = "response"
    template: str | None = None

    def __post_init__(self) -> None:
        for key, choices in (("truncate", get_args(Truncate)), ("mask", get_args(Mask))):
            if getattr(self, key) not in choices:
                raise OptionError(f"invalid {key}", got=str(getattr(self, key)), do=f"choose {' or '.join(choices)}")
        if self.max_length < 2:
            raise OptionError("max_length is too small", got=f"--max-length {self.max_length}", do="give at least 2")

    def with_options(self, template: str | None = None, **options: Any) -> Encoding:
        """Return a copy with the options that are not None; `template` is the path of a Jinja file, or `none`."""
        source = template if template in (None, NO_TEMPLATE) else read_template(template)
        changes = {"template": source, **options}
        return replace(self, **{key: value for key, value in changes.items() if value is not None})


@dataclass(frozen=True)
class TokenizedExample:
    """One Example as token ids.

    Attributes:
        ids: The prompt, the response and the template's closing tokens.
        n_prompt: Tokens of the prompt.
        n_prompt_loss: Prompt tokens just before the response that have a loss; 0 unless prompts are trained on.
        masked: Positions in `ids` without a loss.
        own_mask: The row has its own loss mask, which overrides the encoding's.
    """

    ids: tuple[int, ...]
    n_prompt: int
    n_prompt_loss: int = 0
    masked: tuple[int, ...] = ()
    own_mask: bool = False

    @property
    def n_response(self) -> int:
        """Number of response tokens."""
        return len(self.ids) - self.n_prompt

    @property
    def response(self) -> tuple[int, ...]:
        """Token ids of the response."""
        return self.ids[self.n_prompt :]

    @property
    def loss_start(self) -> int:
        """Position of the first token with a loss."""
        return self.n_prompt - self.n_prompt_loss

    @property
    def loss_mask(self) -> list[bool]:
        """Whether each token has a loss."""
        return [position >= self.loss_start and position not in self.masked for position in range(len(self.ids))]


def tokenize(tokenizer: Any, row: Example, encoding: Encoding) -> TokenizedExample | SkippedRow:
    """Tokenize and truncate one Example."""
    return tokenize_all(tokenizer, [row], encoding)[0]


def tokenize_all(tokenizer: Any, rows: Sequence[Example], encoding: Encoding) -> list[TokenizedExample | SkippedRow]:
    """Tokenize and truncate Examples; a row without a response token becomes a SkippedRow."""
    whole = chain.from_iterable(
        tokenize_untruncated(tokenizer, chunk, encoding.template, encoding.mask) for chunk in chunk_rows(rows)
    )
    return [row if isinstance(row, SkippedRow) else truncate(row, encoding) for row in whole]


def chunk_rows(rows: Iterable[Example]) -> Iterator[list[Example]]:
    """Yield rows in chunks that bound memory: a tokenizer needs about 100 bytes per token."""
    chunk: list[Example] = []
    num_chars = 0
    for row in rows:
        chunk.append(row)
        num_chars += sum(len(str(message["content"])) for message in row.messages)
        if len(chunk) == CHUNK_ROWS or num_chars >= CHUNK_CHARS:
            yield chunk
            chunk, num_chars = [], 0
    if chunk:
        yield chunk


def tokenize_untruncated(
    tokenizer: Any, rows: Sequence[Example], template: str | None = None, mask: Mask = "response"
) -> list[TokenizedExample | SkippedRow]:
    """Tokenize Examples of any length together, with the loss on the responses.

    A token that spans the end of the prompt and the start of the response belongs to the response. A template's
    `{% generation %}` tags are used only with the mask `response`.
    """
    rendered = [_render(tokenizer, row, template, mask) for row in rows]
    ids = _tokenize_texts(tokenizer, [text for text in rendered if isinstance(text, RenderedText)])
    return [
        _as_completion(tokenizer, row, text, next(ids)) if isinstance(text, RenderedText) else text
        for row, text in zip(rows, rendered, strict=True)
    ]


def _as_completion(tokenizer: Any, row: Example, text: RenderedText, whole: TokenizedExample) -> TokenizedExample:
    """Start the answer of a plain text where its ids first differ from those of the prompt alone, as TRL does.

    Inside a word, this is before the end of the prompt. For a preference, the ids with either answer must agree.
    """
    prompt = text.text[: text.answer_start]
    if not text.untemplated or text.apart or not prompt or not tokenizer.is_fast:
        return whole
    sides = [text.text] if row.rejected is None else [text.text, prompt + row.rejected]
    alone, *others = tokenizer([prompt, *sides], add_special_tokens=False)["input_ids"]
    shared = min(
        next((i for i, (a, b) in enumerate(zip(alone, ids, strict=False)) if a != b), min(len(alone), len(ids)))
        for ids in others
    )
    head = len(whole.ids) - len(others[0])  # the BOS
    return replace(whole, n_prompt=max(1, min(whole.n_prompt, head + shared)))


def _render(
    tokenizer: Any, row: Example, template: str | None, mask: Mask
) -> RenderedText | TokenizedExample | SkippedRow:
    """Render a row as text, or return its ids if it is pretokenized."""
    if row.no_loss:
        return SkippedRow(row.no_loss)
    if not row.token_ids:
        return render_with_loss(tokenizer, row, template, mask)
    if reason := skip_reason(tokenizer, row):
        return reason
    first, learned = row.loss_positions[0], set(row.loss_positions)
    masked = (place for place in range(first, len(row.token_ids)) if place not in learned)
    return TokenizedExample(row.token_ids, first, 0, tuple(masked), own_mask=True)


def _tokenize_texts(tokenizer: Any, texts: Sequence[RenderedText]) -> Iterator[TokenizedExample]:
    """Tokenize texts. The first token is never predicted, so it has no loss and counts as part of the prompt."""
    if not texts:
        return
    bos = tokenizer.bos_token if any(text.untemplated for text in texts) and _adds_bos(tokenizer) else None
    # templates write the special tokens themselves: adding them again would double the BOS
    plain: dict[str, Any] = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
    encoded = tokenizer([text.text for text in texts], **plain)
    for index, (text, ids) in enumerate(zip(texts, encoded["input_ids"], strict=True)):
        head = [tokenizer.bos_token_id] if bos and text.untemplated and not text.text.startswith(bos) else []
        if text.apart:
            yield _tokenize_apart(tokenizer, head, text, plain)
            continue
        answer = max(1, len(head) + _token_at(tokenizer, encoded, index, text.text, text.answer_start))
        n_earlier = 0
        if text.loss_start < text.answer_start:
            n_earlier = answer - max(1, len(head) + _token_at(tokenizer, encoded, index, text.text, text.loss_start))
        marked = text.masked or (tokenizer.is_fast and text.loss_end is not None)
        masked = (len(head) + token for token in range(len(ids)) if marked and _is_masked(encoded, index, token, text))
        yield TokenizedExample((*head, *ids), answer, n_earlier, tuple(masked))


def _tokenize_apart(tokenizer: Any, head: list[int], text: RenderedText, plain: dict[str, Any]) -> TokenizedExample:
    start = text.answer_start
    parts = tokenizer([text.text[:start], text.text[start:]], **plain)
    before, answer = [*head, *parts["input_ids"][0]], parts["input_ids"][1]
    alone = replace(text, text=text.text[start:], masked=tuple((a - start, b - start) for a, b in text.masked))
    masked = (len(before) + token for token in range(len(answer)) if text.masked and _is_masked(parts, 1, token, alone))
    return TokenizedExample((*before, *answer), max(1, len(before)), 0, tuple(masked))


def _is_masked(encoded: Any, index: int, token: int, text: RenderedText) -> bool:
    """Whether a token begins after the loss or contains a masked character; white space does not count."""
    begin, end = encoded.token_to_chars(index, token) or (0, 0)
    if text.loss_end is not None and begin >= text.loss_end:
        return True
    return any(text.text[max(begin, start) : min(end, stop)].strip() for start, stop in text.masked)


def _token_at(tokenizer: Any, encoded: Any, index: int, text: str, where: int) -> int:
    """Return the index of the token that contains the character at `where`, or of the first token after it."""
    ids = encoded["input_ids"][index]
    if where == 0:
        return 0
    if not tokenizer.is_fast:  # slow tokenizers have no offsets: compare with the ids of the prompt alone
        alone = tokenizer(text[:where], add_special_tokens=False)["input_ids"]
        return next((i for i, (left, right) in enumerate(zip(alone, ids, strict=False)) if left != right), len(alone))
    holding = (encoded.char_to_token(index, place) for place in range(where, len(text)))
    token = next((token for token in holding if token is not None), len(ids))
    if token < len(ids):
        begin, end = encoded.token_to_chars(index, token)
        # Phi 3's `<|assistant|>` includes the white space after it, which does not make it part of the answer
        return token + (begin < where and not text[where:end].strip())
    return token


def truncate(row: TokenizedExample, encoding: Encoding) -> TokenizedExample | SkippedRow:
    """Apply the maximum length and the mask of the encoding; a row without a loss left becomes a SkippedRow."""
    limit, ids, n_prompt, masked = encoding.max_length, row.ids, row.n_prompt, row.masked
    start = 1 if encoding.mask == "all" and not row.own_mask else row.loss_start
    if len(ids) > limit and encoding.truncate == "skip":
        return SkippedRow(f"too long: {len(ids)} tokens, the limit is {limit}")
    if len(ids) > limit and encoding.truncate == "left":
        if len(ids) - n_prompt >= limit:
            num_tokens = len(ids) - n_prompt
            return SkippedRow(f"no room for the prompt: the answer has {num_tokens} tokens, the limit is {limit}")
        num_removed = len(ids) - limit
        ids, n_prompt, start = ids[num_removed:], n_prompt - num_removed, max(1, start - num_removed)
        masked = tuple(token - num_removed for token in masked if token >= num_removed)
    if n_prompt >= limit:
        return SkippedRow(f"no room for the answer: the prompt has {n_prompt} tokens, the limit is {limit}")
    if n_prompt >= len(ids):
        return SkippedRow("the answer has no tokens")
    masked = tuple(token for token in masked if token < limit)
    example = TokenizedExample(ids[:limit], n_prompt, n_prompt - start, masked, row.own_mask)
    return example if not masked or any(example.loss_mask) else SkippedRow("all tokens with a loss are masked")


def prompt_ids(tokenizer: Any, prompt: str | Example, template: str | None = None) -> list[int]:
    """Return the token ids of a prompt, ready for generation: a user turn, or an Example without its response."""
    text = render_prompt(tokenizer, make_example(prompt, "") if isinstance(prompt, str) else prompt, template)
    if isinstance(text, SkippedRow):
        what = f"{prompt_source(prompt) or 'this prompt'} cannot be rendered"
        raise DataError(what, got=text.reason, do="change the prompt, or choose another --template")
    return list(next(_tokenize_texts(tokenizer, [text])).ids)


def _adds_bos(tokenizer: Any) -> bool:
    return tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Return the text that each token adds to the tokens before it; special tokens add "".

    Joined, the texts are the decoded sequence. A token that ends within a character adds nothing; the token that
    completes the character adds all of it.
    """
    special, pieces, pending, context = set(tokenizer.all_special_ids), list[str](), list[int](), list[int]()
    for index, token in enumerate(ids):
        pieces.append("")
        if token in special:
            continue
        pending.append(token)
        # decoded after the previous token, because some tokenizers drop the space before a text's first token
        grown = tokenizer.decode(context + pending)
        last = index + 1 == len(ids) or ids[index + 1] in special  # a truncated character, or a real U+FFFD
        if last or not grown.endswith("�"):
            pieces[-1] = grown[len(tokenizer.decode(context)) :]
            context, pending = pending, []
    return pieces


DEFAULT_MAX_LENGTH = 1024  # if no file and no option sets it, and the model's context is long enough
METADATA_OPTIONS = ("max_length", "truncate", "mask", "template")


def default_options(metadata: TrainingMetadata, context_length: int, *, raw: bool) -> Encoding:
    """Return the Encoding that the trainer's files imply. `raw` rows are plain texts, without a chat template."""
    return Encoding(
        max_length=min(metadata.max_length or DEFAULT_MAX_LENGTH, context_length),
        truncate=metadata.truncate or "right",
        mask=metadata.mask or "response",
        template=metadata.template or (NO_TEMPLATE if raw else None),
    )


def followed_metadata(metadata: TrainingMetadata, encoding: Encoding) -> list[MetadataEntry]:
    """Return the metadata entries of a trainer's folder that determined an Encoding."""
    first = {what: next((entry for entry in metadata.entries if entry.name == what), None) for what in METADATA_OPTIONS}
    return [entry for what, entry in first.items() if entry and entry.value == getattr(encoding, what)]
