"""Answers on disk: a draft that outlives a kill, and the file that is there whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from taughtby.errors import LabError


class AnswerFile:
    """Answers as they come, by their place in what was asked, in `OUT.draft` beside the file they are for.

    Opened again with the same settings it gives back what was kept, `known`; with others it is refused.
    """

    def __init__(self, out: Path, settings: dict[str, Any]) -> None:
        self.path, self.known = out.with_name(out.name + ".draft"), dict[int, str]()
        if out.is_dir():
            raise LabError(f"{out} cannot be written", got="a folder", do="name a file")
        try:
            kept = self._kept(json.loads(json.dumps(settings))) if self.path.exists() else 0
            self._file: BinaryIO = self.path.open("r+b" if kept else "wb")
        except OSError as fault:
            raise _unwritable(self.path, fault) from fault
        self._file.seek(kept)
        self._file.truncate()
        if not kept:
            self._write({"settings": settings})

    def __enter__(self) -> AnswerFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def add(self, place: int, answer: str) -> None:
        """Keep an answer, whatever comes afterwards."""
        self.known[place] = answer
        self._write({"place": place, "response": answer})

    def _write(self, row: dict[str, Any]) -> None:
        try:
            self._file.write(_json(row))
            self._file.flush()
        except OSError as fault:
            raise _unwritable(self.path, fault) from fault

    def _kept(self, settings: dict[str, Any]) -> int:
        """Read what is there; how many bytes of it are whole lines."""
        whole = self.path.read_bytes().rpartition(b"\n")[0]
        if not whole:
            return 0
        again = "give what it was begun with, or delete it to begin anew"
        try:
            first, *rows = [json.loads(line) for line in whole.split(b"\n")]
            had = first["settings"]
            self.known = {int(row["place"]): str(row["response"]) for row in rows}
            differ = [key for key in {**had, **settings} if had.get(key) != settings.get(key)]
        except (ValueError, LookupError, TypeError, AttributeError) as fault:
            raise LabError(f"{self.path} is not a draft of answers", got=repr(fault), do="delete it") from None
        if differ:
            got = "; ".join(f"{key}: it has {had.get(key)}, asked {settings.get(key)}" for key in differ)
            raise LabError(f"{self.path} was begun with other settings", got=got, do=again)
        return len(whole) + 1


def write_jsonl(rows: Iterable[dict[str, Any]], path: str | Path) -> None:
    """Write records as JSONL, whole or not at all."""
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(b"".join(map(_json, rows)))
        os.replace(part, path)
    except OSError as fault:
        with contextlib.suppress(OSError):
            part.unlink()
        raise _unwritable(path, fault) from fault


def _json(row: dict[str, Any]) -> bytes:
    # UTF-8 has no lone surrogates: what `backslashreplace` writes for one is JSON's own escape
    return (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def _unwritable(path: Path, fault: OSError) -> LabError:
    return LabError(f"{path} cannot be written", got=str(fault), do="check the folder and the room on the disk")
