"""Generated rows in every format and file type: each is read as generated, or refused by row and reason."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from taughtby.data.dataset import read_examples
from taughtby.errors import DataError
from writers import KIND, TEXTS, place, turn

Record = dict[str, Any]
CONTAINERS = (
    "rows.jsonl", "rows.ndjson", "rows.jsonl.gz", "lines.json", "rows.json", "data.json", "rows.csv", "ROWS.TSV",
    "rows.csv.gz", "rows.parquet", "rows.arrow", "stream.arrow", "rows.feather", "typed.parquet", "described.parquet",
)  # fmt: skip
PLAIN = (
    "who makes wax",
    "bees",
    "",
    " a\nb ",
    "naïve 🙂",
    'x, "y"',
    "### Input:\nz",
    "[1, 2]",
    "{}",
    "null",
    "<image>",
    "\x00",
)
LIKE_MESSAGES = (
    '{"role": "assistant", "content": "ok"}', '{"from": "Oslo", "to": "Rome"}', '[{"name": "Ann", "role": "lead"}]',
    '[{"role": "system", "content": "be a bird"}, {"role": "assistant", "content": "ok"}]',
    "{'role': 'user', 'content': 'a'}",
)  # fmt: skip
CALL = {"type": "function", "function": {"name": "look", "arguments": {"w": "wax"}}}
TOOL = {"type": "function", "function": {"name": "look", "description": "looks"}}


@dataclass
class Row:
    """A generated row: what is written, what is expected to be read, and the reasons of which one must be given."""

    record: Record
    messages: list[Record] = field(default_factory=list)
    tools: list[Record] = field(default_factory=list)
    kwargs: Record = field(default_factory=dict)
    reasons: tuple[str, ...] = ()


# what another test generates beside the texts, such as marks of the loss: it changes the row it is given
Marks = Callable[[Row, random.Random], None]


def no_marks(row: Row, dice: random.Random) -> None:
    """Leave the row as it is."""


def text(dice: random.Random) -> str:
    return dice.choice(LIKE_MESSAGES if dice.random() < 0.25 else PLAIN)


def random_text(dice: random.Random) -> str:
    """A text that is not blank."""
    return dice.choice(("bees make wax", *LIKE_MESSAGES, *(one for one in PLAIN if one.strip())))


def conversation(dice: random.Random, form: str, parts: bool) -> Row:
    turns = [turn("user", text(dice)), turn("assistant", random_text(dice))] * dice.randint(1, 2)
    if dice.random() < 0.3:
        turns[-1:-1] = [turn("assistant", "") | {"tool_calls": [CALL]}, turn("tool", text(dice))]
    row = Row({form: turns}, [dict(one) for one in turns])
    if parts:  # Arrow has one type a column
        row.record[form] = [{**one, "content": [{"type": "text", "text": one["content"]}]} for one in turns]
    elif form != "messages" and dice.random() < 0.5:
        names = {"user": "human", "assistant": "gpt", "tool": "observation"}
        row.record[form] = [
            {"from": names[one["role"]], "value": one["content"], **{k: v for k, v in one.items() if k == "tool_calls"}}
            for one in turns
        ]
    return row


def pair(dice: random.Random, ask: str, answer: str) -> Row:
    asked, answered = text(dice), random_text(dice)
    row = Row({ask: asked, answer: answered})
    if asked and "input" not in (ask, answer) and dice.random() < 0.3 and answer != "completion":
        row.record["input"] = extra = random_text(dice)
        asked = f"{asked}\n\n{extra}"
    if dice.random() < 0.2 and answer != "completion":
        row.record["history"] = [["one", "1"]]
        row.messages = [turn("user", "one"), turn("assistant", "1")]
    row.messages += [turn("user", asked), turn("assistant", answered)]
    return row


PAIRS = (("prompt", "response"), ("prompts", "response"), ("instruction", "output"), ("question", "answer"),
         ("query", "response"), ("prompt", "completion"))  # fmt: skip


def generate(dice: random.Random, form: str, parts: bool) -> Row:
    """A row of a form with what may stand beside it."""
    if form == "lists":
        turns = [turn("user", "a"), turn("assistant", random_text(dice))]
        row = Row({"prompt": turns[:1], "completion": turns[1:]}, turns)
    elif form in ("messages", "conversations"):
        row = conversation(dice, form, parts)
    else:
        row = pair(dice, *form.split("/"))
    if form == "prompt/completion":  # plain text: no template, nothing beside it
        return row
    if dice.random() < 0.3:
        row.record["system"] = prompt = random_text(dice)
        row.messages = [turn("system", prompt), *row.messages]
    if dice.random() < 0.2:
        row.record["tools"], row.tools = [TOOL], [TOOL]
    if dice.random() < 0.2:
        row.record["chat_template_kwargs"] = row.kwargs = {"enable_thinking": dice.random() < 0.5}
    return row


def spoil(dice: random.Random, row: Row) -> Row:
    """The row with a fault, for which it must be refused."""
    faults: list[tuple[Record, str]] = [
        ({"images": ["a.jpg"]}, "images, audio or video"),
        ({"audio": "a.wav"}, "images, audio or video"),
    ]
    if "messages" in row.record:
        turns = row.record["messages"]
        faults += [({"messages": turns[:-1]}, "the row has no answer"),
                   ({"messages": [{**turns[0], "role": "bird"}, *turns[1:]]}, "unknown role")]  # fmt: skip
        if "system" in row.record and isinstance(turns[0]["content"], str):
            faults.append(({"messages": [turn("system", "else"), *turns]}, "two system prompts"))
        if isinstance(turns[0]["content"], list):
            faults.append(({"messages": [turn("user", [{"type": "image", "text": ""}]), *turns[1:]]}, "more than text"))
    change, reason = dice.choice(faults)
    return Row(row.record | change, reasons=(reason,))


def write(kind: str, path: Path, rows: list[Record]) -> None:
    """A file of a container; of two more: Parquet with lists as JSON, by its own type or by what `datasets` says."""
    if not kind.endswith("d.parquet"):
        KIND[kind](path, rows)
        return
    names = {name: None for row in rows for name in row}
    lists = {name for name in names if any(isinstance(row.get(name), list | dict) for row in rows)}
    columns: dict[str, Any] = {}
    for name in names:
        values = [row.get(name) for row in rows]
        if name in lists:
            values = [None if value is None else json.dumps(value) for value in values]
        columns[name] = pa.array(values, pa.string())
        if name in lists and kind == "typed.parquet":
            columns[name] = pa.ExtensionArray.from_storage(pa.json_(pa.string()), columns[name])
    features = {name: {"_type": "Json"} if name in lists else {"dtype": "string", "_type": "Value"} for name in names}
    result = pa.table(columns)
    if kind == "described.parquet":
        result = result.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(result, path)


def unclear(kind: str, row: Row) -> bool:
    """Whether a table of texts has a text that may be a list of messages, where one may stand."""
    cells = [value for name, value in row.record.items() if name not in ("input", "history")]
    return kind in TEXTS and any(isinstance(value, str) and value in LIKE_MESSAGES for value in cells)


def check_file(dice: random.Random, folder: Path, marks: Marks, done: Counter[str]) -> None:
    """Generate a file of one form, and read it."""
    kind, parts = dice.choice(CONTAINERS), dice.random() < 0.3
    form = dice.choice(("messages", "messages", "conversations", "lists", *("/".join(names) for names in PAIRS)))
    rows = [generate(dice, form, parts) for _ in range(dice.randint(1, 20))]
    for row in rows:
        marks(row, dice)
    if dice.random() < 0.3 and form != "prompt/completion":
        rows.append(spoil(dice, generate(dice, form, parts)))
    for row in rows:
        if unclear(kind, row):
            row.reasons += ("may be text or a list of messages",)
    path = folder / kind
    records = [row.record for row in rows]
    try:
        write(kind, path, records)
    except (pa.ArrowException, TypeError):  # this table has one type a column
        done["not written"] += len(rows)
        return
    number, fault = 0, None
    try:
        for number, got in enumerate(read_examples(path), 1):
            row = rows[number - 1]
            assert not row.reasons, (kind, row, got)
            assert [dict(one) for one in got.messages] == row.messages, (kind, form, row.record, got)
            assert (list(got.tools), dict(got.template_kwargs)) == (row.tools, row.kwargs), (kind, row, got)
            done["read"] += 1
    except DataError as error:
        fault = str(error)
    if fault is None:
        assert number == len(rows), (kind, form)
        return
    assert any(reason in fault for reason in rows[number].reasons), (kind, rows[number], fault)
    assert fault.startswith(f"{place(kind, path, records, number)}: ") and "\n  do:  " in fault, (kind, fault)
    done["refused"] += 1
    done["behind a refused row"] += len(rows) - number - 1


def fuzz(folder: Path, seed: int, num_rows: int, marks: Marks = no_marks) -> Counter[str]:
    """Generate files until that many rows have been read or refused."""
    dice, done = random.Random(seed), Counter[str]()
    while done["read"] + done["refused"] < num_rows:
        here = folder / str(sum(done.values()))
        here.mkdir(exist_ok=True)
        check_file(dice, here, marks, done)
    return done


def test_generated_rows_are_read_or_rejected(tmp_path: Path) -> None:
    done = fuzz(tmp_path, seed=20, num_rows=600)
    assert done["read"] > 300 and done["refused"] > 20 and done["not written"] < 600, done


@pytest.mark.slow
def test_ten_thousand_generated_rows_are_read_or_rejected(tmp_path: Path) -> None:
    done = fuzz(tmp_path, seed=0, num_rows=10_000)
    assert done["read"] > 7_000 and done["refused"] > 300, done
