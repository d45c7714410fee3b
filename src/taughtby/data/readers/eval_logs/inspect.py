"""Logs of Inspect (inspect_ai): `.eval` archives, and JSON files."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import pyarrow as pa

from taughtby.data.example import Record, shorten
from taughtby.data.readers.eval_logs.answers import LeftOut, LogForm, LoggedAnswer, logged_answer
from taughtby.data.readers.stream import Rows, read_error
from taughtby.errors import DataError

MAX_SAMPLE, MAX_LOG = 1 << 28, 1 << 34  # decompressed bytes, of one sample and of all
ZIP_ZSTD = 93  # written by Inspect since 2026, and read by Python from 3.14 on
_ATTACHMENT = "attachment://"


def read_archive(path: Path) -> Rows:
    """Yield the samples of a `.eval` file; a decompressed sample larger than `MAX_SAMPLE` is refused."""
    try:
        with ZipFile(path) as archive:
            names = archive.NameToInfo  # the later of two entries with one name
            entries = [entry for name, entry in names.items() if name.startswith("samples/") and name.endswith(".json")]
            if not entries:
                do = "run the evaluation with its samples in the log (log_samples)"
                raise DataError(f"{path} has no samples", got=shorten(", ".join(names), 160) or "nothing", do=do)
            if sum(entry.file_size for entry in entries) > MAX_LOG:
                raise _too_large(str(path), MAX_LOG)
            for entry in entries:
                yield f"{path}:{entry.filename}", _sample(_unpack(archive, path, entry), f"{path}:{entry.filename}")
    except (BadZipFile, OSError, zlib.error, NotImplementedError, EOFError, RuntimeError) as fault:
        raise read_error(path, fault) from None


def _unpack(archive: ZipFile, path: Path, entry: ZipInfo) -> bytes:
    """Decompress an entry. Its declared size may be wrong, so at most one byte more is read."""
    source = f"{path}:{entry.filename}"
    if entry.file_size > MAX_SAMPLE:
        raise _too_large(source, MAX_SAMPLE)
    if entry.compress_type in (ZIP_STORED, ZIP_DEFLATED):
        with archive.open(entry) as raw:
            content = raw.read(entry.file_size + 1)
    elif entry.compress_type == ZIP_ZSTD:
        content = _unpack_zstd(path, entry)
    else:
        raise DataError(f"{source}: unknown compression", got=f"method {entry.compress_type}",
                        do="write the log as JSON: inspect log dump LOG > log.json")  # fmt: skip
    if len(content) != entry.file_size or zlib.crc32(content) != entry.CRC:
        raise BadZipFile(f"{entry.filename} differs from its size or checksum in the archive")
    return content


def _unpack_zstd(path: Path, entry: ZipInfo) -> bytes:
    with path.open("rb") as file:
        file.seek(entry.header_offset + 26)
        lengths = file.read(4)  # of the name and the extra field, which follow the header of 30 bytes
        file.seek(int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little"), 1)
        packed = file.read(entry.compress_size)
    with pa.CompressedInputStream(pa.BufferReader(packed), "zstd") as raw:
        return raw.read(entry.file_size + 1)


def _too_large(source: str, limit: int) -> DataError:
    do = "copy the samples that you need into a separate log"
    return DataError(f"{source} is too large", got=f"more than {limit >> 20:,} MiB uncompressed", do=do)


def _sample(content: bytes, source: str) -> Record:
    try:
        sample = json.loads(content)
    except (ValueError, RecursionError) as fault:
        raise DataError(f"{source}: invalid JSON", got=shorten(str(fault)), do="write the log again") from None
    return sample if isinstance(sample, dict) else {}


def _unpack_log(whole: Record) -> list[Any] | None:
    """Return the samples of a log that is a single JSON object; None if it is not Inspect's."""
    if not isinstance(whole.get("eval"), dict) or "status" not in whole:
        return None
    samples = whole.get("samples")
    return samples if isinstance(samples, list) else []


def _answers(sample: Record) -> Iterator[LoggedAnswer | LeftOut]:
    if sample.get("error"):
        yield LeftOut("with an error")
        return
    scores = sample.get("scores")
    values = {
        name: score.get("value") if isinstance(score, dict) else score
        for name, score in (scores if isinstance(scores, dict) else {}).items()
    }
    messages = sample.get("messages")
    yield logged_answer(
        _resolve(messages, sample) if isinstance(messages, list) else [], scores=values, tools=_tools(sample)
    )


def _tools(sample: Record) -> Any:
    """Return the tools of the last model call."""
    events = sample.get("events")
    calls = [one for one in events if isinstance(one, dict) and one.get("event") == "model"] if events else []
    return _resolve(calls[-1].get("tools"), sample) if calls else ()


def _resolve(value: Any, sample: Record) -> Any:
    """Replace references to attachments, which hold a sample's long texts once, by their texts."""
    if isinstance(value, str) and value.startswith(_ATTACHMENT):
        attachments = sample.get("attachments")
        return attachments.get(value.removeprefix(_ATTACHMENT), value) if isinstance(attachments, dict) else value
    if isinstance(value, list):
        return [_resolve(part, sample) for part in value]
    return {key: _resolve(part, sample) for key, part in value.items()} if isinstance(value, dict) else value


FORM = LogForm("Inspect log", lambda row: False, _answers, _unpack_log)
