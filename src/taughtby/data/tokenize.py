"""Token ids of Examples: where the prompt ends, which tokens are the response, and which have a loss."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal, get_args

from taughtby.data.chat_template import NO_TEMPLATE, RenderedText, SkippedRow, read_template, render, render_prompt
from taughtby.data.example import Example, make_example
from taughtby.errors import DataError, OptionError
from taughtby.models.training_metadata import MetadataEntry, TrainingMetadata

CHUNK_ROWS, CHUNK_CHARS = 512, 500_000  # of what is tokenised together, whichever is reached first
Truncate = Literal["right", "left", "skip"]
Mask = Literal["response", "all"]


@dataclass(frozen=True)
class Encoding:
    """How Examples become ids: the habits of the trainer that the model learned them by.

    `truncate` right cuts the end of the answer, left the beginning of the prompt, skip refuses the row. With `mask`
    all, the loss was taken on the prompt too. `template` is Jinja source, "none" for the texts exactly as they stand,
    or None for the tokenizer's own.
    """

    max_length: int = 1024
    truncate: Truncate = "right"
    mask: Mask = "response"
    template: str | None = None

    def __post_init__(self) -> None:
        for key, known in (("truncate", get_args(Truncate)), ("mask", get_args(Mask))):
            if getattr(self, key) not in known:
                raise OptionError(f"no such {key}", got=str(getattr(self, key)), do=f"choose {' or '.join(known)}")
        if self.max_length < 2:
            raise OptionError("no room for a row", got=f"--max-length {self.max_length}", do="give at least 2")

    def with_options(self, template: str | None = None, **options: Any) -> Encoding:
        """The same but for what a person asked for; None is not asked. `template` is a file's path, or none."""
        source = template if template in (None, NO_TEMPLATE) else read_template(template)
        given = {"template": source, **options}
        return replace(self, **{key: value for key, value in given.items() if value is not None})


@dataclass(frozen=True)
class TokenizedExample:
    """One Example as ids: `ids[:n_prompt]` is the prompt, the rest the answer with the template's closing tokens.

    The loss was taken on the answer and on the `ahead` tokens before it: 0 of them, unless prompts were learned too;
    but not on the `masked` ones, which are places in `ids`.
    """

    ids: tuple[int, ...]
    n_prompt: int
    n_prompt_loss: int = 0
    masked: tuple[int, ...] = ()

    @property
    def n_response(self) -> int:
        """How many tokens the answer has."""
        return len(self.ids) - self.n_prompt

    @property
    def response(self) -> tuple[int, ...]:
        """The ids of the answer."""
        return self.ids[self.n_prompt :]

    @property
    def loss_start(self) -> int:
        """The first token that was learned."""
        return self.n_prompt - self.n_prompt_loss

    @property
    def loss_mask(self) -> list[bool]:
        """Which tokens a loss was taken on."""
        return [at >= self.loss_start and at not in self.masked for at in range(len(self.ids))]


def tokenize(tokenizer: Any, row: Example, encoding: Encoding) -> TokenizedExample | SkippedRow:
    """The ids of an Example."""
    return tokenize_all(tokenizer, [row], encoding)[0]


def tokenize_all(tokenizer: Any, rows: Sequence[Example], encoding: Encoding) -> list[TokenizedExample | SkippedRow]:
    """The ids of each Example; a row with no answer token left is a Skip."""
    whole = chain.from_iterable(tokenize_untruncated(tokenizer, some, encoding.template) for some in chunk_rows(rows))
    return [row if isinstance(row, SkippedRow) else truncate(row, encoding) for row in whole]


def chunk_rows(rows: Iterable[Example]) -> Iterator[list[Example]]:
    """Rows in the portions that are tokenised together: a tokenizer holds some 100 bytes a token while it works."""
    some: list[Example] = []
    letters = 0
    for row in rows:
        some.append(row)
        letters += sum(len(str(message["content"])) for message in row.messages)
        if len(some) == CHUNK_ROWS or letters >= CHUNK_CHARS:
            yield some
            some, letters = [], 0
    if some:
        yield some


def tokenize_untruncated(
    tokenizer: Any, rows: Sequence[Example], template: str | None = None
) -> list[TokenizedExample | SkippedRow]:
    """The ids of each Example however long, tokenised together, its answer alone learned.

    A token that holds both the prompt's end and the answer's first letter is the answer's: the model had to say it.
    """
    made = [render(tokenizer, row, template) for row in rows]
    ids = _ids(tokenizer, [one for one in made if isinstance(one, RenderedText)])
    return [one if isinstance(one, SkippedRow) else next(ids) for one in made]


def _ids(tokenizer: Any, texts: Sequence[RenderedText]) -> Iterator[TokenizedExample]:
    """Each text as ids. Its first token has nothing before it, so no loss, and counts as the prompt."""
    if not texts:
        return
    bos = tokenizer.bos_token if any(text.untemplated for text in texts) and _adds_bos(tokenizer) else None
    # a template has written the special tokens already: adding them again would double the BOS
    plain: dict[str, Any] = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
    found = tokenizer([text.text for text in texts], **plain)
    for at, (text, ids) in enumerate(zip(texts, found["input_ids"], strict=True)):
        head = [tokenizer.bos_token_id] if bos and text.untemplated and not text.text.startswith(bos) else []
        answer = max(1, len(head) + _place(tokenizer, found, at, text.text, text.answer_start))
        ahead = 0
        if text.loss_start < text.answer_start:
            ahead = answer - max(1, len(head) + _place(tokenizer, found, at, text.text, text.loss_start))
        silent = (len(head) + token for token in range(len(ids)) if text.masked and _silent(found, at, token, text))
        yield TokenizedExample((*head, *ids), answer, ahead, tuple(silent))


def _silent(found: Any, at: int, token: int, text: RenderedText) -> bool:
    """Whether a token holds any masked character; a blank before it is not a reason to count it in."""
    begin, end = found.token_to_chars(at, token) or (0, 0)
    return any(text.text[max(begin, one) : min(end, other)].strip() for one, other in text.masked)


def _place(tokenizer: Any, found: Any, at: int, text: str, where: int) -> int:
    """The token that holds the character `where`, or the first one behind it."""
    ids = found["input_ids"][at]
    if where == 0:
        return 0
    if not tokenizer.is_fast:  # such a one does not say where its tokens stand: as far as the prompt alone goes alike
        alone = tokenizer(text[:where], add_special_tokens=False)["input_ids"]
        return next((i for i, (one, other) in enumerate(zip(alone, ids, strict=False)) if one != other), len(alone))
    holding = (found.char_to_token(at, place) for place in range(where, len(text)))
    token = next((token for token in holding if token is not None), len(ids))
    if token < len(ids):
        begin, end = found.token_to_chars(at, token)
        # Phi 3's `<|assistant|>` takes the blanks behind it in: they do not make it part of the answer
        return token + (begin < where and not text[where:end].strip())
    return token


def truncate(row: TokenizedExample, encoding: Encoding) -> TokenizedExample | SkippedRow:
    """The row as long as it may be, and with what was learned of it."""
    limit, ids, n_prompt, masked = encoding.max_length, row.ids, row.n_prompt, row.masked
    start = 1 if encoding.mask == "all" else row.loss_start
    if len(ids) > limit and encoding.truncate == "skip":
        return SkippedRow(f"too long: {len(ids)} tokens, the limit is {limit}")
    if len(ids) > limit and encoding.truncate == "left":
        if len(ids) - n_prompt >= limit:
            return SkippedRow(
                f"no room for the prompt: the answer has {len(ids) - n_prompt} tokens, the limit is {limit}"
            )
        gone = len(ids) - limit
        ids, n_prompt, start = ids[gone:], n_prompt - gone, max(1, start - gone)
        masked = tuple(token - gone for token in masked if token >= gone)
    if n_prompt >= limit:
        return SkippedRow(f"no room for the answer: the prompt has {n_prompt} tokens, the limit is {limit}")
    if n_prompt >= len(ids):
        return SkippedRow("the answer has no tokens")
    made = TokenizedExample(ids[:limit], n_prompt, n_prompt - start, tuple(token for token in masked if token < limit))
    return made if not masked or any(made.loss_mask) else SkippedRow("all that could be learned is masked")


def prompt_ids(tokenizer: Any, prompt: str | Example, template: str | None = None) -> list[int]:
    """The ids of a user turn, or of all that stands before a row's answer, ready for an answer."""
    row = make_example(prompt, "") if isinstance(prompt, str) else prompt
    text = render_prompt(tokenizer, row, template)
    if isinstance(text, SkippedRow):
        raise DataError(
            "this prompt cannot be asked", got=text.reason, do="mend the prompt, or choose another --template"
        )
    return list(next(_ids(tokenizer, [text])).ids)


def _adds_bos(tokenizer: Any) -> bool:
    return tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text each token adds to those before it; joined they are the decoded whole. Special tokens add "".

    A token that holds only part of a character adds nothing; the one that completes it adds it all.
    """
    special = set(tokenizer.all_special_ids)
    pieces: list[str] = []
    pending: list[int] = []
    context: list[int] = []
    for at, token in enumerate(ids):
        pieces.append("")
        if token in special:
            continue
        pending.append(token)
        # decoded behind its neighbour, because some tokenizers drop the space of a text's first token
        grown = tokenizer.decode(context + pending)
        last = at + 1 == len(ids) or ids[at + 1] in special  # cut within a character, or the text's own U+FFFD
        if last or not grown.endswith("�"):
            pieces[-1] = grown[len(tokenizer.decode(context)) :]
            context, pending = pending, []
    return pieces


DEFAULT_MAX_LENGTH = 1024  # tokens of a row that are kept where nobody says otherwise and the model reads as many
METADATA_OPTIONS = ("max_length", "truncate", "mask", "template")


def default_options(metadata: TrainingMetadata, context_length: int, *, raw: bool) -> Encoding:
    """The Encoding to read rows by; `raw` rows are plain texts, to which no chat template belongs."""
    return Encoding(
        max_length=min(metadata.max_length or DEFAULT_MAX_LENGTH, context_length),
        truncate=metadata.truncate or "right",
        mask=metadata.mask or "response",
        template=metadata.template or (NO_TEMPLATE if raw else None),
    )


def followed_metadata(metadata: TrainingMetadata, encoding: Encoding) -> list[MetadataEntry]:
    """The facts of a trainer's folder that an Encoding goes by, to be told with the file that says them."""
    first = {what: next((fact for fact in metadata.entries if fact.name == what), None) for what in METADATA_OPTIONS}
    return [fact for what, fact in first.items() if fact and fact.value == getattr(encoding, what)]
