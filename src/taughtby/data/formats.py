"""Column layouts of training data, and how each is converted to a conversation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import takewhile
from typing import Any

from taughtby.data.content import UnclearRow, UntypedText, from_json, is_filled
from taughtby.data.example import ROLES, Message, Record, shorten, validate_messages
from taughtby.errors import DataError

INPUT_JOIN = "\n\n"  # between an instruction and its input
SYSTEM = ("system", "system_prompt")
CONVERSATIONS = ("messages", "conversations", "conversation")  # columns that always hold messages
PROMPT_COLUMNS = ("prompt", "question", "instruction", "messages", "conversations")  # prompt columns of preferences
TOKEN_MASKS = ("labels", "completion_mask", "assistant_masks", "assistant_mask", "loss_mask", "attention_mask")


@dataclass(frozen=True)
class DataFormat:
    """One column layout of training data.

    Attributes:
        name: Its name in messages and reports.
        columns: Columns that every row must have.
        convert: Returns the messages of a record, not yet validated.
        optional_columns: Columns that are read if they exist.
        raw: The texts are plain; no chat template is applied.
        accepts: Whether the values of a record fit the layout.
        rejected: Returns the rejected response of a preference, or None.
        trained: Returns how many final messages had a loss regardless of their roles, or None if `turns` decides.
        tokenized: The rows are token ids without messages.
    """

    name: str
    columns: tuple[str, ...]
    convert: Callable[[Record], Any]
    optional_columns: tuple[str, ...] = ()
    raw: bool = False
    accepts: Callable[[Record], bool] = lambda record: True
    rejected: Callable[[Record], Any] = lambda record: None
    trained: Callable[[Record], int | None] = lambda record: None
    tokenized: bool = False

    @cached_property
    def all_columns(self) -> frozenset[str]:
        """Every column that the layout reads."""
        return frozenset((*self.columns, *self.optional_columns))


def _parse_list(value: Any) -> Any:
    """Return a list, also from JSON as in CSV cells; anything else is returned unchanged."""
    return list(value) if isinstance(value, tuple) else from_json(value)


def _conversation(value: Any) -> Any:
    """Return the messages of a conversation column; in CSV the list, or each message, is JSON."""
    messages = _parse_list(value)
    return [_parse_list(message) for message in messages] if isinstance(messages, list) else messages


def _as_turns(value: Any) -> list[Any] | None:
    """Return a message or a list of messages as a list; None for anything else, including JSON text."""
    if isinstance(value, str):
        return None
    messages = [value] if isinstance(value, dict) else list(value) if isinstance(value, tuple) else value
    spoken = isinstance(messages, list) and any(
        isinstance(message, dict) and {"role", "from"} & set(message) for message in messages
    )
    return messages if spoken else None


def _all_text(*values: Any) -> bool:
    return all(isinstance(value, str) for value in values)


def _as_messages(value: Any, role: str) -> list[Any]:
    """Return messages unchanged, and anything else as the content of one message."""
    turns = _as_turns(value)
    return [{"role": role, "content": value}] if turns is None else turns


def _system(record: Record, messages: Sequence[Any] = ()) -> list[Message]:
    """Return the system prompt from its own column, unless the messages already begin with it."""
    prompts = [turn for name in SYSTEM if is_filled(record.get(name)) for turn in _as_messages(record[name], "system")]
    if not prompts:
        return []
    first: dict[str, Any] = messages[0] if messages and isinstance(messages[0], dict) else {}
    if ROLES.get(str(first.get("role") or first.get("from")).lower()) != "system":
        return prompts[:1]
    own, other = first.get("content", first.get("value")), prompts[0].get("content")
    if own != other:
        raise UnclearRow("the row has two different system prompts, one in its own column",
                         got=shorten(f"{other} / {own}"), do="remove one of them")  # fmt: skip
    return []


def _one_column(column: str) -> Callable[[Record], Any]:
    """Return a converter for a conversation in one column, with an optional system column."""

    def convert(record: Record) -> Any:
        messages = _conversation(record[column])
        return [*_system(record, messages), *messages] if isinstance(messages, list) and messages else messages

    return convert


def _pair(ask: str, answer: str, extra: str = "") -> Callable[[Record], list[Any]]:
    """Return a converter for a question and its answer; the column `extra` is appended to the question."""

    def convert(record: Record) -> list[Any]:
        prompt = _append(record[ask], record.get(extra)) if extra else record[ask]
        turns = [*_history(record), *_as_messages(prompt, "user"), *_as_messages(record[answer], "assistant")]
        return [*_system(record, turns), *turns]

    return convert


def _history(record: Record) -> list[Message]:
    """Return Alpaca's earlier turns, which are pairs of question and answer, or messages."""
    if not (history := record.get("history")):
        return []
    pairs = _parse_list(history)
    if turns := _as_turns(pairs):
        return turns
    messages: list[Message] = []
    for pair in pairs if isinstance(pairs, list) else [pairs]:
        if not (isinstance(pair, list | tuple) and len(pair) == 2):
            do = 'write [["question", "answer"], …], or messages'
            raise UnclearRow("the history contains something other than pairs", got=shorten(pair), do=do)
        messages += [{"role": role, "content": text} for role, text in zip(("user", "assistant"), pair, strict=True)]
    return messages


def _append(ask: Any, extra: Any) -> Any:
    if not is_filled(extra):
        return ask
    if isinstance(ask, UntypedText):  # refused later
        return ask
    if not isinstance(ask, str):
        return [ask, extra]  # not text, so refused later
    return f"{ask}{INPUT_JOIN}{extra}" if isinstance(extra, str) else extra


def _texts(ask: str, answer: str) -> Callable[[Record], list[Message]]:
    """Return a converter for a prompt and an answer in plain text."""

    def convert(record: Record) -> list[Message]:
        texts = record.get(ask, "") if ask else "", record[answer]
        # a column `text` never holds messages
        texts = [str(text) if isinstance(text, UntypedText) and not ask else text for text in texts]
        return [{"role": role, "content": text} for role, text in zip(("user", "assistant"), texts, strict=True)]

    return convert


def _role(message: Any) -> str | None:
    name = message.get("role") or message.get("from") if isinstance(message, dict) else None
    return ROLES.get(str(name).lower())


def _preference(record: Record) -> Any:
    """Return prompt and chosen answer; `chosen` is the whole conversation if it begins with another role."""
    chosen = _as_messages(record["chosen"], "assistant")
    if _role(chosen[0]) != "assistant":
        return chosen
    name = next((name for name in PROMPT_COLUMNS if record.get(name)), None)
    prompt = _conversation(record[name]) if name in CONVERSATIONS else record.get(name or "")
    turns = [*(_as_messages(_append(prompt, record.get("input")), "user") if name else ()), *chosen]
    return [*_system(record, turns), *turns]


def _num_chosen(record: Record) -> int:
    """Count the messages of the chosen answer; if `chosen` includes the prompt, those that differ from `rejected`."""
    chosen, rejected = (_as_messages(record[name], "assistant") for name in ("chosen", "rejected"))
    if _role(chosen[0]) == "assistant":
        return len(chosen)
    contents = [[message.get("content", message.get("value")) if isinstance(message, dict) else message
                 for message in side] for side in (chosen, rejected)]  # fmt: skip
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*contents, strict=False)))
    return max(1, len(chosen) - shared)


def _is_plain_preference(record: Record) -> bool:
    """Whether the row is TRL's plain-text preference: strings only, and no column that makes it a conversation."""
    others = any(record.get(name) for name in (*PROMPT_COLUMNS[1:], *SYSTEM))
    prompt = record.get("prompt")
    return not others and _all_text("" if prompt is None else prompt, record["chosen"], record["rejected"])


def _with_prompt(record: Record) -> Record:
    """Return a plain preference with its prompt, by default the common prefix of both texts up to white space."""
    if record.get("prompt") or not _all_text(record["chosen"], record["rejected"]):
        return record
    both = zip(record["chosen"], record["rejected"], strict=False)
    shared = "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], both))
    position = max(shared.rfind(" "), shared.rfind("\n"), 0)
    return {"prompt": shared[:position], **{name: record[name][position:] for name in ("chosen", "rejected")}}


def _formats() -> Iterable[DataFormat]:
    """Yield the layouts in the order in which they are tried."""
    preference = ("chosen", "rejected")
    yield DataFormat("input_ids", ("input_ids",), lambda record: (), TOKEN_MASKS, tokenized=True)
    yield DataFormat(
        "chosen/rejected text", preference, lambda record: _texts("prompt", "chosen")(_with_prompt(record)),
        ("prompt",), raw=True, accepts=_is_plain_preference, rejected=lambda record: _with_prompt(record)["rejected"],
    )  # fmt: skip
    yield DataFormat("chosen/rejected", preference, _preference, (*PROMPT_COLUMNS, "input", *SYSTEM),
               rejected=lambda record: record["rejected"], trained=_num_chosen)  # fmt: skip
    yield DataFormat("messages", ("messages",), _one_column("messages"), ("rejected", *SYSTEM),
               rejected=lambda record: record.get("rejected"))  # fmt: skip
    for name in CONVERSATIONS[1:]:
        yield DataFormat(name, (name,), _one_column(name), SYSTEM)
    more = ("input", "history", *SYSTEM)
    for ask in ("prompts", "prompt"):
        yield DataFormat(f"{ask}/response", (ask, "response"), _pair(ask, "response", "input"), more)
    yield DataFormat("prompt/completion", ("prompt", "completion"), _texts("prompt", "completion"), raw=True,
               accepts=lambda record: _all_text(record["prompt"], record["completion"]))  # fmt: skip
    yield DataFormat("prompt/completion messages", ("prompt", "completion"), _pair("prompt", "completion"),
               ("history", *SYSTEM),
               trained=lambda record: len(_as_messages(record["completion"], "assistant")))  # fmt: skip
    for name, answer, extra in (("alpaca", "output", "input"), ("instruction/response", "response", "context")):
        yield DataFormat(
            name, ("instruction", answer), _pair("instruction", answer, extra), (extra, "history", *SYSTEM)
        )
    for ask, answer in (("question", "answer"), ("question", "response"), ("query", "response"), ("query", "answer"),
                        ("input", "output")):  # fmt: skip
        extra, names = ("input", more) if ask != "input" else ("", more[1:])
        yield DataFormat(f"{ask}/{answer}", (ask, answer), _pair(ask, answer, extra), names)
    yield DataFormat("text", ("text",), _texts("", "text"), raw=True)


FORMATS = tuple(_formats())
COLUMN_NAMES = {"label", "tools"}.union(*(form.all_columns for form in FORMATS))  # valid names in --columns
COMMON_COLUMNS = {"label", "tools"}  # allowed in any layout
EMPTY: tuple[Any, ...] = ("", [], {})


@lru_cache(maxsize=256)
def _candidate_formats(named: frozenset[str], present: tuple[str, ...]) -> tuple[DataFormat, ...]:
    """Return the layouts that read every named column and whose required columns are present."""
    usable = (form for form in FORMATS if named - COMMON_COLUMNS <= form.all_columns)
    return tuple(form for form in usable if set(form.columns) <= set(present))


def select_format(record: Record, source: str, named: frozenset[str] = frozenset()) -> DataFormat:
    """Return the first layout that fits the record, among those that read every column in `named`.

    A table of several layouts has null or empty columns that belong to other rows. So layouts come first that have no
    empty column (except `text`, which Alpaca rows with an empty answer have too), then those with any column that is
    not empty and no null, then any whose columns are present.
    """
    forms = _candidate_formats(named, tuple(record))
    for enough in (all, any):
        for form in forms:
            values = [record.get(column) for column in form.columns]
            if (
                None not in values
                and enough(value not in EMPTY for value in values)
                and (enough is any or form.name != "text")
                and form.accepts(record)
            ):
                return form
    if forms:
        return forms[0]
    raise DataError(
        f"{source}: no known column layout matches",
        got=shorten(", ".join(map(str, record)), 200) or "no columns",
        do="map the columns, as in --columns prompt=question,response=reply, or rename them to one of: "
        + "; ".join(dict.fromkeys(" + ".join(form.columns) for form in FORMATS)),
    )


def rename_columns(record: Record, columns: Sequence[tuple[str, str]], source: str) -> Record:
    """Add the named columns under taughtby's names; only columns that some layout requires must exist."""
    for what, column in columns:
        if column not in record and any(what in form.columns for form in FORMATS):
            got = shorten(", ".join(map(str, record)), 200) or "no columns"
            raise DataError(f"{source}: there is no column {column}", got=got, do="correct --columns")
    return {**record, **{what: record.get(column) for what, column in columns}}


def rejected_answer(form: DataFormat, record: Record, source: str) -> str | None:
    """Return the rejected answer: a string, or the last message of a conversation. None without one."""
    rejected = form.rejected(record)
    if rejected is None:
        return None
    answer = validate_messages(_as_messages(rejected, "assistant"), source)[-1]
    if answer["role"] != "assistant":
        do = "end it with an assistant message, or remove the row"
        raise DataError(f"{source}: the rejected conversation does not end with an answer", got=answer["role"], do=do)
    return str(answer["content"])
