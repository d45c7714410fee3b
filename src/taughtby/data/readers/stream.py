"""Reads files and pipes, compressed or not, as lines or chunks of text; errors name the line."""

from __future__ import annotations

import codecs
import contextlib
import io
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from taughtby.data.example import Record, shorten
from taughtby.errors import DataError, machine_fault

Rows = Iterator[tuple[str, Record]]  # (source, record)

KINDS = (
    ".jsonl, .ndjson, .json, .csv, .tsv (each also .gz or .zst), .parquet, .arrow, .feather, a folder of one of these, "
    "a `save_to_disk` folder, - for JSON lines from a pipe, or a hub id"
)
CHUNK = 1 << 20  # bytes
COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
STDIN = ("-", "/dev/stdin")
_BOM = b"\xef\xbb\xbf"


def file_type(path: Path) -> str:
    """Return the suffix of a file's type, without a compression suffix."""
    packed = path.suffix.lower() in COMPRESSED
    return (Path(path.stem).suffix if packed else path.suffix).lower()


@contextlib.contextmanager
def open_binary(path: Path) -> Generator[IO[bytes]]:
    """Open a file or pipe as a stream of decompressed bytes."""
    if str(path) in STDIN:
        yield sys.stdin.buffer
        return
    packed = COMPRESSED.get(path.suffix.lower())
    try:
        raw: Any = pa.input_stream(str(path.absolute()), compression=packed) if packed else path.open("rb")
    except OSError as fault:
        raise read_error(path, fault) from None
    with raw:
        # a small buffer, because if filling it fails, the lines in it are lost
        yield io.BufferedReader(raw, 1 << 16) if packed else raw


def read_error(source: object, fault: Exception) -> DataError:
    """Return the error for a file that is damaged, or that this machine cannot read."""
    what, do = "the file is damaged or cannot be read", "copy or download it again"
    if problem := machine_fault(fault):
        what, do = f"the file cannot be read: {problem[0]}", problem[1]
    return DataError(f"{source}: {what}", got=shorten(str(fault), 160), do=do)


def numbered_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield pairs (source, line); lines are decoded one by one, so that an error names its own line."""
    number = 0
    with open_binary(path) as raw:
        try:
            for number, line in enumerate(raw, 1):
                source = f"{path}:{number}"
                yield source, _decode_line(line.removeprefix(_BOM) if number == 1 else line, source)
        except OSError as fault:
            raise read_error(f"{path}:{number + 1}", fault) from None


def _decode_line(text: bytes, source: str) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise _not_utf8(source, fault, fault.start) from None


def text_chunks(path: Path) -> Iterator[str]:
    """Yield the text of a file in chunks of about 1 MB."""
    decode = codecs.getincrementaldecoder("utf-8")().decode
    done, line, chunk = 0, 1, b""
    with open_binary(path) as raw:
        try:
            while chunk := raw.read(CHUNK):
                yield decode(chunk).removeprefix("\ufeff" if done == 0 else "")
                done, line = done + len(chunk), line + chunk.count(b"\n")
            yield decode(b"", True)
        except UnicodeDecodeError as fault:
            pending = len(fault.object) - len(chunk)  # bytes kept from the previous chunk
            line += fault.object[: fault.start].count(b"\n")
            raise _not_utf8(f"{path}:{line}", fault, done - pending + fault.start) from None
        except OSError as fault:
            raise read_error(f"{path}:{line}", fault) from None


def _not_utf8(source: str, fault: UnicodeDecodeError, place: int) -> DataError:
    """Return the error for invalid UTF-8; `place` is the position of the invalid byte in the file or line."""
    text = fault.object
    got = f"byte {place}: {text[fault.start : fault.start + 4]!r}"
    if place == 0 and text[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        got += ", a UTF-16 byte order mark"
    return DataError(f"{source}: not UTF-8", got=got, do="save the file as UTF-8")
