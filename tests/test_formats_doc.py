"""docs/reference/data-formats.md: each row loads as documented, and each invalid file has the documented error."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from taughtby.data.dataset import ReadOptions, parse_columns, read_examples, write_examples
from taughtby.data.formats import COLUMN_NAMES, FORMATS
from taughtby.errors import DataError
from writers import delimited, lines, turn

PAGE = (Path(__file__).parents[1] / "docs" / "reference" / "data-formats.md").read_text()
SAID = [turn("user", "Who makes honey?"), turn("assistant", "Bees make honey.")]


def examples() -> Iterator[tuple[str, Any, list[Any], str]]:
    """(heading, row, the rows it is read as, the words before it) for every row on the page."""
    result = re.split(r"```json\n(.*?)```", PAGE, flags=re.DOTALL)
    words, blocks = result[::2], [json.loads(block) for block in result[1::2]]
    for number, block in enumerate(blocks):
        if words[number].strip() == "is read as":
            continue
        text = blocks[number + 1] if words[number + 1].strip() == "is read as" else {"messages": SAID}
        heading = re.findall(r"^#+ (.*)$", "".join(words[: number + 1]), re.MULTILINE)[-1]
        yield heading, block, text if isinstance(text, list) else [text], words[number]


def reading(words: str) -> ReadOptions:
    """The options that the words before a row name."""
    named = dict(
        re.findall(r'`--(columns|turns|response-template) "?([^`"]+)"?`', " ".join(words.rpartition("```")[2].split()))
    )
    return ReadOptions(parse_columns(named["columns"]) if "columns" in named else (), named.get("turns", "last"),
                   named.get("response-template"))  # fmt: skip


@pytest.mark.parametrize(("heading", "row", "expected", "words"), list(examples()))
def test_documented_rows_are_read_as_shown(
    heading: str, row: Any, expected: list[Any], words: str, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    rows = read_examples(tmp_path / "a.jsonl", reading(words))
    write_examples((replace(row, raw=False, loss_from=None, after=()) for row in rows), tmp_path / "b.jsonl")
    assert [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()] == expected, heading


def test_page_shows_every_format_and_column_name() -> None:
    rows = [row for _, row, _, _ in examples()]
    assert len(rows) + PAGE.count("\nis read as\n") == PAGE.count("```json\n") > 30
    shown = {form.name for form in FORMATS if any(set(form.columns) <= set(row) for row in rows)}
    assert {form.name for form in FORMATS} - shown == {"conversation", "query/answer"}  # named, or like another
    listed = " ".join(PAGE.split()).split("Known names are ")[1].split(". A column")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == COLUMN_NAMES


GOOD = {"messages": SAID}


def _answer(content: Any) -> str:
    return lines([GOOD, {"messages": [SAID[0], turn("assistant", content)]}])


ODD: dict[str, Callable[[], str | bytes]] = {
    "an empty answer": lambda: _answer(""),
    "a conversation that ends with the user": lambda: lines([GOOD, {"messages": [*SAID, SAID[0]]}]),
    "a number, a list or null instead of a text": lambda: _answer(None),
    "an image in a message": lambda: lines([GOOD, {"messages": [turn("user", [{"type": "image"}]), SAID[1]]}]),
    "an image in a column": lambda: lines([GOOD, {"prompt": "what", "response": "a cat", "image": {"path": "a.png"}}]),
    "an unknown role": lambda: lines([GOOD, {"messages": [turn("king", "a"), SAID[1]]}]),
    "columns of no known format": lambda: lines([GOOD, {"a": 1}]),
    "invalid JSON": lambda: lines([GOOD]) + "{",
    "UTF-16, or another encoding": lambda: lines([GOOD]).encode("utf-16"),
    "a CSV row with more cells than the header": lambda: delimited([{"prompt": "a", "response": "b"}]) + "a,b,c\n",
    "a CSV header that names a column twice": lambda: "prompt,prompt\na,b\n",
    "a CSV cell that is a text or messages": lambda: delimited([{"prompt": json.dumps(SAID[:1]), "response": "b"}]),
    "a truncated compressed file": lambda: gzip.compress(_answer("yes").encode())[:-9],
    "a broken Parquet file": lambda: b"PAR1",
}
TABLE = dict(re.findall(r"^\| (.+?) \| `(rows\..+?)` \|$", PAGE, re.MULTILINE))


def test_every_documented_invalid_file_is_tested() -> None:
    assert set(TABLE) == set(ODD)


@pytest.mark.parametrize("case", ODD)
def test_invalid_files_raise_the_documented_message(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = TABLE[case]
    name, data = message.split(":")[0], ODD[case]()
    Path(name).write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(DataError) as caught:
        list(read_examples(name))
    assert str(caught.value).splitlines()[0] == message
    assert "\n  do:  " in str(caught.value)
