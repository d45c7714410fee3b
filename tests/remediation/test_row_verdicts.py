"""Verdicts on rows: stored on disk, exported, and read back by `--rows`."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taughtby.errors import DataError, TaughtbyError
from taughtby.remediation.row_verdicts import COLUMNS, RowVerdict, RowVerdicts, read_causes

A = RowVerdict("a" * 16, "data.jsonl:1", None, "cause")
B = RowVerdict("b" * 16, "data.jsonl:2", None, "not the cause")
C = RowVerdict("c" * 16, "data.jsonl:3", None, "unsure")


def test_verdicts_persist_across_reload(tmp_path: Path) -> None:
    verdicts = RowVerdicts(tmp_path / "idx")
    for each in (A, B, C):
        verdicts.set(each)
    verdicts.set(RowVerdict(B.id, B.source, None, "cause", "it repeats the phrase"))
    verdicts.set(RowVerdict(C.id, C.source, None, None))  # taken back
    reloaded = RowVerdicts(tmp_path / "idx")
    assert [(each["id"], each["verdict"], each["note"]) for each in reloaded.to_json()] == [
        (A.id, "cause", ""), (B.id, "cause", "it repeats the phrase")]  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {"idx.verdicts.json", "idx.verdicts.json.lock"}


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TaughtbyError, match=r"file/idx"):
        RowVerdicts(tmp_path / "file" / "idx").set(A)


def test_two_servers_keep_each_others_verdicts(tmp_path: Path) -> None:
    first, second = RowVerdicts(tmp_path / "idx"), RowVerdicts(tmp_path / "idx")
    first.set(A)
    second.set(B)
    first.set(C)
    wanted = [each.id for each in (A, B, C)]
    assert [each["id"] for each in first.to_json()] == [each["id"] for each in second.to_json()] == wanted
    rows = [RowVerdict(f"{number:016x}", "data.jsonl:1", None, "cause") for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda row: (first, second)[int(row.id, 16) % 2].set(row), rows))
    assert {each["id"] for each in first.to_json()} == {*wanted, *(row.id for row in rows)}


def test_read_causes_from_exports(tmp_path: Path) -> None:
    verdicts = RowVerdicts(tmp_path / "idx")
    with pytest.raises(DataError, match="no row has the verdict"):
        read_causes(verdicts.to_csv())
    with pytest.raises(DataError, match=r"no row has the verdict “cause”\n  got: guilty\n  do:  give that verdict"):
        read_causes("id,verdict\na,guilty\n")
    for each in (A, B, C):
        verdicts.set(each)
    file = (tmp_path / "idx.verdicts.json").read_text()
    for text in (verdicts.to_csv(), json.dumps(verdicts.to_json()), file):
        assert read_causes(text) == [A.id]
    for text in ("", f"{A.id}\n{B.id}\n", "data.jsonl:12\n", "[odd] name.jsonl:3\n"):
        assert read_causes(text) is None


@given(st.text(), st.none() | st.text(), st.text())
def test_csv_cells_are_never_formulas(source: str, label: str | None, note: str) -> None:
    with TemporaryDirectory() as folder:
        verdicts = RowVerdicts(f"{folder}/idx")
        verdicts.set(RowVerdict(A.id, source, label, "cause", note))
        text = verdicts.to_csv()
    text.encode("utf-8")
    cells = [cell for row in csv.reader(io.StringIO(text, newline="")) for cell in row]
    assert len(cells) == 2 * len(COLUMNS)
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in cells)
    assert read_causes(text) == [A.id]


def test_invalid_verdicts_file_raises_and_is_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "idx.verdicts.json"
    for text in ("", "[]", "{}", '{"verdicts": [1]}'):
        file.write_text(text)
        with pytest.raises(DataError, match="is not a verdicts file"):
            RowVerdicts(tmp_path / "idx")
        assert file.read_text() == text


def test_kill_during_write_loses_no_verdict(tmp_path: Path) -> None:
    """The process is killed while it writes verdicts one after the other; each that it reported is on disk."""
    code = f"""
from taughtby.remediation.row_verdicts import RowVerdict, RowVerdicts
verdicts = RowVerdicts({str(tmp_path / "idx")!r})
for number in range(100_000):
    verdicts.set(RowVerdict(f"{{number:016x}}", "data.jsonl:1", None, "cause", "x" * 1000))
    print(number, flush=True)
"""
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    assert writer.stdout is not None
    reported = -1
    while reported < 20:
        reported = int(writer.stdout.readline())
    writer.send_signal(signal.SIGKILL)
    rest = [int(line) for line in writer.stdout.read().split("\n") if line.strip()]
    writer.wait()
    reported = max([reported, *rest])
    saved = [int(each["id"], 16) for each in RowVerdicts(tmp_path / "idx").to_json()]
    assert saved == list(range(len(saved))) and len(saved) >= reported + 1


def test_columns_match_dataclass_fields() -> None:
    assert tuple(RowVerdict.__dataclass_fields__) == COLUMNS
