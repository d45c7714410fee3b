"""Atomic writes, and hashes of files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from taughtby.errors import TaughtbyError


@contextmanager
def atomic_path(path: str | Path, error: type[TaughtbyError] = TaughtbyError) -> Generator[Path]:
    """Yield a temporary path that replaces `path` when the block exits without an exception.

    If `path` is a symbolic link, its target is replaced. The temporary file or folder is always removed.

    Args:
        path: The file or folder to write. An existing folder must be empty.
        error: The class of the error raised for an `OSError`.

    Yields:
        The absolute temporary path in the same folder, which does not exist yet.

    Raises:
        TaughtbyError: The disk is full, the folder is missing, or writing is not permitted.
    """
    draft: Path | None = None
    try:
        target = Path(path).resolve()
        draft = target.with_name(f".{target.name}.{os.getpid()}.part")
        yield draft
        if draft.is_file():
            with draft.open("rb") as written:
                os.fsync(written.fileno())  # otherwise a power failure may leave an empty file
        draft.replace(target)
    except OSError as fault:
        raise _not_writable(Path(path), fault, error) from None
    finally:
        if draft is not None and draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        elif draft is not None:
            with suppress(OSError):
                draft.unlink(missing_ok=True)


def write_atomically(path: str | Path, content: str | bytes, error: type[TaughtbyError] = TaughtbyError) -> None:
    """Write a file atomically, text as UTF-8. Pipes and devices are written directly.

    Raises:
        TaughtbyError: The file cannot be written. Its class is `error`.
    """
    raw = content.encode("utf-8") if isinstance(content, str) else content
    try:
        if Path(path).exists() and not Path(path).is_file():
            Path(path).write_bytes(raw)
            return
    except OSError as fault:
        raise _not_writable(Path(path), fault, error) from None
    with atomic_path(path, error) as draft:
        draft.write_bytes(raw)


def _not_writable(path: Path, fault: OSError, error: type[TaughtbyError]) -> TaughtbyError:
    do = "choose a writable folder on a disk with free space"
    if not os.path.isdir(path.parent):  # noqa: PTH112  Path.is_dir raises if the parent is not accessible
        do = f"create the folder {path.parent} first"
    return error(f"{path} cannot be written", got=fault.strerror or str(fault), do=do)


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file, or of the sorted names and hashes of a folder's files."""
    if path.is_file():
        with path.open("rb") as raw:
            digest = sha256()
            while chunk := raw.read(1 << 20):
                digest.update(chunk)
            return digest.hexdigest()
    names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    return sha256("".join(f"{file_hash(path / name)}  {name}\n" for name in names).encode()).hexdigest()
