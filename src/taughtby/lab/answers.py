"""Answer files: a draft that survives interruptions, and JSONL written atomically."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from taughtby.data.files import write_atomically
from taughtby.errors import LabError


class AnswerDraft:
    """The finished answers of an unfinished run, in `OUT.draft`.

    Attributes:
        path: The draft file.
        answers: The answer at each index. An existing draft is read if it was started with the same settings; other
            settings raise an error.
    """

    def __init__(self, out: Path, settings: dict[str, Any]) -> None:
        if out.is_dir():
            raise LabError(f"{out} cannot be written", got="a folder", do="name a file")
        self.path, self.answers = out.with_name(out.name + ".draft"), dict[int, str]()
        try:
            size = self._read(json.loads(json.dumps(settings))) if self.path.exists() else 0
            self._file: BinaryIO = self.path.open("r+b" if size else "wb")
        except OSError as fault:
            raise _unwritable(self.path, fault) from fault
        self._file.seek(size)
        self._file.truncate()
        if not size:
            self._write({"settings": settings})

    def __enter__(self) -> AnswerDraft:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, index: int, answer: str) -> None:
        """Write an answer to the draft."""
        self.answers[index] = answer
        self._write({"place": index, "response": answer})

    def _write(self, row: dict[str, Any]) -> None:
        try:
            self._file.write(_json(row))
            self._file.flush()
        except OSError as fault:
            raise _unwritable(self.path, fault) from fault

    def _read(self, settings: dict[str, Any]) -> int:
        """Read the draft; return the number of bytes in complete lines."""
        content = self.path.read_bytes().rpartition(b"\n")[0]
        if not content:
            return 0
        try:
            first, *rows = [json.loads(line) for line in content.split(b"\n")]
            stored = first["settings"]
            self.answers = {int(row["place"]): str(row["response"]) for row in rows}
            changes = [key for key in {**stored, **settings} if stored.get(key) != settings.get(key)]
            if not rows:  # nothing to resume: start over, with any settings
                return 0
        except (ValueError, LookupError, TypeError, AttributeError) as fault:
            raise LabError(f"{self.path} is not a draft of answers", got=repr(fault), do="delete it") from None
        if changes:
            values = ((key, stored.get(key), settings.get(key)) for key in changes)
            got = "; ".join(f"{key}: the draft has {old}, but {new} was given" for key, old, new in values)
            do = "use the original settings, or delete it to start over"
            raise LabError(f"{self.path} was started with other settings", got=got, do=do)
        return len(content) + 1


def write_jsonl(rows: Iterable[dict[str, Any]], path: str | Path) -> None:
    """Write records as JSONL, atomically."""
    write_atomically(path, b"".join(map(_json, rows)), LabError)


def _json(row: dict[str, Any]) -> bytes:
    # UTF-8 cannot encode lone surrogates; `backslashreplace` writes them as JSON escapes
    return (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def _unwritable(path: Path, fault: OSError) -> LabError:
    return LabError(f"{path} cannot be written", got=str(fault), do="check the folder and the free space of the disk")
