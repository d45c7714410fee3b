"""Read and save trace documents (the JSON of `taughtby trace --json`), and look up how their data was read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taughtby.data.dataset import DEFAULT_READ_OPTIONS, ReadOptions
from taughtby.data.example import shorten
from taughtby.data.tokenize import Encoding
from taughtby.errors import DataError
from taughtby.index.storage import storage_path
from taughtby.models.paths import locate
from taughtby.reporting.html import save_json

if TYPE_CHECKING:
    from taughtby.attribution.trace import Trace

Document = dict[str, Any]


def load_trace(trace: Trace | Mapping[str, Any] | str | Path) -> Document:
    """Return the document of a trace.

    Args:
        trace: A `Trace`, its document, or the path of its JSON file. Relative paths in a file are resolved against the
            file's own folder.

    Raises:
        DataError: If the file cannot be read or is not a trace of version 2.
    """
    if isinstance(trace, Mapping):
        return _checked(dict(trace), "this document")
    if not isinstance(trace, str | Path):
        return trace.to_json()
    hint = "give the file that `taughtby trace … --json FILE` wrote"
    try:
        document = json.loads(Path(trace).read_text(encoding="utf-8"))
    except OSError as fault:
        raise DataError(f"the trace {trace} cannot be read", got=fault.strerror or str(fault), do=hint) from None
    except (ValueError, RecursionError) as fault:
        raise DataError(f"{trace} is not a trace", got=shorten(str(fault)), do=hint) from None
    document = _checked(document, str(trace))
    return {**document, **_resolved_paths(document, Path(trace).parent)}


def save_trace(document: Document, path: str | Path) -> None:
    """Write a trace's document, with the folder against which its relative paths are resolved."""
    save_json({**document, "home": str(Path(path).parent.resolve())}, path)


def read_options_of(trace: Document) -> ReadOptions:
    """Return how the traced index read its data; the defaults if the index no longer exists."""
    try:
        return ReadOptions(**_index_settings(trace)["reading"])
    except (OSError, ValueError, KeyError, TypeError):
        return DEFAULT_READ_OPTIONS


def encoding_of(trace: Document) -> Encoding | None:
    """Return how the traced index tokenized rows; None if the index no longer exists."""
    try:
        return Encoding(**_index_settings(trace)["encoding"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _index_settings(trace: Document) -> Document:
    manifest = storage_path(str(trace.get("index"))) / "manifest.json"
    return json.loads(manifest.read_text(encoding="utf-8"))["settings"]


def _checked(document: Any, name: str) -> Document:
    if not isinstance(document, dict) or document.get("version") != 2 or not isinstance(document.get("queries"), list):
        do = "give what `taughtby trace … --json FILE` writes, version 2"
        raise DataError(f"{name} is not a trace", got=shorten(document), do=do)
    return document


def _resolved_paths(document: Document, folder: Path) -> Document:
    def resolved(name: Any) -> Any:
        if isinstance(name, list):
            return [resolved(item) for item in name]
        return locate(name, document.get("home"), folder) if isinstance(name, str) else name

    return {key: resolved(document[key]) for key in ("model", "adapter", "index") if key in document}
