"""The manifest of an index: its settings, its contents, and the version of its rows that readers see."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from taughtby.errors import StoreError
from taughtby.index.storage import StoragePath, storage_errors
from taughtby.text import cli_command, shell_quote

FORMAT = 5
Settings = dict[str, Any]
_FINISHED = ("version", "num_rows", "features", "skipped", "layers", "history", "files")
_OPTIONAL = ("home", "deleted", "pending")


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`. It is written first as a plan, and marked complete last.

    Attributes:
        settings: Model, data, methods and encoding of the index, and their fingerprints.
        home: The folder of the index when the paths in `settings` were written.
        complete: Whether the index is finished; the fields from `version` to `files` are empty until then.
        layers: The layer-similarity curve from which the methods' layers were chosen.
        version: The version of rows.lance that readers see.
        num_rows: Number of rows in that version.
        features: The width of each feature's vectors, by name.
        skipped: Source and reason of each row that could not be used.
        history: One event for each change.
        files: Size and hash of each file of that version, by its path in rows.lance.
        deleted: Ids of deleted rows; appending their file does not add them again.
        pending: The unfinished change, if any.
    """

    settings: Settings
    home: str | None = None
    complete: bool = False
    version: int = 0
    num_rows: int = 0
    features: dict[str, int] = field(default_factory=dict[str, int])
    skipped: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    layers: dict[str, Any] | None = None
    history: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    files: dict[str, list[int | str]] = field(default_factory=dict[str, list[int | str]])
    deleted: list[str] = field(default_factory=list[str])
    pending: dict[str, Any] | None = None

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Manifest:
        """Read a document; raise a KeyError if a field is missing."""
        required = ("settings", *(_FINISHED if document["complete"] else ()))
        if missing := [name for name in required if name not in document]:
            raise KeyError(missing[0])
        return cls(**{part.name: document[part.name] for part in fields(cls) if part.name in document})

    def to_json(self) -> dict[str, Any]:
        """Return the document, with a hash of its content as `seal`."""
        names = [part.name for part in fields(self) if self.complete or part.name not in _FINISHED]
        document = {name: getattr(self, name) for name in names}
        if self.layers and not self.complete:
            document["layers"] = self.layers
        document = {"format": FORMAT} | {k: value for k, value in document.items() if value or k not in _OPTIONAL}
        content = json.dumps(document, sort_keys=True).encode()
        return {**document, "seal": hashlib.blake2b(content, digest_size=16).hexdigest()}

    def to_text(self) -> str:
        """Return the text of the file."""
        return json.dumps(self.to_json(), indent=1)


def read_manifest(path: StoragePath) -> Manifest | None:
    """Read the manifest of an index; None if there is none.

    Raises:
        StoreError: It cannot be read, or has another format.
    """
    file = path / "manifest.json"
    try:
        with storage_errors(path):
            if not file.exists():
                return None
            document = json.loads(file.read_text(encoding="utf-8"))
        if (version := document["format"]) != FORMAT:
            got = f"format {version}; this version of taughtby reads format {FORMAT}"
            raise StoreError(f"{path} has another format", got=got, do="build the index again")
        return Manifest.from_json(document)
    except (ValueError, KeyError, TypeError) as error:
        do = "build the index again in another folder"
        raise StoreError(f"{file} cannot be read", got=f"{type(error).__name__}: {error}", do=do) from None


def read_finished(path: StoragePath) -> Manifest:
    """Read the manifest of a finished index.

    Raises:
        StoreError: There is no index, or it is not finished.
    """
    manifest = read_manifest(path)
    if manifest is None:
        raise missing_index(path)
    if not manifest.complete:
        raise StoreError(f"{path} is not finished", do="run the command that builds it again: it resumes")
    return manifest


def missing_index(path: StoragePath) -> StoreError:
    """Return the error for a path without an index."""
    build = f", or build one: taughtby index build MODEL DATA -o {shell_quote(path)}"
    do = "give the folder of an index" + build * (not isinstance(path, Path) or not path.exists() or path.is_dir())
    return StoreError(f"{path} is not an index", do=do)


def require_no_pending(path: StoragePath, manifest: Manifest) -> None:
    """Raise if the index has an unfinished change."""
    if pending := manifest.pending:
        do = f"rerun that command to resume it, or undo it: {cli_command('index undo', path)}"
        raise StoreError(f"{path} has an unfinished change", got=describe_change(pending), do=do)


def same_change(pending: dict[str, Any] | None, change: dict[str, Any]) -> bool:
    """Whether a change is the pending one; paths are not compared, since files may have moved."""

    def identity(event: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in event.items() if key not in ("data", "base")}

    return pending is not None and identity(pending) == identity(change)


def describe_change(change: dict[str, Any]) -> str:
    """Describe a pending change."""
    if change["did"] == "add":
        return f"adding {', '.join(change['methods'])}"
    return f"appending {change['data']}"
