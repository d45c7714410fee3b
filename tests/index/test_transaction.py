"""Transactions: one writer at a time, merging of small fragments, and recovery from file system errors."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from datetime import timedelta
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest
import torch
from test_reader import SETTINGS, blocks, child, filled, joined, made, small_disk

from taughtby.errors import StoreError
from taughtby.index.arrow import arrange_table
from taughtby.index.maintenance import compact, delete_rows, undo
from taughtby.index.reader import Index
from taughtby.index.transaction import IndexTransaction
from taughtby.index.verify import verify
from taughtby.index.writer import Writer

__all__ = ["small_disk"]  # a fixture
TESTS = [str(folder) for folder in Path(__file__).parents[:2]]  # where other processes find these modules


def row_ids(path: Path) -> list[str]:
    return [row.id for row in Index.open(path).examples()]


def versions(path: Path) -> int:
    return len(list((path / "rows.lance" / "_versions").glob("*.manifest")))


def test_many_small_commits_leave_few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taughtby.index.transaction.COMMITS_PER_TIDY", 4)
    monkeypatch.setattr("taughtby.index.transaction.ROWS", 6)
    with Writer(tmp_path / "idx", SETTINGS) as writer:
        for at in range(23):
            writer.append(*made(1, at), blocks(1, at))
            assert versions(tmp_path / "idx") <= 4 + 2
            assert len(writer.rows.get_fragments()) <= 23 // 6 + 1 + 4 + 1
        index = writer.finish([], None)
    assert versions(tmp_path / "idx") == 1
    assert row_ids(tmp_path / "idx") == [f"id{at}" for at in range(23)]
    assert joined(index.scan(["loss"]), "loss").tolist() == list(range(23))
    assert len(list((tmp_path / "idx" / "rows.lance" / "data").iterdir())) == len(index.dataset.get_fragments())


def test_readers_are_unaffected_while_append_is_tidied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taughtby.index.transaction.COMMITS_PER_TIDY", 2)
    old = filled(tmp_path / "idx", (1,) * 8)
    change = {"did": "append", "data": "more.jsonl", "digest": "other"}
    with Writer(tmp_path / "idx", SETTINGS, change) as writer:
        for at in range(8, 14):
            writer.append(*made(1, at), blocks(1, at))
            assert row_ids(tmp_path / "idx") == [f"id{at}" for at in range(8)]
        writer.finish([], None)
    assert len(list(old.examples())) == 8
    assert row_ids(tmp_path / "idx") == [f"id{at}" for at in range(14)]


def test_external_fragments_are_appended_in_order(tmp_path: Path) -> None:
    with Writer(tmp_path / "idx", SETTINGS) as writer:
        parts: list[Any] = []
        for start in (0, 3):
            table = arrange_table(*made(3, start), blocks(3, start))
            parts += lance.fragment.write_fragments(table, str(tmp_path / "idx" / "rows.lance"))
        writer.append_fragments(parts[:1], table.schema)
        writer.append_fragments(parts[1:], table.schema)
        writer.finish([], None)
    assert row_ids(tmp_path / "idx") == [f"id{at}" for at in range(6)]


def test_duplicate_row_ids_are_rejected(tmp_path: Path) -> None:
    """As two writers might leave them in a store, where there is no lock."""
    with Writer(tmp_path / "idx", SETTINGS) as writer:
        for _ in range(2):
            writer.append(*made(2), blocks(2))
    with pytest.raises(StoreError, match="written by two processes at once"), Writer(tmp_path / "idx", SETTINGS):
        pass


def test_transaction_excludes_other_changes(tmp_path: Path) -> None:
    path = tmp_path / "idx"
    filled(path)
    with IndexTransaction(path):
        for change in (lambda: delete_rows(path, ["id1"]), lambda: compact(path), lambda: undo(path)):
            with pytest.raises(StoreError, match="written by another process"):
                change()
        assert verify(path).files > 0  # reading needs no claim
    assert delete_rows(path, ["id1"]) == 1


def test_one_lock_for_all_names_of_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "idx"
    filled(path)
    (tmp_path / "link").symlink_to(path)
    monkeypatch.chdir(path)
    for name in (path, tmp_path / "link", Path()):
        for other in (path, tmp_path / "link", Path()):
            with IndexTransaction(name), pytest.raises(StoreError, match="written by another process"):
                delete_rows(other, ["id1"])


def test_compact_on_full_disk_changes_nothing(small_disk: Path) -> None:
    path = small_disk / "idx"
    with Writer(path, SETTINGS) as writer:
        writer.append(*made(30), blocks(30, width=4096))
        writer.finish([], None)
    delete_rows(path, ["id3"])
    held = row_ids(path)
    (small_disk / "holiday.mov").write_bytes(bytes(1_200_000))
    with pytest.raises(StoreError, match="No space left on device") as caught:
        compact(path, timedelta(0))
    assert caught.value.do.startswith("make room")
    assert row_ids(path) == held
    (small_disk / "holiday.mov").unlink()
    assert compact(path, timedelta(0)).freed > 0
    assert row_ids(path) == held


def test_file_size_limit_raises_and_writer_resumes(tmp_path: Path) -> None:
    """A quota: what was committed stays, and the same call goes on when it is lifted."""
    process = child(tmp_path / "idx", """
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        from taughtby.errors import StoreError
        with Writer(path, SETTINGS) as writer:
            writer.append(*made(3), blocks(3))
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
            try:
                writer.append(*made(9, 3), blocks(9, 3, width=65536))
            except StoreError as fault:
                print(fault.what)
    """)  # fmt: skip
    text, wrong = process.communicate(timeout=300)
    assert "cannot be read or written" in text, wrong
    with Writer(tmp_path / "idx", SETTINGS) as writer:
        assert writer.row_ids == {"id0", "id1", "id2"}
        assert len(writer.finish([], None)) == 3


def test_unreadable_data_file_raises(tmp_path: Path) -> None:
    filled(tmp_path / "idx")
    (file,) = (tmp_path / "idx" / "rows.lance" / "data").iterdir()
    file.unlink()
    file.mkdir()
    index = Index.open(tmp_path / "idx")
    for read in (lambda: list(index.examples()), lambda: list(index.scan(["h_2"])), lambda: index.take([1])):
        with pytest.raises(StoreError, match="cannot be read") as caught:
            read()
        assert "taughtby index verify" in caught.value.do
    (fault,) = verify(tmp_path / "idx").faults
    assert fault.where.startswith("rows.lance/data/")
    assert fault.what.startswith("it cannot be read")


# — clock changes

CLOCK = """
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <stdlib.h>
    #include <time.h>
    int clock_gettime(clockid_t which, struct timespec *now) {
        static int (*real)(clockid_t, struct timespec *);
        if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
        int found = real(which, now);
        const char *days = getenv("DAYS");
        if (which == CLOCK_REALTIME && days) now->tv_sec += atol(days) * 86400;
        return found;
    }
"""
JUMPS = """
    import os, sys; sys.path[:0] = {tests!r}
    from datetime import datetime, timedelta
    from pathlib import Path
    from test_reader import SETTINGS, Writer, blocks, filled, made
    from taughtby.index.reader import Index
    from taughtby.index.maintenance import compact, delete_rows
    from taughtby.index.verify import verify
    path, start = Path({path!r}), datetime.now()
    old = filled(path)
    for at, days in enumerate((-400, 30, -30, 400)):
        os.environ["DAYS"] = str(days)
        assert abs((datetime.now() - start).days - days) <= 1, "the clock did not jump"
        held = [row.id for row in old.examples()]
        change = dict(did="append", data="more", digest=str(at))
        with Writer(path, SETTINGS, change) as writer:
            for place in range(8 + 3 * at, 11 + 3 * at):
                writer.append(*made(1, place), blocks(1, place))
            new = writer.finish([], None)
        delete_rows(path, [f"id{{at}}"])
        if days < 0:
            compact(path)
            assert [row.id for row in old.examples()] == held, "a clock set back took what was young"
        else:
            compact(path, timedelta(0))
        old = Index.open(path)
        assert [row.id for row in old.examples()] == [f"id{{place}}" for place in range(at + 1, 11 + 3 * at)]
        faults = [fault for fault in verify(path).faults if "match its content" not in fault.what]
        assert not faults, faults
    print("sound")
"""


def test_clock_jumps_do_not_damage_index(tmp_path: Path) -> None:
    """The time of day is set by a library between the process and the kernel, a year back and forth."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler or sys.platform != "linux":
        pytest.skip("no compiler, or no Linux")
    (tmp_path / "clock.c").write_text(CLOCK)
    built = [compiler, "-shared", "-fPIC", "-o", tmp_path / "clock.so", tmp_path / "clock.c", "-ldl"]
    subprocess.run(built, check=True)
    code = textwrap.dedent(JUMPS).format(tests=TESTS, path=str(tmp_path / "idx"))
    changed = {**os.environ, "LD_PRELOAD": str(tmp_path / "clock.so")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=changed, timeout=300)
    assert done.stdout == "sound\n", done.stderr


def test_arrange_table_column_types_and_values() -> None:
    bare, table = arrange_table(*made(2), {}), arrange_table(*made(2), blocks(2))
    assert {*table.column_names} == {*bare.column_names, *blocks(2), "g_2_norm", "h_2_norm"}
    assert table.num_rows == 2
    assert pa.types.is_fixed_size_list(table.schema.field("h_2").type)
    assert torch.tensor(table.column("loss").to_pylist()).tolist() == [0.0, 1.0]
