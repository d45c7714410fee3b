"""Whole files: written at once or not at all, and hashed."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path


def file_hash(path: Path) -> str:
    """SHA-256 of a file; of a folder, over the names and hashes of its files in order."""
    if path.is_file():
        with path.open("rb") as raw:
            found = sha256()
            while chunk := raw.read(1 << 20):
                found.update(chunk)
            return found.hexdigest()
    names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    return sha256("".join(f"{file_hash(path / name)}  {name}\n" for name in names).encode()).hexdigest()
