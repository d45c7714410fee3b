"""Index locations: a local folder, or a prefix in an object store, accessed through Lance.

Lance reads and writes the rows itself, so its file session is also used for the other files: one set of credentials
and endpoints from the environment. (fsspec would need a package for each store.)
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from lance.file import LanceFileSession

from taughtby.errors import StoreError

DRAFT = ".draft"  # suffix of a file that is still being written
STORES = ("s3://", "gs://", "az://")


@dataclass(frozen=True)
class ObjectStorePath:
    """A file or prefix in an object store, such as s3://bucket/idx.

    It implements the methods of Path that an index needs. Writes are atomic.
    """

    uri: str

    def __str__(self) -> str:
        return self.uri

    def __truediv__(self, name: str) -> ObjectStorePath:
        return ObjectStorePath(f"{self.uri}/{name}")

    @property
    def name(self) -> str:
        """The last path component."""
        return self.uri.rpartition("/")[2]

    def read_text(self, encoding: str = "utf-8") -> str:
        """Read the whole file; raise FileNotFoundError if it does not exist."""
        with _local_copy(self) as file:
            return file.read_text(encoding)

    def write_text(self, text: str, encoding: str = "utf-8") -> None:
        """Write the file, replacing an existing one."""
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "file").write_text(text, encoding)
            send(Path(folder) / "file", self)

    def exists(self) -> bool:
        """Whether the file exists."""
        session, name = _session(self)
        with _store_errors():
            return session.contains(name)


StoragePath = Path | ObjectStorePath


def storage_path(path: str | Path | ObjectStorePath) -> StoragePath:
    """Convert a user's path to a local Path or an ObjectStorePath."""
    if isinstance(path, ObjectStorePath):
        return path
    text = str(path)
    for store in STORES:
        # Path collapses the two slashes into one
        if text.startswith((store, store[:-1])):
            if reserved := sorted(set(text) & set("#?")):  # they start a URL's fragment or query
                do = "give a prefix without them"
                raise StoreError(f"{text} cannot be the address of an index", got=" ".join(reserved), do=do)
            return ObjectStorePath(store + text.removeprefix(store[:-1]).strip("/"))
    return Path(path)


def address(path: StoragePath) -> str:
    """Return the path in the form that Lance expects; raise a StoreError if it has control characters or surrogates.

    A relative path is made absolute: Lance reads `a:b` as a URL, and `~` as a home directory.
    """
    text = str(path.absolute() if isinstance(path, Path) else path)
    if invalid := [char for char in text if char < " " or char == "\x7f" or "\ud800" <= char <= "\udfff"]:
        do = "give a path without control characters, in UTF-8"
        raise StoreError(f"{path} cannot be the path of an index", got=repr(invalid[0]), do=do)
    return text


def list_files(folder: StoragePath) -> list[str]:
    """Return the files below a folder, as relative paths; empty if the folder does not exist."""
    if isinstance(folder, Path):
        return [file.relative_to(folder).as_posix() for file in folder.rglob("*") if not file.is_dir()]
    with _store_errors():
        return list(LanceFileSession(folder.uri).list())


def empty(folder: StoragePath) -> bool:
    """Whether a folder has no files, except drafts left behind by a process killed during its first write."""
    if isinstance(folder, Path):
        return not folder.exists() or (folder.is_dir() and all(file.name.endswith(DRAFT) for file in folder.iterdir()))
    with _store_errors():
        entries = LanceFileSession(folder.uri).list_with_delimiter()
    return not entries.objects and not entries.common_prefixes


def write_atomically(path: StoragePath, text: str) -> None:
    """Write a file atomically: readers see either the old content or the new."""
    if isinstance(path, ObjectStorePath):
        path.write_text(text)
        return
    draft = path.with_name(path.name + DRAFT)
    with draft.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())  # otherwise a power failure may keep the new name and lose the content
    os.replace(draft, path)


def file_digest(path: StoragePath) -> list[int | str]:
    """Return [bytes, hash] of a file, as stored in a manifest."""
    with contextlib.nullcontext(path) if isinstance(path, Path) else _local_copy(path) as file, file.open("rb") as data:
        digest = hashlib.file_digest(data, lambda: hashlib.blake2b(digest_size=16))
        return [data.tell(), digest.hexdigest()]


def fetch(path: ObjectStorePath, to: Path) -> None:
    """Download a file."""
    session, name = _session(path)
    try:
        session.download_file(name, to)
    except OSError as error:
        if "not found" in str(error):
            raise FileNotFoundError(f"{path} does not exist") from None
        raise


def send(file: Path, to: ObjectStorePath) -> None:
    """Upload a file."""
    session, name = _session(to)
    session.upload_file(file, name)


def copy(source: StoragePath, to: StoragePath) -> None:
    """Copy one file between local folders and object stores."""
    if isinstance(to, Path):
        to.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, Path):
            shutil.copyfile(source, to)
        else:
            fetch(source, to)
        return
    with contextlib.nullcontext(source) if isinstance(source, Path) else _local_copy(source) as file:
        send(file, to)


def remove(folder: StoragePath) -> None:
    """Remove a folder and its contents, if it exists."""
    if isinstance(folder, Path):
        if folder.exists():
            shutil.rmtree(folder)
        return
    session = LanceFileSession(folder.uri)
    for name in session.list():
        session.delete_file(name)


@contextlib.contextmanager
def storage_errors(path: StoragePath) -> Generator[None]:
    """Convert an OSError, such as a full disk, into a StoreError."""
    try:
        yield
    except OSError as error:
        got, do = str(error).strip()[:200], "check the folder and its permissions"
        if "No space left" in got:
            got, do = "No space left on device", "make room on the disk"
        do += ", and run the same command again: it resumes"
        raise StoreError(f"{path} cannot be read or written", got=got, do=do) from error


@contextlib.contextmanager
def _store_errors() -> Generator[None]:
    """Convert the RuntimeError of a store that does not respond into an OSError, as a disk would raise."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(str(error)) from error


@contextlib.contextmanager
def _local_copy(path: ObjectStorePath) -> Generator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        fetch(path, Path(folder) / "file")
        yield Path(folder) / "file"


def _session(path: ObjectStorePath) -> tuple[LanceFileSession, str]:
    parent, _, name = path.uri.rpartition("/")
    return LanceFileSession(parent), name
