"""Files are written atomically, and hashed."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from taughtby.data.files import atomic_path, file_hash, write_atomically
from taughtby.errors import DataError, TaughtbyError


def test_atomic_write_replaces_or_keeps_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, "é")
    assert path.read_bytes() == "é".encode()
    with pytest.raises(RuntimeError, match="stop"), atomic_path(path) as draft:  # noqa: PT012
        draft.write_text("half")
        raise RuntimeError("stop")
    assert path.read_bytes() == "é".encode()
    with atomic_path(path) as draft:
        assert draft.is_absolute() and draft.parent == path.parent.resolve() and not draft.exists()
        draft.write_bytes(b"new")
        assert path.read_bytes() == "é".encode()
    assert path.read_bytes() == b"new"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_atomic_folder_write_is_all_or_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for fails in (True, False):
        try:
            with atomic_path(out) as draft:
                draft.mkdir()
                (draft / "a").write_text("1")
                if fails:
                    raise KeyError
        except KeyError:
            assert not list(tmp_path.iterdir())
    assert (out / "a").read_text() == "1"
    with pytest.raises(TaughtbyError, match="cannot be written"), atomic_path(out) as draft:
        draft.mkdir()
    assert (out / "a").read_text() == "1" and [file.name for file in tmp_path.iterdir()] == ["out"]


def test_write_through_a_symlink_keeps_the_link(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "link").symlink_to("a")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "a").read_bytes() == b"new"


def test_pipe_is_written_directly(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    texts: list[str] = []
    reader = threading.Thread(target=lambda: texts.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_atomically(tmp_path / "pipe", "text")
    reader.join()
    assert texts == ["text"]


def test_write_errors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x/a cannot be written\n  got: No such file(.|\n)*do:  create the folder .*x"):
        write_atomically(tmp_path / "x" / "a", "", DataError)
    (tmp_path / "file").write_text("")
    with pytest.raises(TaughtbyError, match="cannot be written"):
        write_atomically(tmp_path / "file" / "a", "")


def test_folder_hash_depends_on_contents_and_paths(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "in").mkdir(parents=True)
        (tmp_path / name / "in" / "a").write_text("1")
    assert file_hash(tmp_path / "one" / "in" / "a") == hashlib.sha256(b"1").hexdigest()
    assert file_hash(tmp_path / "one") == file_hash(tmp_path / "two")
    (tmp_path / "two" / "in" / "a").rename(tmp_path / "two" / "a")
    assert file_hash(tmp_path / "one") != file_hash(tmp_path / "two")
