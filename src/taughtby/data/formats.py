"""How data sets name their columns: the conversation that a record holds, whatever its form. Knows no file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from typing import Any

from taughtby.data.example import ROLES, Message, Record, shorten, validate_messages
from taughtby.errors import DataError

SYSTEM = ("system", "system_prompt")
PROMPT_COLUMNS = (
    "prompt",
    "question",
    "instruction",
    "messages",
    "conversations",
)  # what may stand before a preference


@dataclass(frozen=True)
class DataFormat:
    """One way in which data sets name their columns.

    `columns` must be there, `also` may be; `fits` says what their values must be. `convert` makes messages, not yet
    checked, and `refused` the answer that was not chosen. `raw`: plain texts, to which no chat template belongs.
    """

    name: str
    columns: tuple[str, ...]
    convert: Callable[[Record], Any]
    optional_columns: tuple[str, ...] = ()
    raw: bool = False
    accepts: Callable[[Record], bool] = lambda record: True
    rejected: Callable[[Record], Any] = lambda record: None

    @property
    def all_columns(self) -> set[str]:
        """Every column that it reads."""
        return {*self.columns, *self.optional_columns}


def _listed(value: Any) -> Any:
    """A list, also one (or an object) that a table of texts holds as JSON; anything else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return list(value) if isinstance(value, tuple) else value


def _turns(value: Any) -> list[Any] | None:
    """The messages that a value is, one or a list of them; None for anything else."""
    given = _listed(value)
    given = [given] if isinstance(given, dict) else given
    spoken = isinstance(given, list) and any(isinstance(one, dict) and {"role", "from"} & set(one) for one in given)
    return given if spoken else None


def _plain(*values: Any) -> bool:
    return all(isinstance(value, str) and _turns(value) is None for value in values)


def _said(value: Any, role: str) -> list[Any]:
    """Messages as they are, anything else as the content of one."""
    turns = _turns(value)
    return [{"role": role, "content": value}] if turns is None else turns


def _system(record: Record) -> list[Message]:
    return [{"role": "system", "content": record[name]} for name in SYSTEM if record.get(name)][:1]


def _shared(column: str) -> Callable[[Record], Any]:
    """A conversation in ShareGPT's words, where the system prompt may be a column of its own."""

    def convert(record: Record) -> Any:
        said = _listed(record[column])
        return [*_system(record), *said] if isinstance(said, list) and said else said

    return convert


def _pair(ask: str, answer: str, given: str = "") -> Callable[[Record], list[Any]]:
    """A question and its answer; `given` names what belongs to the question, set below it."""

    def convert(record: Record) -> list[Any]:
        asked, earlier = (_with(record[ask], record.get(given)), _history(record)) if given else (record[ask], [])
        return [*_system(record), *earlier, *_said(asked, "user"), *_said(record[answer], "assistant")]

    return convert


def _history(record: Record) -> list[Message]:
    """Alpaca's earlier turns: pairs of question and answer."""
    pairs = _listed(record.get("history") or [])
    said: list[Message] = []
    for pair in pairs if isinstance(pairs, list) else [pairs]:
        both = pair if isinstance(pair, list | tuple) and len(pair) == 2 else [pair, None]
        said += [{"role": role, "content": text} for role, text in zip(("user", "assistant"), both, strict=True)]
    return said


def _with(ask: Any, given: Any) -> Any:
    if not given or not isinstance(ask, str):
        return ask
    return f"{ask}\n\n{given}" if isinstance(given, str) else given


def _texts(ask: str, answer: str) -> Callable[[Record], list[Message]]:
    """Two plain texts, one after the other."""

    def convert(record: Record) -> list[Message]:
        said = record.get(ask, "") if ask else "", record[answer]
        return [{"role": role, "content": text} for role, text in zip(("user", "assistant"), said, strict=True)]

    return convert


def _preferred(record: Record) -> Any:
    """The chosen answer behind what was asked; a list that begins with another's words is the whole conversation."""
    chosen = _said(record["chosen"], "assistant")
    first = chosen[0]
    if not isinstance(first, dict) or ROLES.get(str(first.get("role") or first.get("from")).lower()) != "assistant":
        return chosen
    asked = [_with(record[name], record.get("input")) for name in PROMPT_COLUMNS if record.get(name)][:1]
    return [*_system(record), *(turn for question in asked for turn in _said(question, "user")), *chosen]


def _two_texts(record: Record) -> bool:
    """Whether these are TRL's plain preferences: no prompt, or a plain one, and nothing that makes a conversation."""
    others = any(record.get(name) for name in (*PROMPT_COLUMNS[1:], *SYSTEM))
    prompt = record.get("prompt")
    return not others and _plain("" if prompt is None else prompt, record["chosen"], record["rejected"])


def _parted(record: Record) -> Record:
    """A plain preference with its prompt: where there is none, what both texts begin with, up to a blank."""
    if record.get("prompt") or not _plain(record["chosen"], record["rejected"]):
        return record
    both = zip(record["chosen"], record["rejected"], strict=False)
    shared = "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], both))
    at = max(shared.rfind(" "), shared.rfind("\n"), 0)
    return {"prompt": shared[:at], **{name: record[name][at:] for name in ("chosen", "rejected")}}


def _forms() -> Iterable[DataFormat]:
    """In the order in which they are tried."""
    preference = ("chosen", "rejected")
    yield DataFormat(
        "chosen/rejected text", preference, lambda record: _texts("prompt", "chosen")(_parted(record)), ("prompt",),
        raw=True, accepts=_two_texts, rejected=lambda record: _parted(record)["rejected"],
    )  # fmt: skip
    yield DataFormat("chosen/rejected", preference, _preferred, (*PROMPT_COLUMNS, "input", *SYSTEM),
               rejected=lambda record: record["rejected"])  # fmt: skip
    yield DataFormat("messages", ("messages",), lambda record: _listed(record["messages"]), ("rejected",),
               rejected=lambda record: record.get("rejected"))  # fmt: skip
    for name in ("conversations", "conversation"):
        yield DataFormat(name, (name,), _shared(name), SYSTEM)
    for ask in ("prompts", "prompt"):
        yield DataFormat(f"{ask}/response", (ask, "response"), _pair(ask, "response"), SYSTEM)
    yield DataFormat("prompt/completion", ("prompt", "completion"), _texts("prompt", "completion"), raw=True,
               accepts=lambda record: _plain(record["prompt"], record["completion"]))  # fmt: skip
    yield DataFormat("prompt/completion messages", ("prompt", "completion"), _pair("prompt", "completion"))
    for name, answer, given in (("alpaca", "output", "input"), ("instruction/response", "response", "context")):
        yield DataFormat(
            name, ("instruction", answer), _pair("instruction", answer, given), (given, "history", *SYSTEM)
        )
    for ask, answer in (("question", "answer"), ("question", "response"), ("query", "response"), ("query", "answer"),
                        ("input", "output")):  # fmt: skip
        yield DataFormat(f"{ask}/{answer}", (ask, answer), _pair(ask, answer), SYSTEM)
    yield DataFormat("text", ("text",), _texts("", "text"), raw=True)


FORMATS = tuple(_forms())
COLUMN_NAMES = {"label", "tools"}.union(*(form.all_columns for form in FORMATS))  # what a column may be said to be
COMMON_COLUMNS = {"label", "tools"}  # beside any form
EMPTY: tuple[Any, ...] = ("", [], {})


@cache
def _using(named: frozenset[str]) -> tuple[DataFormat, ...]:
    return tuple(form for form in FORMATS if named - COMMON_COLUMNS <= form.all_columns)


def select_format(record: Record, source: str, named: frozenset[str] = frozenset()) -> DataFormat:
    """The first form whose columns the record fills, among those that use every column `named`.

    A table of several forms has null or empty columns that belong to other rows: first come forms with every column
    filled (but not `text`, which repeats Alpaca's empty answers), then those with any, then those without null.
    """
    forms = _using(named)
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
    for form in forms:
        if all(column in record for column in form.columns):
            return form
    raise DataError(
        f"{source}: no known form has these columns",
        got=shorten(", ".join(map(str, record)), 200) or "no columns",
        do="say which column is which, as in --columns prompt=question,response=reply, or rename them to one of: "
        + "; ".join(dict.fromkeys(" + ".join(form.columns) for form in FORMATS)),
    )


def rename_columns(record: Record, columns: Sequence[tuple[str, str]], source: str) -> Record:
    """The record with its columns under the names that taughtby knows; only a form's own columns must be there."""
    for what, column in columns:
        if column not in record and any(what in form.columns for form in FORMATS):
            got = shorten(", ".join(map(str, record)), 200) or "no columns"
            raise DataError(f"{source}: there is no column {column}", got=got, do="correct --columns")
    return {**record, **{what: record.get(column) for what, column in columns}}


def rejected_answer(form: DataFormat, record: Record, source: str) -> str | None:
    """The answer that was not chosen: a text, or the last message of a conversation."""
    given = form.rejected(record)
    if given is None:
        return None
    answer = validate_messages(_said(given, "assistant"), source)[-1]
    if answer["role"] != "assistant":
        do = "end it with an assistant message, or take the row out"
        raise DataError(f"{source}: the rejected conversation has no answer", got=answer["role"], do=do)
    return str(answer["content"])
