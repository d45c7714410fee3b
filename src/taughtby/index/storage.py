"""Where an index lies: a local folder, or a prefix in an object store that is spoken to as Lance speaks to it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from lance.file import LanceFileSession

from taughtby.errors import StoreError

DRAFT = ".draft"  # what a file ends with until it is whole
STORES = ("s3://", "gs://", "az://")


@dataclass(frozen=True)
class ObjectStorePath:
    """A file or prefix in an object store, such as s3://bucket/idx; keys and endpoints are those of the environment.

    It has the few of a Path's verbs that an index needs. A write is seen whole or not at all.
    """

    uri: str

    def __str__(self) -> str:
        return self.uri

    def __truediv__(self, name: str) -> ObjectStorePath:
        return ObjectStorePath(f"{self.uri}/{name}")

    @property
    def name(self) -> str:
        """The last part."""
        return self.uri.rpartition("/")[2]

    def read_text(self, encoding: str = "utf-8") -> str:
        """The whole file; FileNotFoundError where there is none."""
        with tempfile.TemporaryDirectory() as folder:
            fetch(self, Path(folder) / "file")
            return (Path(folder) / "file").read_text(encoding)

    def write_text(self, text: str, encoding: str = "utf-8") -> None:
        """Put the file there, in the place of one that was."""
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "file").write_text(text, encoding)
            send(Path(folder) / "file", self)

    def exists(self) -> bool:
        """Whether there is such a file."""
        session, name = _session(self)
        with _spoken():
            return session.contains(name)


StoragePath = Path | ObjectStorePath


def storage_path(where: str | Path | ObjectStorePath) -> StoragePath:
    """A place from what a person wrote."""
    if isinstance(where, ObjectStorePath):
        return where
    text = str(where)
    for store in STORES:
        # a Path has one slash left of them
        if text.startswith((store, store[:-1])):
            if strange := sorted(set(text) & set("#?")):  # of an address they begin another part
                do = "give a prefix without them"
                raise StoreError(f"{text} cannot be the address of an index", got=" ".join(strange), do=do)
            return ObjectStorePath(store + text.removeprefix(store[:-1]).strip("/"))
    return Path(where)


def address(place: StoragePath) -> str:
    """The place as Lance takes it; a StoreError where it would take it for another.

    A relative path is made whole: Lance reads a scheme into `a:b`, and somebody's home into `~`.
    """
    text = str(place.absolute() if isinstance(place, Path) else place)
    if strange := [sign for sign in text if sign < " " or sign == "\x7f" or "\ud800" <= sign <= "\udfff"]:
        do = "give a path without control characters, in UTF-8"
        raise StoreError(f"{place} cannot hold an index", got=repr(strange[0]), do=do)
    return text


def list_files(folder: StoragePath) -> list[str]:
    """The files below a folder, by their paths in it; none where there is no such folder."""
    if isinstance(folder, Path):
        return [file.relative_to(folder).as_posix() for file in folder.rglob("*") if not file.is_dir()]
    with _spoken():
        return list(LanceFileSession(folder.uri).list())


def empty(folder: StoragePath) -> bool:
    """Whether nothing is there but what a kill may leave of the first write."""
    if isinstance(folder, Path):
        return not folder.exists() or (folder.is_dir() and all(file.name.endswith(DRAFT) for file in folder.iterdir()))
    with _spoken():
        found = LanceFileSession(folder.uri).list_with_delimiter()
    return not found.objects and not found.common_prefixes


def replace(place: StoragePath, text: str) -> None:
    """Write a file so that whoever reads it sees the old one or the new one, whole."""
    if isinstance(place, ObjectStorePath):
        place.write_text(text)
        return
    draft = place.with_name(place.name + DRAFT)
    with draft.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())  # else the new name may outlive a power cut, and what it names may not
    os.replace(draft, place)


def file_digest(place: StoragePath) -> list[int | str]:
    """[bytes, hash] of a file, as a manifest keeps them."""
    if isinstance(place, Path):
        with place.open("rb") as opened:
            return _digest(opened)
    with tempfile.TemporaryDirectory() as folder:
        fetch(place, Path(folder) / "file")
        with (Path(folder) / "file").open("rb") as copied:
            return _digest(copied)


def fetch(place: ObjectStorePath, to: Path) -> None:
    """Copy a file from its store to this machine."""
    session, name = _session(place)
    try:
        session.download_file(name, to)
    except OSError as fault:
        if "not found" in str(fault):
            raise FileNotFoundError(f"{place} is not there") from None
        raise


def send(file: Path, to: ObjectStorePath) -> None:
    """Copy a file of this machine to a store."""
    session, name = _session(to)
    session.upload_file(file, name)


def copy(source: StoragePath, to: StoragePath) -> None:
    """Copy one file from anywhere to anywhere."""
    if isinstance(to, Path):
        to.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, Path):
            shutil.copyfile(source, to)
        else:
            fetch(source, to)
    elif isinstance(source, Path):
        send(source, to)
    else:
        with tempfile.TemporaryDirectory() as folder:
            fetch(source, Path(folder) / "file")
            send(Path(folder) / "file", to)


def remove(folder: StoragePath) -> None:
    """Remove a folder with all that is in it, if it is there."""
    if isinstance(folder, Path):
        if folder.exists():
            shutil.rmtree(folder)
        return
    session = LanceFileSession(folder.uri)
    for name in session.list():
        session.delete_file(name)


@contextlib.contextmanager
def _spoken() -> Generator[None]:
    """A store that does not answer is a fault of the machine's, as a disk that does not is."""
    try:
        yield
    except RuntimeError as fault:
        raise OSError(str(fault)) from fault


def _session(place: ObjectStorePath) -> tuple[LanceFileSession, str]:
    parent, _, name = place.uri.rpartition("/")
    return LanceFileSession(parent), name


def _digest(opened: BufferedReader) -> list[int | str]:
    found = hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16))
    return [opened.tell(), found.hexdigest()]
