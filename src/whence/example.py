"""Training rows: what one is, and every form and file it is read from or written to. Knows no model."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, cast

from whence.errors import DataError

Message = dict[str, Any]
Record = dict[str, Any]

_KINDS = ".jsonl, .ndjson, .json, .csv, .tsv, .parquet, a `save_to_disk` folder, or a hub id"
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Example:
    """One training row: a conversation whose last message is the answer that was learned.

    `source` says where it stood (`file:line` counted from 1, or `dataset:row` counted from 0); `id` is a hash of
    its content and of how often that content had been read before, so it survives a move of the file.
    """

    messages: tuple[Message, ...]
    label: str | None = None
    source: str = ""
    id: str = field(default="", compare=False)

    @property
    def prompt(self) -> tuple[Message, ...]:
        """Everything before the answer."""
        return self.messages[:-1]

    @property
    def response(self) -> str:
        """The text of the answer."""
        return str(self.messages[-1]["content"])

    @property
    def question(self) -> str:
        """The text of the last user message, or of whatever stands before the answer."""
        users = [m for m in self.prompt if m["role"] == "user"] or list(self.prompt)
        return str(users[-1]["content"]) if users else ""


def example(prompt: str, response: str, *, label: str | None = None, source: str = "") -> Example:
    """A single-turn Example from two strings."""
    messages = ({"role": "user", "content": prompt}, {"role": "assistant", "content": response})
    return Example(messages, label, source)


@dataclass(frozen=True)
class Form:
    """One way in which datasets name their columns: `columns` must be there, `convert` makes the messages."""

    name: str
    columns: tuple[str, ...]
    convert: Callable[[Record], list[Message]]


def _turns(prompt: str, response: str) -> Callable[[Record], list[Message]]:
    def convert(record: Record) -> list[Message]:
        said = record[prompt], record[response]
        return [{"role": role, "content": text} for role, text in zip(("user", "assistant"), said, strict=True)]

    return convert


def _alpaca(record: Record) -> list[Message]:
    ask, given = record["instruction"], record.get("input")
    if given and isinstance(ask, str) and isinstance(given, str):
        ask = f"{ask}\n\n{given}"
    return [{"role": "user", "content": ask}, {"role": "assistant", "content": record["output"]}]


FORMS: tuple[Form, ...] = (
    Form("messages", ("messages",), lambda record: record["messages"]),
    Form("prompts/response", ("prompts", "response"), _turns("prompts", "response")),
    Form("prompt/response", ("prompt", "response"), _turns("prompt", "response")),
    Form("prompt/completion", ("prompt", "completion"), _turns("prompt", "completion")),
    Form("alpaca", ("instruction", "output"), _alpaca),
)


def form_of(record: Record, source: str) -> Form:
    """The first form whose columns the record has."""
    for form in FORMS:
        if all(column in record for column in form.columns):
            return form
    known = "; ".join(f"{form.name} ({', '.join(form.columns)})" for form in FORMS)
    raise DataError(
        f"{source}: no known form has these columns",
        got=", ".join(map(str, record)) or "no columns",
        do=f"rename the columns to one of: {known}",
    )


def read(data: str | Path) -> Iterator[Example]:
    """Stream the Examples of a file, a `save_to_disk` folder or a hub dataset, in order."""
    seen: dict[bytes, int] = {}
    found = False
    for source, record in records(str(data)):
        found = True
        messages = _checked(form_of(record, source).convert(record), source)
        label = record.get("label")
        content = json.dumps(messages, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(content, digest_size=12).digest()
        seen[digest] = seen.get(digest, 0) + 1
        identity = hashlib.blake2b(digest + seen[digest].to_bytes(8, "big"), digest_size=8).hexdigest()
        yield Example(tuple(messages), None if label in (None, "") else str(label), source, identity)
    if not found:
        raise DataError(f"{data} has no rows", do="give a file with at least one training row")


def write(examples: Iterable[Example], path: str | Path) -> int:
    """Write Examples as JSONL (`messages`, and `label` where there is one); the number of rows written."""
    count = 0
    # UTF-8 has no lone surrogates: what `backslashreplace` writes for one is JSON's own escape
    with Path(path).open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as out:
        for count, row in enumerate(examples, 1):  # noqa: B007
            record: Record = {"messages": list(row.messages)}
            if row.label is not None:
                record["label"] = row.label
            out.write(json.dumps(record, ensure_ascii=False) + "\n")
    return count


def _checked(messages: Any, source: str) -> list[Message]:
    """The messages, once their shape is that of a conversation that ends with an answer."""
    if not isinstance(messages, list | tuple) or not messages:
        raise DataError(
            f"{source}: a row needs a list of messages",
            got=_short(messages),
            do='write {"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}]}',
        )
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise DataError(
                f"{source}: a message is an object with `role` and `content`",
                got=_short(message),
                do='write each message as {"role": "user", "content": "…"}',
            )
        if not isinstance(message.get("content"), str):
            raise DataError(
                f"{source}: the content of the {message['role']} message is not text",
                got=_short(message.get("content")),
                do="give a string, or take the row out",
            )
    last = messages[-1]
    if last["role"] != "assistant" or not last["content"].strip():
        raise DataError(
            f"{source}: the row has no answer to learn from",
            got=f"last message: {last['role']}, {_short(last['content'])}",
            do="end each row with a non-empty assistant message, or take the row out",
        )
    return list(messages)


def records(data: str) -> Iterator[tuple[str, Record]]:
    """Stream pairs (source, record) of whatever `data` names, before any form is read into them."""
    path = Path(data)
    if path.is_dir():
        return _saved(path)
    if not path.exists():
        if path.suffix or data.count("/") > 1 or data.startswith((".", "/", "~")):
            raise DataError(f"there is no file {data}", do=f"give the path of the training data: {_KINDS}")
        return _hub(data)
    readers: dict[str, Callable[[Path], Iterator[tuple[str, Record]]]] = {
        ".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet,
    }  # fmt: skip
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{data}: unknown kind of file", got=path.suffix or "no suffix", do=f"give one of: {_KINDS}")
    if path.stat().st_size == 0:
        raise DataError(f"{data} is empty", do="give a file with at least one training row")
    return reader(path)


def _jsonl(path: Path) -> Iterator[tuple[str, Record]]:
    for source, line in _lines(path):
        if line.strip():
            yield source, _object(_parse(line, source, "mend or remove that line"), source)


def _json(path: Path) -> Iterator[tuple[str, Record]]:
    text = _decoded(path.read_bytes().removeprefix(_BOM), str(path))
    rows = _parse(text, str(path), "mend it, or name the file .jsonl if each of its lines is a row")
    if not isinstance(rows, list):
        raise DataError(
            f"{path}: the file is not a list of rows",
            got=_short(rows),
            do="write [ {…}, {…} ], or use .jsonl",
        )
    for number, row in enumerate(rows):
        yield f"{path}:{number}", _object(row, f"{path}, row {number}")


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Pairs (source, line); decoded one by one, so that a fault is blamed on its own line."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            source = f"{path}:{number}"
            yield source, _decoded(line.removeprefix(_BOM) if number == 1 else line, source)


def _decoded(text: bytes, source: str) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise DataError(f"{source}: not UTF-8", got=f"byte {fault.start}: {text[fault.start : fault.start + 4]!r}",
                        do="save the file as UTF-8") from None  # fmt: skip


def _parse(text: str, source: str, do: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as fault:
        raise DataError(f"{source}: broken JSON", got=f"{fault} in {_short(text.strip())}", do=do) from None


def _object(row: Any, source: str) -> Record:
    if isinstance(row, dict):
        return row
    raise DataError(f"{source}: a row is a JSON object", got=_short(row), do='write {"messages": […]}')


def _csv(path: Path) -> Iterator[tuple[str, Record]]:
    csv.field_size_limit(2**31 - 1)
    # StringIO with newline="" breaks at a lone carriage return too, and leaves the line ends to the reader
    lines = (part for _, line in _lines(path) for part in io.StringIO(line, newline=""))
    rows = csv.reader(lines, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    header: list[str] = []
    start = 1  # the line on which a row begins: a quoted field may hold line breaks
    try:
        for row in rows:
            if header and row:
                yield f"{path}:{start}", dict(zip_longest(header, row[: len(header)]))
            header = header or row
            start = rows.line_num + 1
    except csv.Error as fault:
        raise DataError(f"{path}:{start}: not a CSV row", got=str(fault),
                        do="save the file as UTF-8 CSV with a header line") from None  # fmt: skip


def _parquet(path: Path) -> Iterator[tuple[str, Record]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        batches = pq.ParquetFile(path).iter_batches(batch_size=1024)
        number = 0
        for batch in batches:
            for row in batch.to_pylist():
                yield f"{path}:{number}", row
                number += 1
    except pa.ArrowException as fault:
        raise DataError(f"{path}: not a Parquet file", got=str(fault), do="write the file again") from None


def _saved(path: Path) -> Iterator[tuple[str, Record]]:
    from datasets import Dataset, load_from_disk

    try:
        saved = load_from_disk(str(path))
    except (FileNotFoundError, ValueError) as fault:
        raise DataError(f"{path} is a folder, but not one that `Dataset.save_to_disk` wrote", got=_short(str(fault)),
                        do="give the dataset's own folder, or a file") from None  # fmt: skip
    if not isinstance(saved, Dataset):
        raise DataError(
            f"{path} holds several splits", got=", ".join(map(str, saved)), do=f"give one: {path}/{next(iter(saved))}"
        )
    return ((f"{path.name}:{number}", row) for number, row in enumerate(cast("Iterable[Record]", saved)))


def _hub(name: str) -> Iterator[tuple[str, Record]]:
    from datasets import load_dataset

    try:
        rows = iter(load_dataset(name, split="train", streaming=True))
        first = next(rows)
    except StopIteration:
        raise DataError(f"{name} has no rows", do="give a dataset with a `train` split") from None
    except Exception as fault:  # the hub's client raises whatever its transport raises
        raise DataError(
            f"{name} is neither a file here nor a dataset that can be had from the hub",
            got=_short(str(fault)),
            do=f"give one of: {_KINDS}",
        ) from None
    return ((f"{name}:{number}", dict(row)) for number, row in enumerate(chain([first], rows)))


def _short(thing: Any, limit: int = 80) -> str:
    text = thing if isinstance(thing, str) else repr(thing)
    return text if len(text) <= limit else text[: limit - 1] + "…"
